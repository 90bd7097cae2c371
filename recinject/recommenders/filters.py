"""Filters: which items a list may have, and how many alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import duckdb
import numpy as np
import pyarrow as pa
from pydantic import Field

from recinject.data.schema import Flags, Integers
from recinject.foundation.errors import RecinjectError, pick
from recinject.foundation.settings import Positive
from recinject.identifiers.data import Data

if TYPE_CHECKING:
    from recinject.recommenders.protocol import Prediction

_WIDER, _WIDEST = 4, 64  # times as many items are asked for, where alike ones are left out


@dataclass(frozen=True)
class Filters:
    """Which items may be recommended; all but the history's where nothing is set.

    Attributes:
        seen: whether items of the history may be recommended, too.
        only: titles or ids of the items that may be; all of the catalogue where None.
        where: a condition of SQL over the columns of the items, such as ``category = 'Books'``.
        max_per: how many items of a list may share their value of a column, such as
            ``{"brand": 2}``; items without a value are not counted.
        new: the largest fraction of a list that items without training events may take, found by
            their content; 0 leaves them to their scores.

    Examples:
        >>> from recinject import fit, prepare
        >>> from recinject.data.simulator import simulate_shop
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> asked = {"where": "title LIKE '%Kettle%'", "max_per": {"title": 1}}
        >>> lists = fit("popularity", data).recommend([data.catalog.titles[:1]], k=3, **asked)
        >>> all("Kettle" in title for title in lists["title"])
        True
    """

    seen: bool = False
    only: Sequence[str] | None = None
    where: str | None = None
    max_per: Mapping[str, Positive] = field(default_factory=dict)
    new: Annotated[float, Field(ge=0, le=1)] = 0.0

    def mask(self, data: Data) -> Flags | None:
        """Return which items may be recommended, shape (items,); None where all may.

        Raises:
            RecinjectError: an item is unknown, the condition is none, or nothing is left.
        """
        if self.only is None and self.where is None:
            return None
        allowed = np.ones(len(data.catalog), bool)
        if self.only is not None:
            allowed &= np.isin(np.arange(len(allowed)), data.find_items(self.only))
        if self.where is not None:
            allowed &= _chosen(data, self.where)
        if not allowed.any():
            raise RecinjectError(
                "recommend: the filters leave not one item", hint="loosen 'only' or 'where'"
            )
        return allowed

    def capped(self, data: Data, ask: Callable[[int], Prediction], k: int) -> Prediction:
        """Ask for lists of k items, and for longer ones while too many items are alike.

        Lists are asked for up to 64 times as long.
        """
        if not self.max_per:
            return ask(k)
        groups = [_values(data, column) for column in self.max_per]
        most, width = list(self.max_per.values()), k
        while True:
            width = min(_WIDER * width, len(data.catalog))
            found = ask(width)
            items, scores = np.asarray(found.items), np.asarray(found.scores)
            kept = [_kept(row, groups, most, k) for row in items]
            ended = (len(own) == k or row[-1] < 0 for own, row in zip(kept, items, strict=True))
            if all(ended) or width >= min(_WIDEST * k, len(data.catalog)):
                break
        short, best = np.full((len(items), k), -1, np.int32), np.full((len(items), k), -np.inf)
        for row, own in enumerate(kept):
            short[row, : len(own)], best[row, : len(own)] = items[row, own], scores[row, own]
        return replace(found, items=short, scores=best)


def _kept(
    row: Integers, groups: Sequence[Sequence[Sequence[str]]], most: Sequence[int], k: int
) -> list[int]:
    """Return the places of a list's items that are not too many of one value."""
    counts, kept = [Counter[str]() for _ in groups], list[int]()
    for place, item in enumerate(row.tolist()):
        values = [group[item] for group in groups] if item >= 0 else []
        room = zip(values, counts, most, strict=False)
        if item < 0 or any(count[v] >= limit for own, count, limit in room for v in own):
            continue
        for own, count in zip(values, counts, strict=True):
            count.update(own)
        kept.append(place)
        if len(kept) == k:
            break
    return kept


def _values(data: Data, column: str) -> list[list[str]]:
    """Return each item's values of a column: none, one, or those of a list."""
    frame = data.catalog.frame
    pick(column, map(str, frame.columns), "max_per: the items have no column")
    found: list[list[str]] = []
    for value in frame[column].tolist():
        several = value if isinstance(value, list | tuple | np.ndarray) else [value]
        found.append([str(v) for v in several if v is not None and v == v and v != ""])
    return found


def _chosen(data: Data, condition: str) -> Flags:
    frame = data.catalog.frame
    columns: dict[str, Any] = {str(name): frame[name].tolist() for name in frame.columns}
    number = "row_number_of_item"
    table = pa.table(columns).append_column(number, pa.array(range(len(frame)), pa.int64()))
    # What a condition says is about the items: it opens no file and loads no extension.
    with duckdb.connect(config={"enable_external_access": "false"}) as base:
        try:
            base.register("items", table)
            rows = base.execute(f"SELECT {number} FROM items WHERE (\n{condition}\n)").fetchall()
        except duckdb.Error as error:
            reason = str(error).strip().split("\n")[0]
            names = ", ".join(map(str, frame.columns))
            raise RecinjectError(
                f"where: {condition!r} is no condition ({reason})",
                hint=f"write one over the columns {names}, such as \"title LIKE '%Tea%'\"",
            ) from error
    chosen = np.zeros(len(frame), bool)
    chosen[[row[0] for row in rows]] = True
    return chosen
