"""Building the trie of legal identifiers and walking it, against a trie of dicts.

    python benchmarks/trie.py [--quick]

Items are named as TIGER names them: three codes of 256, drawn at random, and a fourth that tells
items with the same codes apart. The reference is what ``prefix_allowed_tokens_fn`` is usually
given: nested dicts. A step finds the tokens that may follow 640 beginnings of identifiers, here the
mean over the steps of an identifier; both tries are checked to give the same tokens. A masked step
takes the scores of those tokens from the logits over FLAN-T5's vocabulary, too: the flat trie
gathers them, and the reference, transformers' ``PrefixConstrainedLogitsProcessor``, sets all others
to -inf; both keep the same scores. The memory of the dicts is counted without the numbers in them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PrefixConstrainedLogitsProcessor

from recinject.decoding.trie import Trie
from recinject.foundation.ragged import Ragged

END, FIRST_CODE, CODES, LEVELS, ROWS, VOCABULARY = 1, 2, 256, 3, 640, 32_128
Tree = dict[int, Any]


def make_items(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Name items by three codes, the number of their namesakes before them, and the end token."""
    codes = rng.integers(CODES, size=(count, LEVELS))
    _, place, sizes = np.unique(
        codes @ CODES ** np.arange(LEVELS), return_inverse=True, return_counts=True
    )
    order = np.argsort(place, kind="stable")
    suffixes = np.empty(count, np.int64)
    suffixes[order] = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    columns = [*codes.T, suffixes]
    tokens = [FIRST_CODE + CODES * level + column for level, column in enumerate(columns)]
    return np.stack([*tokens, np.full(count, END)], axis=1)


def build_dicts(items: list[list[int]]) -> Tree:
    """Build the same tree as nested dicts."""
    root: Tree = {}
    for tokens in items:
        node = root
        for token in tokens:
            node = node.setdefault(token, {})
    return root


def dict_bytes(root: Tree) -> int:
    """Add up what the dicts take."""
    total, stack = 0, [root]
    while stack:
        node = stack.pop()
        total += sys.getsizeof(node)
        stack += node.values()
    return total


def followers(root: Tree, prefixes: list[list[int]]) -> list[list[int]]:
    """Return the tokens that may follow each beginning, as ``prefix_allowed_tokens_fn`` does."""
    found = []
    for prefix in prefixes:
        node = root
        for token in prefix:
            node = node[token]
        found.append(list(node))
    return found


def seconds(make: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Return the least time of some calls, and what the last one gave."""
    least, made = np.inf, None
    for _ in range(rounds):
        started = time.perf_counter()
        made = make()
        least = min(least, time.perf_counter() - started)
    return least, made


def step_seconds(trie: Trie, root: Tree, items: NDArray[np.int64], rounds: int) -> list[float]:
    """Return the mean times of a step, over the steps of some items' identifiers.

    To find the tokens that may follow, by the flat trie and by the dicts, and to mask logits by
    them, in turn.
    """
    rows = np.random.default_rng(1).integers(len(items), size=ROWS)
    logits = torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0))
    times = []
    for length in range(1, items.shape[1]):
        nodes, prefixes = trie.paths[rows, length - 1], items[rows, :length].tolist()
        ours, tokens = seconds(lambda at=nodes: _tokens_after(trie, at), rounds)
        theirs, expected = seconds(lambda read=prefixes: followers(root, read), rounds)
        if tokens.to_list() != [sorted(row) for row in expected]:
            raise SystemExit("the two tries do not allow the same tokens")
        gathers, kept = seconds(lambda at=nodes: _scores_after(trie, at, logits), rounds)
        read = torch.tensor(prefixes)
        dense = PrefixConstrainedLogitsProcessor(
            lambda _, prefix: followers(root, [prefix.tolist()])[0], num_beams=1
        )
        fills, masked = seconds(lambda by=dense, read=read: by(read, logits), rounds)
        if not torch.equal(kept, masked[masked.isfinite()]):
            raise SystemExit("the two masks do not keep the same scores")
        times.append((ours, theirs, gathers, fills))
    return np.mean(times, axis=0).tolist()


def _tokens_after(trie: Trie, nodes: NDArray[np.int32]) -> Ragged:
    children = trie.children(nodes)
    return children.of(trie.tokens[children.values])


def _scores_after(trie: Trie, nodes: NDArray[np.int32], logits: torch.Tensor) -> torch.Tensor:
    found = _tokens_after(trie, nodes)
    return logits.flatten()[torch.from_numpy(found.rows * VOCABULARY + found.values)]


def measure(count: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Measure both tries on a catalogue: the flat one's figure and that of the dicts, by case."""
    rng = np.random.default_rng(0)
    grid = make_items(count, rng)
    rows = Ragged.from_columns(grid.astype(np.int32))
    build, trie = seconds(lambda: Trie.build(rows), rounds)
    items = grid.tolist()
    reference, root = seconds(lambda: build_dicts(items), 1)
    arrays = (trie.tokens, trie.first_child, trie.items, trie.counts, trie.paths)
    size = sum(array.nbytes for array in arrays) / count
    ours, theirs, gathers, fills = step_seconds(trie, root, grid, rounds)
    return {
        "bytes/item": (size, dict_bytes(root) / count),
        "ms/step": (1000 * ours, 1000 * theirs),
        "ms/masked step": (1000 * gathers, 1000 * fills),
        "s to build": (build, reference),
    }


def main() -> None:
    """Measure two catalogues, and print a table and one JSON object a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer items and rounds")
    quick = parser.parse_args().quick
    lines = []
    print(f"{'items':>9} {'unit':>13} {'flat':>9} {'dicts':>9} {'ratio':>7}")
    for count in (1000, 12_000) if quick else (12_000, 1_000_000):
        for unit, (ours, theirs) in measure(count, 1 if quick else 5).items():
            print(f"{count:>9,} {unit:>13} {ours:>9.3f} {theirs:>9.3f} {theirs / ours:>7.1f}")
            result = {"benchmark": "trie", "items": count, "value": round(ours, 4), "unit": unit}
            result |= {"reference": round(theirs, 4), "ratio": round(theirs / ours, 2)}
            lines.append(json.dumps(result))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
