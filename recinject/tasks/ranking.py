"""Ranking: from the history and a slate of candidates to the one that was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recinject.data.negatives import draw_negatives
from recinject.data.schema import Integers
from recinject.data.splitting import Part, View
from recinject.tasks.task import Positive, TargetTask, items_at
from recinject.templating.context import Context
from recinject.templating.language import SlotKind


@dataclass(frozen=True)
class Ranking(TargetTask):
    """Pick the chosen item from a slate in random order.

    Source: arXiv 2404.00245; the test slate of 1 + 99 is the protocol of P5.

    Attributes:
        negatives: items in a test slate beside the chosen one, uniform among those that the
            user never touched.
        train_negatives: the same for a training slate; fewer make shorter prompts.
    """

    name = "ranking"
    slots: ClassVar[Mapping[str, SlotKind]] = {
        "history": SlotKind.ITEMS,
        "candidates": SlotKind.ITEMS,
        "target": SlotKind.ITEM,
    }
    parts = (Part.TRAIN, Part.VALIDATION, Part.TEST)
    negatives: Positive = 99
    train_negatives: Positive = 19

    def sample(
        self, view: View, user: int, index: int, rng: np.random.Generator, words: Integers
    ) -> Context:
        """Return a history, the slate, and the item chosen from it."""
        event = self.target(view, user, index, rng)
        item = int(view.interactions.items[event])
        count = self.train_negatives if view.part is Part.TRAIN else self.negatives
        touched = view.no_negatives_of(user)
        slate = [item, *draw_negatives(rng, touched, view.touched.n_items, count).tolist()]
        rng.shuffle(slate)
        history = items_at(view, self.history(view, event))
        slots = {"history": history, "candidates": slate, "target": [item]}
        return Context(user, slots, target=item)
