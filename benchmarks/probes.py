"""What models know of the items, where lists of the whole catalogue may not show it yet.

    python benchmarks/probes.py [RECIPE [OVERRIDES]] [--against main_longer] [--quick]

RECIPE has a sweep; what of it has not been run is run first. Each model is asked which
of two items it finds likelier after the retrieval prompt; the figure is how often it is right.

* ``correlation``: the prompt shows the user's last training item alone. The pair is the held-out
  item that followed it, and one of the 20 items nearest to that in popularity which nobody had
  beside the shown item in training.
* ``preference``: the prompt shows the user's history. The pair is the held-out item, and one drawn
  uniformly from those that the user never touched.

Held-out items are the validation events. Intervals are over users and seeds; chance gives 0.5.
``--quick`` takes a small simulated shop, two arms and one seed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from recinject.data.schema import Integers
from recinject.data.splitting import Part, Split
from recinject.evaluation.metrics import evaluate_prediction
from recinject.evaluation.statistics import compare
from recinject.foundation.randomness import derive_rng
from recinject.pipeline.evaluate import model_of
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run
from recinject.pipeline.sweep import Member, make_sweep, plan
from recinject.recommenders.language_model import RankedByRetrieval
from recinject.recommenders.protocol import Prediction, Queries

NEAR, RESAMPLES = 20, 2000
_TINY_T5 = "{d_model: 16, d_kv: 8, d_ff: 16, num_layers: 1, num_heads: 2}"
QUICK = [
    *("data.path=null", "data.columns={}", "training.max_steps=5", f"model.config={_TINY_T5}"),
    "data.simulator={users: 100, items: 200, events_per_user: 12}",
    *(
        "sweep.arms={main_longer: {}, slower: {training.learning_rate: 1e-3}}",
        "sweep.seeds=[1]",
        "sweep.reference=[main_longer]",
    ),
    *("samples.tasks.ranking.negatives=20", "evaluation.resamples=100", "model.vocab_size=500"),
]


def pairs(split: Split, seed: int) -> dict[str, Queries]:
    """Return the questions of both probes, a user's each: the target first of two candidates."""
    view, log, rng = split.view(Part.VALIDATION), split.interactions, derive_rng(seed, "probes")
    histories = view.histories(view.targets.values)
    kept = np.flatnonzero(histories.lengths > 0)
    events = view.targets.values[kept]
    users, targets = log.users[events], log.items[events]
    past = [log.items[histories[int(row)]] for row in kept]
    last = [row[-1:] for row in past]
    shape = log.n_users, log.n_items
    touched = csr_array((np.ones(len(log), bool), (log.users, log.items)), shape)
    train = split.train
    learned = csr_array((np.ones(len(train), bool), (train.users, train.items)), shape)
    together = (learned.T.astype(int) @ learned.astype(int)).tocsr()
    order = np.argsort(np.bincount(train.items, minlength=log.n_items), kind="stable")
    place = np.argsort(order)

    def like(row: int) -> int:
        near = order[max(0, place[targets[row]] - NEAR // 2) :][: NEAR + 1]
        shown = together[[int(last[row][0])]].indices
        free = np.setdiff1d(near, [*shown, *touched[[users[row]]].indices, targets[row]])
        return int(rng.choice(free)) if len(free) else -1

    def untouched(row: int) -> int:
        own = touched[[users[row]]].indices
        return int(rng.choice(np.setdiff1d(np.arange(log.n_items), own)))

    found = {}
    for name, shown, draw in (("correlation", last, like), ("preference", past, untouched)):
        others = np.array([draw(row) for row in range(len(kept))])
        rows = np.flatnonzero(others >= 0)
        found[name] = Queries(
            name,
            [f"{name}-{users[row]}" for row in rows],
            [""] * len(rows),
            users[rows],
            [np.asarray(shown[row], np.int32) for row in rows],
            targets[rows],
            np.column_stack([targets[rows], others[rows]]),
            answer="ranking",
        )
    return found


def ask(member: Member) -> dict[str, tuple[Prediction, Queries]]:
    """Return a trained model's answers to both probes."""
    model = model_of(member.run)
    assert model is not None
    asked = pairs(member.run.data.split, member.seed)
    ranker = RankedByRetrieval(model)
    return {name: (ranker.predict(each, 1), each) for name, each in asked.items()}


def pooled(answers: list[tuple[Prediction, Queries]], seeds: list[int], arm: str) -> Any:
    """Put the answers of several seeds together."""
    (first, asked), many = answers[0], [len(queries) for _, queries in answers]
    ahead, tied = (np.concatenate([getattr(p, x) for p, _ in answers]) for x in ("ahead", "tied"))

    def column(name: str) -> Integers:
        return np.concatenate([getattr(queries, name) for _, queries in answers])

    queries = replace(
        asked,
        sample_ids=[each for _, own in answers for each in own.sample_ids],
        prompts=[""] * sum(many),
        users=column("users"),
        histories=[np.empty(0, np.int32)] * sum(many),
        targets=column("targets"),
        candidates=column("candidates"),
        seeds=np.repeat(seeds, many),
    )
    items = np.zeros((sum(many), 1), np.int32)
    return Prediction(arm, first.task, items, ahead=ahead, tied=tied), queries


def main() -> None:
    """Ask all models of a sweep and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="ablation")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--against", default="main_longer", help="the arm to compare with")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        overrides = [*QUICK, f"runs={folder}"] if given.quick else given.overrides
        print(json.dumps(probe(Run(load_recipe(given.recipe, overrides)), given.against)))


def probe(run: Run, against: str) -> dict[str, object]:
    """Ask all models of a sweep, print a table, and return the first gain of a correlation."""
    make_sweep(run)
    members = plan(run.recipe)
    answers = {(each.arm, each.seed): ask(each) for each in members}
    arms, seeds = (list(dict.fromkeys(key)) for key in zip(*answers, strict=True))
    rows, right = list[dict[str, Any]](), dict[tuple[str, str], float]()
    for name in ("correlation", "preference"):
        own = {a: pooled([answers[a, s][name] for s in seeds], seeds, a) for a in arms}
        base = own[against][0]
        for arm, (prediction, queries) in own.items():
            figures = evaluate_prediction(prediction, queries, [1], RESAMPLES, 0)
            figure = next(row for row in figures if row.metric == "hr@1")
            said = f"{figure.value:.3f} [{figure.ci_low:.3f}, {figure.ci_high:.3f}]"
            row = {"probe": name, "arm": arm, "right": said, "users": figure.n}
            right[name, arm] = figure.value
            if arm != against:
                (gap,) = compare(prediction, [base], queries, ["hr@1"], RESAMPLES)
                ends = f"[{gap.ci_low:+.3f}, {gap.ci_high:+.3f}]"
                row["gain"] = f"{gap.difference:+.3f} {ends}, p = {gap.p_value:.3f}"
            rows.append(row)
    print(pd.DataFrame(rows).fillna("").to_string(index=False))
    value, base = (right["correlation", arm] for arm in (arms[-1], against))
    about = {"benchmark": "probes", "value": value, "unit": f"share right, {arms[-1]}"}
    return {**about, "reference": f"{against}: {base:.3f}", "ratio": value / base}


if __name__ == "__main__":
    main()
