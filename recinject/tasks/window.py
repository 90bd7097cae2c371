"""What the two masked tasks share: windows cut from the training history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recinject.data.splitting import View
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged
from recinject.tasks.task import Keys, Task


@dataclass(frozen=True)
class WindowTask(Task):
    """A task over a stretch of neighbouring events.

    Attributes:
        shortest: fewest items in a window; users with fewer events have no sample.
        longest: most items in a window.
        per_event: how many windows a user has for each training event.
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

    def windows(self, view: View, keys: Keys) -> Ragged:
        """Return the items of windows with uniform length and, given it, uniform place."""
        log = view.interactions
        starts, sizes = log.offsets[keys.users], np.diff(log.offsets)[keys.users]
        longest = np.minimum(self.longest, sizes)
        lengths = self.shortest + keys.chance.below(longest - self.shortest + 1)
        starts = starts + keys.chance.below(sizes - lengths + 1)
        events = Ragged.ranges(starts, starts + lengths)
        return events.of(log.items[events.values])
