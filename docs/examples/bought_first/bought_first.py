"""A task of one's own: which of two items was taken first? The history is shown shuffled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Integers
from recinject.data.splitting import View
from recinject.foundation.ragged import Ragged
from recinject.registry import register
from recinject.tasks.task import Keys, Task
from recinject.templating.writers import Contexts, SlotKind


@register("task")
@dataclass(frozen=True)
class BoughtFirst(Task):
    """Tell the earlier of two items of a customer's history.

    Attributes:
        history_length: how many of the latest items are shown.
        per_user: samples of each user.
    """

    name = "bought_first"
    slots: ClassVar[Mapping[str, SlotKind]] = {
        "history": SlotKind.ITEMS,
        "pair": SlotKind.ITEMS,
        "target": SlotKind.ITEM,
    }
    history_length: int = 10
    per_user: int = 2

    def count(self, view: View) -> NDArray[np.int64]:
        """Return ``per_user`` for each user with two different items or more."""
        users = np.arange(view.interactions.n_users)
        return np.where(self._items(view, users).lengths >= 2, self.per_user, 0)

    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return shuffled histories, two of each one's items in random order, and the earlier."""
        chance = keys.chance
        items = self._items(view, keys.users)
        pair = chance.orders(items.lengths).first(2)  # two places, in random order
        earlier = Ragged.from_columns(pair.values.reshape(-1, 2).min(axis=1))
        slots = {
            "history": items.at(chance.orders(items.lengths)),
            "pair": items.at(pair),
            "target": items.at(earlier),
        }
        return Contexts(keys.users, slots, targets=slots["target"].values)

    def _items(self, view: View, users: Integers) -> Ragged:
        """Return what each user took lately, each item where it was taken first."""
        latest = view.interactions.by_user.take(users).last(self.history_length)
        numbers = latest.rows * view.interactions.n_items + latest.values
        first = np.zeros(len(numbers), bool)
        first[np.unique(numbers, return_index=True)[1]] = True
        return latest.keep(first)
