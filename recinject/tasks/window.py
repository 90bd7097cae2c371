"""What the two masked tasks share: windows cut from the training history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recinject.data.splitting import View
from recinject.foundation.errors import RecinjectError
from recinject.tasks.task import Task


@dataclass(frozen=True)
class WindowTask(Task):
    """A task over a stretch of neighbouring events.

    Attributes:
        shortest: fewest items in a window; users with fewer events have no sample.
        longest: most items in a window.
        per_event: windows a user has for each of the user's training events.
    """

    shortest: Annotated[int, Field(ge=2)] = 5
    longest: int = 10
    per_event: Annotated[float, Field(ge=0)] = 0.25

    def __post_init__(self) -> None:
        if self.longest < self.shortest:
            raise RecinjectError(
                f"samples.tasks.{self.name}: longest={self.longest} is below "
                f"shortest={self.shortest}",
                hint=f"set samples.tasks.{self.name}.longest to {self.shortest} or more",
            )

    def count(self, view: View) -> NDArray[np.int64]:
        """Return the number of windows of each user: at least one where one fits."""
        lengths = np.diff(view.interactions.offsets)
        windows = np.maximum(1, np.round(lengths * self.per_event)).astype(np.int64)
        return np.where(lengths >= self.shortest, windows, 0)

    def window(self, view: View, user: int, rng: np.random.Generator) -> list[int]:
        """Return the items of a window with uniform length and, given it, uniform place."""
        items = view.interactions.items_of(user)
        length = int(rng.integers(self.shortest, min(self.longest, len(items)) + 1))
        start = int(rng.integers(len(items) - length + 1))
        stretch: list[int] = items[start : start + length].tolist()
        return stretch
