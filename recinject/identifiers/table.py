"""Identifiers: the text that names each item in a prompt or a completion, by kind."""

from __future__ import annotations

import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.util import hash_array
from pydantic import Field

from recinject.data.schema import Catalog, Flags, Integers
from recinject.data.splitting import Split
from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import combine, derive_bits, derive_rng
from recinject.foundation.settings import MOST, bind
from recinject.registry import find, register

TABLE_NAME = "items.parquet"
ITEM_TOKEN = re.compile(r"<(?:item|[a-z])_(\d+)>")
_FACTS = ("kind", "duplicates_resolved")
_GIVEN = {"catalog", "split", "seed", "earlier"}


@dataclass(frozen=True)
class Identifiers:
    """The text of each item; no two items share one.

    A kind of identifiers is a registered function ``(catalog, split, seed, **settings)`` that
    returns them, or a subclass whose classmethod ``make`` is that function. A subclass may store
    more than the table, by :meth:`save` and :meth:`restore`, and override what is below them.

    ``duplicates_resolved`` says how many items would share their text with another one (its title,
    or all its codes but the last) and are told apart by a number.

    Raises:
        RecinjectError: two items share a text.

    Examples:
        >>> Identifiers("letters", ("<a>", "<b>")).texts
        ('<a>', '<b>')
    """

    has_tokens: ClassVar[bool] = False  # of its own, which a model must be trained on
    joins_cold_items: ClassVar[bool] = False  # whether `join_cold_items` has codes to go by
    is_token: ClassVar[bool] = False  # whether each item is one new token, which it alone has

    kind: str  # its name in the registry
    texts: tuple[str, ...]  # the identifier of each item
    duplicates_resolved: int = 0
    numbers: Integers | None = field(default=None, compare=False)  # in each identifier, (items,)

    def __post_init__(self) -> None:
        repeated = [text for text, count in Counter(self.texts).items() if count > 1]
        if repeated:
            raise RecinjectError(
                f"identifiers.kind={self.kind}: {len(repeated)} texts name several items, "
                f"first {repeated[0]!r}",
                hint="use identifiers.kind=number, which is unique by construction",
            )

    @property
    def tokens(self) -> tuple[str, ...]:
        """The texts that a tokenizer must read as one token each; none for most kinds."""
        return ()

    def save(self, folder: Path, catalog: Catalog) -> None:
        """Write the table, with the log's own ids and titles beside the identifiers."""
        columns = {"item_id": catalog.item_ids, "identifier": self.texts, "title": catalog.titles}
        numbers = {} if self.numbers is None else {"number": self.numbers}
        frame = pd.DataFrame({**columns, **numbers})
        frame.attrs |= {name: getattr(self, name) for name in _FACTS}
        frame.to_parquet(folder / TABLE_NAME, index=False)

    @staticmethod
    def load(folder: Path) -> Identifiers:
        """Read what :meth:`save` wrote, as the class that the kind has."""
        table = pd.read_parquet(folder / TABLE_NAME)
        return identifiers_class(table.attrs["kind"]).restore(folder, table)

    @classmethod
    def restore(cls, folder: Path, table: pd.DataFrame) -> Identifiers:
        """Make the identifiers that a folder holds; ``table`` is that of its items."""
        numbers = table["number"].to_numpy(np.int32) if "number" in table else None
        facts = {name: table.attrs[name] for name in _FACTS}
        return cls(texts=tuple(table["identifier"]), numbers=numbers, **facts)

    @classmethod
    def input_files(cls, settings: Mapping[str, Any]) -> list[Path]:
        """Return the user's files that the kind's settings name, if any."""
        return []

    def describe(self) -> list[dict[str, float | int | None]]:
        """Measure how good the identifiers are, if there is a measure: a row a level."""
        return []

    def join_cold_items(
        self, listed: Any, queries: Any, cold: Flags, fraction: float, k: int
    ) -> Any:
        """Let items without training events join retrieved lists.

        Args:
            listed: the :class:`~recinject.recommenders.protocol.Prediction` of a model, with
                lists longer than ``k``; a new one is returned.
            queries: the :class:`~recinject.recommenders.protocol.Queries` that it answers.
            cold: the items without training events, shape (items,).
            fraction: the largest fraction of a list that they may take, from 0 to 1.
            k: the length of the lists.
        """
        raise NotImplementedError(f"identifiers.kind={self.kind} has no codes that items share")


@register("identifiers", "token")
class TokenIdentifiers(Identifiers):
    """Numbers as in the kind ``number``, but each is one new token of the tokenizer's."""

    has_tokens: ClassVar[bool] = True
    is_token: ClassVar[bool] = True

    @property
    def tokens(self) -> tuple[str, ...]:
        """The texts themselves."""
        return self.texts

    @classmethod
    def make(cls, catalog: Catalog, split: Split | None, seed: int) -> TokenIdentifiers:
        """Give each item a token."""
        numbers = _permutation(catalog, seed)
        return cls("token", tuple(f"<item_{number}>" for number in numbers), numbers=numbers)


@register("identifiers", "number")
def number_items(catalog: Catalog, split: Split | None, seed: int) -> Identifiers:
    """Number the items by a seeded permutation, as ``number_title`` and ``token`` do.

    An order of appearance would tell who follows whom.
    """
    numbers = _permutation(catalog, seed)
    return Identifiers("number", tuple(f"#{number}" for number in numbers), numbers=numbers)


@register("identifiers", "number_title")
def number_and_title(catalog: Catalog, split: Split | None, seed: int) -> Identifiers:
    """Put the title behind the number."""
    numbers = _permutation(catalog, seed)
    pairs = zip(numbers, catalog.titles, strict=True)
    texts = tuple(f"#{number} {title}".strip() for number, title in pairs)
    return Identifiers("number_title", texts, numbers=numbers)


