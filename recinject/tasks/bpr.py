"""Bayesian personalised ranking as text: which of two items does this user prefer?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recinject.data.negatives import draw_negatives
from recinject.data.schema import Integers
from recinject.data.splitting import View
from recinject.tasks.task import TargetTask, items_at
from recinject.templating.context import Context
from recinject.templating.language import SlotKind


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

    def sample(
        self, view: View, user: int, index: int, rng: np.random.Generator, words: Integers
    ) -> Context:
        """Return a history and two items in random order, the chosen one among them."""
        event = self.target(view, user, index, rng)
        item = int(view.interactions.items[event])
        touched = view.no_negatives_of(user)
        other = int(draw_negatives(rng, touched, view.touched.n_items, 1)[0])
        pair = [item, other] if rng.random() < 0.5 else [other, item]
        history = items_at(view, self.history(view, event))
        return Context(user, {"history": history, "pair": pair, "target": [item]}, target=item)
