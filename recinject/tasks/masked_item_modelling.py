"""Masked item modelling: whole items of a window are hidden, to be named in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from recinject.data.schema import Integers
from recinject.data.splitting import View
from recinject.tasks.window import WindowTask
from recinject.templating.context import Context
from recinject.templating.language import SlotKind


@dataclass(frozen=True)
class MaskedItemModelling(WindowTask):
    """Name the hidden items of a window.

    Source: arXiv 2404.00245; the language model's counterpart of BERT4Rec.

    Attributes:
        mask_share: share of a window's items that is hidden, at least one and never all.
    """

    name = "masked_item_modelling"
    slots: ClassVar[Mapping[str, SlotKind]] = {"history": SlotKind.MASKED, "masked": SlotKind.ITEMS}
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.2

    def sample(
        self, view: View, user: int, index: int, rng: np.random.Generator, words: Integers
    ) -> Context:
        """Return a window, the places that are hidden, and the items they hide."""
        window = self.window(view, user, rng)
        count = min(max(1, round(self.mask_share * len(window))), len(window) - 1)
        hidden = sorted(rng.choice(len(window), size=count, replace=False).tolist())
        masked = [window[place] for place in hidden]
        return Context(user, {"history": window, "masked": masked}, hidden=hidden)
