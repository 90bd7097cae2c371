"""The texts of items, and the pieces of text that samples are joined from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import TemplateError, meta
from numpy.typing import NDArray

from recinject.data.schema import Catalog, Floats, Integers
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged
from recinject.identifiers.table import unlike_number
from recinject.registry import pick
from recinject.templating.sandbox import BoundedSandbox

Blocks = NDArray[np.int32]
MOST_GAPS = 100  # as many sentinels as T5 has
_LETTERS = 1_000  # at least; a history may be longer than the catalogue


class PieceKind(Enum):
    """Texts that a sample may be made of beside its items."""

    RATINGS = "ratings"
    LETTERS = "letters"
    SENTINELS = "sentinels"
    USERS = "users"
    LITERAL = "literal texts"


Kind: TypeAlias = PieceKind | str | tuple[str, str]
"""A kind of texts: a :class:`PieceKind`, the name of a slot for the texts of its items, or a slot's
name and a separator for the distinct words of these texts."""


def number_text(value: float) -> str:
    """Write a rating as people do.

    >>> number_text(4.0), number_text(4.5)
    ('4', '4.5')
    """
    return f"{value:g}"


def letter(number: int) -> str:
    """Name a candidate: A to Z, then A2 and so on.

    >>> letter(0), letter(27)
    ('A', 'B2')
    """
    rounds, place = divmod(number, 26)
    return chr(ord("A") + place) + (str(rounds + 1) if rounds else "")


class Attribute(NamedTuple):
    """What is known of users under one name: distinct texts, and which of them each user has."""

    texts: Sequence[str]
    of_user: Integers  # a stranger comes last, shape (users + 1,)


class Pieces:
    """Numbered texts, in blocks: all items of a slot with the same text before and after them.

    A sample's text is its pieces joined. A piece carries the punctuation and the blank that follow
    it, so pieces begin where words begin. Call :meth:`block` for everything that is needed first,
    which binding a template does: reading :attr:`texts` or writing a sample freezes the table.
    """

    def __init__(
        self,
        phrases: Mapping[str, Sequence[str]],
        ratings: Floats,
        users: Sequence[str] = (),
        attributes: Mapping[str, Attribute] | None = None,
    ) -> None:
        """Take for each slot the text of every item, all ratings ascending, and users' texts."""
        self.phrases, self.attributes = phrases, attributes or {}
        n_letters = max([_LETTERS, *map(len, phrases.values())])
        self.ratings = ratings
        self._kinds: dict[Kind, Sequence[str]] = {
            PieceKind.RATINGS: [number_text(value) for value in ratings],
            PieceKind.LETTERS: [f"({letter(number)})" for number in range(n_letters)],
            PieceKind.SENTINELS: [f"<extra_id_{number}>" for number in range(MOST_GAPS)],
            PieceKind.USERS: users,
            PieceKind.LITERAL: [""],
        }
        self._kinds.update(phrases.items())
        self._kinds.update((slot, own.texts) for slot, own in self.attributes.items())
        self._words: dict[Kind, Ragged] = {}
        self._texts: list[str] = []
        self.starts: dict[tuple[Kind, str, str], int] = {}

    def block(self, kind: Kind, before: str = "", after: str = "") -> int:
        """Return the number of a kind's first piece with these texts around it."""
        key = (kind, before, after)
        if key not in self.starts:
            if "texts" in self.__dict__:
                raise RuntimeError(
                    f"the pieces of {kind!r} between {before!r} and {after!r} are asked for after "
                    "the first text was written or tokenised; bind every template before that"
                )
            self.starts[key] = len(self._texts)
            self._texts += [f"{before}{text}{after}" for text in self._kinds[kind]]
        return self.starts[key]

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """All pieces by number; from the first use on there are no new ones."""
        return tuple(self._texts)

    def blocks(self, kind: Kind, first: str, before: str, after: str, last: str) -> Blocks:
        """Return the blocks of a list's pieces by :attr:`Ragged.edges`.

        ``first`` stands before the list's first piece and ``before`` before every other,
        ``after`` after every piece but the last and ``last`` after that.
        """
        around = ((before, after), (before, last), (first, after), (first, last))
        return np.array([self.block(kind, *texts) for texts in around], np.int32)

    def literal(self, text: str) -> int:
        """Return the number of the piece that is just this text."""
        return self.block(PieceKind.LITERAL, text)

    def size(self, kind: Kind) -> int:
        """Return the number of a kind's texts."""
        return len(self._kinds[kind])

    def indices(self, kind: PieceKind, wanted: Array) -> Integers:
        """Return indices into a kind's texts as pieces are numbered; refuse too large ones."""
        most = wanted.max(initial=-1) + 1
        if most > self.size(kind):
            fact = f"a sample takes {most} {kind.value}, and there are {self.size(kind)}"
            raise RecinjectError(fact, hint="make its list shorter, or hide fewer of its items")
        return wanted.astype(np.int32)

    def words(self, slot: str, separator: str) -> tuple[Kind, Ragged]:
        """Number the distinct words of a slot's items, and return their kind.

        The rows are the words of each item with the separator behind it, then those without.
        """
        kind = (slot, separator)
        if kind not in self._words:
            texts = [f"{text}{end}" for end in (separator, "") for text in self.phrases[slot]]
            numbers: dict[str, int] = {}
            rows = [[numbers.setdefault(w, len(numbers)) for w in text.split()] for text in texts]
            self._kinds[kind], self._words[kind] = list(numbers), Ragged.from_rows(rows)
        return kind, self._words[kind]

    def rating_numbers(self, values: Floats) -> Integers:
        """Return the indices of ratings among those that can be written; refuse others."""
        unknown = np.isin(values, self.ratings, invert=True)
        if unknown.any():
            raise RecinjectError(
                f"the log has no rating {number_text(values[unknown][0])}, which a sampler gives",
                hint="take ratings and labels from view.interactions.ratings",
            )
        return np.searchsorted(self.ratings, values).astype(np.int32)

    def write(self, samples: Ragged) -> pa.StringArray:
        """Join the texts of samples, given the numbers of their pieces."""
        texts = self._table.take(pa.array(samples.values))
        lists = pa.ListArray.from_arrays(pa.array(samples.offsets, pa.int32()), texts)
        return pc.binary_join(lists, "")

    @cached_property
    def _table(self) -> pa.StringArray:
        return pa.array(self.texts, pa.string())


