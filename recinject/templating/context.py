"""What a sampler hands to a template: integers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Context:
    """The integers that one sample is made of; a template turns them into words.

    Attributes:
        user: the user's number; it decides nothing in the text, users are never named.
        slots: the item numbers in each slot; a slot for one item holds one number.
        ratings: the rating of each item in ``slots["history"]``, where the task shows them.
        hidden: positions in the history that are masked, ascending.
        gaps: word spans (start, length) cut out of the history's text, ascending.
        target: the item that is asked for, or None.
        label: the rating that is asked for, or None.
    """

    user: int
    slots: Mapping[str, Sequence[int]]
    ratings: Sequence[float] = ()
    hidden: Sequence[int] = ()
    gaps: Sequence[tuple[int, int]] = ()
    target: int | None = None
    label: float | None = None

    def without_oldest(self, count: int) -> Context:
        """Return the context with the first ``count`` items of its history left out.

        Only for contexts whose history is shown plainly: without masked items and gaps.
        """
        slots = {**self.slots, "history": self.slots["history"][count:]}
        return replace(self, slots=slots, ratings=self.ratings[count:])

    @property
    def items(self) -> set[int]:
        """Every item that the sample names."""
        return {int(item) for numbers in self.slots.values() for item in numbers}
