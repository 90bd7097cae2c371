"""The table from item number to the text that names it, and the ways to fill it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recinject.data.schema import Catalog, Integers
from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.randomness import derive_rng

TABLE_NAME = "items.parquet"


@dataclass(frozen=True)
class Identifiers:
    """What names each item in a prompt or a completion; no two items share a text.

    Attributes:
        kind: the name of the rule that made it.
        texts: the identifier of each item number.
        duplicates_resolved: how many items share their title with another one and were told
            apart by a number; 0 for kinds that do not use titles.
    """

    kind: str
    texts: tuple[str, ...]
    duplicates_resolved: int = 0

    def __post_init__(self) -> None:
        repeated = [text for text, count in Counter(self.texts).items() if count > 1]
        if repeated:
            raise RecinjectError(
                f"identifiers.kind={self.kind}: {len(repeated)} texts name several items, "
                f"first {repeated[0]!r}",
                hint="use identifiers.kind=number, which is unique by construction",
            )

    @property
    def numbers(self) -> Integers | None:
        """The number in each item's identifier, shape (items,); None for kinds without."""
        if not self.kind.startswith("number"):
            return None
        return np.array([int(text.split()[0].removeprefix("#")) for text in self.texts], np.int32)

    def save(self, folder: Path, catalog: Catalog) -> None:
        """Write the table, with the log's own ids and titles beside the identifiers."""
        columns = {"item_id": catalog.item_ids, "identifier": self.texts, "title": catalog.titles}
        pd.DataFrame(columns).to_parquet(folder / TABLE_NAME, index=False)

    @classmethod
    def load(cls, folder: Path, kind: str) -> Identifiers:
        """Read the table that :meth:`save` wrote."""
        frame = pd.read_parquet(folder / TABLE_NAME, columns=["identifier"])
        return cls(kind, tuple(frame["identifier"]))


def _number(catalog: Catalog, seed: int) -> Identifiers:
    numbers = derive_rng(seed, "identifiers").permutation(len(catalog))
    return Identifiers("number", tuple(f"#{number}" for number in numbers))


def _title(catalog: Catalog, seed: int) -> Identifiers:
    counts = Counter(map(unlike_number, catalog.titles))
    numbers = _number(catalog, seed).texts
    texts = [
        title if title and counts[title] == 1 else f"{title} {number}".strip()
        for title, number in zip(map(unlike_number, catalog.titles), numbers, strict=True)
    ]
    resolved = sum(count for title, count in counts.items() if title and count > 1)
    return Identifiers("title", tuple(texts), resolved)


def _number_and_title(catalog: Catalog, seed: int) -> Identifiers:
    numbers = _number(catalog, seed).texts
    pairs = zip(numbers, catalog.titles, strict=True)
    return Identifiers("number_title", tuple(f"{n} {title}".strip() for n, title in pairs))


def unlike_number(title: str) -> str:
    """Keep a title from looking as a number does: that sign is for numbers alone.

    Examples:
        >>> unlike_number("Mug #1 # blue")
        'Mug no. 1 no. blue'
    """
    return " ".join(title.replace("#", "no. ").split())


KINDS: dict[str, Callable[[Catalog, int], Identifiers]] = {
    "number": _number,
    "title": _title,
    "number_title": _number_and_title,
}


def name_items(kind: str, catalog: Catalog, seed: int) -> Identifiers:
    """Name every item of a catalogue.

    Args:
        kind: ``number`` (a seeded permutation: an order of appearance would tell who follows
            whom), ``title`` (a number is added where a title is missing or not unique) or
            ``number_title``.
        catalog: the items.
        seed: decides which item gets which number.

    Raises:
        RecinjectError: the kind is unknown.
    """
    if kind not in KINDS:
        raise RecinjectError(f"identifiers.kind: unknown {kind!r}", hint=did_you_mean(kind, KINDS))
    return KINDS[kind](catalog, seed)
