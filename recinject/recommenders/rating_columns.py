"""What rating networks learn from, as columns of numbers; number 0 is what is not known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recinject.data.schema import Catalog, Integers
from recinject.foundation.ragged import Array, Ragged
from recinject.models.rating_modules import RatingModule

Batch = dict[str, Tensor]
_ATTRIBUTES = ("brand", "category", "categories")
_CELLS = 2**16
"""How many places of a column are rated at once, about."""


class Rows(Dataset[Batch]):
    """Columns of equal length, ``labels`` among them; a batch is some of their rows."""

    def __init__(self, columns: Batch, labels: Tensor) -> None:
        kept = ~labels.isnan().flatten(1).all(1) if labels.dim() > 1 else ~labels.isnan()
        self.columns = {name: part[kept] for name, part in (columns | {"labels": labels}).items()}
        self.count = int((~labels.isnan()).sum())

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, number: int) -> Batch:
        return self.__getitems__([number])

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        return {name: column[torch.as_tensor(numbers)] for name, column in self.columns.items()}


def hold_out(columns: Batch, share: float, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Part what has a label into what is learned and what is held out.

    A row of several labels may be in both, each time without the other's labels.
    """
    labels = columns["labels"]
    places = (~labels.isnan()).nonzero()
    chosen = places[torch.from_numpy(rng.permutation(len(places))[: round(share * len(places))])]
    held_out = torch.zeros_like(labels, dtype=torch.bool)
    held_out[tuple(chosen.T)] = True
    parts = (labels.masked_fill(flags, torch.nan) for flags in (held_out, ~held_out))
    learned, measured = (Rows(columns, part) for part in parts)
    return learned, measured


def rate(module: RatingModule, inputs: Batch) -> Tensor:
    """Rate all rows, some thousands at a time."""
    widest = max(column[0].numel() if len(column) else 1 for column in inputs.values())
    parts = (torch.split(column, max(1, _CELLS // widest)) for column in inputs.values())
    blocks = zip(*parts, strict=True)
    with torch.inference_mode():
        return torch.cat([module.rate(**dict(zip(inputs, block, strict=True))) for block in blocks])


def closeness(module: RatingModule, held_out: Rows) -> float:
    """Return the negative RMSE on what was held out."""
    inputs = {name: part for name, part in held_out.columns.items() if name != "labels"}
    return -float(((rate(module, inputs) - held_out.columns["labels"]) ** 2).nanmean().sqrt())


def number_known(seen: Integers, count: int) -> Array:
    """Number what was seen, from 1; all else has number 0.

    Examples:
        >>> number_known(np.array([3, 1, 1], np.int32), 4).tolist()
        [0, 2, 0, 4]
    """
    return np.where(np.bincount(seen, minlength=count) > 0, np.arange(1, count + 1), 0)


def attribute_numbers(catalog: Catalog) -> Array:
    """Number the items' brand, category and categories, as far as the log has them.

    Returns:
        Each item's attributes, numbered from 1 and filled up with 0, shape (items + 1, most):
        row 0 is an unknown item's, and item ``n``'s is row ``n + 1``.
    """
    columns = [name for name in _ATTRIBUTES if name in catalog.frame]
    numbers: dict[tuple[str, str], int] = {}
    rows: list[list[int]] = [[] for _ in range(len(catalog) + 1)]
    for name in columns:
        for row, values in enumerate(catalog.frame[name], 1):
            told = values if isinstance(values, list | tuple | np.ndarray) else [values]
            names = dict.fromkeys((name, text) for text in told if isinstance(text, str))
            rows[row] += [numbers.setdefault(key, len(numbers) + 1) for key in names]
    table = Ragged.from_rows(rows, np.int64)
    grid = np.zeros((len(rows), max(1, int(table.lengths.max()))), np.int64)
    grid[table.rows, table.places] = table.values
    return grid
