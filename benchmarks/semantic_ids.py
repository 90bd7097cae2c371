"""Retrieval by codes of the items' content: residual k-means against LSH and random codes.

    python benchmarks/semantic_ids.py --data FOLDER [--seeds 1 2 3] [--steps 1500]

FOLDER is the Amazon 2014 Toys log, or any log with texts of its items. It trains the recipe
``tiger_cpu`` with each kind of codes and each seed, for equally many steps from the same first
weights; with each seed 5,000 users are asked, the same for all kinds. Figures are means over the
seeds with 95 % intervals over users; residual k-means is compared with the two controls in pairs.
About 3 minutes of one CPU core a kind and seed. ``--quick`` takes a small simulated shop.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from recinject.evaluation.metrics import evaluate_prediction
from recinject.evaluation.statistics import compare, load_answers
from recinject.pipeline.evaluate import evaluate
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run

KINDS = ("rq_kmeans", "lsh", "random")
METRICS = ("hr@10", "ndcg@10")
QUICK = [
    "data.path=null",
    "data.simulator={users: 400, items: 90, events_per_user: 8}",
    "identifiers.codes=8",
    "model.config.d_model=32",
    "training.use_cpu=true",
]


def train_and_ask(told: argparse.Namespace, runs: str, kind: str, seed: int) -> Path:
    """Run the recipe with one kind of codes, and return the file of its answers."""
    overrides = [
        *(QUICK if told.quick else [f"data.path={told.data}"]),
        *(f"runs={runs}", f"name={kind}-{seed}", f"seed={seed}"),
        *(f"identifiers.quantiser={kind}", "evaluation.baselines=[]"),
        *(f"training.max_steps={told.steps}", "training.eval_strategy=no"),
    ]
    run = Run(load_recipe("tiger_cpu", overrides))
    evaluate(run)
    return run.folder("evaluation") / "predictions" / "retrieval.language_model.parquet"


def main() -> None:
    """Train each kind of codes with each seed, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder of a log with texts of its items")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--quick", action="store_true", help="a simulated shop, a few steps, a seed"
    )
    told = parser.parse_args()
    if told.quick:
        told.seeds, told.steps = told.seeds[:1], 20
    elif told.data is None:
        parser.error("--data or --quick is needed")
    answers, drawn = {}, {"resamples": 2000, "seed": 1}
    for kind in KINDS:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as runs:
            files = [train_and_ask(told, runs, kind, seed) for seed in told.seeds]
            answers[kind], queries = load_answers(files, kind)
        minutes = (time.perf_counter() - started) / 60
        rows = {row.metric: row for row in evaluate_prediction(answers[kind], queries, **drawn)}
        found = (
            f"{m} {rows[m].value:.4f} [{rows[m].ci_low:.4f}, {rows[m].ci_high:.4f}]"
            for m in METRICS
        )
        print(f"{kind:10} {'  '.join(found)}  {minutes:.1f} min", flush=True)
    ours, *controls = answers.values()
    compared = compare(ours, controls, queries, METRICS, 2000, seed=1)
    for row in compared:
        print(
            f"{row.recommender} - {row.reference}: {row.metric} {row.difference:+.4f} "
            f"[{row.ci_low:+.4f}, {row.ci_high:+.4f}], p {row.p_value:.3f}"
        )
    values = {
        kind: next(
            r.value for r in evaluate_prediction(each, queries, **drawn) if r.metric == METRICS[0]
        )
        for kind, each in answers.items()
    }
    ratio = values["rq_kmeans"] / max(values["random"], 1e-9)
    result = {"benchmark": "semantic_ids", "seeds": told.seeds, "unit": METRICS[0]}
    result |= {"value": round(values["rq_kmeans"], 5), "reference": round(values["random"], 5)}
    print(json.dumps({**result, "lsh": round(values["lsh"], 5), "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
