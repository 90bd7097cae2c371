"""The split into training, validation and test, how it is stored, and negatives."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pandas.util import hash_array

from recinject.data.schema import (
    Catalog,
    Flags,
    Integers,
    Interactions,
    Log,
    Order,
    known_times,
    load_tables,
    save_tables,
)
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged, is_among
from recinject.foundation.randomness import Chance, combine, derive_bits, derive_rng
from recinject.registry import find, register

Parts = NDArray[np.int8]
Ties = Literal["auto", "log_order", "hash"]


class Part(IntEnum):
    """The part of a split that an event belongs to.

    ``HISTORY`` events may stand in a history and are never a target.
    """

    HISTORY = -1
    TRAIN = 0
    VALIDATION = 1
    TEST = 2

    @property
    def label(self) -> str:
        """The part's name in files and keys: ``train``, ``validation``, ``test``, ``history``."""
        return self.name.lower()


@dataclass(frozen=True, eq=False)
class View:
    """What the samples of one part may see: nothing later than it, all that is earlier.

    Parts need not follow one another in a user's events: a history is what stands before its
    target and belongs to an earlier part (in training: to the training part).

    Negatives are drawn outside of what is ``touched``, every event of the log. This is all that a
    sample may learn of later parts, and it says only which items are no negatives.
    """

    part: Part  # whose samples these are
    interactions: Interactions  # the events in sight, none of later parts among them
    is_history: Flags  # which of them may stand in a history, (events,)
    is_target: Flags  # which of them are to be predicted, (events,)
    in_sight: Flags  # which of the log's events these are, (all events,)
    touched: Interactions
    later: Interactions  # the events out of sight, which no sample may name
    cold: Integers  # where whole items are held out, those of later parts; nothing elsewhere

    @cached_property
    def warm(self) -> Integers:
        """The items that are not cold, ascending: those that may be negatives."""
        return np.delete(np.arange(self.touched.n_items, dtype=np.int32), self.cold)

    @cached_property
    def event_numbers(self) -> Integers:
        """The log's own number of each event in sight, shape (events,)."""
        return np.flatnonzero(self.in_sight).astype(np.int32)

    @cached_property
    def targets_before(self) -> NDArray[np.int64]:
        """How many targets lie before each event, and how many there are: shape (events + 1,)."""
        return np.concatenate([[0], np.cumsum(self.is_target, dtype=np.int64)])

    @cached_property
    def _past(self) -> Integers:
        """How many history events lie before each event, those of other users among them."""
        return np.cumsum(self.is_history, dtype=np.int32) - self.is_history

    @cached_property
    def _history_events(self) -> Integers:
        return np.flatnonzero(self.is_history).astype(np.int32)

    @cached_property
    def targets(self) -> Ragged:
        """The event numbers of each user's targets that have at least one past event."""
        log, past = self.interactions, self._past
        # Users without events at the end of the log would ask for the event after the last one.
        first = past[np.minimum(log.offsets[:-1], max(0, len(past) - 1))] if len(past) else past
        targets = np.flatnonzero(self.is_target & (past > first[log.users])).astype(np.int32)
        return Ragged(targets, np.searchsorted(targets, log.offsets.astype(np.int32)))

    def rated(self) -> View:
        """Return the view without events of unknown rating, as targets and in histories."""
        ratings = self.interactions.ratings
        if ratings is None or not np.isnan(ratings).any():
            return self
        known = ~np.isnan(ratings)
        history, target = self.is_history & known, self.is_target & known
        return replace(self, is_history=history, is_target=target)

    def histories(self, events: Array, length: int | Array | None = None) -> Ragged:
        """Return the event numbers of the latest history before each target, oldest first.

        ``events`` are the targets' numbers; without a ``length``, of all or of each, whole
        histories are kept.
        """
        past, log = self._past, self.interactions
        stops = past[events]
        starts = past[log.offsets[log.users[events]]]
        if length is not None:
            starts = np.maximum(starts, stops - length)
        places = Ragged.ranges(starts.astype(np.int64), stops.astype(np.int64))
        return places.of(self._history_events[places.values])


