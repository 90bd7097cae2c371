"""Masked language modelling: T5's span corruption over the text of a window."""

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
class MaskedLanguageModelling(WindowTask):
    """Restore the spans of words cut out of a window's text.

    Spans are counted in words and not in tokens, so that a sample is plain text that any
    tokenizer can read. Sources: arXiv 2404.00245; span corruption is arXiv 1910.10683.

    Attributes:
        noise_share: share of the words that is cut out, at least one word.
        mean_span: mean length of a span in words.
    """

    name = "masked_language_modelling"
    slots: ClassVar[Mapping[str, SlotKind]] = {"history": SlotKind.GAPPED}
    noise_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    mean_span: Annotated[float, Field(ge=1)] = 3.0

    def sample(
        self, view: View, user: int, index: int, rng: np.random.Generator, words: Integers
    ) -> Context:
        """Return a window and the spans of words cut out of its text."""
        window = self.window(view, user, rng)
        total = int(words[window].sum())
        gaps = draw_gaps(rng, total, self.noise_share, self.mean_span)
        return Context(user, {"history": window}, gaps=gaps)


def draw_gaps(
    rng: np.random.Generator, total: int, noise_share: float, mean_span: float
) -> list[tuple[int, int]]:
    """Cut spans out of a text as T5 does: uniform compositions of noise and of what stays.

    Args:
        rng: the sample's random stream.
        total: how many words the text has, at least 2.
        noise_share: share of the words to cut out.
        mean_span: mean length of a span in words.

    Returns:
        Spans (start, length), ascending, never touching each other.
    """
    noise = min(max(1, round(total * noise_share)), total - 1)
    spans = min(max(1, round(noise / mean_span)), noise, total - noise, 100)
    cut, kept = _composition(rng, noise, spans), _composition(rng, total - noise, spans)
    starts = np.cumsum(kept) + np.concatenate([[0], np.cumsum(cut)[:-1]])
    return list(zip(starts.tolist(), cut.tolist(), strict=True))


def _composition(rng: np.random.Generator, total: int, parts: int) -> Integers:
    """Split a number into positive parts, every way being equally likely."""
    bars = np.sort(rng.choice(total - 1, size=parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], bars, [total]])).astype(np.int32)
