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
    """The items of a catalogue, written by any phrase once and only once.

    Attributes:
        catalog: the items.
        identifiers: the identifier of each item.
    """

    catalog: Catalog
    identifiers: Sequence[str]
    _written: dict[str, list[str]] = field(default_factory=dict)

    def write(self, source: str, place: str) -> list[str]:
        """Return the text of every item; see :func:`render_phrases`."""
        if source not in self._written:
            texts = render_phrases(source, self.catalog, self.identifiers, place)
            self._written[source] = texts
        return self._written[source]


def render_phrases(
    source: str, catalog: Catalog, identifiers: Sequence[str], place: str
) -> list[str]:
    """Write every item of the catalogue by one phrase.

    Args:
        source: Jinja over the catalogue's columns and two names more: ``identifier``, and
            ``item``, which is the identifier followed by the title unless it holds it already.
        catalog: the items.
        identifiers: the identifier of each item.
        place: file and phrase, for messages.

    Returns:
        One text an item, on one line; the identifier where the phrase comes out empty.

    Raises:
        RecinjectError: bad Jinja, or a column that the log does not have.
    """
    legal = {*map(str, catalog.frame.columns), *_STANDARD, "identifier", "item"} - {"item_id"}
    try:
        unknown = meta.find_undeclared_variables(_SANDBOX.parse(source)) - legal
        template = _SANDBOX.from_string(source)
        if unknown:
            name = sorted(unknown)[0]
            raise RecinjectError(
                f"{place}: the catalogue has no column {name!r}", hint=did_you_mean(name, legal)
            )
        rows = catalog.frame.to_dict("records")
        texts = [
            template.render(row, identifier=identifier, item=_item(identifier, row["title"]))
            for row, identifier in zip(rows, identifiers, strict=True)
        ]
    except TemplateError as error:
        raise RecinjectError(
            f"{place}: {error.message}", hint="a phrase is Jinja over one item's columns"
        ) from error
    return [" ".join(text.split()) or name for text, name in zip(texts, identifiers, strict=True)]


def _item(identifier: str, title: str) -> str:
    # By whole words: the film "12" is not named by the number #12.
    forms = (f" {title} ", f" {unlike_number(title)} ")
    held = any(form in f" {identifier} " for form in forms)
    return identifier if held else f"{identifier} {title}"
