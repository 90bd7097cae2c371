"""What a task is: a sampler of contexts, each a pure function of its key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recinject.data.schema import Integers
from recinject.data.splitting import Part, View, draw_negatives
from recinject.foundation.ragged import Array, Ragged
from recinject.foundation.randomness import Chance
from recinject.templating.writers import Contexts, SlotKind

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, eq=False)
class Keys:
    """Which samples a sampler is asked for: n at once, as columns of shape (n,)."""

    users: Array  # each sample's user
    indices: Array  # which of the user's samples, from 0 to below :meth:`Task.count`
    chance: Chance  # random numbers that belong to each sample's key alone


@dataclass(frozen=True)
class Task(ABC):
    """A kind of sample. Its fields are the settings that a recipe may give.

    ``answer`` says how its test samples are answered and measured: ``retrieval`` out of the whole
    catalogue, ``ranking`` of the slot ``candidates``, or ``rating``; None if it only trains.
    ``metrics`` are the names of the metrics that measure it; None means all of that answer.
    """

    name: ClassVar[str]  # of its section, its template file and its folder of samples
    slots: ClassVar[Mapping[str, SlotKind]]  # what its templates may write
    parts: ClassVar[tuple[Part, ...]] = (Part.TRAIN,)  # of a split, that it has samples of
    needs_ratings: ClassVar[bool] = False  # whether the log must have ratings
    answer: ClassVar[str | None] = None
    metrics: ClassVar[tuple[str, ...] | None] = None

    @abstractmethod
    def count(self, view: View) -> NDArray[np.int64]:
        """Return how many samples each user has in a view: shape (users,)."""

    @abstractmethod
    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return the samples of some keys; ``words`` counts those of each item in a history."""


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
        return np.minimum(view.targets.lengths, self._cap(view))

    def _cap(self, view: View) -> int:
        most = self.max_per_user if view.part is Part.TRAIN else None
        return most or np.iinfo(np.int64).max

    def events(self, view: View, keys: Keys) -> Integers:
        """Return the event number of each sample's target, shape (n,)."""
        cap, counts = self._cap(view), view.targets.lengths[keys.users]
        drawn = ((keys.indices + keys.chance.uniform()) * counts / cap).astype(np.int64)
        places = np.where(counts <= cap, keys.indices, drawn)
        return np.asarray(view.targets.values[view.targets.offsets[keys.users] + places])

    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return histories and the item after each, with ratings where the task needs them."""
        events, log = self.events(view, keys), view.interactions
        past = view.histories(events, self.history_length)
        slots = {
            "history": past.of(log.items[past.values]),
            "target": Ragged.from_columns(log.items[events]),
        }
        contexts = Contexts(keys.users, slots, events=events, targets=log.items[events])
        if not self.needs_ratings or log.ratings is None:
            return contexts
        ratings = past.of(log.ratings[past.values])
        return replace(contexts, ratings=ratings, labels=log.ratings[events])

    def with_slates(
        self, contexts: Contexts, slot: str, view: View, keys: Keys, count: int
    ) -> Contexts:
        """Fill a slot with the target and ``count`` negatives, in random order."""
        negatives = draw_negatives(view, keys.users, keys.chance, count)
        targets = contexts.slots["target"].values
        slates = Ragged.from_columns(np.column_stack([targets, negatives]))
        slates = slates.at(keys.chance.orders(slates.lengths))
        return replace(contexts, slots={**contexts.slots, slot: slates})
