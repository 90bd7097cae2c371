"""All legal identifiers as one tree of tokens, in flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Integers
from recinject.foundation.errors import RecinjectError

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
    first_child: NDArray[np.int64]
    items: Integers
    counts: NDArray[np.int64]
    paths: Integers

    def __len__(self) -> int:
        return len(self.tokens)

    def children(self, node: int) -> tuple[Integers, Integers]:
        """Return the tokens that may follow a node, ascending, and the nodes they lead to."""
        nodes = np.arange(self.first_child[node], self.first_child[node + 1], dtype=np.int32)
        return self.tokens[nodes], nodes

    @classmethod
    def build(cls, sequences: Sequence[Sequence[int]]) -> Trie:
        """Build the tree of the items' sequences, item number by position.

        Raises:
            RecinjectError: a sequence is empty, equals another, or begins another.
        """
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        if not lengths.size or not lengths.all():
            where = f"item {int(np.argmin(lengths))} has" if lengths.size else "there are"
            raise RecinjectError(
                f"identifiers: {where} no tokens to be named by",
                hint="give every item of the catalogue a text, e.g. identifiers.kind=number",
            )
        grid = np.full((len(lengths), int(lengths.max())), -1, np.int32)
        grid[np.arange(grid.shape[1]) < lengths[:, None]] = np.concatenate(
            [np.asarray(sequence, np.int32) for sequence in sequences]
        )
        order = np.lexsort(grid.T[::-1])
        ordered = grid[order]
        _refuse_prefixes(ordered, lengths[order], order)
        return cls._from_sorted(ordered, order)

    @classmethod
    def _from_sorted(cls, ordered: Integers, order: NDArray[np.int64]) -> Trie:
        differs = np.ones_like(ordered, bool)
        differs[1:] = np.logical_or.accumulate(ordered[1:] != ordered[:-1], axis=1)
        differs &= ordered >= 0
        # Transposed, the cumulative sum numbers the nodes level by level, the root being 0.
        numbers = np.cumsum(differs.T).reshape(differs.T.shape).T.astype(np.int32)
        numbers[ordered < 0] = -1
        row, level = np.nonzero(differs)
        nodes = numbers[row, level]
        size = len(nodes) + 1
        tokens = np.full(size, -1, np.int32)
        tokens[nodes] = ordered[row, level]
        parents = np.where(level > 0, numbers[row, level - 1], ROOT)
        degrees = np.bincount(parents, minlength=size)
        last = (ordered >= 0).sum(1) - 1
        items = np.full(size, -1, np.int32)
        items[numbers[np.arange(len(order)), last]] = order
        counts = np.bincount(numbers[numbers >= 0], minlength=size)
        counts[ROOT] = len(order)
        return cls(
            tokens=tokens,
            first_child=np.concatenate([[1], 1 + np.cumsum(degrees)]),
            items=items,
            counts=counts,
            paths=numbers[np.argsort(order)],
        )


def _refuse_prefixes(
    ordered: Integers, lengths: NDArray[np.int64], order: NDArray[np.int64]
) -> None:
    same = np.logical_and.accumulate(ordered[1:] == ordered[:-1], axis=1).sum(1)
    # Where both have ended, padding equals padding: equal rows agree beyond their length.
    clash = np.flatnonzero(same >= lengths[:-1])
    if not clash.size:
        return
    first, second = sorted((int(order[clash[0]]), int(order[clash[0] + 1])))
    equal = lengths[clash[0]] == lengths[clash[0] + 1]
    how = "have the same tokens" if equal else "are such that one's tokens begin the other's"
    raise RecinjectError(
        f"identifiers: items {first} and {second} {how}",
        hint="choose an identifier that tells all items apart, e.g. identifiers.kind=number; "
        "sequences must end with the end token",
    )