@dataclass(frozen=True, eq=False)
class Split:
    """All events with the part that each belongs to.

    Examples:
        >>> from recinject.data.simulator import simulate_shop
        >>> log = simulate_shop(users=3, items=30, events_per_user=6, seed=1).interactions
        >>> split = leave_one_out(log)
        >>> [Part(part).name.lower() for part in split.parts[3:6]]
        ['train', 'train', 'validation']
    """

    interactions: Interactions
    parts: Parts  # (events,)
    by_item: bool = False  # whether an item's events are in one part by rule, not by chance
    order: Order = "time"  # what each user's events are in order of

    @property
    def train(self) -> Interactions:
        """The training events: all that fitting may see. A copy, not kept: it may be large."""
        return self.interactions.select(self.parts == Part.TRAIN)

    def view(self, part: Part) -> View:
        """Return what the samples of one part may see."""
        seen = self.parts <= part
        parts, later = self.parts[seen], self.interactions.select(~seen)
        return View(
            part=part,
            interactions=self.interactions.select(seen),
            is_history=np.ones(len(parts), bool) if part is Part.TRAIN else parts < part,
            is_target=parts == part,
            in_sight=seen,
            touched=self.interactions,
            later=later,
            cold=np.unique(later.items) if self.by_item else np.empty(0, np.int32),
        )


@register("split", "leave_one_out")
def leave_one_out(interactions: Interactions, share: float = 0, seed: int = 0) -> Split:
    """Hold out each user's last event for the test and the second last for validation.

    Users with fewer than three events stay whole in the training part.
    """
    counts = np.diff(interactions.offsets)
    parts = np.full(len(interactions), Part.TRAIN, np.int8)
    last = interactions.offsets[1:][counts >= 3] - 1
    parts[last] = Part.TEST
    parts[last - 1] = Part.VALIDATION
    return Split(interactions, parts)


@register("split", "given")
def given(interactions: Interactions, share: float = 0, seed: int = 0) -> Split:
    """Keep the parts that the log's files came in."""
    if interactions.parts is None:
        raise RecinjectError(
            "data.split: given, and the log does not say which part an event belongs to",
            hint="name its files by their part: data.path={train: FILE, test: FILE}",
        )
    return Split(interactions, interactions.parts)


@register("split", "global_time")
def global_time(interactions: Interactions, share: float, seed: int = 0) -> Split:
    """Hold out the last share of all events for the test, and the share before it.

    Events of the same time go together, into the later part. Users and items may be new there. An
    event of unknown time has the time of the event that it follows; a log without any is refused.
    """
    if interactions.timestamps is None:
        raise RecinjectError(
            "data.split: global_time needs timestamps, and the log has none",
            hint="name their column with data.columns.timestamp=COLUMN, or set "
            "data.split=user_ratio, which goes by each user's order",
        )
    times = known_times(interactions.timestamps, interactions.users)
    held_out = max(1, round(share * len(times)))
    boundaries = np.sort(times)[::-1][[min(n * held_out, len(times)) - 1 for n in (2, 1)]]
    return Split(interactions, np.searchsorted(boundaries, times, side="right").astype(np.int8))


@register("split", "user_ratio")
def user_ratio(interactions: Interactions, share: float, seed: int = 0) -> Split:
    """Hold out the last share of each user's events for the test, and the share before it.

    At least one event each; users with fewer than three events stay whole in the training part.
    """
    counts = np.diff(interactions.offsets)
    # The least surplus keeps 0.29 of 100 events from being 28.
    held_out = np.maximum(1, np.floor(share * counts + 1e-9)) * (counts >= 3)
    users = interactions.users
    from_the_end = interactions.offsets[1:][users] - 1 - np.arange(len(interactions))
    later = [from_the_end < n * held_out[users] for n in (1, 2)]
    return Split(interactions, (later[0].astype(np.int8) + later[1]).astype(np.int8))


@register("split", "cold_items")
def cold_items(interactions: Interactions, share: float, seed: int) -> Split:
    """Hold out all events of a seeded share of the items for the test, and of another share.

    Training never meets these items; their events stand anywhere in a user's history.
    """
    parts = _draw_parts(interactions.n_items, share, derive_rng(seed, "cold_items"))
    return Split(interactions, parts[interactions.items], by_item=True)


@register("split", "random")
def random(interactions: Interactions, share: float, seed: int) -> Split:
    """Hold out a seeded share of all events for the test, and as many for validation.

    Events later than a tested one train, as in most published figures for ratings.
    """
    return Split(interactions, _draw_parts(len(interactions), share, derive_rng(seed, "random")))


def _draw_parts(count: int, share: float, rng: np.random.Generator) -> Parts:
    order, held_out = rng.permutation(count), max(1, round(share * count))
    parts = np.full(count, Part.TRAIN, np.int8)
    parts[order[: 2 * held_out]] = Part.VALIDATION
    parts[order[:held_out]] = Part.TEST
    return parts


