"""How good codes are: what they keep of the content, and how evenly they are used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Integers
from recinject.foundation.randomness import derive_rng
from recinject.identifiers.quantising import Quantiser, Vectors

Row = dict[str, float | int | None]
_ASKED = 2000
_NEIGHBOURS = 10


def describe_codes(
    prefixes: Integers, embeddings: Vectors, quantiser: Quantiser, codes: int, seed: int
) -> list[Row]:
    """Measure codes level by level.

    Args:
        prefixes: the codes of the items but the last one, which tells apart, shape (items, levels).
        embeddings: what they were made of, shape (items, width).
        quantiser: what made them.
        codes: how many codes a level has.
        seed: of the items whose neighbours are looked at, where there are more than 2,000.

    Returns:
        One row a level: ``level`` from 1; ``used``, the share of its codes that an item has;
        ``entropy`` of their use in bits, and ``perplexity``, the number of codes that used evenly
        would have as much; ``error``, the squared error of what the first levels stand for, as a
        share of the vectors' variance, None where codes stand for no vector; ``groups``, how many
        different codes the items have up to this level, ``largest``, the items in the largest
        group, and ``collisions``, the items that share theirs with another one; ``neighbours``,
        the share of the ten nearest items by cosine that are in an item's own group.
    """
    near, asked = _neighbours(embeddings, seed)
    spread = float(np.square(embeddings - embeddings.mean(0)).sum(dtype=np.float64))
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
                "error": None if decoded is None else _error(embeddings, decoded, spread),
                "groups": len(counts),
                "largest": int(counts.max()),
                "collisions": int(counts[counts > 1].sum()),
                "neighbours": float((groups[near] == groups[asked, None]).mean()),
            }
        )
    return rows


def _error(embeddings: Vectors, decoded: Vectors, spread: float) -> float:
    return float(np.square(embeddings - decoded).sum(dtype=np.float64) / max(spread, 1e-12))


def _neighbours(embeddings: Vectors, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the nearest items of some, shape (asked, neighbours), and which were asked."""
    count = len(embeddings)
    order = derive_rng(seed, "identifiers", "quality").permutation(count)
    asked = np.sort(order[:_ASKED])
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(lengths, 1e-12)
    alike = unit[asked] @ unit.T
    alike[np.arange(len(asked)), asked] = -np.inf
    most = min(_NEIGHBOURS, count - 1)
    return np.argpartition(-alike, max(most - 1, 0), axis=1)[:, :most], asked
