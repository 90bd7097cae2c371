"""Milliseconds of a Clippy step, against torch's own optimizer with ``foreach=True``.

    python benchmarks/clippy_step.py [--quick]

Weights and gradients of FLAN-T5-base's shapes (247.6 million numbers; with --quick those of a
small T5), random, with thresholds at which every tensor is clipped but the embeddings, as in
training. Both take steps in turns on the same gradients, in this process; what counts is the
quicker half of each one's steps. One line a case; the last one, of Adagrad, is what the benchmark
is known by.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import T5Config, T5ForConditionalGeneration

from recinject.methods.clippy.clippy import ClippyAdagrad, ClippyAdam, clippy_groups
from recinject.training.optimizers import log_entries

BASE: dict[str, Any] = {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
BASE |= {"vocab_size": 32_128}
SMALL: dict[str, Any] = {"d_model": 256, "d_kv": 64, "d_ff": 512, "num_layers": 2, "num_heads": 4}
SMALL |= {"vocab_size": 2048}
RATE, THRESHOLDS = 0.01, {"lam_rel": 0.01, "lam_abs": 1e-4}


class Shapes(nn.Module):
    """The parameters of a FLAN-T5, whose output layer has weights of its own."""

    def __init__(self, sizes: dict[str, Any], device: torch.device) -> None:
        super().__init__()
        config = T5Config(**sizes, feed_forward_proj="gated-gelu")
        with device:
            self.model = T5ForConditionalGeneration(config)
            self.output = nn.Linear(config.d_model, config.vocab_size, bias=False)
        torch.manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.05)
            parameter.grad = torch.randn_like(parameter) * 0.01


def seconds(optimizer: Optimizer) -> float:
    """Return the time of a step."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    optimizer.step()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(name: str, ours: Optimizer, theirs: Optimizer, rounds: int) -> dict[str, Any]:
    """Take steps in turns, print a row, and return what belongs into the JSON object."""
    for optimizer in (ours, theirs):  # the first one makes the state
        optimizer.step()
    log_entries(ours)
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    share = log_entries(ours)["clip_share"]
    quicker = [sorted(side)[: (rounds + 1) // 2] for side in zip(*times, strict=True)]
    value, reference = (1000 * statistics.mean(side) for side in quicker)
    print(f"{name:16} {value:>9.1f} {reference:>12.1f} {value / reference:>7.2f} {share:>8.2f}")
    result = {"benchmark": "clippy_step", "case": name, "value": round(value, 2), "unit": "ms"}
    return result | {"reference": round(reference, 2), "ratio": round(value / reference, 3)}


def main() -> None:
    """Measure both optimizers, and print a table and one JSON object a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller model, fewer steps")
    parser.add_argument("--rounds", type=int, default=8, help="steps of each")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Shapes(SMALL if given.quick else BASE, device)
    rounds = 3 if given.quick else given.rounds
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count:,} numbers, on {device}, {torch.get_num_threads()} threads")
    print(f"{'optimizer':16} {'ms a step':>9} {'reference ms':>12} {'ratio':>7} {'clipped':>8}")
    adam = torch.optim.Adam(model.parameters(), RATE, foreach=True)
    clippy: Optimizer = ClippyAdam(clippy_groups(model), RATE, **THRESHOLDS)
    results = [measure("clippy_adam", clippy, adam, rounds)]
    del clippy, adam
    adagrad = torch.optim.Adagrad(model.parameters(), RATE, foreach=True)
    clippy = ClippyAdagrad(clippy_groups(model), RATE, **THRESHOLDS)
    results.append(measure("clippy_adagrad", clippy, adagrad, rounds))
    print("\n".join(map(json.dumps, results)))


if __name__ == "__main__":
    main()
