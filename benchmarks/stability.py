"""Which learning rates a multi-task ranker survives, by how its steps are clipped.

    python benchmarks/stability.py --data FOLDER [--seeds 1 2 3] [--steps 400] [--quick]

FOLDER is a log with ratings in any form that ``recinject`` reads, as MovieLens-1M. The ranker
learns ratings and clicks at once with Adagrad: as it is, from an accumulator of 0 as in torch and
of 0.1 as in TensorFlow, with a rate that is warmed up over 20 steps, and with both; with the norm
of all gradients clipped at 1.0, 0.1 or 0.01; with adaptive gradient clipping at three factors; and
as Clippy at its default thresholds, a tenth and ten times of them, and with each of the two
remedies. Clippy and adaptive clipping leave the table of items alone. Where no warm-up is named,
none is done, and no rate decays. The last tenth of the events by time is the test and is not read;
losses are of a sample of the tenth before it, its negatives drawn once. A run has diverged when its
training stopped at a loss or gradient that is no number, or when it ends above the loss of the
means (a rating and a share of clicks that are the same for all). A best rate at an end of the grid
is flagged ``edge``.
``--quick`` takes a small simulated shop, two rates and one seed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recinject.data.readers import read_log
from recinject.data.schema import Flags, Floats, Log
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part, split_by
from recinject.foundation.errors import RecinjectError
from recinject.methods.semantic_ranker.networks import Ranker
from recinject.methods.semantic_ranker.recommender import RankerEvents
from recinject.methods.semantic_ranker.representations import CodedItems, item_rows
from recinject.registry import register
from recinject.training.networks import FitSettings, fit_network, global_chance

RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
register("optimizer", "adagrad")(torch.optim.Adagrad)
_STARTED = {"initial_accumulator_value": 0.1}
_WARM = {"warmup_steps": 20}


def _clippy(scale: float = 1.0, **more: float) -> dict[str, Any]:
    settings = {"lam_rel": 0.5 * scale, "lam_abs": 1e-2 * scale, **more}
    return {"optimizer": "clippy_adagrad", "optimizer_settings": settings}


METHODS: dict[str, dict[str, Any]] = {
    "none": {"optimizer": "adagrad"},
    "G .1": {"optimizer": "adagrad", "optimizer_settings": _STARTED},
    "warm": {"optimizer": "adagrad", **_WARM},
    "warm G .1": {"optimizer": "adagrad", "optimizer_settings": _STARTED, **_WARM},
    **{f"norm {n:g}": {"optimizer": "adagrad", "max_grad_norm": n} for n in (1.0, 0.1, 0.01)},
    **{
        f"agc {factor:g}": {
            "optimizer": "agc_adagrad",
            "optimizer_settings": {"clip_factor": factor},
        }
        for factor in (0.1, 0.01, 0.001)
    },
    "clippy": _clippy(),
    "clippy/10": _clippy(0.1),
    "clippy*10": _clippy(10.0),
    "clippy G": _clippy(**_STARTED),
    "clippy w": {**_clippy(), **_WARM},
}
NEAR, ROWS, LONGEST, BATCH, ASKED = 0.05, 2048, 20, 512, 20_000


class Task:
    """The events to learn from and those that losses are of.

    Args:
        log: with ratings.
    """

    def __init__(self, log: Log) -> None:
        split = split_by("global_time", log.interactions, 0.1)
        ratings, items = split.train.ratings, split.train.items
        if ratings is None:
            raise SystemExit("the log has no ratings")
        self.train = RankerEvents(split.view(Part.TRAIN), LONGEST)
        self._units = float(ratings.mean()), float(ratings.std())
        self._known = np.unique(items)
        events = np.bincount(items, minlength=len(log.catalog))
        self._items = CodedItems(np.zeros((len(events), 0), np.int32), 1, events)
        held = RankerEvents(split.view(Part.VALIDATION), LONGEST)
        some = np.random.default_rng(0).permutation(len(held))[:ASKED]
        self._asked = [held.__getitems__(some[n : n + BATCH]) for n in range(0, len(some), BATCH)]

    def make(self, seed: int) -> Ranker:
        """Return an untrained ranker."""
        rows = item_rows("hashed_id", self._items, ROWS, seed)
        with global_chance(seed):
            return Ranker(rows, ROWS, self._known, *self._units)

    @torch.no_grad()
    def loss(self, module: Ranker) -> float:
        """Return the held-out loss of both tasks; the same negatives whatever is measured."""
        with global_chance(0):
            losses = [float(module.eval()(**batch)["loss"]) for batch in self._asked]
        return float(np.average(losses, weights=[len(b["ratings"]) for b in self._asked]))

    def loss_of_means(self, negatives: int = 4) -> float:
        """Return the loss of one who answers both tasks alike for all."""
        mean, deviation = self._units
        ratings = torch.cat([batch["ratings"] for batch in self._asked])
        share = 1 / (1 + negatives)
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        return float(((ratings - mean) / deviation).square().mean()) + entropy


def train(task: Task, method: str, rate: float, seed: int, steps: int) -> float:
    """Return the held-out loss after training; infinite where it is no number."""
    module = task.make(seed)
    settings = FitSettings(learning_rate=rate, batch_size=BATCH, steps=steps, **METHODS[method])
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            fit_network(module, task.train, dict, settings, seed)
        loss = task.loss(module)
    except RecinjectError:
        return math.inf
    return loss if math.isfinite(loss) else math.inf


def largest_rate_near(losses: Floats, rates: Floats, best: float) -> float | None:
    """Return the largest rate whose mean loss is within :data:`NEAR` of the best of all."""
    near: Flags = losses.mean(1) <= best * (1 + NEAR)
    return float(rates[near].max()) if near.any() else None


def main() -> None:
    """Train at each rate, and print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the log's folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=400, help=f"of {BATCH} events")
    parser.add_argument("--quick", action="store_true", help="a simulated shop, one seed, 2 rates")
    told = parser.parse_args()
    if told.quick:
        log = simulate_shop(users=300, items=100, events_per_user=12, seed=0)
        told.seeds, told.rates, told.steps = told.seeds[:1], [0.1, 10.0], 20
    elif told.data is None:
        parser.error("--data or --quick is needed")
    else:
        log = read_log(told.data)
    task, started = Task(log), time.perf_counter()
    worst = task.loss_of_means()
    print(f"{told.steps} steps, seeds {told.seeds}; the means' loss is {worst:.4f}")
    print(f"{'rate':>9} " + " ".join(f"{rate:>9g}" for rate in told.rates))
    found = {}
    for method in told.methods:
        losses = np.array(
            [[train(task, method, r, s, told.steps) for s in told.seeds] for r in told.rates]
        )
        found[method] = losses
        row(method, losses.mean(1), "mean held-out loss")
        with np.errstate(invalid="ignore"):
            row("", losses.max(1) - losses.min(1), "highest less lowest seed")
        row("", (losses > worst).mean(1), "share diverged")
    rates, best = np.array(told.rates), min(float(own.mean(1).min()) for own in found.values())
    result: dict[str, Any] = {"benchmark": "stability", "seeds": told.seeds, "steps": told.steps}
    methods = {}
    for method, losses in found.items():
        means = losses.mean(1)
        methods[method] = {
            "best": round(float(means.min()), 4),
            "best_rate": float(rates[means.argmin()]),
            "edge": int(means.argmin()) in (0, len(rates) - 1),
            "largest_rate_within_5%": largest_rate_near(losses, rates, best),
            "largest_rate_within_5%_of_its_own": largest_rate_near(losses, rates, means.min()),
            "diverged": round(float((losses > worst).mean()), 3),
        }
        print(f"{method:>9} {methods[method]}")
    print(f"{time.perf_counter() - started:.0f} s")
    value = {name: own["largest_rate_within_5%"] for name, own in methods.items()}
    reference, clippy = value.get("none"), value.get("clippy")
    ratio = clippy / reference if clippy and reference else None
    result |= {"value": clippy, "unit": "largest learning rate within 5 % of the best loss"}
    controls = {name: value.get(name) for name in ("G .1", "warm", "warm G .1")}
    result |= {"reference": reference, "ratio": ratio, "controls": controls}
    print(json.dumps({**result, "methods": methods}))


def row(name: str, values: Floats, what: str) -> None:
    """Print figures behind a name."""
    print(f"{name:>9} " + " ".join(f"{value:9.4g}" for value in values) + f"  {what}", flush=True)


if __name__ == "__main__":
    main()
