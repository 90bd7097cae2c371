"""What a task is, and the six that ship: integers only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recinject.data.schema import Integers
from recinject.data.splitting import Part, View, draw_negatives, draw_popular
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged, side_by_side
from recinject.foundation.randomness import Chance
from recinject.foundation.settings import MOST, Positive, bind
from recinject.registry import find, load_named, names, register
from recinject.templating.phrases import MOST_GAPS
from recinject.templating.writers import Contexts, SlotKind


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
    is_causal: ClassVar[bool] = False  # whether models that read one way alone can learn it

    @property
    def names_several(self) -> bool:
        """Whether a training completion names several items, though one is asked for."""
        return False

    @abstractmethod
    def count(self, view: View) -> NDArray[np.int64]:
        """Return how many samples each user has in a view: shape (users,)."""

    @abstractmethod
    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return the samples of some keys; ``words`` counts those of each item in a history."""


@dataclass(frozen=True)
class TargetTask(Task):
    """A task with one target event a sample and the history before it.

    The prompt shows at most ``history_length`` of the latest items. ``max_per_user`` cuts a user's
    training targets into that many equal strata, and draws one from each; None takes all.

    Examples:
        >>> from recinject.data.simulator import simulate_shop
        >>> from recinject.data.splitting import leave_one_out
        >>> log = simulate_shop(users=3, items=30, events_per_user=6, seed=1).interactions
        >>> TASKS["retrieval"](max_per_user=2).count(leave_one_out(log).view(Part.TRAIN))
        array([2, 2, 2])
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
        self, contexts: Contexts, slot: str, negatives: Ragged, chance: Chance
    ) -> Contexts:
        """Fill a slot with the target and its negatives, in random order."""
        slates = side_by_side([contexts.slots["target"], negatives])
        slates = slates.at(chance.orders(slates.lengths))
        return replace(contexts, slots={**contexts.slots, slot: slates})


@dataclass(frozen=True)
class WindowTask(Task):
    """A task over a stretch of neighbouring events, which hides some of the training events in it.

    Events that are histories alone may stand in a window; each holds a training event at least.
    """

    shortest: Annotated[int, Field(ge=2, le=MOST)] = 5  # items; of users with fewer is no sample
    longest: int = 10  # items
    per_event: Annotated[float, Field(ge=0)] = 0.25  # windows of a user for each training event

    def __post_init__(self) -> None:
        if self.longest < self.shortest:
            place = f"samples.tasks.{self.name}"
            fact = f"{place}: longest={self.longest} is below shortest={self.shortest}"
            raise RecinjectError(fact, hint=f"set {place}.longest to {self.shortest} or more")

    def count(self, view: View) -> NDArray[np.int64]:
        """Return the number of windows of each user: at least one where one fits."""
        lengths = np.diff(view.interactions.offsets)
        targets = np.diff(view.targets_before[view.interactions.offsets])
        windows = np.maximum(1, np.round(targets * self.per_event)).astype(np.int64)
        return np.where((lengths >= self.shortest) & (targets > 0), windows, 0)

    def windows(self, view: View, keys: Keys) -> Ragged:
        """Return the events of windows with uniform length and, given it, uniform place.

        A window without a training event moves to a random place around one of them.
        """
        offsets, before = view.interactions.offsets, view.targets_before
        starts, stops = offsets[keys.users], offsets[keys.users + 1]
        longest = np.minimum(self.longest, stops - starts)
        lengths = self.shortest + keys.chance.below(longest - self.shortest + 1)
        last, drawn = stops - lengths, keys.chance.uniform()
        places = starts + (drawn * (last - starts + 1)).astype(np.int64)
        # The number of a training event of the user, and how far into the window it comes: from
        # bits that the place does not depend on.
        free = np.modf(drawn * 2.0**24)[0]
        share, number = np.modf(before[starts] + free * (before[stops] - before[starts]))
        event = np.searchsorted(before, number.astype(np.int64), side="right") - 1
        around = np.clip(event - (share * lengths).astype(np.int64), starts, last)
        learns = before[places + lengths] > before[places]
        places = np.where(learns, places, around)
        return Ragged.ranges(places, places + lengths)


@dataclass(frozen=True)
class MaskedItemModelling(WindowTask):
    """Name the hidden items of a window.

    ``mask_share`` of a window's items is hidden, at least one and never all.

    Source: arXiv 2404.00245; the language model's counterpart of BERT4Rec.
    """

    name = "masked_item_modelling"
    slots: ClassVar[Mapping[str, SlotKind]] = {"history": SlotKind.MASKED, "masked": SlotKind.ITEMS}
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.2

    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return windows, the places that are hidden, and the items they hide."""
        events = self.windows(view, keys)
        windows = events.of(view.interactions.items[events.values])
        may = view.is_target[events.values]
        counts = np.rint(self.mask_share * events.lengths).astype(np.int64)
        counts = np.minimum(np.clip(counts, 1, MOST_GAPS), events.lengths - 1)
        order = keys.chance.orders(events.sums(may))
        hidden = np.zeros(len(may), bool)
        hidden[may] = order.values < counts[order.rows]
        slots = {"history": windows, "masked": windows.keep(hidden)}
        return Contexts(keys.users, slots, hidden=windows.of(hidden))