@register("identifiers", "title")
def title_items(catalog: Catalog, split: Split | None, seed: int) -> Identifiers:
    """Name items by their titles; a number is added where a title is missing or not unique."""
    titles = [unlike_number(title) for title in catalog.titles]
    counts = Counter(titles)
    texts = [
        title if title and counts[title] == 1 else f"{title} #{number}".strip()
        for title, number in zip(titles, _permutation(catalog, seed), strict=True)
    ]
    resolved = sum(count for title, count in counts.items() if title and count > 1)
    return Identifiers("title", tuple(texts), resolved)


@register("identifiers", "collaborative")
def cluster_codes(
    catalog: Catalog,
    split: Split | None,
    seed: int,
    *,
    clusters: Annotated[int, Field(ge=2, le=MOST)] = 20,
    leaf_items: Annotated[int, Field(ge=1, le=MOST)] = 50,
) -> Identifiers:
    """Name items by their way down a tree of clusters of the training events.

    See :func:`~recinject.identifiers.clustering.cluster_items`.
    """
    # A fifth of a second to import, for this kind alone.
    from recinject.identifiers.clustering import cluster_items

    training = _needed(split, "collaborative").train
    paths = cluster_items(training, clusters, leaf_items, seed)
    return Identifiers("collaborative", tuple(" ".join(f"c{n}" for n in path) for path in paths))


@register("identifiers", "order_of_appearance_which_leaks")
def order_of_appearance(catalog: Catalog, split: Split | None, seed: int) -> Identifiers:
    """Number items as the log first names them, to show what that does to a comparison."""
    kind = "order_of_appearance_which_leaks"
    items = _needed(split, kind).interactions.items
    order = pd.unique(np.concatenate([items, np.arange(len(catalog), dtype=np.int32)]))
    numbers = np.argsort(order).astype(np.int32)
    return Identifiers(kind, tuple(f"#{number}" for number in numbers), numbers=numbers)


def _permutation(catalog: Catalog, seed: int) -> NDArray[np.int32]:
    return derive_rng(seed, "identifiers").permutation(len(catalog)).astype(np.int32)


def _needed(split: Split | None, kind: str) -> Split:
    if split is None:
        raise RecinjectError(
            f"identifiers.kind={kind}: it goes by the log's events, and none are given",
            hint="call name_items with the split, or choose identifiers.kind=number",
        )
    return split


def unlike_number(title: str) -> str:
    """Keep a title from looking as a number does: that sign is for numbers alone.

    >>> unlike_number("Mug #1 # blue")
    'Mug no. 1 no. blue'
    """
    return " ".join(title.replace("#", "no. ").split())


def name_items(
    kind: str,
    catalog: Catalog,
    seed: int,
    split: Split | None = None,
    *,
    earlier: Path | None = None,
    **settings: Any,
) -> Identifiers:
    """Name every item of a catalogue.

    Args:
        kind: a name in the registry, such as ``number``, ``title`` or ``semantic``.
        catalog: the items.
        seed: decides which item gets which number.
        split: the log's events, for kinds that go by them; most go by the training part alone.
        earlier: a folder with identifiers of before; a kind may take from it what is costly to
            make, where it still holds.
        **settings: keyword arguments of the kind, such as ``clusters`` of ``collaborative``.

    Raises:
        RecinjectError: the kind or a setting is unknown, or the kind needs a split.

    Examples:
        >>> catalog = Catalog(pd.DataFrame({"item_id": ["a", "b"], "title": ["Bear", "Doll"]}))
        >>> name_items("number_title", catalog, seed=1).texts
        ('#0 Bear', '#1 Doll')
    """
    make = _maker(kind)
    given: dict[str, Any] = {"catalog": catalog, "split": split, "seed": seed}
    if "earlier" in inspect.signature(make).parameters:
        given["earlier"] = earlier
    return bind(make, settings, "identifiers", **given)


def check_kind(kind: str, settings: Mapping[str, Any]) -> None:
    """Refuse an unknown kind of identifiers, or settings that it does not take."""
    make = _maker(kind)
    arguments = inspect.signature(make).parameters.values()
    own = [each for each in arguments if each.name not in _GIVEN]

    @functools.wraps(make)
    def unmade(**_: Any) -> None: ...

    key = inspect.Parameter("kind", inspect.Parameter.KEYWORD_ONLY)
    unmade.__signature__ = inspect.Signature([key, *own])  # type: ignore[attr-defined]
    bind(unmade, {"kind": kind, **settings}, "identifiers")


def identifiers_class(kind: str) -> type[Identifiers]:
    """Return the class of the identifiers that a kind makes."""
    found = find("identifiers", kind, "identifiers.kind")
    return found if isinstance(found, type) else Identifiers


def _maker(kind: str) -> Callable[..., Identifiers]:
    found = find("identifiers", kind, "identifiers.kind")
    made: Callable[..., Identifiers] = getattr(found, "make", found)
    return made


def user_tokens(count: int) -> tuple[str, ...]:
    """Return the texts that a tokenizer must read as one token each."""
    return tuple(f"<user_{number}>" for number in range(count))


def name_users(user_ids: Sequence[str], count: int, seed: int) -> list[str]:
    """Give each user one of ``count`` tokens, by the id alone: no order of users shows.

    >>> name_users(["ann", "bob", "ann"], 2000, seed=1)
    ['<user_1269>', '<user_100>', '<user_1269>']
    """
    hashed = hash_array(np.array(user_ids, object), categorize=True)
    tokens = user_tokens(count)
    return [tokens[number] for number in combine(derive_bits(seed, "users"), hashed) % count]
