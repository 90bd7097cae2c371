"""Rating prediction: from the rated history and a candidate to its rating."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from recinject.data.splitting import Part
from recinject.tasks.task import TargetTask
from recinject.templating.context import SlotKind


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