@dataclass(frozen=True)
class MaskedLanguageModelling(WindowTask):
    """Restore the spans of words cut out of a window's text.

    Spans are counted in words and not in tokens, so that a sample is plain text that any
    tokenizer can read. ``noise_share`` of the words is cut out, at least one, in spans of
    ``mean_span`` words on average; every word is as likely to be cut out as any other. Sources:
    arXiv 2404.00245; span corruption: arXiv 1910.10683.
    """

    name = "masked_language_modelling"
    slots: ClassVar[Mapping[str, SlotKind]] = {"history": SlotKind.GAPPED}
    noise_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    mean_span: Annotated[float, Field(ge=1)] = 3.0

    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return windows and the words cut out of their text."""
        events = self.windows(view, keys)
        windows = events.of(view.interactions.items[events.values])
        counts = words[windows.values]
        may = np.repeat(view.is_target[events.values], counts)
        text = Ragged.from_lengths(may, windows.sums(counts))
        cut = cut_spans(keys.chance, text.sums(may), self.noise_share, self.mean_span)
        hidden = np.zeros(len(may), bool)
        hidden[may] = cut.values
        return Contexts(keys.users, {"history": windows}, hidden=text.of(hidden))


def cut_spans(chance: Chance, totals: Array, noise_share: float, mean_span: float) -> Ragged:
    """Say which words to cut out of texts of so many words, as T5 does.

    Noise and what stays are uniform compositions, turned round by a random number of words: T5's
    end in noise, so that a short text would lose its last words alone. A span that comes to lie
    over the end goes on at the start; otherwise spans never touch each other.
    """
    noise = np.minimum(np.rint(totals * noise_share), totals - 1)
    noise = np.maximum(1, noise).astype(np.int64)
    spans = np.rint(noise / mean_span).astype(np.int64)
    # Turning may make two spans of one.
    spans = np.minimum(np.minimum(spans, MOST_GAPS - 1), np.minimum(noise, totals - noise))
    spans = np.maximum(1, spans)
    kept, cut = (_composition(chance, total, spans) for total in (totals - noise, noise))
    lengths = np.column_stack([kept.values, cut.values]).ravel()
    flags = np.repeat(np.tile([False, True], len(kept.values)), lengths)
    texts = Ragged.from_lengths(flags, totals)
    turned = texts.places + chance.below(totals)[texts.rows]
    return texts.at(texts.of(turned % totals[texts.rows]))


def _composition(chance: Chance, totals: Array, parts: Array) -> Ragged:
    """Split each number into positive parts, every way being equally likely."""
    gaps = chance.orders(totals - 1)
    is_bar = gaps.values < (parts - 1)[gaps.rows]
    bars = gaps.of(gaps.places + 1).keep(is_bar)
    zeros = Ragged.from_columns(np.zeros(len(totals), np.int64))
    starts = side_by_side([zeros, bars])
    stops = side_by_side([bars, Ragged.from_columns(totals)])
    return starts.of(stops.values - starts.values)


_NEXT_ITEM = {"history": SlotKind.ITEMS, "target": SlotKind.ITEM}
_EVALUATED = (Part.TRAIN, Part.VALIDATION, Part.TEST)


@dataclass(frozen=True)
class BPR(TargetTask):
    """Tell the item that was chosen from one that the user never touched, drawn uniformly.

    Source: arXiv 2404.00245, after Rendle et al. 2009.
    """

    name = "bpr"
    slots: ClassVar[Mapping[str, SlotKind]] = {**_NEXT_ITEM, "pair": SlotKind.ITEMS}

    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return histories and two items in random order, the chosen one among them."""
        contexts = super().sample(view, keys, words)
        other = Ragged.from_columns(draw_negatives(view, keys.users, keys.chance, 1))
        return self.with_slates(contexts, "pair", other, keys.chance)


