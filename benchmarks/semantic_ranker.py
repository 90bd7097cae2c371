"""Semantic-ID pieces against a hashed item id in a ranker, on known and on cold items.

    python benchmarks/semantic_ranker.py --data FOLDER [--split cold_items] [--seeds 1 2 3]

FOLDER is a log with ratings in any form that ``recinject`` reads, as MovieLens-1M. The last tenth
of its events by time is the test (``global_time``), of which those of items without a training
event are cold; ``cold_items`` holds out all events of a twentieth of the items instead, drawn anew
for each seed, so that its test is cold alone. Every representation has a table of the same size;
``unigram`` uses a row for each code of each level alone, so ``unigram_full`` has as many codes as
fill the table, and ``content``, the other control, is a linear map of each item's vector and has no
table. Half of the training events are learnt from and the others are histories alone
(``--train-share``), to keep to minutes. AUC (a rating of at least 4 is positive) and RMSE are of
the predicted rating. "click" is the AUC of the click head: how often it puts the item that was used
above another that the user never used, drawn from the cold items for a cold one and from the known
ones for a known one, so that it cannot win by telling the cold from the known. ``--quick`` takes a
small simulated shop and its cold items.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from recinject.data.readers import read_log
from recinject.data.schema import Flags, Floats, Integers, Interactions, Log
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part, learn_from, split_by
from recinject.methods.semantic_ranker.recommender import CONTENT, SemanticRanker
from recinject.methods.semantic_ranker.representations import REPRESENTATIONS
from recinject.recommenders.protocol import Queries, Sources

SHARES = {"global_time": 0.1, "cold_items": 0.05}
CONTROL = "hashed_id"
FULL = "unigram_full"
KINDS = (*REPRESENTATIONS, FULL, CONTENT)
SLATE = 50
FIGURES = ("AUC all", "RMSE all", "click all", "AUC warm", "RMSE warm", "click warm")
FIGURES += ("AUC cold", "RMSE cold", "click cold")


def measure(model: SemanticRanker, queries: Queries, cold: Flags) -> list[float]:
    """Return :data:`FIGURES`, NaN where there is nothing to measure."""
    found, labels = model.predict(queries, 0).ratings, queries.labels
    places = model.predict(replace(queries, task="ranking"), 1)
    if found is None or labels is None or places.ahead is None or places.tied is None:
        raise SystemExit(f"{model.name} gave no ratings")
    clicks = 1 - (places.ahead + (places.tied - 1) / 2) / (queries.candidates.shape[1] - 1)
    figures = []
    for some in (np.ones_like(cold), ~cold, cold):
        truth = labels[some] >= 4
        both = truth.any() and not truth.all()
        figures.append(roc_auc_score(truth, found[some]) if both else np.nan)
        figures.append(np.sqrt(np.mean((found[some] - labels[some]) ** 2)) if both else np.nan)
        figures.append(clicks[some].mean() if some.any() else np.nan)
    return figures


def slates(queries: Queries, log: Interactions, cold: Flags, known: Flags, seed: int) -> Integers:
    """Put each target before items that its user never used, as cold or as known as it is."""
    rng, rows = np.random.default_rng(seed), []
    pools = {is_cold: np.flatnonzero(known != is_cold) for is_cold in (False, True)}
    own = [set(log.items_of(user).tolist()) for user in range(log.n_users)]
    for user, target, is_cold in zip(queries.users, queries.targets, cold, strict=True):
        pool = pools[bool(is_cold)]
        drawn = [item for item in rng.permutation(pool)[: 4 * SLATE] if item not in own[user]]
        rows.append([target, *drawn[:SLATE]])
    most = min(map(len, rows))
    return np.array([row[:most] for row in rows], np.int32)


def run(log: Log, told: argparse.Namespace, settings: dict[str, int]) -> Floats:
    """Fit each representation with each seed: figures of shape (seeds, representations, 9)."""
    rows = []
    for seed in told.seeds:
        whole = split_by(told.split, log.interactions, SHARES[told.split], seed)
        split = learn_from(whole, told.train_share, seed)
        part = Part.VALIDATION if told.validation else Part.TEST
        queries = Queries.of_ratings(whole.view(part), 50)
        known = np.bincount(split.train.items, minlength=len(log.catalog)) > 0
        cold = ~known[queries.targets]
        asked = slates(queries, whole.interactions, cold, known, seed)
        queries = replace(queries, candidates=asked)
        print(f"seed {seed}: {len(split.train)} training events; tested {len(cold)}, of which "
              f"{cold.sum()} of {len(np.unique(queries.targets[cold]))} cold items")  # fmt: skip
        rows.append([])
        for name in told.representations:
            started = time.perf_counter()
            codes = {"codes": told.rows // 3} if name == FULL else {}
            kind = "unigram" if name == FULL else name
            model = SemanticRanker(representation=kind, rows=told.rows, **{**settings, **codes})
            model.read(Sources(log.catalog, split.view(Part.TRAIN)))
            model.fit(split.train, seed)
            rows[-1].append(measure(model, queries, cold))
            row(name, np.array(rows[-1][-1]), f"{time.perf_counter() - started:.0f} s")
    return np.array(rows)


def main() -> None:
    """Fit, and print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the log's folder")
    parser.add_argument("--split", choices=SHARES, default="global_time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--representations", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rows", type=int, default=2048, help="of every table")
    parser.add_argument("--codes", type=int, default=32, help="a level")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--train-share", type=float, default=0.5, help="of the training events")
    parser.add_argument("--validation", action="store_true", help="ask for the validation part")
    parser.add_argument("--quick", action="store_true", help="a simulated shop, one seed")
    told = parser.parse_args()
    if not told.quick and told.data is None:
        parser.error("--data or --quick is needed")
    settings = {"codes": told.codes, "epochs": told.epochs}
    if told.quick:
        log = simulate_shop(users=400, items=150, events_per_user=12, seed=0)
        told.split, told.seeds, told.rows = "cold_items", told.seeds[:1], 96
        settings = {"codes": 16, "epochs": 5, "batch_size": 128}
    else:
        log = read_log(told.data)
    found, names = run(log, told, settings), told.representations
    control = (
        found[:, names.index(CONTROL)] if CONTROL in names else np.full_like(found[:, 0], np.nan)
    )
    print(" " * 15 + " ".join(f"{name:>9}" for name in FIGURES))
    for number, name in enumerate(names):
        own = found[:, number]
        row(name, own.mean(0), "mean")
        row("", np.ptp(own, 0), "highest less lowest seed")
        row("", (own - control).mean(0), f"less {CONTROL}'s, paired")
        row("", np.ptp(own - control, 0), "highest less lowest of these")
    cold, clicks = (
        dict(zip(names, found[..., FIGURES.index(each)].mean(0).round(4).tolist(), strict=True))
        for each in ("AUC cold", "click cold")
    )
    controls = (CONTROL, CONTENT)
    semantic, reference = [cold[name] for name in names if name not in controls], cold.get(CONTROL)
    result = {"benchmark": "semantic_ranker", "split": told.split, "seeds": told.seeds}
    value = round(float(np.mean(semantic)), 4) if semantic else reference
    result |= {"value": value, "unit": "AUC on cold items, mean of the semantic kinds"}
    result |= {"reference": reference, "ratio": reference and round(value / reference, 3)}
    print(json.dumps({**result, "rows": told.rows, "cold": cold, "click_cold": clicks}))


def row(name: str, values: Floats, what: str) -> None:
    """Print figures behind a name."""
    print(f"{name:>14} " + " ".join(f"{value:9.4f}" for value in values) + f"  {what}", flush=True)


if __name__ == "__main__":
    main()
