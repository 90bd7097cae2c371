"""The two tables everything starts from, as dense integers: interactions and catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recinject.foundation.ragged import Ragged

Integers = NDArray[np.int32]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Columns(StrEnum):
    """The names that a log's columns have after reading; only the first two are required."""

    USER = "user_id"
    ITEM = "item_id"
    RATING = "rating"
    TIMESTAMP = "timestamp"
    POSITION = "position"


@dataclass(frozen=True, eq=False)
class Interactions:
    """Who used what, when: one array a column, events ordered by user, then by time.

    Each array has shape (events,); a column that the log has not is None.
    """

    users: Integers  # numbers, ascending
    items: Integers  # numbers, which are rows of the catalogue
    ratings: Floats | None
    timestamps: Floats | None  # seconds since 1970, NaN where unknown
    user_ids: Sequence[str]  # the log's own id of each user number
    n_items: int  # of the catalogue

    def __len__(self) -> int:
        return len(self.users)

    @property
    def n_users(self) -> int:
        """How many users there are, those without an event among them."""
        return len(self.user_ids)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each user's events start, in CSR form: shape (users + 1,)."""
        return np.searchsorted(self.users, np.arange(self.n_users + 1, dtype=self.users.dtype))

    @cached_property
    def by_user(self) -> Ragged:
        """Each user's items, oldest first."""
        return Ragged(self.items, self.offsets)

    def items_of(self, user: int) -> Integers:
        """Return one user's items, oldest first."""
        return self.by_user[user]

    def select(self, keep: Flags) -> Interactions:
        """Return the events that are kept, with the same user and item numbers."""
        if keep.all():
            return self
        return replace(
            self,
            users=self.users[keep],
            items=self.items[keep],
            ratings=None if self.ratings is None else self.ratings[keep],
            timestamps=None if self.timestamps is None else self.timestamps[keep],
        )


def known_times(times: Floats, users: Integers) -> Floats:
    """Give each event of unknown time that of the user's event before it, -inf without one."""
    if not np.isnan(times).any():
        return times
    known = pd.Series(times).groupby(users).ffill().fillna(-np.inf)
    return np.asarray(known, np.float64)


@dataclass(frozen=True, eq=False)
class Catalog:
    """What the items are: one row an item, its row number being the item number.

    The frame has a range index, the columns ``item_id`` and ``title`` (text, never missing) and
    whatever else the log knows: ``brand`` and ``category`` are text, ``categories`` a list of
    text; missing values are None.
    """

    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def item_ids(self) -> list[str]:
        """The log's own id of each item number."""
        return [str(value) for value in self.frame["item_id"]]

    @cached_property
    def titles(self) -> list[str]:
        """The title of each item number."""
        return [str(value) for value in self.frame["title"]]


@dataclass(frozen=True, eq=False)
class Log:
    """A log as every stage after the readers knows it."""

    interactions: Interactions
    catalog: Catalog  # of the items that the events speak of
    source: str  # where it came from, in words
