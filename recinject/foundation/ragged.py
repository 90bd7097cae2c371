"""Rows of different lengths as two flat arrays, so that a batch is worked on as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_ONLY_LAST, _ONLY_FIRST = 1, 2


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different lengths, in CSR form.

    Examples:
        >>> rows = Ragged.from_rows([[5, 6], [], [7]])
        >>> len(rows), rows.lengths.tolist(), rows.take(np.array([2, 0])).to_list()
        (3, [2, 0, 1], [[7], [5, 6]])
    """

    values: Array  # one row after another, (values,)
    offsets: NDArray[np.int64]  # where each row starts, and where the last one ends, (rows + 1,)

    @classmethod
    def from_lengths(cls, values: Array, lengths: Array) -> Ragged:
        """Cut flat values into rows of the given lengths."""
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(values, offsets)

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[Any] | Array], dtype: Any = np.int32) -> Ragged:
        """Join rows into one."""
        parts = [np.asarray(row, dtype) for row in rows]
        flat = np.concatenate([np.empty(0, dtype), *parts])
        return cls.from_lengths(flat, np.array([len(part) for part in parts], np.int64))

    @classmethod
    def from_columns(cls, columns: Array) -> Ragged:
        """Make rows of equal length out of a matrix, or rows of one value out of a vector."""
        width = 1 if columns.ndim == 1 else columns.shape[1]
        return cls(columns.ravel(), np.arange(len(columns) + 1, dtype=np.int64) * width)

    @classmethod
    def ranges(cls, starts: Array, stops: Array) -> Ragged:
        """Make the rows ``start, start + 1, ... stop - 1``."""
        rows = cls.from_lengths(np.empty(0, np.int64), np.maximum(stops - starts, 0))
        shift = np.repeat(starts - rows.offsets[:-1], rows.lengths)
        return cls(np.arange(rows.offsets[-1]) + shift, rows.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Array:
        return self.values[self.offsets[:-1][row] : self.offsets[1:][row]]

    def to_list(self) -> list[list[Any]]:
        """Return the rows as lists."""
        return [self[row].tolist() for row in range(len(self))]

    def to_grid(self, fill: Any, *, left: bool = False, multiple: int = 1) -> Array:
        """Return the rows as a matrix, padded to the longest, whose width is a multiple of one.

        >>> Ragged.from_rows([[5, 6], [7]]).to_grid(-1, left=True).tolist()
        [[5, 6], [-1, 7]]
        """
        width = -(-int(self.lengths.max(initial=0)) // multiple) * multiple
        grid = np.full((len(self), width), fill, self.values.dtype)
        columns, lengths = np.arange(width), self.lengths[:, None]
        grid[columns >= width - lengths if left else columns < lengths] = self.values
        return grid

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each row, shape (rows,)."""
        return np.diff(self.offsets)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The row of each value, shape (values,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """The place of each value in its row, from 0, shape (values,)."""
        return np.arange(len(self.values)) - np.repeat(self.offsets[:-1], self.lengths)

    @cached_property
    def edges(self) -> NDArray[np.int8]:
        """0 for each value within its row, 1 for the last, 2 for the first, 3 for the only one."""
        filled = self.lengths > 0
        edges = np.zeros(len(self.values), np.int8)
        edges[self.offsets[1:][filled] - 1] |= _ONLY_LAST
        edges[self.offsets[:-1][filled]] |= _ONLY_FIRST
        return edges

    def of(self, values: Array) -> Ragged:
        """Return rows of the same lengths with other values."""
        return Ragged(values, self.offsets)

    def take(self, rows: Array) -> Ragged:
        """Return some of the rows, in the order asked for."""
        index = Ragged.ranges(self.offsets[:-1][rows], self.offsets[1:][rows])
        return Ragged(self.values[index.values], index.offsets)

    def keep(self, flags: Array) -> Ragged:
        """Return the rows with only the values that are flagged."""
        return Ragged.from_lengths(self.values[flags], self.sums(flags))

    def at(self, places: Ragged) -> Ragged:
        """Return the values at some places of each row, in the order asked for."""
        return places.of(self.values[self.offsets[places.rows] + places.values])

    def first(self, count: int) -> Ragged:
        """Return the first values of each row."""
        return self.keep(self.places < count)

    def last(self, count: int) -> Ragged:
        """Return the last values of each row."""
        return self.keep(self.places >= (self.lengths - count)[self.rows])

    def sums(self, values: Array) -> NDArray[np.int64]:
        """Add up values that lie as these rows do, row by row: shape (rows,)."""
        totals = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return np.asarray(totals[self.offsets[1:]] - totals[self.offsets[:-1]])

    def sums_before(self, values: Array) -> NDArray[np.int64]:
        """Add up, for each value, those before it in its row: shape (values,)."""
        before = np.cumsum(values, dtype=np.int64) - values
        starts = np.concatenate([before, [0]])[self.offsets[:-1]]
        return np.asarray(before - np.repeat(starts, self.lengths))


def side_by_side(parts: Sequence[Ragged]) -> Ragged:
    """Join the rows of several: row 0 of the first, then of the second, and so on.

    >>> side_by_side([Ragged.from_rows([[1], [2, 3]]), Ragged.from_rows([[4], []])]).to_list()
    [[1, 4], [2, 3]]
    """
    lengths = np.stack([part.lengths for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths.sum(0))])
    starts = offsets[:-1] + np.cumsum(lengths, axis=0) - lengths
    values = np.empty(offsets[-1], np.result_type(*[part.values.dtype for part in parts]))
    for part, start in zip(parts, starts, strict=True):
        values[Ragged.ranges(start, start + part.lengths).values] = part.values
    return Ragged(values, offsets)


def one_below_another(parts: Sequence[Ragged]) -> Ragged:
    """Join several as more rows: all rows of the first, then of the second, and so on."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged.from_lengths(np.concatenate([part.values for part in parts]), lengths)


def is_among(values: Array, known: Array) -> NDArray[np.bool_]:
    """Say which values are among others, which are sorted: shape of ``values``."""
    if not len(known):
        return np.zeros(np.shape(values), bool)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[places] == values)
