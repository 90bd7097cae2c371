"""Users a second of constrained beam search, against transformers' ``generate``.

    python benchmarks/beam_search.py [--quick]

The model has TIGER's size (T5, 4 + 4 layers, 6 heads of 64, width 128, random weights) and items
are named by four codes. The reference is ``generate`` with ``prefix_allowed_tokens_fn`` over a
trie of dicts. Both search the same prompts with the same beams, in turns, in this process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration

from recinject.decoding.beam_search import constrained_beam_search
from recinject.decoding.trie import Trie

PAD, END, FIRST_CODE, CODES, LEVELS = 0, 1, 2, 256, 4


def make_model() -> T5ForConditionalGeneration:
    """Build a T5 of TIGER's literal configuration, with random weights."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=FIRST_CODE + CODES * LEVELS + 6,
        d_model=128,
        d_kv=64,
        d_ff=1024,
        num_layers=4,
        num_heads=6,
        dropout_rate=0.0,
        decoder_start_token_id=PAD,
    )
    return T5ForConditionalGeneration(config).eval()


def make_items(count: int, rng: np.random.Generator) -> list[list[int]]:
    """Name items by four codes each and the end token, no two alike."""
    codes = np.unique(rng.integers(CODES, size=(count, LEVELS)), axis=0)
    return [[*(FIRST_CODE + CODES * np.arange(LEVELS) + row).tolist(), END] for row in codes]


def generate(
    model: T5ForConditionalGeneration, prompts: torch.Tensor, items: list[list[int]], beams: int
) -> np.ndarray[Any, Any]:
    """Search with ``generate`` and a trie of dicts."""
    root: dict[int, Any] = {}
    numbers = {}
    for number, tokens in enumerate(items):
        numbers[tuple(tokens)] = number
        node = root
        for token in tokens:
            node = node.setdefault(token, {})

    def allowed(_: int, prefix: torch.Tensor) -> list[int]:
        node = root
        for token in prefix.tolist()[1:]:
            node = node.get(token, {})
        return list(node) or [PAD]

    found = model.generate(
        input_ids=prompts,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=LEVELS + 1,
        prefix_allowed_tokens_fn=allowed,
        length_penalty=0.0,
        early_stopping=False,
        do_sample=False,
    )
    rows = [numbers[tuple(row[1:])] for row in found.tolist()]
    return np.array(rows).reshape(len(prompts), beams)


def seconds(search: Callable[[], Any]) -> tuple[float, Any]:
    """Return the time of a call, and what it gave."""
    started = time.perf_counter()
    found = search()
    return time.perf_counter() - started, found


def main() -> None:
    """Measure both in turns, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer items and users")
    quick = parser.parse_args().quick
    users, beams, count, rounds = (8, 10, 1000, 1) if quick else (32, 20, 12_000, 3)
    rng = np.random.default_rng(0)
    model, items = make_model(), make_items(count, rng)
    trie = Trie.build(items)
    # Twenty items a history, four codes an item.
    histories = rng.integers(len(items), size=(users, 20))
    prompts = torch.tensor([[t for i in row for t in items[i][:-1]] + [END] for row in histories])
    mask = torch.ones_like(prompts)
    ours, theirs = [], []
    with torch.inference_mode():
        for _ in range(rounds):
            ours.append(seconds(lambda: constrained_beam_search(model, prompts, mask, trie, beams)))
            theirs.append(seconds(lambda: generate(model, prompts, items, beams)))
    same = np.mean([np.isin(a, b) for a, b in zip(ours[0][1][0], theirs[0][1], strict=True)])
    fast, slow = (users / min(second for second, _ in side) for side in (ours, theirs))
    print(f"{'items':>8} {'users':>6} {'beams':>6} {'users/s':>9} {'reference/s':>12} {'ratio':>7}")
    print(f"{len(items):>8,} {users:>6} {beams:>6} {fast:>9.1f} {slow:>12.1f} {fast / slow:>7.1f}")
    result = {"benchmark": "beam_search", "value": round(fast, 2), "unit": "users/s"}
    result |= {"reference": round(slow, 2), "ratio": round(fast / slow, 2)}
    print(json.dumps({**result, "same_items": round(float(same), 4)}))


if __name__ == "__main__":
    main()
