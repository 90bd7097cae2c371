"""All legal identifiers as one tree of tokens, in flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Flags, Integers
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
    first_child: NDArray[np.int64]
    items: Integers
    counts: NDArray[np.int64]
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
        levels = np.ascontiguousarray(rows.to_grid(-1).T)
        order = np.lexsort(levels[::-1])
        ordered = levels[:, order]
        differs = np.logical_or.accumulate(ordered[:, 1:] != ordered[:, :-1], axis=0)
        _refuse_prefixes((~differs).sum(0), lengths[order], order)
        return cls._from_sorted(ordered, differs, order)

    @classmethod
    def _from_sorted(cls, ordered: Integers, differs: Flags, order: NDArray[np.int64]) -> Trie:
        is_new = (ordered >= 0) & np.pad(differs, ((0, 0), (1, 0)), constant_values=True)
        # Level by level: the first node after the root has number 1.
        numbers = np.cumsum(is_new, dtype=np.int32).reshape(is_new.shape)
        numbers[ordered < 0] = -1
        parents = np.concatenate([np.full(is_new[0].sum(), ROOT), numbers[:-1][is_new[1:]]])
        size = len(parents) + 1
        first_child = np.ones(size + 1, np.int64)
        first_child[1:] += np.cumsum(np.bincount(parents, minlength=size))
        items = np.full(size, -1, np.int32)
        items[numbers.max(0)] = order
        counts = np.bincount(numbers.ravel() + 1, minlength=size + 1)[1:]
        counts[ROOT] = len(order)
        paths = np.empty(numbers.shape[::-1], np.int32)
        paths[order] = numbers.T
        return cls(np.append(np.int32(-1), ordered[is_new]), first_child, items, counts, paths)


def _refuse_prefixes(
    same: NDArray[np.int64], lengths: NDArray[np.int64], order: NDArray[np.int64]
) -> None:
    """Refuse sequences that equal or begin the next one in sorted order."""
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
