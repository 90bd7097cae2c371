"""Rating models on a log with ratings: RMSE, MAE and AUC with intervals, and seconds to fit.

    python benchmarks/rating_models.py --data FOLDER [--split global_time] [--seeds 1 2 3]
        [--models biases matrix_factorisation] [--quick]

FOLDER is a log in any form that ``recinject`` reads, as MovieLens-1M. ``global_time`` tests on
the last tenth of all ratings, ``random`` on a fifth drawn at random; the rest trains. Asked are
the test ratings of users with a training rating before them. Where both are among the models,
transformer_mlp is compared with matrix_factorisation by a paired bootstrap over users. ``--quick``
takes a small simulated shop and one seed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from recinject.data.readers import read_log
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part, split_by, without_validation
from recinject.evaluation.metrics import evaluate_prediction
from recinject.evaluation.statistics import compare
from recinject.recommenders.protocol import Queries, Sources
from recinject.registry import find, names

OWN = [name for name in names("recommender") if name != "blend"]  # which is of others
MODELS = [name for name in OWN if "rating" in find("recommender", name).tasks]
SHARES = {"global_time": 0.1, "random": 0.2}
COMPARED = ("transformer_mlp", "matrix_factorisation")


def main() -> None:
    """Fit every model once a seed, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the log's folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--split", choices=SHARES, default="global_time")
    parser.add_argument("--models", choices=MODELS, nargs="+", default=MODELS)
    parser.add_argument("--quick", action="store_true", help="a simulated shop, one seed")
    told = parser.parse_args()
    if not told.quick and told.data is None:
        parser.error("--data or --quick is needed")
    if told.quick:
        log = simulate_shop(users=300, items=60, events_per_user=10, seed=0)
    else:
        log = read_log(told.data)
    seeds = told.seeds[:1] if told.quick else told.seeds
    split = without_validation(split_by(told.split, log.interactions, SHARES[told.split]))
    queries, training, result = Queries.of_ratings(split.view(Part.TEST)), split.train, {}
    sources = Sources(log.catalog, split.view(Part.TRAIN))
    print(f"{len(training)} ratings train, {len(queries)} test")
    print("seed model                 RMSE                   MAE                    AUC", end="")
    print("                    users  fit s")
    for seed in seeds:
        answers = {}
        for name in told.models:
            started = time.perf_counter()
            model = find("recommender", name)()
            model.read(sources)
            model.fit(training, seed)
            seconds = time.perf_counter() - started
            answers[name] = model.predict(queries, 10)
            found = evaluate_prediction(answers[name], queries)
            figures = [
                f"{each.value:.4f} [{each.ci_low:.4f}, {each.ci_high:.4f}]" for each in found
            ]
            print(f"{seed:>4} {name:<21}", *figures, f"{found[0].n:>5} {seconds:>6.1f}", flush=True)
            result.setdefault(name, []).append(round(found[0].value, 4))
        if set(COMPARED) <= set(answers):
            own, other = (answers[name] for name in COMPARED)
            for each in compare(own, [other], queries, ["rmse", "mae", "auc"]):
                print(f"     {each.recommender} - {each.reference}: {each.metric} ", end="")
                print(f"{each.difference:+.4f} [{each.ci_low:+.4f}, {each.ci_high:+.4f}]", end="")
                print(f", p = {each.p_value:.3f}", flush=True)
    means = {name: float(np.mean(figures)) for name, figures in result.items()}
    own, other = (means.get(name, min(means.values())) for name in COMPARED)
    summary = {"benchmark": "rating_models", "value": round(own, 4), "unit": "RMSE"}
    summary |= {"reference": round(other, 4), "ratio": round(own / other, 4)}
    print(json.dumps({**summary, "split": told.split, "rmse": result}))


if __name__ == "__main__":
    main()