_SANDBOX = BoundedSandbox()
# A phrase may use these columns with any log; where the log lacks them they are empty.
_STANDARD = frozenset({"title", "brand", "category", "categories"})


@dataclass(frozen=True, eq=False)
class Phrasebook:
    """The items of a catalogue with their identifiers; each phrase renders them once.

    A phrase is Jinja over the catalogue's columns and two more names: ``identifier``, and ``item``,
    which is the identifier followed by the title unless the identifier contains it.
    """

    catalog: Catalog
    identifiers: Sequence[str]
    _written: dict[str, list[str]] = field(default_factory=dict)

    def write(self, source: str, place: str) -> list[str]:
        """Return one line of text an item; its identifier where the phrase renders empty."""
        if source not in self._written:
            try:
                texts = self._render(source, place)
            except RecinjectError:
                raise
            except Exception as error:  # a user's phrase may raise anything
                fact = error.message if isinstance(error, TemplateError) else error
                hint = "a phrase is Jinja over one item's columns: expressions, if, and one loop"
                raise RecinjectError(f"{place}: {fact}", hint=hint) from error
            self._written[source] = [
                " ".join(text.split()) or name
                for text, name in zip(texts, self.identifiers, strict=True)
            ]
        return self._written[source]

    def _render(self, source: str, place: str) -> list[str]:
        columns = map(str, self.catalog.frame.columns)
        legal = {*columns, *_STANDARD, "identifier", "item"} - {"item_id"}
        for name in sorted(meta.find_undeclared_variables(_SANDBOX.parse_bounded(source))):
            pick(name, legal, f"{place}: the catalogue has no column")
        rows = self.catalog.frame.to_dict("records")
        named = [
            {**row, "identifier": identifier, "item": _item(identifier, row["title"])}
            for row, identifier in zip(rows, self.identifiers, strict=True)
        ]
        return _SANDBOX.write(source, named)


def _item(identifier: str, title: str) -> str:
    # By whole words: the film "12" is not named by the number #12.
    forms = (f" {title} ", f" {unlike_number(title)} ")
    contained = any(form in f" {identifier} " for form in forms)
    return identifier if contained else f"{identifier} {title}"
