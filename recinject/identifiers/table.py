"""The table from item to the text that names it, and the tokens that users share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.util import hash_array

from recinject.data.schema import Catalog, Integers
from recinject.data.splitting import Split
from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.randomness import combine, derive_bits, derive_rng
from recinject.methods.semantic_ids.codes import SemanticCodes, code_tokens

TABLE_NAME = "items.parquet"
ITEM_TOKEN = re.compile(r"<(?:item|[a-z])_(\d+)>")
_SIZES = "code_sizes"
_NUMBER = re.compile(rf"#(\d+)|{ITEM_TOKEN.pattern}")


@dataclass(frozen=True)
class Identifiers:
    """What names each item in a prompt or a completion; no two items share a text.

    Resolved duplicates are the items that share their title, or all codes but the last, with
    another one and were told apart by a number.
    """

    kind: str
    texts: tuple[str, ...]  # of each item number
    duplicates_resolved: int = 0
    code_sizes: tuple[int, ...] = ()  # how many codes there may be at each level, for semantic

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
        if self.kind not in _NUMBERED:
            return None
        found = [_NUMBER.match(text) for text in self.texts]
        return np.array([int(match[1] or match[2]) for match in found if match], np.int32)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The texts that a tokenizer must read as one token each; none for most kinds."""
        return self.texts if self.kind == "token" else code_tokens(self.code_sizes)

    def save(self, folder: Path, catalog: Catalog) -> None:
        """Write the table, with the log's own ids and titles beside the identifiers."""
        columns = {"item_id": catalog.item_ids, "identifier": self.texts, "title": catalog.titles}
        frame = pd.DataFrame(columns)
        frame.attrs[_SIZES] = self.code_sizes
        frame.to_parquet(folder / TABLE_NAME, index=False)

    @classmethod
    def load(cls, folder: Path, kind: str) -> Identifiers:
        """Read the table that :meth:`save` wrote."""
        frame = pd.read_parquet(folder / TABLE_NAME, columns=["identifier"])
        sizes = tuple(frame.attrs.get(_SIZES, ()))
        return cls(kind, tuple(frame["identifier"]), code_sizes=sizes)


@dataclass(frozen=True)
class _Naming:
    """All that a kind may go by; see :func:`name_items`."""

    catalog: Catalog
    seed: int
    split: Split | None
    clusters: int
    leaf_items: int
    codes: SemanticCodes | None

    def numbers(self) -> NDArray[np.int64]:
        return derive_rng(self.seed, "identifiers").permutation(len(self.catalog))

    def known_split(self, kind: str) -> Split:
        if self.split is None:
            raise RecinjectError(
                f"identifiers.kind={kind}: it goes by the log's events, and none are given",
                hint="call name_items with the split, or choose identifiers.kind=number",
            )
        return self.split


def _number(naming: _Naming) -> Identifiers:
    return Identifiers("number", tuple(f"#{number}" for number in naming.numbers()))


def _token(naming: _Naming) -> Identifiers:
    return Identifiers("token", tuple(f"<item_{number}>" for number in naming.numbers()))


def _collaborative(naming: _Naming) -> Identifiers:
    # A fifth of a second to import, for this kind alone.
    from recinject.identifiers.clustering import cluster_items

    training = naming.known_split("collaborative").train
    paths = cluster_items(training, naming.clusters, naming.leaf_items, naming.seed)
    return Identifiers("collaborative", tuple(" ".join(f"c{n}" for n in path) for path in paths))


def _semantic(naming: _Naming) -> Identifiers:
    codes = naming.codes
    if codes is None or len(codes.rows) != len(naming.catalog):
        given = "none are" if codes is None else f"those of {len(codes.rows)} items are"
        raise RecinjectError(
            f"identifiers.kind=semantic: it goes by the codes of {len(naming.catalog)} items, and "
            f"{given} given",
            hint="call name_items with the codes of this catalogue, see identifiers.codes",
        )
    return Identifiers("semantic", codes.texts, codes.collisions, codes.sizes)