def split_by(name: str, interactions: Interactions, share: float = 0.1, seed: int = 0) -> Split:
    """Split by a rule that is registered as a ``"split"``.

    A rule of one's own is a function of the events, the share that is tested and a seed:

    >>> from recinject.registry import register
    >>> @register("split", "newest_half")  # doctest: +SKIP
    ... def newest_half(interactions, share, seed):
    ...     parts = np.full(len(interactions), Part.TRAIN, np.int8)
    ...     newest = interactions.timestamps > np.median(interactions.timestamps)
    ...     parts[newest] = Part.TEST
    ...     return Split(interactions, parts)

    ``data.split=newest_half`` asks for it in a recipe. ``share`` is the fraction that is tested,
    and as much again validates: of the events, of each user's (``user_ratio``) or of the items
    (``cold_items``).

    Raises:
        RecinjectError: the name is unknown, the log lacks what the rule needs, or nothing is
            left to train or to test on.
    """
    split: Split = find("split", name, "data.split")(interactions, share, seed)
    for what, left in (
        ("train", np.count_nonzero(split.parts == Part.TRAIN)),
        ("test", len(split.view(Part.TEST).targets.values)),
    ):
        if not left:
            raise RecinjectError(
                f"data.split: {name} leaves no event to {what} on",
                hint="tests need users with an event before the tested one, leave_one_out and "
                "user_ratio at least three events a user: take a larger log or another split",
            )
    return split


def without_validation(split: Split) -> Split:
    """Give the training part the events that validate."""
    parts = split.parts
    return replace(split, parts=np.where(parts == Part.VALIDATION, np.int8(Part.TRAIN), parts))


def learn_from(split: Split, share: float, seed: int) -> Split:
    """Leave a seeded share of the training events to learn from; the others are histories alone.

    The events of a smaller share are among those of a larger one of the same seed.
    """
    parts, training = split.parts.copy(), np.flatnonzero(split.parts == Part.TRAIN)
    kept = max(1, round(share * len(training)))
    order = derive_rng(seed, "train_share").permutation(len(training))
    parts[training[order[kept:]]] = Part.HISTORY
    return replace(split, parts=parts)


def order_ties(log: Log, seed: int) -> Log:
    """Put neighbouring events of one user and one time in order of a hash of seed, user and item.

    Events of unknown time stay where they are.
    """
    events, times = log.interactions, log.interactions.timestamps
    if times is None:
        return log
    starts = np.ones(len(events), bool)
    starts[1:] = (np.diff(events.users) != 0) | (times[1:] != times[:-1])
    runs = np.cumsum(starts)
    tied = np.flatnonzero(np.bincount(runs)[runs] > 1)
    hashes = np.zeros(len(events), np.uint64)
    for event in tied:
        user, item = events.user_ids[events.users[event]], log.catalog.item_ids[events.items[event]]
        key = "\x1f".join((str(seed), user, item)).encode()
        hashes[event] = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    # Of one event told twice, cleaning keeps the first: the rating must not leave that to chance.
    ratings = np.zeros(len(events)) if events.ratings is None else events.ratings
    order = np.lexsort((ratings, hashes, runs))
    return replace(log, interactions=events.take(order))


def order_events(
    log: Log, order: Literal["time", "rows"], ties: Ties, seed: int
) -> tuple[Log, Order, str]:
    """Put each user's events in order: as they stand, or at random where nothing tells it.

    Args:
        log: as it was read, by position, by time, or in the order of its rows.
        order: ``rows`` trusts the order of the rows where there are neither positions nor times.
        ties: ``hash`` orders events of one time by :func:`order_ties`.
        seed: of the hash, and of the random order.

    Returns:
        The log, what its events are in order of, and what was done, in words; the words are empty
        where nothing was.

    Raises:
        RecinjectError: rows are asked for, and the log was put in order of something else.
    """
    if order == "rows" and log.order != "rows":
        column = {"position": "position", "time": "timestamp"}[log.order]
        raise RecinjectError(
            f"data.order=rows: the log's own order is that of its column {column}",
            hint=f"set data.order=time, or leave the column out with data.columns.{column}=''",
        )
    if log.order == "rows" and order != "rows":
        said = (
            "neither times nor positions tell the order of a user's events: they stand in random "
            f"order (seed {seed}); data.order=rows trusts the order of the rows"
        )
        return shuffle_events(log, seed), "random", said
    if log.order == "rows":
        return log, "rows", "the order of the rows is each user's order (data.order=rows)"
    if ties == "hash":
        tied = order_ties(log, seed)
        moved = np.count_nonzero(tied.interactions.items != log.interactions.items)
        said = f"{moved} events stand elsewhere among those of the same user and time, by a hash"
        return tied, log.order, f"{said} (data.ties=hash)" if moved else ""
    return log, log.order, ""


