"""What a task is: a sampler of contexts, each a pure function of its key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recinject.data.schema import Integers
from recinject.data.splitting import Part, View
from recinject.templating.context import Context
from recinject.templating.language import SlotKind

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Task(ABC):
    """A kind of sample. Its fields are the settings that a recipe may give.

    Attributes:
        name: the name of its section, its template file and its folder of samples.
        slots: what its templates may write.
        parts: the parts of a split that it has samples of.
        needs_ratings: whether the log must have ratings.
    """

    name: ClassVar[str]
    slots: ClassVar[Mapping[str, SlotKind]]
    parts: ClassVar[tuple[Part, ...]] = (Part.TRAIN,)
    needs_ratings: ClassVar[bool] = False

    @abstractmethod
    def count(self, view: View) -> NDArray[np.int64]:
        """Return how many samples each user has in a view: shape (users,)."""

    @abstractmethod
    def sample(
        self, view: View, user: int, index: int, rng: np.random.Generator, words: Integers
    ) -> Context:
        """Return one sample of a user.

        Args:
            view: the events in sight.
            user: the user's number.
            index: which of the user's samples, from 0 to below :meth:`count`.
            rng: the stream that belongs to this sample's key alone.
            words: how many words each item's phrase has in a history, shape (items,).
        """


@dataclass(frozen=True)
class TargetTask(Task):
    """A task with one target event a sample and the history before it.

    Attributes:
        history_length: how many of the latest items the prompt shows.
        max_per_user: how many training targets a user may give; None takes all. The
            user's targets are cut into that many equal strata, and one is drawn from each.
    """

    history_length: Positive = 20
    max_per_user: Positive | None = None

    def count(self, view: View) -> NDArray[np.int64]:
        """Return the number of targets with a past of each user, at most the cap."""
        return np.minimum(view.target_counts, self._cap(view))

    def _cap(self, view: View) -> int:
        cap = self.max_per_user if view.part is Part.TRAIN else None
        return np.iinfo(np.int64).max if cap is None else cap

    def target(self, view: View, user: int, index: int, rng: np.random.Generator) -> int:
        """Return the target's event number of a user's sample."""
        targets = view.targets_of(user)
        cap = self._cap(view)
        if len(targets) <= cap:
            return int(targets[index])
        return int(targets[int((index + rng.random()) * len(targets) / cap)])

    def history(self, view: View, event: int) -> NDArray[np.int64]:
        """Return the event numbers of the history that the prompt shows before a target."""
        return view.history_before(event, self.history_length)


def items_at(view: View, events: NDArray[np.int64]) -> list[int]:
    """Return the items of some events."""
    items: list[int] = view.interactions.items[events].tolist()
    return items


def ratings_at(view: View, events: NDArray[np.int64]) -> list[float]:
    """Return the ratings of some events; empty when the log has none."""
    ratings = view.interactions.ratings
    return [] if ratings is None else list(ratings[events].tolist())
