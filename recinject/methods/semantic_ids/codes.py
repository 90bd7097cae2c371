"""Codes of items, their quality, and the cold items that share them."""

from __future__ import annotations

import json
import string
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Flags, Integers
from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import derive_rng
from recinject.foundation.storage import UNREADABLE_ARRAYS
from recinject.methods.semantic_ids.quantising import (
    Hyperplanes,
    Quantiser,
    RandomCodes,
    Residual,
    Vectors,
)
from recinject.recommenders.protocol import Prediction, Queries

_CODES, _CODEBOOKS = "codes.npy", "codebooks.npz"
_STORED: dict[str, type[Quantiser]] = {k.kind: k for k in (Residual, Hyperplanes, RandomCodes)}


@dataclass(frozen=True, eq=False)
class SemanticCodes:
    """The codes of each item, coarse to fine, and a last one that tells equal ones apart."""

    rows: Integers  # (items, levels + 1), all different
    sizes: tuple[int, ...]  # how many codes each level may have

    def __post_init__(self) -> None:
        over = np.flatnonzero(self.rows[:, -1] >= self.sizes[-1])
        if over.size:
            first = self.rows[over[0], :-1]
            alike = int((self.rows[:, :-1] == first).all(1).sum())
            raise RecinjectError(
                f"identifiers: {alike} items share the codes {code_text(first)}, and the "
                f"last code tells {self.sizes[-1]} apart",
                hint=f"set identifiers.codes or .levels higher, or identifiers.last_codes={alike}",
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """The identifier of each item."""
        return tuple(map(code_text, self.rows.tolist()))

    @property
    def collisions(self) -> int:
        """How many items share all codes but the last with another one."""
        counts = np.unique(self.prefixes, axis=0, return_counts=True)[1]
        return int(counts[counts > 1].sum())

    @property
    def prefixes(self) -> Integers:
        """The codes of the content alone, shape (items, levels)."""
        return self.rows[:, :-1]


def make_unique(
    prefixes: Integers, sizes: Sequence[int], seed: int, first: Flags | None = None
) -> SemanticCodes:
    """Add a last code, see :func:`number_alike`, to those of the content, (items, levels).

    ``sizes`` says how many codes each level may have, the last one among them; an error where more
    items are alike than the last code can number.
    """
    last = number_alike(prefixes, seed, first)
    return SemanticCodes(np.column_stack([prefixes, last]).astype(np.int32), tuple(sizes))


def number_alike(prefixes: Integers, seed: int, first: Flags | None = None) -> Integers:
    """Number equal rows from zero, in random order, those flagged in ``first`` before others."""
    order = derive_rng(seed, "identifiers", "semantic").permutation(len(prefixes))
    if first is not None:
        order = order[np.argsort(~first[order], kind="stable")]
    groups = np.unique(prefixes, axis=0, return_inverse=True)[1].ravel()
    order = order[np.argsort(groups[order], kind="stable")]
    counts = np.bincount(groups)
    numbers = np.empty(len(prefixes), np.int32)
    numbers[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return numbers


def code_text(codes: Sequence[int] | Integers) -> str:
    """Write codes as tokens, a letter a level, such as ``<a_12><b_201><c_7><d_0>``."""
    pairs = zip(string.ascii_lowercase, codes, strict=False)
    return "".join(f"<{letter}_{code}>" for letter, code in pairs)


def code_tokens(sizes: Sequence[int]) -> tuple[str, ...]:
    """List every code of every level as the token that stands for it."""
    pairs = zip(string.ascii_lowercase, sizes, strict=False)
    return tuple(f"<{letter}_{code}>" for letter, size in pairs for code in range(size))


def save_codes(folder: Path, codes: SemanticCodes, quantiser: Quantiser) -> None:
    """Write ``codes.npy``, and ``codebooks.npz`` with what gives codes to new items."""
    np.save(folder / _CODES, codes.rows)
    facts = {"sizes": codes.sizes, "kind": quantiser.kind}
    arrays: dict[str, Any] = {"facts": np.array(json.dumps(facts))}
    for name, value in vars(quantiser).items():
        several = enumerate(value) if isinstance(value, tuple) else [(-1, value)]
        arrays |= {name if n < 0 else f"{name}.{n:02}": array for n, array in several}
    np.savez(folder / _CODEBOOKS, **arrays)


def load_codes(folder: Path, texts: Sequence[str]) -> tuple[SemanticCodes, Quantiser]:
    """Read what :func:`save_codes` wrote of the items whose identifiers are ``texts``.

    Raises:
        RecinjectError: there is nothing, it cannot be read, or it is of other items.
    """
    path = folder / _CODEBOOKS
    try:
        rows = np.load(folder / _CODES)
        with np.load(path) as stored:
            arrays = dict(stored)
        facts = json.loads(str(arrays.pop("facts")))
        fields: dict[str, Any] = {}
        for name in sorted(arrays):  # NAME, or NAME.00, NAME.01 where there are several
            field, dot, _ = name.partition(".")
            fields[field] = (*fields.get(field, ()), arrays[name]) if dot else arrays[name]
        quantiser = _STORED[facts["kind"]](**fields)
    except (*UNREADABLE_ARRAYS, KeyError, TypeError) as error:
        raise RecinjectError(
            f"{path}: no codebooks to read ({error})".split("\n")[0],
            hint="make them with recinject prepare RECIPE identifiers.kind=semantic",
        ) from error
    codes = SemanticCodes(rows, tuple(facts["sizes"]))
    if codes.texts != tuple(texts):
        raise RecinjectError(
            f"{path}: the codebooks belong to another catalogue ({len(rows)} items, and here are "
            f"{len(texts)})",
            hint="name the items again with recinject prepare",
        )
    return codes, quantiser


Row = dict[str, float | int | None]
_ASKED = 2000
_NEIGHBOURS = 10


def describe_codes(
    prefixes: Integers, embeddings: Vectors, quantiser: Quantiser, codes: int, seed: int
) -> list[Row]:
    """Measure the codes of each level, of which there are ``codes``, without the last one.

    Returns:
        One row a level: ``level`` from 1; ``used``, the fraction of its codes that an item has;
        ``entropy`` of their use in bits, and ``perplexity``, two to that power; ``error``, the
        squared error of the vectors decoded up to this level as a fraction of the variance, None
        where codes have no vectors; ``groups`` of items with equal codes up to this level,
        ``largest``, the size of the largest, and ``collisions``, the items in groups of several;
        ``neighbours``, the fraction of the ten nearest items by cosine that share the group, over
        2,000 items, which the seed draws where there are more.
    """
    near, asked = _neighbours(embeddings, seed)
    spread = max(_squares(embeddings - embeddings.mean(0)), 1e-12)
    rows: list[Row] = []
    for level in range(1, prefixes.shape[1] + 1):
        shares = np.bincount(prefixes[:, level - 1], minlength=codes) / len(prefixes)
        entropy = float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())
        found = np.unique(prefixes[:, :level], axis=0, return_inverse=True, return_counts=True)
        groups, counts = found[1].ravel(), found[2]
        decoded = quantiser.decode(prefixes[:, :level])
        rows.append(
            {
                "level": level,
                "used": float((shares > 0).mean()),
                "entropy": entropy,
                "perplexity": 2**entropy,
                "error": None if decoded is None else _squares(embeddings - decoded) / spread,
                "groups": len(counts),
                "largest": int(counts.max()),
                "collisions": int(counts[counts > 1].sum()),
                "neighbours": float((groups[near] == groups[asked, None]).mean()),
            }
        )
    return rows


def _squares(vectors: Vectors) -> float:
    return float(np.square(vectors).sum(dtype=np.float64))


def _neighbours(embeddings: Vectors, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the nearest items of a sample, shape (sampled, neighbours), and the sample."""
    count = len(embeddings)
    order = derive_rng(seed, "identifiers", "quality").permutation(count)
    asked = np.sort(order[:_ASKED])
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(lengths, 1e-12)
    alike = unit[asked] @ unit.T
    alike[np.arange(len(asked)), asked] = -np.inf
    most = min(_NEIGHBOURS, count - 1)
    return np.argpartition(-alike, max(most - 1, 0), axis=1)[:, :most], asked


Codes = tuple[int, ...]


def join_cold_items(
    listed: Prediction, queries: Queries, prefixes: Integers, cold: Flags, fraction: float, k: int
) -> Prediction:
    """Let cold items follow those that share their predicted codes, up to a fraction of each list.

    Source: TIGER, arXiv 2305.05065, section 4.3, whose epsilon is ``fraction``. It holds for the
    first r items of a list at every r, so one list serves every cutoff; a cold item that comes
    too early waits. Scores are minus the ranks, since a cold item need not have one.

    Args:
        listed: lists longer than ``k``, as cold items in them may have to go; an error without any.
        queries: what they bar, such as their histories' items, does not join.
        prefixes: the codes of each item without the last, shape (items, levels).
        cold: the items without training events, shape (items,).
        fraction: from 0, which leaves out cold items, to 1.
        k: the length of the lists.
    """
    if listed.items is None:
        raise RecinjectError(
            f"{listed.recommender}: {listed.task} has no lists for cold items to join",
            hint="ask for retrieval",
        )
    joined = np.full((len(queries), k), -1, np.int32)
    siblings: defaultdict[Codes, list[int]] = defaultdict(list)
    for item in np.flatnonzero(cold).tolist():
        siblings[tuple(prefixes[item].tolist())].append(item)
    for row, (items, out) in enumerate(zip(listed.items, queries.barred, strict=True)):
        wanted = dict.fromkeys(  # each item, then the cold ones that share its codes, once
            each
            for item in items[items >= 0].tolist()
            for each in (item, *siblings.get(tuple(prefixes[item].tolist()), ()))
        )
        barred = set(out.tolist())
        chosen = _within_fraction([i for i in wanted if i not in barred], cold, fraction, k)
        joined[row, : len(chosen)] = chosen
    found, order = joined == queries.targets[:, None], np.arange(float(k))
    return Prediction(
        f"{listed.recommender}_cold_{fraction:g}",
        listed.task,
        joined,
        np.where(joined >= 0, -order, -np.inf),
        np.where(found.any(1), found.argmax(1), np.inf),
        np.ones(len(queries)),
    )


def _within_fraction(items: Sequence[int], cold: Flags, fraction: float, k: int) -> list[int]:
    """Take items in order; cold ones wait until those above them leave them room."""
    ranked = list(enumerate(items))
    known, waiting = (deque(p for p in ranked if cold[p[1]] == is_cold) for is_cold in (0, 1))
    chosen: list[int] = []
    joined = 0
    while len(chosen) < k and (known or waiting):
        # The least surplus keeps 0.1 of 10 items from being less than one.
        room = joined + 1 <= fraction * (len(chosen) + 1) + 1e-9
        if waiting and room and (not known or waiting[0] < known[0]):
            chosen.append(waiting.popleft()[1])
            joined += 1
        elif known:
            chosen.append(known.popleft()[1])
        else:
            break
    return chosen