def shuffle_events(log: Log, seed: int) -> Log:
    """Put each user's events in an order that depends on seed, user and item alone.

    The order of the rows does not matter: a file and the same lines sorted give the same.
    """
    events = log.interactions
    ratings = np.zeros(len(events)) if events.ratings is None else events.ratings
    by_item = np.lexsort((ratings, events.items, events.users))
    pairs = np.stack([events.users[by_item], events.items[by_item]])
    starts = np.flatnonzero(np.append(True, (pairs[:, 1:] != pairs[:, :-1]).any(0)))
    again = np.arange(len(events)) - np.repeat(starts, np.diff([*starts, len(events)]))
    bits = combine(derive_bits(seed, "order"), _hashed(events.user_ids)[pairs[0]])
    bits = combine(combine(bits, _hashed(log.catalog.item_ids)[pairs[1]]), again)
    # Parts that came with the log follow one another all the same.
    parts = 0 * again if events.parts is None else events.parts[by_item]
    order = by_item[np.lexsort((bits, parts, pairs[0]))]
    return replace(log, interactions=events.take(order))


def _hashed(names: Sequence[str]) -> NDArray[np.uint64]:
    return hash_array(np.array(names, object), categorize=False)


class TiedOrder(NamedTuple):
    """How neighbouring events of one user and one time stand to the ids of their items."""

    pairs: int  # of such neighbours, with different items
    ascending: float  # the share of them whose item ids ascend; chance gives one half

    @property
    def is_sorted(self) -> bool:
        """Whether ids, and no order of use, put them there: far from one half, and not by luck."""
        off = abs(self.ascending - 0.5)
        # Five standard deviations of a fair coin: by luck once in two million logs.
        return off > 0.1 and off > 2.5 / math.sqrt(self.pairs)

    def __str__(self) -> str:
        """Say it in words."""
        return f"item ids ascend in {self.ascending:.0%} of {self.pairs:,} tied neighbours"


def tied_order(log: Log) -> TiedOrder:
    """Tell whether the log's files have events of one user and one time in order of item ids.

    Ids that are all whole numbers are compared as such, others as text.
    """
    events, times = log.interactions, log.interactions.timestamps
    if times is None or len(events) < 2:
        return TiedOrder(0, 0.5)
    ids = log.catalog.item_ids
    whole = all(item.isdecimal() for item in ids)
    order = sorted(range(len(ids)), key=lambda n: (int(ids[n]) if whole else 0, ids[n]))
    steps = np.diff(np.argsort(order)[events.items])
    tied = (np.diff(events.users) == 0) & (times[1:] == times[:-1]) & (steps != 0)
    pairs = int(np.count_nonzero(tied))
    return TiedOrder(pairs, float(np.mean(steps[tied] > 0)) if pairs else 0.5)


def choose_ties(log: Log, ties: Ties) -> tuple[Ties, str]:
    """Decide how events of one user and one time are ordered; say why, where ids sorted them.

    ``auto`` takes a hash where the log's own order is that of item ids, and else the log's order.
    """
    found = tied_order(log)
    chosen: Ties = ("hash" if found.is_sorted else "log_order") if ties == "auto" else ties
    done = {"hash": "a hash orders them", "log_order": "they keep the log's order"}[chosen]
    return chosen, f"{found}: {done} (data.ties={ties})" if found.is_sorted else ""


def time_facts(split: Split) -> dict[str, float]:
    """Measure how far the split respects time.

    Returns:
        ``tie_rate``: share of tested users with a test event that has the very time of the
        event before it, one of an earlier part; ``future_share``: share of training events later
        than the average test event. Empty when the log has no timestamps.
    """
    timestamps = split.interactions.timestamps
    if timestamps is None:
        return {}
    tests = np.flatnonzero(split.parts == Part.TEST)
    users, test_times, before = split.interactions.users, timestamps[tests], tests - 1
    same_user = (tests > 0) & (users[before] == users[tests])
    tied = same_user & (timestamps[before] == test_times) & (split.parts[before] < Part.TEST)
    future = timestamps[split.parts == Part.TRAIN] > np.nanmean(test_times)
    return {
        "tie_rate": len(np.unique(users[tests[tied]])) / len(np.unique(users[tests])),
        "future_share": float(np.mean(future)),
    }


