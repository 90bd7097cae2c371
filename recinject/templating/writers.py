"""How each kind of slot is written: from the integers of samples to the numbers of pieces."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged, side_by_side
from recinject.templating.context import USER_SLOT, Contexts, SlotKind
from recinject.templating.pieces import LETTERS, RATINGS, SENTINELS, USERS, Blocks, Pieces

# From the integers of a batch of samples to the numbers of their pieces.
Writer = Callable[[Contexts], Ragged]
_Given = TypeVar("_Given")
_LAST_BLANK = re.compile(r"^(.*\s)?(\S*)$", re.DOTALL)


@dataclass(frozen=True)
class Segment:
    """A slot in a template, or text beside which no slot stands closely.

    Attributes:
        slot: its name; empty for text.
        filter: what writes it; empty for a slot as it is.
        arguments: the filter's texts, or the text.
        before: the text before the slot, from the last blank.
        after: the text after it, up to the first blank.
    """

    slot: str
    filter: str = ""
    arguments: tuple[str, ...] = ()
    before: str = ""
    after: str = ""

    @property
    def is_text(self) -> bool:
        """Whether this is text."""
        return not self.slot

    def writer(self, pieces: Pieces) -> Writer:
        """Ask for the pieces that the segment needs, and return what chooses among them."""
        if self.is_text:
            return partial(_write_text, pieces.literal(self.arguments[0]))
        alone = pieces.literal(self.before + self.after)
        return partial(_write_if_any, self._slot_writer(pieces), alone)

    def _slot_writer(self, pieces: Pieces) -> Writer:
        if self.filter:
            return FILTERS[self.filter].writer(self, pieces)
        if self.slot in pieces.phrases:
            return partial(_write_items, self.slot, pieces.blocks(self.slot, *self._glue("", "")))
        if self.slot == USER_SLOT:
            return partial(_write_user, pieces.block(USERS, self.before, self.after))
        return partial(_write_label, pieces, pieces.block(RATINGS, self.before, self.after))

    def _glue(self, before: str, after: str) -> tuple[str, str, str, str]:
        return self.before, before, after, self.after


@dataclass(frozen=True)
class Filter:
    """One way to write slots of some kinds: how many texts it takes, and how it is used."""

    kinds: frozenset[SlotKind]
    arguments: int
    usage: str
    writer: Callable[[Segment, Pieces], Writer]


def _write_text(piece: int, contexts: Contexts) -> Ragged:
    return Ragged.from_columns(np.full(len(contexts), piece, np.int32))


def _write_if_any(writer: Writer, alone: int, contexts: Contexts) -> Ragged:
    """Write the slot; where it holds nothing, what stands beside it stays."""
    written = writer(contexts)
    empty = written.lengths == 0
    if not empty.any():
        return written
    beside = Ragged.from_lengths(np.full(empty.sum(), alone, np.int32), empty)
    return side_by_side([written, beside])


def _in_blocks(rows: Ragged, blocks: Blocks) -> Ragged:
    """Number the pieces of rows of texts by where in its row each text stands."""
    return rows.of(rows.values + blocks[rows.edges])


def _given(value: _Given | None, field: str, missing: str) -> _Given:
    if value is None:
        raise RecinjectError(
            f"a template {missing}", hint=f"give Contexts(..., {field}=...) in the task's sample()"
        )
    return value


def _write_items(slot: str, blocks: Blocks, contexts: Contexts) -> Ragged:
    return _in_blocks(contexts.slots[slot], blocks)


def _write_user(block: int, contexts: Contexts) -> Ragged:
    return Ragged.from_columns((block + contexts.users).astype(np.int32))


def _write_label(pieces: Pieces, block: int, contexts: Contexts) -> Ragged:
    missing = "writes a rating, and its sampler gave no labels"
    labels = _given(contexts.labels, "labels", missing)
    return Ragged.from_columns(block + pieces.rating_numbers(labels))


def _join(segment: Segment, pieces: Pieces) -> Writer:
    after, before = cut_at_blank(segment.arguments[0])
    blocks = pieces.blocks(segment.slot, *segment._glue(before, after))
    return partial(_write_items, segment.slot, blocks)


def _lettered(segment: Segment, pieces: Pieces) -> Writer:
    after, before = cut_at_blank(segment.arguments[0])
    letters = pieces.blocks(LETTERS, segment.before, before, " ", " ")
    items = pieces.blocks(segment.slot, "", "", after, segment.after)
    return partial(_write_lettered, segment.slot, pieces, letters, items)


def _write_lettered(
    slot: str, pieces: Pieces, letters: Blocks, blocks: Blocks, contexts: Contexts
) -> Ragged:
    items = contexts.slots[slot]
    marks = items.of(pieces.places(LETTERS, items.places))
    return _alternate(_in_blocks(marks, letters), _in_blocks(items, blocks))


def _rated(segment: Segment, pieces: Pieces) -> Writer:
    between, separator = map(cut_at_blank, segment.arguments)
    items = pieces.blocks(segment.slot, segment.before, separator[1], between[0], between[0])
    ratings = pieces.blocks(RATINGS, between[1], between[1], separator[0], segment.after)
    return partial(_write_rated, segment.slot, pieces, items, ratings)


def _write_rated(
    slot: str, pieces: Pieces, blocks: Blocks, rating_blocks: Blocks, contexts: Contexts
) -> Ragged:
    missing = f"writes the ratings of {slot!r}, and its sampler gave none"
    ratings = _given(contexts.ratings, "ratings", missing)
    numbers = ratings.of(pieces.rating_numbers(ratings.values))
    return _alternate(_in_blocks(contexts.slots[slot], blocks), _in_blocks(numbers, rating_blocks))


def _alternate(first: Ragged, second: Ragged) -> Ragged:
    """Mix rows of equal lengths value by value: one of the first, one of the second, ..."""
    values = np.column_stack([first.values, second.values]).ravel()
    return Ragged(values, first.offsets * 2)


def _masked(segment: Segment, pieces: Pieces) -> Writer:
    after, before = cut_at_blank(segment.arguments[0])
    glue = segment._glue(before, after)
    items, sentinels = (pieces.blocks(kind, *glue) for kind in (segment.slot, SENTINELS))
    return partial(_write_masked, segment.slot, pieces, items, sentinels)


def _write_masked(
    slot: str, pieces: Pieces, blocks: Blocks, sentinels: Blocks, contexts: Contexts
) -> Ragged:
    items, hidden = contexts.slots[slot], _flags(contexts, slot)
    marks = _marks(pieces, hidden) + sentinels[items.edges]
    return items.of(np.where(hidden.values, marks, items.values + blocks[items.edges]))


def _marks(pieces: Pieces, flags: Ragged) -> Array:
    """Number the flagged values of each row from 0; at all others stands 0."""
    return pieces.places(SENTINELS, flags.sums_before(flags.values) * flags.values)


def _flags(contexts: Contexts, slot: str) -> Ragged:
    missing = f"hides parts of {slot!r}, and its sampler did not say which"
    return _given(contexts.hidden, "hidden", missing)


def _gapped(write: Callable[..., Ragged], segment: Segment, pieces: Pieces) -> Writer:
    kind, words = pieces.words(segment.slot, segment.arguments[0])
    blocks, sentinels = (pieces.blocks(name, *segment._glue("", " ")) for name in (kind, SENTINELS))
    return partial(write, pieces, segment.slot, words, blocks, sentinels)


def _text_words(slot: str, words: Ragged, contexts: Contexts) -> tuple[Ragged, Ragged, Ragged]:
    """Return the words of each text, which of them are cut out, and which begin a span."""
    items = contexts.slots[slot]
    without_separator = np.where(items.edges % 2, len(words) // 2, 0)
    each = words.take(items.values + without_separator)
    text = Ragged(each.values, each.offsets[items.offsets])
    hidden = _flags(contexts, slot).values
    follows = np.concatenate([[False], hidden[:-1]])
    begins = hidden & (~follows | (text.edges >= 2))
    return text, text.of(hidden), text.of(begins)


def _write_corrupted(
    pieces: Pieces, slot: str, words: Ragged, blocks: Blocks, sentinels: Blocks, contexts: Contexts
) -> Ragged:
    text, hidden, begins = _text_words(slot, words, contexts)
    numbers = np.where(begins.values, _marks(pieces, begins), text.values)
    kept = ~hidden.values | begins.values
    rows, is_mark = text.of(numbers).keep(kept), begins.values[kept]
    return rows.of(rows.values + np.where(is_mark, sentinels[rows.edges], blocks[rows.edges]))


def _write_gaps(
    pieces: Pieces, slot: str, words: Ragged, blocks: Blocks, sentinels: Blocks, contexts: Contexts
) -> Ragged:
    text, hidden, begins = _text_words(slot, words, contexts)
    # A word that begins a span stands twice: the first time its span's mark takes its place.
    times = hidden.values.astype(np.int64) + begins.values
    is_mark = np.zeros(times.sum(), bool)
    is_mark[np.cumsum(times)[begins.values] - 2] = True
    numbers = np.repeat(text.values, times)
    numbers[is_mark] = _marks(pieces, begins)[begins.values]
    rows = Ragged.from_lengths(numbers, text.sums(times))
    return rows.of(rows.values + np.where(is_mark, sentinels[rows.edges], blocks[rows.edges]))


def cut_at_blank(text: str) -> tuple[str, str]:
    """Cut a text after its last blank.

    Examples:
        >>> cut_at_blank("; "), cut_at_blank(", rated "), cut_at_blank("x")
        (('; ', ''), (', rated ', ''), ('', 'x'))
    """
    found = _LAST_BLANK.match(text)
    return (found[1] or "", found[2]) if found else ("", text)


_LISTS = frozenset({SlotKind.ITEMS, SlotKind.RATED})
FILTERS: dict[str, Filter] = {
    "join": Filter(_LISTS, 1, "join('; ')", _join),
    "lettered": Filter(_LISTS, 1, "lettered('; ')", _lettered),
    "rated": Filter(frozenset({SlotKind.RATED}), 2, "rated(', rated ', '; ')", _rated),
    "masked": Filter(frozenset({SlotKind.MASKED}), 1, "masked('; ')", _masked),
    "corrupted": Filter(
        frozenset({SlotKind.GAPPED}), 1, "corrupted('; ')", partial(_gapped, _write_corrupted)
    ),
    "gaps": Filter(frozenset({SlotKind.GAPPED}), 1, "gaps('; ')", partial(_gapped, _write_gaps)),
}
