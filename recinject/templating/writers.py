"""The integers that a sampler gives a template, and how its slots become pieces of text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, cast

import numpy as np

from recinject.data.schema import Floats, Integers
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged, side_by_side
from recinject.templating.phrases import Blocks, Kind, PieceKind, Pieces


class SlotKind(Enum):
    """What a slot holds, and so which filters may write it."""

    ITEM = "one item"
    ITEMS = "a list of items"
    RATED = "a list of items with ratings"
    MASKED = "a list of items, some of them masked"
    GAPPED = "a list of items whose text has gaps"
    RATING = "a rating"
    USER = "a user"


USER_SLOT = "user"  # every task has it
ATTRIBUTE = "attribute."  # and a slot for each thing that is known of users


@dataclass(frozen=True, eq=False)
class Contexts:
    """The integers that n samples are made of, as columns; templates turn them into words.

    Examples:
        >>> history, item = Ragged.from_rows([[4, 7], [5]]), Ragged.from_rows([[9], [2]])
        >>> len(Contexts(np.array([0, 1], np.int32), {"history": history, "item": item}))
        2
    """

    users: Integers  # only used to fill the slot ``user``, shape (n,)
    slots: Mapping[str, Ragged]  # the items in each slot, n rows; a slot for one item has one a row
    ratings: Ragged | None = None  # of the items in the slot ``history``, where they are shown
    hidden: Ragged | None = None  # which items are masked, or which words of their text cut out
    events: Integers | None = None  # the view's numbers of the events that are asked for, (n,)
    targets: Integers | None = None  # the item that is asked for, shape (n,)
    labels: Floats | None = None  # the rating that is asked for, shape (n,)

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: Array) -> Contexts:
        """Return some of the samples, in the order asked for."""
        return Contexts(
            self.users[rows],
            {slot: items.take(rows) for slot, items in self.slots.items()},
            self.ratings and self.ratings.take(rows),
            self.hidden and self.hidden.take(rows),
            None if self.events is None else self.events[rows],
            None if self.targets is None else self.targets[rows],
            None if self.labels is None else self.labels[rows],
        )

    def with_history_in(self, order: Ragged) -> Contexts:
        """Reorder each history and its ratings; only for tasks that hide nothing."""
        slots = {**self.slots, "history": self.slots["history"].at(order)}
        return replace(self, slots=slots, ratings=self.ratings and self.ratings.at(order))

    def without_oldest(self, counts: Array, words: Integers | None = None) -> Contexts:
        """Leave out the first items of each history, with their ratings and masks.

        Where items are masked, the slot ``masked`` is made anew from those that are left. Where
        words are cut out, ``words`` has the number of those of each item of the catalogue.
        """
        history = self.slots["history"]
        kept = history.places >= counts[history.rows]
        slots = {**self.slots, "history": history.keep(kept)}
        ratings = self.ratings and self.ratings.keep(kept)
        hidden = self.hidden
        if hidden is not None and words is not None:
            dropped = history.sums(np.where(kept, 0, words[history.values]))
            hidden = hidden.keep(hidden.places >= dropped[hidden.rows])
        elif hidden is not None:
            hidden = hidden.keep(kept)
            slots["masked"] = slots["history"].keep(hidden.values)
        return replace(self, slots=slots, ratings=ratings, hidden=hidden)


# From the integers of a batch of samples to the numbers of their pieces.
Writer = Callable[[Contexts], Ragged]
_LAST_BLANK = re.compile(r"^(.*\s)?(\S*)$", re.DOTALL)


@dataclass(frozen=True)
class Segment:
    """A slot in a template, or text beside which no slot stands closely."""

    slot: str  # its name; empty for text
    filter: str = ""  # what writes it; empty for a slot as it is
    arguments: tuple[str, ...] = ()  # the filter's texts, or the text
    before: str = ""  # the text before the slot, from the last blank
    after: str = ""  # the text after it, up to the first blank

    @property
    def is_text(self) -> bool:
        """Whether this is text."""
        return not self.slot

    def writer(self, pieces: Pieces) -> Writer:
        """Make the pieces that the segment may need, and return what writes it."""
        write, nothing = partial(self.write, pieces), Ragged.from_rows([])
        slots, labels = {self.slot: nothing}, np.empty(0)
        # Writing no sample needs the same pieces as writing many.
        write(Contexts(nothing.values, slots, ratings=nothing, hidden=nothing, labels=labels))
        return write

    def write(self, pieces: Pieces, contexts: Contexts) -> Ragged:
        """Return the numbers of the pieces that stand for the segment in each sample."""
        if self.is_text:
            text = pieces.literal(self.arguments[0])
            return Ragged.from_columns(np.full(len(contexts), text, np.int32))
        alone, written = pieces.literal(self.before + self.after), self._slot(pieces, contexts)
        empty = written.lengths == 0
        if not empty.any():
            return written
        # Where the slot is empty, the text around it stays.
        beside = Ragged.from_lengths(np.full(empty.sum(), alone, np.int32), empty)
        return side_by_side([written, beside])

    def _slot(self, pieces: Pieces, contexts: Contexts) -> Ragged:
        if self.filter:
            return FILTERS[self.filter].write(self, pieces, contexts)
        if self.slot in pieces.phrases:
            # A slot for one item may hold those that follow it, in training.
            return _in_blocks(contexts.slots[self.slot], self.blocks(pieces, self.slot, after=" "))
        if self.slot.startswith(ATTRIBUTE):
            block = pieces.block(self.slot, self.before, self.after)
            of_user = pieces.attributes[self.slot].of_user
            return Ragged.from_columns((block + of_user[contexts.users]).astype(np.int32))
        if self.slot == USER_SLOT:
            block = pieces.block(PieceKind.USERS, self.before, self.after)
            return Ragged.from_columns((block + contexts.users).astype(np.int32))
        block = pieces.block(PieceKind.RATINGS, self.before, self.after)
        labels = _given(contexts, "labels", "writes a rating, and its sampler gave no labels")
        return Ragged.from_columns(block + pieces.rating_numbers(labels))

    def blocks(self, pieces: Pieces, kind: Kind, before: str = "", after: str = "") -> Blocks:
        """Return the blocks of a list whose values have these texts around them."""
        return pieces.blocks(kind, self.before, before, after, self.after)


@dataclass(frozen=True)
class Filter:
    """One way to write slots of some kinds: how many texts it takes, and how it is used."""

    kinds: frozenset[SlotKind]
    arguments: int
    usage: str
    write: Callable[[Segment, Pieces, Contexts], Ragged]


def _in_blocks(rows: Ragged, blocks: Blocks) -> Ragged:
    """Number the pieces of rows of texts; the first and the last of a row have their own block."""
    return rows.of(rows.values + blocks[rows.edges])


def _given(contexts: Contexts, field: str, missing: str) -> Any:
    value = getattr(contexts, field)
    if value is None:
        hint = f"give Contexts(..., {field}=...) in the task's sample()"
        raise RecinjectError(f"a template {missing}", hint=hint)
    return value


def _join(segment: Segment, pieces: Pieces, contexts: Contexts) -> Ragged:
    after, before = cut_at_blank(segment.arguments[0])
    blocks = segment.blocks(pieces, segment.slot, before, after)
    return _in_blocks(contexts.slots[segment.slot], blocks)


def _lettered(segment: Segment, pieces: Pieces, contexts: Contexts) -> Ragged:
    after, before = cut_at_blank(segment.arguments[0])
    letters = pieces.blocks(PieceKind.LETTERS, segment.before, before, " ", " ")
    blocks = pieces.blocks(segment.slot, "", "", after, segment.after)
    items = contexts.slots[segment.slot]
    marks = items.of(pieces.indices(PieceKind.LETTERS, items.places))
    return _alternate(_in_blocks(marks, letters), _in_blocks(items, blocks))


def _rated(segment: Segment, pieces: Pieces, contexts: Contexts) -> Ragged:
    between, separator = map(cut_at_blank, segment.arguments)
    blocks = pieces.blocks(segment.slot, segment.before, separator[1], between[0], between[0])
    rating_blocks = pieces.blocks(
        PieceKind.RATINGS, between[1], between[1], separator[0], segment.after
    )
    missing = f"writes the ratings of {segment.slot!r}, and its sampler gave none"
    ratings: Ragged = _given(contexts, "ratings", missing)
    numbers = ratings.of(pieces.rating_numbers(ratings.values))
    items = contexts.slots[segment.slot]
    return _alternate(_in_blocks(items, blocks), _in_blocks(numbers, rating_blocks))


def _alternate(first: Ragged, second: Ragged) -> Ragged:
    """Mix rows of equal lengths value by value: one of the first, one of the second, ..."""
    values = np.column_stack([first.values, second.values]).ravel()
    return Ragged(values, first.offsets * 2)


def _masked(segment: Segment, pieces: Pieces, contexts: Contexts) -> Ragged:
    after, before = cut_at_blank(segment.arguments[0])
    blocks = segment.blocks(pieces, segment.slot, before, after)
    sentinels = segment.blocks(pieces, PieceKind.SENTINELS, before, after)
    items, hidden = contexts.slots[segment.slot], _hidden(segment, contexts)
    numbers = np.where(hidden.values, _marks(pieces, hidden), items.values)
    return _chosen(items.of(numbers), hidden.values, sentinels, blocks)


def _hidden(segment: Segment, contexts: Contexts) -> Ragged:
    missing = f"hides parts of {segment.slot!r}, and its sampler did not say which"
    return cast(Ragged, _given(contexts, "hidden", missing))


def _marks(pieces: Pieces, flags: Ragged) -> Array:
    """Number the flagged values of each row from 0; the others get 0."""
    return pieces.indices(PieceKind.SENTINELS, flags.sums_before(flags.values) * flags.values)


def _chosen(rows: Ragged, is_mark: Array, sentinels: Blocks, blocks: Blocks) -> Ragged:
    return rows.of(rows.values + np.where(is_mark, sentinels[rows.edges], blocks[rows.edges]))


def _gapped(keeps: bool, segment: Segment, pieces: Pieces, contexts: Contexts) -> Ragged:
    """Write the words that stay of a text, or those that are cut out.

    A sentinel stands where a span that is cut out begins: in place of its words, or before them.
    """
    kind, words = pieces.words(segment.slot, segment.arguments[0])
    blocks, sentinels = (
        segment.blocks(pieces, name, after=" ") for name in (kind, PieceKind.SENTINELS)
    )
    items = contexts.slots[segment.slot]
    without_separator = np.where(items.edges % 2, len(words) // 2, 0)
    each = words.take(items.values + without_separator)
    text = Ragged(each.values, each.offsets[items.offsets])
    hidden = _hidden(segment, contexts).values
    follows = np.concatenate([[False], hidden[:-1]])
    begins = hidden & (~follows | (text.edges >= 2))
    # The number of pieces for each word: itself, if it is written, after its span's sentinel.
    times = (~hidden if keeps else hidden) + begins.astype(np.int64)
    is_mark = np.zeros(times.sum(), bool)
    is_mark[(np.cumsum(times) - times)[begins]] = True
    numbers = np.repeat(text.values, times)
    numbers[is_mark] = _marks(pieces, text.of(begins))[begins]
    rows = Ragged.from_lengths(numbers, text.sums(times))
    return _chosen(rows, is_mark, sentinels, blocks)


def cut_at_blank(text: str) -> tuple[str, str]:
    """Cut a text after its last blank.

    >>> cut_at_blank("; "), cut_at_blank(", rated "), cut_at_blank("x")
    (('; ', ''), (', rated ', ''), ('', 'x'))
    """
    found = _LAST_BLANK.match(text)
    return (found[1] or "", found[2]) if found else ("", text)


_LISTS = frozenset({SlotKind.ITEMS, SlotKind.RATED})
_TEXT = frozenset({SlotKind.GAPPED})
FILTERS: dict[str, Filter] = {
    "join": Filter(_LISTS, 1, "join('; ')", _join),
    "lettered": Filter(_LISTS, 1, "lettered('; ')", _lettered),
    "rated": Filter(frozenset({SlotKind.RATED}), 2, "rated(', rated ', '; ')", _rated),
    "masked": Filter(frozenset({SlotKind.MASKED}), 1, "masked('; ')", _masked),
    "corrupted": Filter(_TEXT, 1, "corrupted('; ')", partial(_gapped, True)),
    "gaps": Filter(_TEXT, 1, "gaps('; ')", partial(_gapped, False)),
}
