"""A task of one's own: which of two items was taken first? The history is shown shuffled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Integers
from recinject.data.splitting import View
from recinject.tasks.task import Task
from recinject.templating.context import Context
from recinject.templating.language import SlotKind


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
        """Return ``per_user`` for each user with two events or more."""
        return np.where(np.diff(view.interactions.offsets) >= 2, self.per_user, 0)

    def sample(
        self, view: View, user: int, index: int, rng: np.random.Generator, words: Integers
    ) -> Context:
        """Return a shuffled history, two of its items in random order, and the earlier one."""
        items = view.interactions.items_of(user)[-self.history_length :].tolist()
        first, second = sorted(rng.choice(len(items), size=2, replace=False).tolist())
        pair = [items[first], items[second]]
        slots = {
            "history": rng.permutation(items).tolist(),
            "pair": rng.permutation(pair).tolist(),
            "target": pair[:1],
        }
        return Context(user, slots, target=pair[0])
