"""Bayesian personalised ranking as text: which of two items does this user prefer?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from recinject.data.schema import Integers
from recinject.data.splitting import View
from recinject.tasks.task import Keys, TargetTask
from recinject.templating.context import Contexts, SlotKind


@dataclass(frozen=True)
class BPR(TargetTask):
    """Tell the item that was chosen from one that the user never touched.

    Source: arXiv 2404.00245, after Rendle et al. 2009; negatives are uniform.
    """

    name = "bpr"
    slots: ClassVar[Mapping[str, SlotKind]] = {
        "history": SlotKind.ITEMS,
        "pair": SlotKind.ITEMS,
        "target": SlotKind.ITEM,
    }

    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return histories and two items in random order, the chosen one among them."""
        return self.with_slates(super().sample(view, keys, words), "pair", view, keys, 1)
