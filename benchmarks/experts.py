"""LoRA experts under three gates, against one shared LoRA and one LoRA a task: loss, flips, time.

    python benchmarks/experts.py --data FOLDER [--seeds 1 2 3] [--quick]

FOLDER holds MovieLens-100K as ``recinject run ml_100k`` reads it; ``--quick`` takes a small
simulated shop. The recipe's six tasks and its small T5, which is first trained as a whole on every
other sample, so that there is something to adapt; each variant then adapts a copy of it, for as
many steps, on the rest, tasks in equal parts. All have the same number of weights to train (of the
gate itself, a handful more; of one that reads sequences, some hundreds). Each gets the same grid of
learning rates, and each gate, at its best rate, the same search over its own settings, one after
another: its rate, the width of DSelect-k's step and its regulariser. A try is a run with seed 0,
chosen by the mean loss over tasks on half of the validation samples; the other half is reported.
The grid and what it chose are printed, with ``edge`` where that is the least or the most of the
grid. ``dselect_k_rows`` has one gate a task that reads each sequence, as in the paper. (Of tasks
that have none, training samples are set aside.) A flip is a task whose chosen experts are others
than at the look before. Then a saturated gate is timed against one LoRA of rank k * r, in turns in
this process.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from torch import nn
from transformers import Adafactor

from recinject.data.splitting import Part
from recinject.methods.experts.experts import ExpertsModel, add_experts
from recinject.models.adapters import adaptation_of, add_lora, answering
from recinject.models.building import count_parameters, wrap_tokenizer
from recinject.pipeline.model import base_model
from recinject.pipeline.prepare import build
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run
from recinject.samples.mixture import token_columns
from recinject.training.batches import LengthBuckets, make_collator
from recinject.training.trainer import token_losses

TARGETS = ["q", "v", "wi", "wo"]
NUMBER, K, RANK, SCALE = 4, 2, 3, 2.0  # 12 = 4 * 3 = 6 * 2 is the rank that all have together
GATED = ["softmax", "top_k", "dselect_k", "dselect_k_rows"]
# What a gate is searched over after its learning rate, by variant.
_OWN = {"gate_rate": [0.1, 0.3, 1.0, 3.0, 10.0]}
_STEP = _OWN | {"gamma": [0.3, 1.0, 3.0, 10.0], "regulariser": [1e-3, 1e-2, 1e-1]}
SEARCHED = {"softmax": _OWN, "top_k": _OWN, "dselect_k": _STEP, "dselect_k_rows": _STEP}
Settings = dict[str, float]
VARIANTS = ["shared_lora", "lora_a_task", *GATED]


class Bench:
    """The samples, the model that is adapted, and how long all is done.

    Args:
        run: a recipe whose samples are built.
        quick: whether a glance will do.
    """

    def __init__(self, run: Run, quick: bool) -> None:
        told = run.recipe.tasks()
        self.tasks = [task.name for task in told]
        self.tokenizer = run.samples.factory.tokenizer
        self.steps, self.first, self.every = (12, 30, 4) if quick else (400, 1200, 20)
        self.rates = [3e-3, 1e-2] if quick else [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
        self.searched = {"dselect_k_rows": {"gate_rate": [1.0, 3.0]}} if quick else SEARCHED
        self.batch, self.folder = (16 if quick else 32), run.folder("samples")
        held = 20 if quick else 200
        pairs = [self._columns(number, task.parts, held) for number, task in enumerate(told)]
        self.train_sets, self.validation = zip(*pairs, strict=True)
        self.base = base_model(run.recipe, self.tokenizer)
        self.collate = make_collator(self.base, wrap_tokenizer(self.tokenizer))
        optimizer = Adafactor(
            self.base.parameters(), lr=2e-2, scale_parameter=True, relative_step=False
        )
        self.train(self.base, optimizer, self.first, half=0, seed=0)

    def _columns(self, number: int, parts: Any, held: int) -> tuple[Dataset, Dataset]:
        """Return samples of a task to train and to validate on."""

        def shuffled(part: Part) -> Dataset:
            found = token_columns(self.folder, self.tasks[number], part.label)
            rows = np.random.default_rng(0).permutation(len(found))[: 4000 + held]
            chosen = found.select(rows).flatten_indices()
            return chosen.add_column("task", np.full(len(rows), number))

        train = shuffled(Part.TRAIN)
        if Part.VALIDATION in parts:
            validation = shuffled(Part.VALIDATION)
            return train, validation.select(range(min(held, len(validation))))
        return train.select(range(held, len(train))), train.select(range(held))

    def batches(self, half: int, seed: int) -> Iterator[dict[str, Any]]:
        """Yield batches of all tasks in equal parts, without end."""
        least = min(map(len, self.train_sets)) // 2
        parts = [found.select(range(half, 2 * least, 2)) for found in self.train_sets]
        mixed, epoch = concatenate_datasets(parts), 0
        while True:
            chosen = epoch
            order = list(LengthBuckets(list(mixed["length"]), self.batch, seed, lambda: chosen))  # noqa: B023
            for start in range(0, len(order) - self.batch + 1, self.batch):
                rows = mixed[order[start : start + self.batch]]
                yield self.collate([dict(zip(rows, row)) for row in zip(*rows.values())])  # noqa: B905
            epoch += 1

    def train(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: int,
        half: int,
        seed: int,
        look: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Train at a rate that falls to 0 in a line."""
        torch.manual_seed(seed)
        model.train()
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        for step, batch in zip(range(steps), self.batches(half, seed)):  # noqa: B905
            self.loss(model, batch, step).backward()
            optimizer.step()
            optimizer.zero_grad()
            rate.step()
            look(step)

    def loss(self, model: nn.Module, batch: dict[str, Any], step: int) -> torch.Tensor:
        """Return a batch's mean loss a token, with what a gate adds."""
        tasks, labels = batch.pop("task"), batch.pop("labels")
        with answering(model, tasks):
            losses = token_losses(model(**batch).logits, labels)
            loss = losses.sum() / (labels != -100).sum()
            extra = adaptation_of(model).extra_loss(step)
            return loss if extra is None else loss + extra.mean()

    @torch.no_grad()
    def measure(self, model: nn.Module, half: int) -> list[float]:
        """Return the validation loss a token of each task, on one half of its samples."""
        model.eval()
        means = []
        for name, found in zip(self.tasks, self.validation, strict=True):
            rows, total, count = list(found)[half::2], 0.0, 0
            for start in range(0, len(rows), 50):
                batch = self.collate(rows[start : start + 50])
                labels = batch.pop("labels")
                batch.pop("task")
                with answering(model, name):
                    total += token_losses(model(**batch).logits, labels).sum().item()
                count += int((labels != -100).sum())
            means.append(total / count)
        return means

    def variant(
        self, name: str, seed: int, rank: int = NUMBER * RANK, own: Settings | None = None
    ) -> nn.Module:
        """Return a copy of the model with what a variant trains; ``rank`` is a LoRA's."""
        model, lora = copy.deepcopy(self.base), {"target_modules": TARGETS}
        if name == "shared_lora":
            return add_lora(model, {**lora, "r": rank, "lora_alpha": SCALE * rank}, seed=seed)
        told: dict[str, Any] = {"number": NUMBER, "k": K, "rank": RANK}
        told["gate"] = name.removesuffix("_rows")
        told["decision"] = "task_sequence" if name.endswith("_rows") else "task"
        if name == "lora_a_task":
            told = {"number": len(self.tasks), "k": 1, "rank": rank // len(self.tasks)}
            told["gate"] = "top_k"
        told |= {**lora, "alpha": SCALE * told["rank"], "regulariser": 1e-2, **(own or {})}
        found = add_experts(model, {**told, "warmup_steps": self.steps // 5}, self.tasks, seed)
        if name == "lora_a_task":  # a gate that is told
            found.gate.logits.weight.data.copy_(torch.eye(len(self.tasks)))
            found.gate.requires_grad_(False)
        return found

    def adapt(
        self, name: str, rate: float, seed: int, own: Settings | None = None
    ) -> tuple[list[list[float]], int, int]:
        """Return losses of both halves by task, flips, and how many gates are saturated.

        Of a gate that reads sequences the latter two are not counted.
        """
        model = self.variant(name, seed, own=own)
        by_task = isinstance(model, ExpertsModel) and model.decides_by_task
        experts = model if isinstance(model, ExpertsModel) and by_task else None
        seen: list[list[frozenset[int]]] = []

        def look(step: int) -> None:
            if experts is not None and step % self.every == 0:
                seen.append([frozenset(row) for row in experts.routing().chosen.tolist()])

        self.train(model, adam(model, rate), self.steps, 1, seed, look)
        flips = sum(a != b for old, new in pairwise(seen) for a, b in zip(old, new, strict=True))
        ended = 0 if experts is None else int(experts.routing().is_saturated.sum())
        return [self.measure(model, half) for half in (0, 1)], flips, ended

    def tune(self, name: str) -> tuple[float, Settings, list[str]]:
        """Search a variant's rate, then its gate's settings; return them and those at an edge."""
        grids = {"learning_rate": self.rates, **self.searched.get(name, {})}
        rate, own, edges, best = self.rates[0], Settings(), list[str](), np.inf
        for key, values in grids.items():
            losses = []
            for value in values:
                tried = own if key == "learning_rate" else {**own, key: value}
                at = value if key == "learning_rate" else rate
                losses.append(float(np.mean(self.adapt(name, at, 0, tried)[0][0])))
            chosen = values[int(np.argmin(losses))]
            if min(losses) < best:
                best = min(losses)
                rate, own = (
                    (chosen, own) if key == "learning_rate" else (rate, {**own, key: chosen})
                )
                edges += [key] if chosen in (values[0], values[-1]) else []
            tried_at = " ".join(
                f"{v:g}: {loss:.4f}" for v, loss in zip(values, losses, strict=True)
            )
            print(f"  {name}, {key}: {tried_at}", flush=True)
        return rate, own, edges

    def paces(self, models: list[nn.Module], rounds: int) -> list[float]:
        """Return the time of a step of each model as a ratio to the first one's, in turns."""
        optimizers, batch = [adam(model, 1e-4) for model in models], next(self.batches(1, 0))
        times: list[list[float]] = [[] for _ in models]
        for turn in range(rounds + 1):
            for place, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
                started = time.perf_counter()
                self.loss(model, dict(batch), 0).backward()
                optimizer.step()
                optimizer.zero_grad()
                if turn:  # the first one makes the optimizer's state
                    times[place].append(time.perf_counter() - started)
        means = [statistics.mean(sorted(side)[: (rounds + 1) // 2]) for side in times]
        return [mean / means[0] for mean in means]

    def saturated(self) -> nn.Module:
        """Return DSelect-k experts whose gates have made up their minds."""
        model = self.variant("dselect_k", 0)
        codes = adaptation_of(model).gate.logits.weight.data[:, K:]  # type: ignore[attr-defined]
        codes.copy_(torch.where(torch.rand_like(codes) < 0.5, -1.0, 1.0))
        return model


def adam(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Return AdamW over what trains, the gate in its own group."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, rate, weight_decay=0.0)
    adaptation_of(model).group_parameters(optimizer)
    return optimizer


def prepare(told: argparse.Namespace, folder: str) -> Run:
    """Build the samples of a recipe."""
    overrides = [f"runs={folder}", f"data.path={told.data}"]
    if told.quick:
        shop = "{users: 300, items: 60, events_per_user: 10}"
        overrides = [f"runs={folder}", f"data.simulator={shop}", "model.vocab_size=1500"]
        overrides += [f"samples.tasks.ranking.{n}=9" for n in ("negatives", "train_negatives")]
    run = Run(load_recipe("quickstart" if told.quick else "ml_100k", overrides))
    build(run)
    return run


def main() -> None:
    """Tune and train each variant, and print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder of MovieLens-100K")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--quick", action="store_true", help="a simulated shop, a few steps, a seed"
    )
    told = parser.parse_args()
    if not told.quick and told.data is None:
        parser.error("--data or --quick is needed")
    seeds = told.seeds[:1] if told.quick else told.seeds
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(prepare(told, folder), told.quick)
        print(f"{bench.first} steps of all weights, then {bench.steps} of each variant")
        models = [bench.variant(name, 0) for name in VARIANTS]
        rounds = 4 if told.quick else 20
        times = dict(zip(VARIANTS, bench.paces(models, rounds), strict=True))
        one = [bench.variant("shared_lora", 0, K * RANK), bench.saturated()]
        overhead = bench.paces(one, rounds)[1]
        print("variant      weights   rate   loss     +-  flips  sat.  time  ", end="")
        print(" ".join(f"{task[:14]:>14}" for task in bench.tasks))
        before = bench.measure(bench.base, 1)
        print(f"{'before':12} {'':>14} {np.mean(before):>6.3f}" + " " * 28, end="")
        print(" ".join(f"{value:>14.3f}" for value in before), flush=True)
        rows: dict[str, dict[str, Any]] = {}
        for name, model in zip(VARIANTS, models, strict=True):
            rate, own, edges = bench.tune(name)
            found = [bench.adapt(name, rate, seed, own) for seed in seeds]
            losses = np.array([halves[1] for halves, *_ in found])
            flips, ended = (np.mean([row[place] for row in found]) for place in (1, 2))
            rows[name] = {"loss": losses.mean(), "flips": flips}
            rows[name]["tuned"] = {"learning_rate": rate, **own, "edges": edges}
            print(f"  {name}: {rows[name]['tuned']}")
            print(f"{name:12} {count_parameters(model)[0]:>7,} {rate:>6g}", end="")
            print(f" {losses.mean():>6.3f} {losses.mean(1).std():>6.4f} {flips:>6.1f}", end="")
            print(f" {ended:>5.1f} {times[name]:>5.2f}  ", end="")
            print(" ".join(f"{value:>14.3f}" for value in losses.mean(0)), flush=True)
    print(f"a saturated gate takes {overhead:.2f} times one LoRA of rank {K * RANK}")
    ours, reference = rows["dselect_k"], rows["shared_lora"]
    result = {"benchmark": "experts", "seeds": seeds, "value": round(float(ours["loss"]), 4)}
    result |= {"unit": "validation loss a token", "reference": round(float(reference["loss"]), 4)}
    result |= {"ratio": round(float(ours["loss"] / reference["loss"]), 4)}
    result |= {"losses": {name: round(float(row["loss"]), 4) for name, row in rows.items()}}
    result |= {"flips": {name: round(float(rows[name]["flips"]), 1) for name in GATED[:3]}}
    result |= {"tuned": {name: row["tuned"] for name, row in rows.items()}}
    print(json.dumps({**result, "saturated_overhead": round(overhead, 3)}))


if __name__ == "__main__":
    main()
