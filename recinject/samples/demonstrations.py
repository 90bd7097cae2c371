"""Worked examples before a question: training samples of the same task, by other users."""

from __future__ import annotations

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


def draw_demonstrations(pool: Builder, shots: int, users: Array, bits: Bits) -> Ragged:
    """Return the pieces of the worked examples of some questions, by the question's own key alone.

    An example is a training sample of another user in the question's wording: its prompt, a
    blank, its completion and an empty line. It may name items that are held out from the user who
    is asked, since other users' training events do; it never tells of that user's events.

    Args:
        pool: makes the training samples.
        shots: how many examples a question has.
        users: who is asked, shape (n,).
        bits: chance that belongs to each question, shape (n,).

    Raises:
        RecinjectError: the other users have too few training samples.
    """
    chance = Chance(combine(derive_bits("demonstrations"), bits))
    starts = pool.offsets[users]
    own = pool.offsets[users + 1] - starts
    others = int(pool.offsets[-1]) - own
    if (others < shots).any():
        raise RecinjectError(
            f"samples.shots: {shots} examples of the task {pool.task.name} are asked for, and "
            f"other users have {others.min()} training samples",
            hint="lower samples.shots",
        )
    drawn = chance.distinct(others, shots)
    order = chance.orders(np.full(len(users), shots))
    chosen = Ragged.from_columns(drawn).at(order).values
    # Numbers count the samples of the others: those after the user's own come later by these.
    skipped = np.repeat(own, shots) * (chosen >= np.repeat(starts, shots))
    batch, pieces = pool.batch(chosen + skipped), pool.wording.encoder.pieces
    between, after = (
        Ragged.from_columns(np.full(len(chosen), pieces.literal(text))) for text in (BETWEEN, AFTER)
    )
    rows = side_by_side([batch.prompts, between, batch.completions, after])
    return Ragged(rows.values, rows.offsets[::shots])
