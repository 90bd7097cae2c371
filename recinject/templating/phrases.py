"""Items written by phrases, and the pieces of text that samples are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import TemplateError, meta
from jinja2.sandbox import SandboxedEnvironment
from numpy.typing import NDArray

from recinject.data.schema import Catalog, Floats, Integers
from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.ragged import Array, Ragged
from recinject.identifiers.table import unlike_number

Blocks = NDArray[np.int32]
# No slot has such a name.
RATINGS, LETTERS, SENTINELS, USERS = " ratings", " letters", " sentinels", " users"
MOST_GAPS = 100  # as many sentinels as T5 has
_LETTERS = 1_000  # at least; a history may be longer than the catalogue


def number_text(value: float) -> str:
    """Write a rating as people do.

    Examples:
        >>> number_text(4.0), number_text(4.5)
        ('4', '4.5')
    """
    return f"{value:g}"


def letter(number: int) -> str:
    """Name a candidate: A to Z, then A2 and so on.

    Examples:
        >>> letter(0), letter(27)
        ('A', 'B2')
    """
    rounds, place = divmod(number, 26)
    return chr(ord("A") + place) + (str(rounds + 1) if rounds else "")


class Pieces:
    """Numbered texts, in blocks: all items of a slot with the same text before and after them.

    A sample's text is its pieces, one after another. A piece carries the punctuation and the
    blank that follow it, so that pieces begin where words begin. All blocks are asked for, by
    lowering templates, before the first text is written.

    Args:
        phrases: for each slot the text of every item.
        ratings: the ratings that may have to be written, ascending.
        users: the text of each user; none where no template names them.
    """

    def __init__(
        self, phrases: Mapping[str, Sequence[str]], ratings: Floats, users: Sequence[str] = ()
    ) -> None:
        self.phrases = phrases
        n_letters = max([_LETTERS, *map(len, phrases.values())])
        self._ratings = ratings
        self._texts: dict[str, Sequence[str]] = {
            **phrases,
            RATINGS: [number_text(value) for value in ratings],
            LETTERS: [f"({letter(number)})" for number in range(n_letters)],
            SENTINELS: [f"<extra_id_{number}>" for number in range(MOST_GAPS)],
            USERS: users,
        }
        self._words: dict[str, Ragged] = {}
        self.starts: dict[tuple[str, str, str], int] = {}
        self.texts: list[str] = []

    def block(self, kind: str, before: str = "", after: str = "") -> int:
        """Return the number of a kind's first piece with these texts around it."""
        key = (kind, before, after)
        if key not in self.starts:
            self.starts[key] = len(self.texts)
            self.texts += [f"{before}{text}{after}" for text in self._texts[kind]]
        return self.starts[key]

    def blocks(self, kind: str, first: str, before: str, after: str, last: str) -> Blocks:
        """Return the blocks of a list's pieces by :attr:`Ragged.edges`.

        ``first`` stands before the list's first piece and ``before`` before every other,
        ``after`` after every piece but the last and ``last`` after that.
        """
        around = ((before, after), (before, last), (first, after), (first, last))
        return np.array([self.block(kind, *texts) for texts in around], np.int32)

    def literal(self, text: str) -> int:
        """Return the number of the piece that is just this text."""
        kind = f"  {text}"  # two blanks: the text may be "ratings"
        self._texts.setdefault(kind, [text])
        return self.block(kind)

    def size(self, kind: str) -> int:
        """Return how many texts a kind has."""
        return len(self._texts[kind])

    def places(self, kind: str, wanted: Array) -> Integers:
        """Return places among a kind's texts; an error where it has not so many."""
        most = wanted.max(initial=-1) + 1
        if most > self.size(kind):
            raise RecinjectError(
                f"a sample takes {most}{kind}, and there are {self.size(kind)}",
                hint="make its list shorter, or hide fewer of its items",
            )
        return wanted.astype(np.int32)

    def words(self, slot: str, separator: str) -> tuple[str, Ragged]:
        """Number the words of a slot's items.

        Returns:
            The kind of the distinct words, and each item's words, shape (2 * items,): first as
            they are with the separator after the item, then as they are without.
        """
        kind = f" words {slot} {separator}"
        if kind not in self._words:
            texts = [f"{text}{end}" for end in (separator, "") for text in self.phrases[slot]]
            numbers: dict[str, int] = {}
            rows = [[numbers.setdefault(w, len(numbers)) for w in text.split()] for text in texts]
            self._texts[kind], self._words[kind] = list(numbers), Ragged.from_rows(rows)
        return kind, self._words[kind]

    def rating_numbers(self, values: Floats) -> Integers:
        """Return the places of ratings among those that can be written; an error without one."""
        unknown = np.isin(values, self._ratings, invert=True)
        if unknown.any():
            raise RecinjectError(
                f"the log has no rating {number_text(values[unknown][0])}, which a sampler gives",
                hint="take ratings and labels from view.interactions.ratings",
            )
        return np.searchsorted(self._ratings, values).astype(np.int32)

    def write(self, samples: Ragged) -> pa.StringArray:
        """Put the texts of samples together, given the numbers of their pieces."""
        texts = self._table.take(pa.array(samples.values))
        lists = pa.ListArray.from_arrays(pa.array(samples.offsets, pa.int32()), texts)
        return pc.binary_join(lists, "")

    @cached_property
    def _table(self) -> pa.StringArray:
        return pa.array(self.texts, pa.string())


