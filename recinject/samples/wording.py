"""A task's wordings with all texts of its items, written and tokenised once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Floats, Integers
from recinject.data.splitting import Part
from recinject.samples.demonstrations import AFTER, BETWEEN
from recinject.samples.encoding import Dialect, Encoder
from recinject.samples.sample import REWORDED
from recinject.templating.library import BoundTemplate, TaskTemplates
from recinject.templating.pieces import LETTERS, RATINGS, Pieces

# More than an item's own words take when it comes to stand first in a list and not later.
_FIRST_TOKENS = 5


@dataclass(frozen=True, eq=False)
class Wording:
    """A task's templates with everything that is rendered once and not once a sample.

    Attributes:
        templates: the wordings.
        bound: the same, choosing among pieces.
        phrases: for each slot the text of every item.
        encoder: gives the tokens of what is put together from the pieces.
        item_costs: the most tokens that each item takes in a history, shape (items,).
        item_words: its words, shape (items,).
    """

    templates: TaskTemplates
    bound: Sequence[BoundTemplate]
    phrases: Mapping[str, Sequence[str]]
    encoder: Encoder
    item_costs: NDArray[np.int64]
    item_words: Integers

    @classmethod
    def make_all(
        cls,
        templates: Sequence[TaskTemplates],
        phrases: Sequence[Mapping[str, Sequence[str]]],
        ratings: Floats,
        dialect: Dialect,
        users: Sequence[str] = (),
    ) -> list[Wording]:
        """Write every piece that a sample of some tasks may need, and tokenise it.

        Args:
            templates: the tasks' wordings.
            phrases: the texts of each task's items, by slot.
            ratings: the ratings that may have to be written, ascending.
            dialect: how the model at hand reads them.
            users: the text of each user; none where no template names them.
        """
        pieces = [Pieces(texts, ratings, users) for texts in phrases]
        bound = [
            [template.bind(own) for template in found.templates]
            for found, own in zip(templates, pieces, strict=True)
        ]
        for own, text in product(pieces, (BETWEEN, AFTER)):
            own.literal(text)
        splits = [all(template.splits_at_blanks for template in found) for found in bound]
        encoders = Encoder.make_all(dialect, pieces, splits)
        return [
            cls._make(*parts) for parts in zip(templates, bound, phrases, encoders, strict=True)
        ]

    @classmethod
    def _make(
        cls,
        templates: TaskTemplates,
        bound: Sequence[BoundTemplate],
        phrases: Mapping[str, Sequence[str]],
        encoder: Encoder,
    ) -> Wording:
        beside = sum(int(encoder.most_tokens(kind).max(initial=0)) for kind in (LETTERS, RATINGS))
        return cls(
            templates,
            bound,
            phrases,
            encoder,
            encoder.most_tokens("history") + beside + _FIRST_TOKENS,
            np.array([len(text.split()) for text in phrases["history"]], np.int32),
        )

    def numbers(self, split: str) -> Sequence[int]:
        """Return which of the templates a split is written in.

        Tests are written in one, to compare like with like.
        """
        found = range(len(self.bound))
        if split == REWORDED:
            return [n for n in found if self.templates.templates[n].held_out][:1]
        training = [n for n in found if not self.templates.templates[n].held_out]
        return training if split == Part.TRAIN.label else training[:1]
