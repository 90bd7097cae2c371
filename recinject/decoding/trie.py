"""All legal identifiers as one tree of tokens, in flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Integers
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged

ROOT = 0


@dataclass(frozen=True, eq=False)
class Trie:
    """A tree whose paths from the root to its leaves spell the items' token sequences.

    Nodes are numbered level by level, so a node's children lie side by side, in token order.

    Attributes:
        tokens: the token that leads to each node, -1 for the root, shape (nodes,).
        first_child: where each node's children start, in CSR form, shape (nodes + 1,).
        items: the item that ends in each node, or -1, shape (nodes,).
        counts: how many items end in a node or below it, shape (nodes,).
        paths: the nodes that each item passes, -1 after its end, shape (items, depth).
    """

    tokens: Integers
    first_child: Integers
    items: Integers
    counts: Integers
    paths: Integers

    def __len__(self) -> int:
        return len(self.tokens)

    def children(self, nodes: Array) -> Ragged:
        """Return the children of each node, by their tokens ascending."""
        return Ragged.ranges(self.first_child[nodes], self.first_child[nodes + 1])

    @classmethod
    def build(cls, sequences: Ragged | Sequence[Sequence[int]]) -> Trie:
        """Build the tree of the items' token sequences; row n is item n.

        Raises:
            RecinjectError: a sequence is empty, equals another, or begins another.
        """
        rows = sequences if isinstance(sequences, Ragged) else Ragged.from_rows(sequences)
        lengths = rows.lengths
        if not lengths.size or not lengths.all():
            where = f"item {int(np.argmin(lengths))} has" if lengths.size else "there are"
            raise RecinjectError(
                f"identifiers: {where} no tokens",
                hint="give every item of the catalogue a text, e.g. identifiers.kind=number",
            )
        grid = rows.to_grid(-1)
        order = np.lexsort(grid.T[::-1]).astype(np.int32)
        trie = cls._from_sorted(grid, order)
        trie._refuse_prefixes(lengths, order)
        return trie

    @classmethod
    def _from_sorted(cls, grid: Integers, order: Integers) -> Trie:
        """Number the nodes a level at a time: beside the paths, no array is larger than a level."""
        paths, is_new = np.empty_like(grid), np.arange(len(order)) == 0
        nodes, size = np.zeros(len(order), np.int32), 1
        tokens, counts = [np.full(1, -1, np.int32)], [np.array([len(order)], np.int32)]
        children = list[Integers]()
        for level, column in enumerate(grid.T):
            own = column[order]
            has_token = own >= 0
            is_new[1:] |= own[1:] != own[:-1]  # and so it stays on all levels below
            first, starts = size - len(tokens[-1]), is_new & has_token
            children.append(_count(nodes[starts] - first, len(tokens[-1])))
            tokens.append(own[starts])
            nodes = np.cumsum(starts, dtype=np.int32)
            counts.append(_count(nodes[has_token] - 1, len(tokens[-1])))
            nodes += np.int32(size - 1)
            nodes[~has_token] = -1
            paths[order, level] = nodes
            size += len(tokens[-1])
        first_child = np.ones(size + 1, np.int32)
        np.cumsum(np.concatenate([*children, 0 * counts[-1]]), out=first_child[1:])
        first_child[1:] += 1
        items = np.full(size, -1, np.int32)
        items[paths.max(1)] = np.arange(len(order))
        return cls(np.concatenate(tokens), first_child, items, np.concatenate(counts), paths)

    def _refuse_prefixes(self, lengths: NDArray[np.int64], order: Integers) -> None:
        """Refuse sequences that equal or begin another one; in sorted order it is the next one."""
        clash = np.flatnonzero(self.counts[self.paths.max(1)[order]] > 1)
        if not clash.size:
            return
        first, second = sorted(order[clash[0] : clash[0] + 2].tolist())
        equal = lengths[first] == lengths[second]
        how = "have the same tokens" if equal else "are such that one's tokens begin the other's"
        raise RecinjectError(
            f"identifiers: items {first} and {second} {how}",
            hint="choose an identifier that tells all items apart, e.g. identifiers.kind=number; "
            "sequences must end with the end token",
        )


def _count(nodes: Integers, size: int) -> Integers:
    return np.bincount(nodes, minlength=size).astype(np.int32)