def _order_of_appearance(naming: _Naming) -> Identifiers:
    kind = "order_of_appearance_which_leaks"
    items = naming.known_split(kind).interactions.items
    order = pd.unique(np.concatenate([items, np.arange(len(naming.catalog), dtype=np.int32)]))
    return Identifiers(kind, tuple(f"#{number}" for number in np.argsort(order)))


def _title(naming: _Naming) -> Identifiers:
    catalog = naming.catalog
    counts = Counter(map(unlike_number, catalog.titles))
    numbers = _number(naming).texts
    texts = [
        title if title and counts[title] == 1 else f"{title} {number}".strip()
        for title, number in zip(map(unlike_number, catalog.titles), numbers, strict=True)
    ]
    resolved = sum(count for title, count in counts.items() if title and count > 1)
    return Identifiers("title", tuple(texts), resolved)


def _number_and_title(naming: _Naming) -> Identifiers:
    pairs = zip(_number(naming).texts, naming.catalog.titles, strict=True)
    return Identifiers("number_title", tuple(f"{n} {title}".strip() for n, title in pairs))


def unlike_number(title: str) -> str:
    """Keep a title from looking as a number does: that sign is for numbers alone.

    Examples:
        >>> unlike_number("Mug #1 # blue")
        'Mug no. 1 no. blue'
    """
    return " ".join(title.replace("#", "no. ").split())


_NUMBERED = frozenset({"number", "number_title", "token", "order_of_appearance_which_leaks"})
KINDS: dict[str, Callable[[_Naming], Identifiers]] = {
    "number": _number,
    "title": _title,
    "number_title": _number_and_title,
    "token": _token,
    "collaborative": _collaborative,
    "semantic": _semantic,
    "order_of_appearance_which_leaks": _order_of_appearance,
}


def name_items(
    kind: str,
    catalog: Catalog,
    seed: int,
    split: Split | None = None,
    *,
    clusters: int = 20,
    leaf_items: int = 50,
    codes: SemanticCodes | None = None,
) -> Identifiers:
    """Name every item of a catalogue.

    Args:
        kind: ``number`` (a seeded permutation: an order of appearance would tell who follows
            whom), ``title`` (a number is added where a title is missing or not unique),
            ``number_title``, ``token`` (as ``number``, but one new token of the tokenizer's),
            ``collaborative`` (see :func:`~recinject.identifiers.clustering.cluster_items`),
            ``semantic`` (a new token for each of an item's codes) or
            ``order_of_appearance_which_leaks`` (numbers in the order in which the whole log,
            user by user, first names the items: to show what it does to a comparison).
        catalog: the items.
        seed: decides which item gets which number.
        split: the log's events; ``collaborative``, which goes by their training part alone, and
            ``order_of_appearance_which_leaks`` need it.
        clusters: the most clusters a level, for ``collaborative``.
        leaf_items: the most items in a leaf, for ``collaborative``.
        codes: of the catalogue's items, for ``semantic``.

    Raises:
        RecinjectError: the kind is unknown, or needs a split or codes that are not given.
    """
    if kind not in KINDS:
        raise RecinjectError(f"identifiers.kind: unknown {kind!r}", hint=did_you_mean(kind, KINDS))
    return KINDS[kind](_Naming(catalog, seed, split, clusters, leaf_items, codes))


def user_tokens(count: int) -> tuple[str, ...]:
    """Return the texts that a tokenizer must read as one token each."""
    return tuple(f"<user_{number}>" for number in range(count))


def name_users(user_ids: Sequence[str], count: int, seed: int) -> list[str]:
    """Give each user one of ``count`` tokens, by the id alone: no order of users shows.

    Examples:
        >>> name_users(["ann", "bob", "ann"], 2000, seed=1)
        ['<user_1269>', '<user_100>', '<user_1269>']
    """
    hashed = hash_array(np.array(user_ids, object), categorize=True)
    tokens = user_tokens(count)
    return [tokens[number] for number in combine(derive_bits(seed, "users"), hashed) % count]
