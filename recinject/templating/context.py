"""What a sampler hands to a template: integers only, in slots of a few kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from recinject.data.schema import Floats, Integers
from recinject.foundation.ragged import Array, Ragged


class SlotKind(Enum):
    """What a slot holds, and so which filters may write it."""

    ITEM = "one item"
    ITEMS = "a list of items"
    RATED = "a list of items with ratings"
    MASKED = "a list of items, some of them masked"
    GAPPED = "a list of items whose text has gaps"
    RATING = "a rating"
    USER = "a user"


# A slot of every task; see identifiers.users.
USER_SLOT = "user"


@dataclass(frozen=True, eq=False)
class Contexts:
    """The integers that a batch of samples is made of; a template turns them into words.

    Attributes:
        users: shape (n,); of the text they decide nothing but the slot ``user``.
        slots: the item numbers in each slot, n rows; a slot for one item has one a row.
        ratings: of each item in ``slots["history"]``, where the task shows them.
        hidden: which items of the history are masked, or which words of its text cut out.
        targets: the item that is asked for, shape (n,), or None.
        labels: the rating that is asked for, shape (n,), or None.
    """

    users: Integers
    slots: Mapping[str, Ragged]
    ratings: Ragged | None = None
    hidden: Ragged | None = None
    targets: Integers | None = None
    labels: Floats | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: Array) -> Contexts:
        """Return some of the samples, in the order asked for."""
        return Contexts(
            self.users[rows],
            {slot: items.take(rows) for slot, items in self.slots.items()},
            None if self.ratings is None else self.ratings.take(rows),
            None if self.hidden is None else self.hidden.take(rows),
            None if self.targets is None else self.targets[rows],
            None if self.labels is None else self.labels[rows],
        )

    def with_history_in(self, order: Ragged) -> Contexts:
        """Put each history into another order, its ratings with it; only for plain histories."""
        slots = {**self.slots, "history": self.slots["history"].at(order)}
        return replace(self, slots=slots, ratings=self.ratings and self.ratings.at(order))

    def without_oldest(self, counts: Array, words: Integers | None = None) -> Contexts:
        """Leave out the first ``counts`` items of each history, with what is said of them.

        Where items are masked, the slot ``masked`` is made anew from those that are left; where
        words are cut out, ``words`` says how many each item of the catalogue has.
        """
        history = self.slots["history"]
        kept = history.places >= counts[history.rows]
        slots = {**self.slots, "history": history.keep(kept)}
        ratings = self.ratings and self.ratings.keep(kept)
        hidden = self.hidden
        if hidden is not None and words is not None:
            dropped = history.sums(np.where(kept, 0, words[history.values]))
            hidden = hidden.keep(hidden.places >= dropped[hidden.rows])
        elif hidden is not None:
            hidden = hidden.keep(kept)
            slots["masked"] = slots["history"].keep(hidden.values)
        return replace(self, slots=slots, ratings=ratings, hidden=hidden)