@dataclass(frozen=True)
class Retrieval(TargetTask):
    """Name the item that comes next; every prefix of the training part is a sample.

    In training the completion names the next ``targets`` items, as far as there are so many, each
    after those before it; one alone is asked for. Source: arXiv 2404.00245.
    """

    name = "retrieval"
    answer = "retrieval"
    slots: ClassVar[Mapping[str, SlotKind]] = _NEXT_ITEM
    parts = _EVALUATED
    targets: Positive = 1

    @property
    def names_several(self) -> bool:
        """Whether ``targets`` are more than one."""
        return self.targets > 1

    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return histories and the items after each."""
        contexts = super().sample(view, keys, words)
        if view.part is not Part.TRAIN or self.targets == 1:
            return contexts
        first = np.searchsorted(view.targets.values, self.events(view, keys))
        last = np.minimum(first + self.targets, view.targets.offsets[keys.users + 1])
        return replace(contexts, slots={**contexts.slots, "target": _items(view, first, last)})


def _items(view: View, first: Array, last: Array) -> Ragged:
    """Return the items of stretches of a view's targets."""
    rows = Ragged.ranges(first, last)
    return rows.of(view.interactions.items[view.targets.values[rows.values]])


@register("task")
@dataclass(frozen=True)
class SequenceModelling(TargetTask):
    """Name every item of a window after those before it; asked for, the item after a history.

    For causal models: one pass over a training sample has a loss at each of its items. A user's
    training targets are cut into as few equal windows of at most ``history_length`` as hold them
    all; the prompt is what comes before a window, one item at least, and the completion all of it.
    ``max_per_user`` is of windows. Source: arXiv 1808.09781 (SASRec), as a language model.
    """

    name = "sequence"
    answer = "retrieval"
    slots: ClassVar[Mapping[str, SlotKind]] = _NEXT_ITEM
    parts = _EVALUATED
    is_causal = True

    @property
    def names_several(self) -> bool:
        """Always."""
        return True

    def count(self, view: View) -> NDArray[np.int64]:
        """Return the number of each user's windows; out of training, of targets."""
        if view.part is not Part.TRAIN:
            return super().count(view)
        return np.minimum(self._windows(view), self._cap(view))

    def _windows(self, view: View) -> NDArray[np.int64]:
        return -(-view.targets.lengths // self.history_length)

    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return windows and what comes before them; out of training, as retrieval does."""
        if view.part is not Part.TRAIN:
            return super().sample(view, keys, words)
        windows, cap = self._windows(view)[keys.users], self._cap(view)
        drawn = ((keys.indices + keys.chance.uniform()) * windows / cap).astype(np.int64)
        number = np.where(windows <= cap, keys.indices, drawn)
        own, start = view.targets.lengths[keys.users], view.targets.offsets[keys.users]
        first, last = (start + own * n // np.maximum(windows, 1) for n in (number, number + 1))
        events = view.targets.values[first]
        past = view.histories(events, self.history_length + 1 - (last - first))
        items = view.interactions.items
        slots = {"history": past.of(items[past.values]), "target": _items(view, first, last)}
        return Contexts(keys.users, slots, events=events, targets=items[events])


@dataclass(frozen=True)
class Ranking(TargetTask):
    """Pick the chosen item from a slate in random order.

    The ``negatives`` of a test slate are uniform among the untouched. A training slate has from one
    to ``train_negatives`` of them, as many as the test if None, every number being equally likely;
    in a ``hard_share`` of the slates they are drawn by popularity. Source: arXiv 2404.00245; the
    test slate of 1 + 99 is the protocol of P5.
    """

    name = "ranking"
    answer = "ranking"
    slots: ClassVar[Mapping[str, SlotKind]] = {**_NEXT_ITEM, "candidates": SlotKind.ITEMS}
    parts = _EVALUATED
    negatives: Positive = 99
    train_negatives: Positive | None = None
    hard_share: Annotated[float, Field(ge=0, le=1)] = 0.25

    def sample(self, view: View, keys: Keys, words: Integers) -> Contexts:
        """Return histories, the slates, and the item chosen from each."""
        contexts, chance = super().sample(view, keys, words), keys.chance
        trains = view.part is Part.TRAIN
        most = self.train_negatives if trains and self.train_negatives else self.negatives
        negatives = Ragged.from_columns(draw_negatives(view, keys.users, chance, most))
        if trains:
            order = chance.orders(negatives.lengths)
            is_hard = chance.uniform() < self.hard_share
            popular = draw_popular(view, keys.users, chance, most)
            popular = popular.keep(is_hard[popular.rows])
            drawn = side_by_side([popular, negatives.at(order)]).distinct()
            negatives = drawn.keep(drawn.places <= chance.below(most)[drawn.rows])
        return self.with_slates(contexts, "candidates", negatives, chance)


@dataclass(frozen=True)
class Rating(TargetTask):
    """Say which rating the user gave to an item.

    Source: arXiv 2305.06474 and 2404.00245.
    """

    name = "rating"
    answer = "rating"
    slots: ClassVar[Mapping[str, SlotKind]] = {
        "history": SlotKind.RATED,
        "target": SlotKind.ITEM,
        "rating": SlotKind.RATING,
    }
    parts = _EVALUATED
    needs_ratings = True


TASKS: dict[str, type[Task]] = {
    task.name: register("task")(task)
    for task in (MaskedItemModelling, MaskedLanguageModelling, BPR, Retrieval, Ranking, Rating)
}
"""The tasks that ship, by name."""


def task_names(folder: Path | None = None) -> list[str]:
    """List every task that a recipe may name, the user's own in a folder among them.

    A task of one's own is ``NAME.py``, which registers the sampler, beside ``NAME.yaml``; it is run
    where :func:`~recinject.registry.trust` was called for the folder.
    """
    for file in sorted(folder.glob("*.py")) if folder else ():
        if file.with_suffix(".yaml").is_file():
            load_named(file)
            if file.stem not in names("task"):
                raise RecinjectError(
                    f"{file}: registers no task called {file.stem!r}",
                    hint='decorate a subclass of recinject.Task with @recinject.register("task"), '
                    f'and give it name = "{file.stem}"',
                )
    return names("task")


def bind_tasks(
    tasks: Mapping[str, Mapping[str, Any] | None], folder: Path | None, place: str
) -> list[Task]:
    """Return the samplers of some tasks with their settings, which were given at a place."""
    return [
        bind(task_type(name, folder), own or {}, f"{place}.{name}") for name, own in tasks.items()
    ]


def task_type(name: str, folder: Path | None = None) -> type[Task]:
    """Return the task of a name, one of :func:`task_names`.

    Raises:
        RecinjectError: there is none, or it has no slot ``history``.
    """
    task_names(folder)
    task: type[Task] = find("task", name, "samples.tasks")
    if "history" not in task.slots:
        hint = "show in a slot 'history' what the user took: long prompts lose its oldest items"
        raise RecinjectError(f"samples.tasks: the task {name!r} has no slot 'history'", hint=hint)
    return task
