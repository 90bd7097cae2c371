"""Worked examples before a question: training samples of the same task, by other users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged, side_by_side
from recinject.foundation.randomness import Bits, Chance, combine, derive_bits

if TYPE_CHECKING:
    from recinject.samples.builder import Builder

# Between prompt and completion, and after an example: a tokenizer such as T5's reads either as
# one blank, and others read the second as the end of a paragraph.
BETWEEN, AFTER = " ", "\n\n"


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Draws the worked examples that come before each question, by the question's own key.

    An example is a training sample of another user in the question's wording: its prompt, a
    blank, its completion and an empty line. It may name items that are held out from the user who
    is asked, since other users' training events do; it never tells of that user's events.

    Attributes:
        pool: makes the training samples.
        shots: how many examples a question has.
    """

    pool: Builder
    shots: int

    def pieces(self, users: Array, bits: Bits) -> Ragged:
        """Return the pieces of the examples of some questions, n rows.

        Args:
            users: who is asked, shape (n,).
            bits: chance that belongs to each question, shape (n,).

        Raises:
            RecinjectError: the other users have too few training samples.
        """
        chance = Chance(combine(derive_bits("demonstrations"), bits))
        starts = self.pool.offsets[users]
        own = self.pool.offsets[users + 1] - starts
        others = int(self.pool.offsets[-1]) - own
        if (others < self.shots).any():
            raise RecinjectError(
                f"samples.shots: {self.shots} examples of the task {self.pool.task.name} are asked "
                f"for, and other users have {others.min()} training samples",
                hint="lower samples.shots",
            )
        drawn = chance.distinct(others, self.shots)
        order = chance.orders(np.full(len(users), self.shots))
        chosen = Ragged.from_columns(drawn).at(order).values
        # Numbers count the samples of the others: those after the user's own come later by these.
        skipped = np.repeat(own, self.shots) * (chosen >= np.repeat(starts, self.shots))
        return self._written(chosen + skipped)

    def _written(self, numbers: Array) -> Ragged:
        batch, pieces = self.pool.batch(numbers), self.pool.wording.encoder.pieces
        between, after = (
            Ragged.from_columns(np.full(len(numbers), pieces.literal(text)))
            for text in (BETWEEN, AFTER)
        )
        rows = side_by_side([batch.prompts, between, batch.completions, after])
        return Ragged(rows.values, rows.offsets[:: self.shots])
