"""Rating prediction: from the rated history and a candidate to its rating."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recinject.data.schema import Integers
from recinject.data.splitting import Part, View
from recinject.tasks.task import TargetTask, items_at, ratings_at
from recinject.templating.context import Context
from recinject.templating.language import SlotKind


@dataclass(frozen=True)
class Rating(TargetTask):
    """Say which rating the user gave to an item.

    Source: arXiv 2305.06474 and 2404.00245.
    """

    name = "rating"
    slots: ClassVar[Mapping[str, SlotKind]] = {
        "history": SlotKind.RATED,
        "target": SlotKind.ITEM,
        "rating": SlotKind.RATING,
    }
    parts = (Part.TRAIN, Part.VALIDATION, Part.TEST)
    needs_ratings = True

    def sample(
        self, view: View, user: int, index: int, rng: np.random.Generator, words: Integers
    ) -> Context:
        """Return a rated history, an item, and its rating."""
        event = self.target(view, user, index, rng)
        item = int(view.interactions.items[event])
        past = self.history(view, event)
        return Context(
            user,
            {"history": items_at(view, past), "target": [item]},
            ratings=ratings_at(view, past),
            target=item,
            label=ratings_at(view, np.array([event]))[0],
        )
