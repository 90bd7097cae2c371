"""Ranking: from the history and a slate of candidates to the one that was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from recinject.data.schema import Integers
from recinject.data.splitting import Part, View
from recinject.tasks.task import Keys, Positive, TargetTask
from recinject.templating.context import Contexts, SlotKind


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

    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return histories, the slates, and the item chosen from each."""
        count = self.train_negatives if view.part is Part.TRAIN else self.negatives
        contexts = super().sample(view, keys, words)
        return self.with_slates(contexts, "candidates", view, keys, count)
