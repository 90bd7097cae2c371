"""Masked language modelling: T5's span corruption over the text of a window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from recinject.data.schema import Integers
from recinject.data.splitting import View
from recinject.foundation.ragged import Array, Ragged, side_by_side
from recinject.foundation.randomness import Chance
from recinject.tasks.task import Keys
from recinject.tasks.window import WindowTask
from recinject.templating.context import Contexts, SlotKind
from recinject.templating.pieces import MOST_GAPS


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

    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return windows and the words cut out of their text."""
        windows = self.windows(view, keys)
        totals = windows.sums(words[windows.values])
        hidden = cut_spans(keys.chance, totals, self.noise_share, self.mean_span)
        return Contexts(keys.users, {"history": windows}, hidden=hidden)


def cut_spans(chance: Chance, totals: Array, noise_share: float, mean_span: float) -> Ragged:
    """Cut spans out of texts as T5 does: uniform compositions of noise and of what stays.

    A text begins with a word that stays, and spans never touch each other.

    Args:
        chance: the texts' random numbers.
        totals: how many words each text has, at least 2, shape (n,).
        noise_share: see :class:`MaskedLanguageModelling`; ``mean_span`` likewise.

    Returns:
        For each word whether it is cut out.
    """
    noise = np.minimum(np.maximum(1, np.rint(totals * noise_share)), totals - 1).astype(np.int64)
    spans = np.maximum(1, np.rint(noise / mean_span)).astype(np.int64)
    spans = np.minimum(np.minimum(spans, MOST_GAPS), np.minimum(noise, totals - noise))
    kept, cut = (_composition(chance, total, spans) for total in (totals - noise, noise))
    lengths = np.column_stack([kept.values, cut.values]).ravel()
    flags = np.repeat(np.tile([False, True], len(kept.values)), lengths)
    return Ragged.from_lengths(flags, totals)


def _composition(chance: Chance, totals: Array, parts: Array) -> Ragged:
    """Split each number into positive parts, every way being equally likely."""
    gaps = chance.orders(totals - 1)
    is_bar = gaps.values < (parts - 1)[gaps.rows]
    bars = gaps.of(gaps.places + 1).keep(is_bar)
    zeros = Ragged.from_columns(np.zeros(len(totals), np.int64))
    starts = side_by_side([zeros, bars])
    stops = side_by_side([bars, Ragged.from_columns(totals)])
    return starts.of(stops.values - starts.values)
