"""Retrieval: from the history to the next item, over the whole catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recinject.data.schema import Integers
from recinject.data.splitting import Part, View
from recinject.tasks.task import TargetTask, items_at
from recinject.templating.context import Context
from recinject.templating.language import SlotKind


@dataclass(frozen=True)
class Retrieval(TargetTask):
    """Name the item that comes next; every prefix of the training part is a sample.

    Source: arXiv 2404.00245.
    """

    name = "retrieval"
    slots: ClassVar[Mapping[str, SlotKind]] = {"history": SlotKind.ITEMS, "target": SlotKind.ITEM}
    parts = (Part.TRAIN, Part.VALIDATION, Part.TEST)

    def sample(
        self, view: View, user: int, index: int, rng: np.random.Generator, words: Integers
    ) -> Context:
        """Return a history and the item after it."""
        event = self.target(view, user, index, rng)
        item = int(view.interactions.items[event])
        history = items_at(view, self.history(view, event))
        return Context(user, {"history": history, "target": [item]}, target=item)
