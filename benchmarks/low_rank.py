"""What low-rank layers lose by their initialisation, at once and after training on.

    python benchmarks/low_rank.py [--quick] [--seeds 1 2 3]

First the risk of one ReLU layer for Gaussian inputs, in closed form, as a share of its outputs'
square. Then a small T5 is trained at full rank to name the next item of a simulated shop. Its
feed-forward layers are made low-rank by each method, of what they read in training, and all copies
train on for the same steps. The gain is how much lower the validation loss is than that from a
truncated SVD of the weights (``spectral``), by seed; ``data`` is the truncated SVD of the outputs
on the same inputs, the control that knows of no activation; what follows +- is the standard
deviation over seeds. The JSON object has the loss at the lowest rank after training on, of lfai
and, as its reference, of spectral.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from recinject.data.simulator import simulate_shop
from recinject.data.splitting import leave_one_out
from recinject.identifiers.data import Data
from recinject.identifiers.table import name_items
from recinject.methods.low_rank.factors import Block, find_factors, risk
from recinject.methods.low_rank.starts import LowRank, capture_inputs, find_layers
from recinject.models.building import build_model, wrap_tokenizer
from recinject.samples.builder import Builder
from recinject.samples.samples import SampleSettings, make_factory
from recinject.tasks.task import Retrieval
from recinject.training.batches import make_collator

BATCH, RATE = 32, 3e-3
# ``data``, the truncated SVD of what a layer puts out, tells what its inputs gain from what its
# activation does; for Gaussian inputs it is ``spectral``.
METHODS = {"relu": ("spectral", "data", "nkp", "lfai"), "gated-gelu": ("spectral", "data", "lfai")}
CLOSED = ("spectral", "nkp", "lfai")
Batches = list[dict[str, torch.Tensor]]


def show_risks() -> None:
    """Print the share of a layer's output that is lost, by rank."""
    chance = torch.Generator().manual_seed(0)
    for name, tilt in (("flat spectrum", 0.0), ("spectrum i^-1/2", 0.5)):
        weight = torch.randn(256, 64, generator=chance, dtype=torch.float64)
        weight *= torch.arange(1, 65) ** -tilt
        block = Block([weight], activation=nn.ReLU())
        whole = risk(block, [0 * weight])
        print(f"risk, ReLU, 64 -> 256, {name}\n rank spectral      nkp     lfai  gain of lfai")
        for rank in (1, 2, 4, 8, 16, 32, 48):
            lost = [risk(block, find_factors(block, [rank], method)) / whole for method in CLOSED]
            gain = 1 - lost[2] / lost[0]
            print(f"{rank:>5} " + " ".join(f"{value:8.4f}" for value in lost) + f" {gain:>13.2%}")


def batches_of(builder: Builder, model: PreTrainedModel, collate: Any, seed: int) -> Batches:
    """Make all samples of a part, in random order."""
    order, found = np.random.default_rng(seed).permutation(len(builder)), []
    for start in range(0, len(order) - BATCH + 1, BATCH):
        prompts, completions, _ = builder.tokens(builder.batch(order[start : start + BATCH]))
        pairs = zip(prompts.to_list(), completions.to_list(), strict=True)
        rows = [{"input_ids": prompt, "labels": answer} for prompt, answer in pairs]
        found.append(dict(collate(rows)))
    return found


def train(model: PreTrainedModel, batches: Batches, steps: int, rate: float, start: int) -> None:
    """Take some steps, at a rate that falls to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model.train()
    for step in range(steps):
        model(**batches[(start + step) % len(batches)]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


@torch.no_grad()
def loss_of(model: PreTrainedModel, batches: Batches) -> float:
    """Return the mean loss over validation samples."""
    model.eval()
    return statistics.mean(float(model(**batch).loss) for batch in batches)


def run(kind: str, seed: int, quick: bool) -> tuple[float, dict[tuple[int, str], list[float]]]:
    """Train a model, convert copies of it and train them on; return all the losses."""
    log = simulate_shop(users=200 if quick else 2000, items=200, events_per_user=12, seed=seed)
    names = name_items("title", log.catalog, seed)
    data = Data(leave_one_out(log.interactions), log.catalog, names)
    limits = {"max_prompt_tokens": 256, "max_completion_tokens": 32}
    settings = SampleSettings(**limits, vocab_size=1000, seed=seed)
    factory = make_factory(data, [Retrieval(history_length=4)], settings)
    width = {"d_model": 64, "d_kv": 16, "d_ff": 256, "num_layers": 2, "num_heads": 4}
    shape = {**width, "dropout_rate": 0.0, "feed_forward_proj": kind}
    model = build_model(shape, factory.tokenizer, seed)
    collate = make_collator(model, wrap_tokenizer(factory.tokenizer))
    parts = {b.split: batches_of(b, model, collate, seed) for b in factory.builders()}
    training, validation = parts["train"], parts["validation"][: 3 if quick else 10]
    steps, more = (40, 10) if quick else (500, 50)
    train(model, training, steps, RATE, 0)
    inputs = capture_inputs(model, training[:8], find_layers(model), 1024)
    losses = {}
    for rank in (2,) if quick else (1, 4, 16):
        for method in METHODS[kind]:
            low = copy.deepcopy(model)
            LowRank(rank=rank, method=method).factorise(low, inputs, seed)
            converted = loss_of(low, validation)
            train(low, training, more, RATE / 3, steps)
            losses[rank, method] = [converted, loss_of(low, validation)]
    return loss_of(model, validation), losses


def show_losses(kind: str, seeds: list[int], quick: bool) -> tuple[float, ...]:
    """Print the losses of a kind of T5; return those after training on, at the lowest rank."""
    runs = [run(kind, seed, quick) for seed in seeds]
    full = statistics.mean(whole for whole, _ in runs)
    print(f"T5, {kind}: validation loss at full rank {full:.3f}, {len(seeds)} seed(s)")
    print(
        f"{'rank':>5} {'method':8} {'converted':>15} {'gain':>15} {'trained on':>15} {'gain':>15}"
    )
    for rank, method in runs[0][1]:
        columns = []
        for moment in (0, 1):
            ours = np.array([losses[rank, method][moment] for _, losses in runs])
            gains = np.array([losses[rank, "spectral"][moment] for _, losses in runs]) - ours
            columns += [spread(ours), spread(gains)]
        print(f"{rank:>5} {method:8} " + " ".join(columns), flush=True)
    lowest = min(rank for rank, _ in runs[0][1])
    names = ("lfai", "spectral", "data")
    lfai, *others = (statistics.mean(losses[lowest, m][1] for _, losses in runs) for m in names)
    return lfai, *others


def spread(values: np.ndarray[Any, Any]) -> str:
    """Write a mean and a standard deviation."""
    return f"{values.mean():7.3f} +-{values.std(ddof=1) if len(values) > 1 else 0:5.3f}"


def main() -> None:
    """Print the tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, fewer ranks and steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    told = parser.parse_args()
    seeds = told.seeds[:1] if told.quick else told.seeds
    show_risks()
    ends = {kind: show_losses(kind, seeds, told.quick) for kind in METHODS}
    ours, reference, data = (statistics.mean(end[n] for end in ends.values()) for n in range(3))
    result = {"benchmark": "low_rank", "value": round(ours, 4), "unit": "validation loss"}
    result |= {"reference": round(reference, 4), "ratio": round(ours / reference, 4)}
    print(json.dumps({**result, "data": round(data, 4)}))


if __name__ == "__main__":
    main()
