"""Peak memory and time of a training step's softmax over many item tokens, whole and in blocks.

    python benchmarks/blockwise_softmax.py [--quick]

A head of width 64 over 200,000 and 1,000,000 tokens (with --quick 100,000 and 200,000) gives losses
and gradients for 512 positions. Each way is a process of its own; its memory is the most that the
system held for it beyond what it held with the weights and their gradients alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1"}

import torch

from recinject.training.blockwise import blockwise_losses
from recinject.training.trainer import token_losses

WIDTH, POSITIONS = 64, 512


def peak() -> float:
    """Return the most memory that the system held for this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def step(way: str, vocabulary: int) -> dict[str, Any]:
    """Take the gradients once; return what it took."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    head = torch.nn.Linear(WIDTH, vocabulary, bias=False)
    head.weight.grad = torch.ones_like(head.weight)
    states = torch.randn(1, POSITIONS, WIDTH, requires_grad=True)
    labels = torch.randint(0, vocabulary, (1, POSITIONS))
    before, started = peak(), time.process_time()
    if way == "blocks":
        losses = blockwise_losses(head, states, labels, vocabulary=vocabulary)
    else:
        losses = token_losses(head(states), labels)
    losses.mean().backward()
    took = round(time.process_time() - started, 2)
    found = {"way": way, "tokens": vocabulary, "gb": round(peak() - before, 2), "seconds": took}
    return found | {"loss": round(float(losses.detach().mean()), 5)}


def main() -> None:
    """Measure each way, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tokens")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        way, vocabulary = asked.one.split(",")
        print(json.dumps(step(way, int(vocabulary))))
        return
    rows = []
    for vocabulary in (100_000, 200_000) if asked.quick else (200_000, 1_000_000):
        for way in ("whole", "blocks"):
            words = [sys.executable, __file__, "--one", f"{way},{vocabulary}"]
            ended = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(ended.stdout.splitlines()[-1]))
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    whole, blocks = rows[-2:]
    result = {"benchmark": "blockwise_softmax", "value": blocks["gb"], "unit": "GB"}
    result |= {"reference": whole["gb"], "ratio": round(blocks["gb"] / whole["gb"], 2)}
    print(json.dumps({**result, "rows": rows}))


if __name__ == "__main__":
    main()
