"""How an item is written: any Jinja over its columns, rendered once for each item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jinja2 import TemplateError, meta
from jinja2.sandbox import SandboxedEnvironment

from recinject.data.schema import Catalog
from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.identifiers.table import unlike_number

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
