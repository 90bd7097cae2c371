"""One split rules all tasks of a run: which events train, validate and test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Flags, Floats, Integers, Interactions
from recinject.foundation.errors import RecinjectError, did_you_mean


class Part(IntEnum):
    """The part of a split that an event belongs to."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2

    @property
    def label(self) -> str:
        """The part's name in files and keys: ``train``, ``validation`` or ``test``."""
        return self.name.lower()


@dataclass(frozen=True, eq=False)
class View:
    """What the samples of one part may see: nothing later than it, all that is earlier.

    Attributes:
        part: the part whose samples these are.
        interactions: the events in sight; events of later parts are not among them.
        is_history: which of them may stand in a history, shape (events,).
        is_target: which of them are to be predicted, shape (events,).
        touched: every event of the log: negatives are drawn outside of it. This is all that
            a sample may learn of later parts, and it says only which items are no negatives.
        later: the events out of sight, which no sample may name.
    """

    part: Part
    interactions: Interactions
    is_history: Flags
    is_target: Flags
    touched: Interactions
    later: Interactions

    @cached_property
    def _targets(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Event numbers of all targets with a past, and where each user's start (CSR)."""
        past: NDArray[np.int64] = np.cumsum(self.is_history) - self.is_history
        users = self.interactions.users
        has_past: Flags = past > past[self.interactions.offsets[users]]
        targets = np.flatnonzero(self.is_target & has_past)
        counts = np.bincount(users[targets], minlength=self.interactions.n_users)
        return targets, np.concatenate([[0], np.cumsum(counts)])

    @property
    def target_counts(self) -> NDArray[np.int64]:
        """How many targets with at least one past event each user has, shape (users,)."""
        return np.diff(self._targets[1])

    def targets_of(self, user: int) -> NDArray[np.int64]:
        """Return the event numbers of a user's targets that have at least one past event."""
        targets, offsets = self._targets
        return targets[offsets[user] : offsets[user + 1]]

    def history_before(self, event: int, length: int | None = None) -> NDArray[np.int64]:
        """Return the event numbers of the history before a target, oldest first.

        Args:
            event: the target's event number.
            length: how many of the latest events to keep; None keeps all.
        """
        start = int(self.interactions.offsets[self.interactions.users[event]])
        if length is not None and self.part is Part.TRAIN:
            return np.arange(max(start, event - length), event)
        events = np.flatnonzero(self.is_history[start:event]) + start
        return events if length is None else events[-length:]


@dataclass(frozen=True, eq=False)
class Split:
    """All events with the part that each belongs to.

    Attributes:
        interactions: every event of the log.
        parts: the :class:`Part` of each event, shape (events,).
    """

    interactions: Interactions
    parts: NDArray[np.uint8]

    @cached_property
    def train(self) -> Interactions:
        """The training events: all that fitting may see."""
        return self.interactions.select(self.parts == Part.TRAIN)

    def view(self, part: Part) -> View:
        """Return what the samples of one part may see."""
        seen = self.parts <= part
        parts = self.parts[seen]
        return View(
            part=part,
            interactions=self.interactions.select(seen),
            is_history=np.ones(len(parts), bool) if part is Part.TRAIN else parts < part,
            is_target=parts == part,
            touched=self.interactions,
            later=self.interactions.select(~seen),
        )


def leave_one_out(interactions: Interactions) -> Split:
    """Hold out each user's last event for the test and the second last for validation.

    Users with fewer than three events stay whole in the training part.
    """
    counts = np.diff(interactions.offsets)
    parts = np.full(len(interactions), Part.TRAIN, np.uint8)
    last = interactions.offsets[1:][counts >= 3] - 1
    parts[last] = Part.TEST
    parts[last - 1] = Part.VALIDATION
    return Split(interactions, parts)


SPLITS: dict[str, Callable[[Interactions], Split]] = {"leave_one_out": leave_one_out}


def split_by(name: str, interactions: Interactions) -> Split:
    """Split by a named rule.

    Raises:
        RecinjectError: the name is unknown, or nothing is left to test on.
    """
    if name not in SPLITS:
        raise RecinjectError(f"data.split: unknown rule {name!r}", hint=did_you_mean(name, SPLITS))
    split = SPLITS[name](interactions)
    if not np.any(split.parts == Part.TEST):
        raise RecinjectError(
            f"data.split: {name} leaves no event to test on",
            hint="every user has fewer than three events: take a larger log or another split",
        )
    return split


def time_facts(split: Split) -> dict[str, float]:
    """Measure how far the split respects time.

    Returns:
        ``tie_rate``: share of tested users whose test event has the very time of the event
        before it (their order is the log's word); ``future_share``: share of training events
        later than the average test event. Empty when the log has no timestamps.
    """
    timestamps = split.interactions.timestamps
    if timestamps is None:
        return {}
    tests = np.flatnonzero(split.parts == Part.TEST)
    test_times: Floats = timestamps[tests]
    users: Integers = split.interactions.users
    same_user = (tests > 0) & (users[tests - 1] == users[tests])
    tied = same_user & (timestamps[tests - 1] == test_times)
    training = timestamps[split.parts == Part.TRAIN]
    return {
        "tie_rate": float(tied.mean()),
        "future_share": float(np.mean(training > np.nanmean(test_times))),
    }
