"""A task's wordings with all texts of its items, written and tokenised once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Floats, Integers
from recinject.data.splitting import Part
from recinject.samples.demonstrations import AFTER, BETWEEN
from recinject.samples.encoding import Dialect, Encoder
from recinject.samples.sample import REWORDED
from recinject.templating.library import BoundTemplate, TaskTemplates
from recinject.templating.phrases import Phrasebook
from recinject.templating.pieces import LETTERS, RATINGS, Pieces

# More than an item's own words take when it comes to stand first in a list and not later.
_FIRST_TOKENS = 5


@dataclass(frozen=True, eq=False)
class Wording:
    """A task's templates with everything that is rendered once and not once a sample.

    Attributes:
        templates: the wordings.
        bound: the same, choosing among pieces.
        encoder: gives the tokens of what is put together from the pieces.
        item_costs: the most tokens that each item takes in a history, shape (items,).
    """

    templates: TaskTemplates
    bound: Sequence[BoundTemplate]
    encoder: Encoder
    item_costs: NDArray[np.int64]

    @property
    def phrases(self) -> Mapping[str, Sequence[str]]:
        """For each slot the text of every item."""
        return self.encoder.pieces.phrases

    @cached_property
    def item_words(self) -> Integers:
        """How many words each item has in a history, shape (items,)."""
        return np.array([len(text.split()) for text in self.phrases["history"]], np.int32)

    def numbers(self, split: str) -> Sequence[int]:
        """Return which of the templates a split is written in.

        Tests are written in one, to compare like with like.
        """
        found = range(len(self.bound))
        if split == REWORDED:
            return [n for n in found if self.templates.templates[n].held_out][:1]
        training = [n for n in found if not self.templates.templates[n].held_out]
        return training if split == Part.TRAIN.label else training[:1]


def make_wordings(
    templates: Mapping[str, TaskTemplates],
    book: Phrasebook,
    ratings: Floats,
    dialect: Dialect,
    users: Sequence[str],
) -> dict[str, Wording]:
    """Write every piece that a sample of some tasks may need, and tokenise it.

    For ``ratings`` and ``users`` see :class:`~recinject.templating.pieces.Pieces`.
    """
    pieces = [Pieces(found.write_items(book), ratings, users) for found in templates.values()]
    bound = [
        [template.bind(own) for template in found.templates]
        for found, own in zip(templates.values(), pieces, strict=True)
    ]
    for own in pieces:
        own.literal(BETWEEN)
        own.literal(AFTER)
    splits = [all(t.splits_at_blanks for t in found.templates) for found in templates.values()]
    encoders = Encoder.make_all(dialect, pieces, splits)
    return {
        name: Wording(found, own, encoder, _item_costs(encoder))
        for (name, found), own, encoder in zip(templates.items(), bound, encoders, strict=True)
    }


def _item_costs(encoder: Encoder) -> NDArray[np.int64]:
    beside = sum(int(encoder.most_tokens(kind).max(initial=0)) for kind in (LETTERS, RATINGS))
    return encoder.most_tokens("history") + beside + _FIRST_TOKENS
