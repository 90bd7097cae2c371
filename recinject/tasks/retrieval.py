"""Retrieval: from the history to the next item, over the whole catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from recinject.data.splitting import Part
from recinject.tasks.task import TargetTask
from recinject.templating.context import SlotKind


@dataclass(frozen=True)
class Retrieval(TargetTask):
    """Name the item that comes next; every prefix of the training part is a sample.

    Source: arXiv 2404.00245.
    """

    name = "retrieval"
    slots: ClassVar[Mapping[str, SlotKind]] = {"history": SlotKind.ITEMS, "target": SlotKind.ITEM}
    parts = (Part.TRAIN, Part.VALIDATION, Part.TEST)
