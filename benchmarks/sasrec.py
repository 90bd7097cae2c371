"""SASRec and BERT4Rec on Amazon Beauty: accuracy over the whole catalogue, and time to fit.

    python benchmarks/sasrec.py --data FOLDER [--seeds 1 2 3] [--model sasrec] [--quick]

FOLDER is a log in any form that ``recinject`` reads, as the 5-core Beauty log of 2014. Each
user's last event is the test and the one before it is left for validation; items of the history
are never recommended. The reference is HR@10 of .0798, a careful SASRec with cross-entropy on
that log, fitted on the same training part. ``--quick`` takes a small simulated shop instead,
where the reference is popularity.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from recinject.data.readers import read_log
from recinject.data.schema import Floats
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part, Split, leave_one_out
from recinject.evaluation.metrics import hit_rate, ndcg
from recinject.recommenders.baselines import Popularity
from recinject.recommenders.protocol import Queries, Recommender
from recinject.recommenders.sequence import BERT4Rec, BinarySASRec, SASRec

MODELS = {kind.name: kind for kind in (SASRec, BinarySASRec, BERT4Rec)}
REFERENCE = 0.0798


def ask(split: Split) -> Queries:
    """Ask for the test event of every user that has one."""
    log, tests = split.interactions, np.flatnonzero(split.parts == Part.TEST)
    users = log.users[tests]
    return Queries(
        task="retrieval",
        sample_ids=[log.user_ids[user] for user in users],
        prompts=[""] * len(tests),
        users=users,
        histories=[log.items_of(user)[:-1] for user in users],
        targets=log.items[tests],
    )


def measure(recommender: Recommender, queries: Queries) -> Floats:
    """Return HR@5, NDCG@5, HR@10 and NDCG@10."""
    found = recommender.predict(queries, 10)
    if found.ahead is None or found.tied is None:
        raise SystemExit(f"{recommender.name} gave no list")
    ahead, tied = found.ahead, found.tied
    return np.array([metric(ahead, tied, k).mean() for k in (5, 10) for metric in (hit_rate, ndcg)])


def main() -> None:
    """Fit once a seed, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the log's folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--model", choices=MODELS, default=SASRec.name)
    parser.add_argument("--quick", action="store_true", help="a simulated shop, one seed")
    told = parser.parse_args()
    if not told.quick and told.data is None:
        parser.error("--data or --quick is needed")
    if told.quick:
        log = simulate_shop(users=500, items=200, events_per_user=8, seed=0)
        seeds, settings = told.seeds[:1], {"epochs": 10}
    else:
        log, seeds, settings = read_log(told.data), told.seeds, {}
    split = leave_one_out(log.interactions)
    queries, rows = ask(split), []
    print("seed    HR@5  NDCG@5   HR@10 NDCG@10  epochs      s")
    for seed in seeds:
        started = time.perf_counter()
        model = MODELS[told.model](**settings)
        model.fit(split.train, seed)
        seconds = time.perf_counter() - started
        rows.append([*measure(model, queries), model.training_history.epochs, seconds])
        print(f"{seed:>4} " + " ".join(f"{value:7.4f}" for value in rows[-1][:4]), end="")
        print(f" {rows[-1][4]:>7} {seconds:>6.0f}", flush=True)
    mean = np.mean(rows, axis=0)
    print("mean " + " ".join(f"{value:7.4f}" for value in mean[:4]))
    reference = REFERENCE
    if told.quick:
        popularity = Popularity()
        popularity.fit(split.train, 0)
        reference = round(float(measure(popularity, queries)[2]), 4)
    result = {"benchmark": "sasrec", "model": told.model, "seeds": seeds}
    result |= {"value": round(float(mean[2]), 4), "unit": "HR@10", "reference": reference}
    result |= {"ratio": round(float(mean[2]) / reference, 2), "ndcg@10": round(float(mean[3]), 4)}
    print(json.dumps({**result, "seconds a seed": round(float(mean[5]))}))


if __name__ == "__main__":
    main()