_SANDBOX = SandboxedEnvironment(autoescape=False)
# A phrase may ask for these in any log; where the log lacks them they are empty.
_STANDARD = frozenset({"title", "brand", "category", "categories"})


@dataclass(frozen=True, eq=False)
class Phrasebook:
    """The items of a catalogue, each with its identifier, written by any phrase once and only once.

    A phrase is Jinja over the catalogue's columns and two names more: ``identifier``, and ``item``,
    which is the identifier followed by the title unless it holds it already.
    """

    catalog: Catalog
    identifiers: Sequence[str]
    _written: dict[str, list[str]] = field(default_factory=dict)

    def write(self, source: str, place: str) -> list[str]:
        """Return one text an item, on one line; its identifier where the phrase comes out empty.

        Args:
            source: the phrase.
            place: its file and name, for messages.

        Raises:
            RecinjectError: bad Jinja, or a column that the log does not have.
        """
        if source not in self._written:
            try:
                texts = self._render(source, place)
            except RecinjectError:
                raise
            except Exception as error:  # a user's phrase may raise anything
                fact = error.message if isinstance(error, TemplateError) else error
                raise RecinjectError(
                    f"{place}: {fact}", hint="a phrase is Jinja over one item's columns"
                ) from error
            self._written[source] = [
                " ".join(text.split()) or name
                for text, name in zip(texts, self.identifiers, strict=True)
            ]
        return self._written[source]

    def _render(self, source: str, place: str) -> list[str]:
        columns = map(str, self.catalog.frame.columns)
        legal = {*columns, *_STANDARD, "identifier", "item"} - {"item_id"}
        if unknown := meta.find_undeclared_variables(_SANDBOX.parse(source)) - legal:
            name = min(unknown)
            raise RecinjectError(
                f"{place}: the catalogue has no column {name!r}", hint=did_you_mean(name, legal)
            )
        template = _SANDBOX.from_string(source)
        rows = self.catalog.frame.to_dict("records")
        return [
            template.render(row, identifier=identifier, item=_item(identifier, row["title"]))
            for row, identifier in zip(rows, self.identifiers, strict=True)
        ]


def _item(identifier: str, title: str) -> str:
    # By whole words: the film "12" is not named by the number #12.
    forms = (f" {title} ", f" {unlike_number(title)} ")
    held = any(form in f" {identifier} " for form in forms)
    return identifier if held else f"{identifier} {title}"