_BY_ITEM, _ORDER = "recinject.by_item", "recinject.order"


def save_split(folder: Path, split: Split, catalog: Catalog) -> None:
    """Write a split and its catalogue; numbers stand for users and items, tables name them."""
    about = {_BY_ITEM: json.dumps(split.by_item), _ORDER: split.order}
    save_tables(folder, split.interactions, catalog, {"part": split.parts}, about)


def load_split(folder: Path) -> tuple[Split, Catalog]:
    """Read what :func:`save_split` wrote."""
    interactions, catalog, columns, about = load_tables(folder)
    order: Any = about.get(_ORDER, "time")
    return Split(interactions, columns["part"], json.loads(about[_BY_ITEM]), order), catalog


def draw_negatives(view: View, users: Array, chance: Chance, count: int) -> Integers:
    """Draw distinct items outside each user's own, uniformly and without replacement.

    An item that a user touched in any part of the split is no negative; nor are cold items: a
    model that met an item as a negative alone would have learnt never to name it.

    Ranks among the untouched items are drawn, then shifted past the touched ones: the work
    depends on the users' own items only, never on the size of the catalogue.

    Returns:
        Items for each of the ``users``, shape (n, count). The order in a row is not random.

    Raises:
        RecinjectError: a user has not left that many items untouched.
    """
    distinct, row_users = np.unique(users, return_inverse=True)
    warm = view.warm
    own_users, own = _own_items(view, distinct, warm)
    starts = np.searchsorted(own_users, np.arange(len(distinct) + 1))
    free = len(warm) - np.diff(starts)[row_users]
    if len(free) and count > free.min():
        raise _too_many(view, warm, count)
    ranks = chance.distinct(free, count)
    # What stands before an item untouched is its number less the touched ones before it; with
    # the user on top, one sorted array answers for all users at once.
    untouched_before = own - (np.arange(len(own)) - starts[own_users])
    keys = own_users * (len(warm) + 1) + untouched_before
    wanted = row_users[:, None] * (len(warm) + 1) + ranks
    touched_before = np.searchsorted(keys, wanted, side="right") - starts[row_users][:, None]
    return warm[ranks + touched_before]


def draw_popular(view: View, users: Array, chance: Chance, count: int) -> Ragged:
    """Draw the items of random training events, without those that a user touched.

    So an item comes in proportion to its popularity, and may come again; other users' events decide
    what is drawn. Returns at most ``count`` items for each of the ``users``, n rows.
    """
    items, n_items = view.interactions.items[view.is_target], view.touched.n_items
    drawn = np.column_stack([items[chance.below(len(items))] for _ in range(count)])
    distinct, rows = np.unique(users, return_inverse=True)
    touched = view.touched.by_user.take(distinct)
    own = np.sort(touched.rows * n_items + touched.values)
    return Ragged.from_columns(drawn).keep(
        ~is_among((rows[:, None] * n_items + drawn).ravel(), own)
    )


def _too_many(view: View, warm: Array, count: int) -> RecinjectError:
    """Name the user of all who leaves the fewest items, so that one correction is enough."""
    everyone = np.arange(view.touched.n_users)
    own_users, _ = _own_items(view, everyone, warm)
    free = len(warm) - np.bincount(own_users, minlength=len(everyone))
    user = int(np.argmin(free))
    return RecinjectError(
        f"user {view.touched.user_ids[user]} leaves {free[user]} of "
        f"{view.touched.n_items} items untouched: {count} negatives are too many",
        hint=f"set samples.tasks.ranking.negatives={free[user]} or fewer (and train_negatives)"
        if free[user]
        else "leave the tasks ranking and bpr out, or drop the user from the log",
    )


def _own_items(view: View, users: Array, warm: Array) -> tuple[Array, Array]:
    """Return the users' distinct items, as places in ``warm``, with the place of each one's user.

    Both come sorted by user, then by item.
    """
    touched = view.touched.by_user.take(users)
    is_warm = np.ones(len(touched.values), bool)
    if len(view.cold):
        is_warm = np.isin(touched.values, view.cold, invert=True)
    places = np.searchsorted(warm, touched.values[is_warm])
    keys = np.unique(touched.rows[is_warm] * max(1, len(warm)) + places)
    return np.divmod(keys, max(1, len(warm)))
