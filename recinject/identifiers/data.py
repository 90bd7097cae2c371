"""Prepared data: the log cleaned and split, with a name for each item."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from recinject.data.cleaning import MOST_LETTERS, CleaningStep, clean
from recinject.data.findings import Finding
from recinject.data.schema import Catalog, Integers, Log, event_table, load_users, save_users
from recinject.data.splitting import (
    Part,
    Split,
    Ties,
    choose_ties,
    learn_from,
    load_split,
    order_events,
    save_split,
    split_by,
    without_validation,
)
from recinject.foundation.errors import RecinjectError, pick
from recinject.foundation.settings import MOST, Seed, listed
from recinject.identifiers.table import Identifiers

_NEAREST = 3
ACTIVITY = "activity"
_MOST_VALUES, _RANGES = 12, 4


@dataclass(frozen=True, eq=False)
class Groups:
    """Users grouped by what is known of them.

    Examples:
        >>> groups = Groups.of("age", np.array([7, 25, None, 25], object))
        >>> groups.names, groups.of_user.tolist()
        (['7', '25'], [0, 1, -1, 1])
    """

    attribute: str
    names: Sequence[str]
    of_user: Integers  # the group of each user, -1 where it is unknown, shape (users,)

    @classmethod
    def of(cls, attribute: str, values: NDArray[np.object_]) -> Groups:
        """Number the distinct values; more than 12 numbers are cut into quarters of the users."""
        series = pd.Series(values, dtype=object)
        known = series.notna() & (series.astype(str) != "")
        numbers = pd.to_numeric(series.where(known), errors="coerce")
        if not (numbers.notna() == known).all():
            numbered, texts = np.unique(series[known].astype(str), return_inverse=True)
            return cls(attribute, numbered.tolist(), _placed(known.to_numpy(), texts))
        own = numbers[known].to_numpy(np.float64)
        distinct, places = np.unique(own, return_inverse=True)
        names = [f"{value:g}" for value in distinct]
        if len(distinct) > _MOST_VALUES:
            ends = np.unique(np.quantile(own, np.arange(1, _RANGES) / _RANGES, method="lower"))
            places = np.searchsorted(ends, own)
            parts = [own[places == part] for part in range(len(ends) + 1)]
            names = [f"{part.min():g} to {part.max():g}" if len(part) else "" for part in parts]
        return cls(attribute, names, _placed(known.to_numpy(), places))


def _placed(known: NDArray[np.bool_], places: NDArray[np.int64]) -> Integers:
    of_user = np.full(len(known), -1, np.int32)
    of_user[known] = places
    return of_user


@dataclass(frozen=True, eq=False)
class Data:
    """What everybody learns from and is asked about: a split log, its items and their names.

    Examples:
        >>> from recinject import prepare
        >>> from recinject.data.simulator import simulate_shop
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> data.identifiers.texts[:2], len(data.split.train)
        (('#9', '#13'), 36)
    """

    split: Split  # every event with the part that it belongs to
    catalog: Catalog  # the items; an item's index is its row
    identifiers: Identifiers  # the text that names each item
    source: str = ""  # where the log came from, in words
    cleaning: Sequence[CleaningStep] = ()  # what each step left; empty where it was loaded
    rule: str = ""  # the rule that split the log; empty where it was loaded
    findings: Sequence[Finding] = ()  # of the log as it was read; empty where it was loaded
    users: pd.DataFrame | None = None  # what is known of each user, a row a user in their order

    def save(self, folder: str | Path) -> None:
        """Write the data into ``folder/data`` and ``folder/identifiers``, as a run has them."""
        save_split(Path(folder) / "data", self.split, self.catalog)  # makes the folder
        save_users(Path(folder) / "data", self.users)
        (Path(folder) / "identifiers").mkdir(exist_ok=True)
        self.identifiers.save(Path(folder) / "identifiers", self.catalog)

    @classmethod
    def load(cls, folder: str | Path) -> Data:
        """Read what :meth:`save`, or the stages of a run, wrote.

        Raises:
            RecinjectError: the folder holds no such data.
        """
        data, identifiers = (Path(folder) / name for name in ("data", "identifiers"))
        if not data.is_dir() or not identifiers.is_dir():
            fact = f"{folder}: no data and identifiers in it"
            raise RecinjectError(fact, hint="give the folder that data.save(folder) or a run wrote")
        named = Identifiers.load(identifiers)
        return cls(*load_split(data), named, source=str(folder), users=load_users(data))

    @property
    def attributes(self) -> list[str]:
        """The columns of what is known of users; none where nothing is known."""
        return [] if self.users is None else [str(c) for c in self.users.columns if c != "user_id"]

    def group_users(self, attribute: str) -> Groups:
        """Group the users by an attribute, or by their ``activity``, the training events.

        Raises:
            RecinjectError: nothing of that name is known of users.
        """
        if attribute == ACTIVITY:
            return Groups.of(ACTIVITY, np.diff(self.split.train.offsets).astype(object))
        pick(
            attribute, [*self.attributes, ACTIVITY], "evaluation.groups: the log knows of users no"
        )
        assert self.users is not None
        return Groups.of(attribute, self.users[attribute].to_numpy(object))

    def refuse_unknown(self, attributes: Sequence[str], provider: str | None) -> None:
        """Refuse attributes of users, or a column of the items, that there are not.

        Raises:
            RecinjectError: one is unknown; the message names what there is.
        """
        for attribute in attributes:
            self.group_users(attribute)
        if provider is not None:
            columns = [str(c) for c in self.catalog.frame.columns if c not in ("item_id", "title")]
            pick(provider, columns, "evaluation.provider: the items have no column")

    def to_pandas(self) -> pd.DataFrame:
        """Return the events as a tidy frame, by the log's own ids, with the part of each.

        Columns: ``user_id``, ``item_id``, ``title``, ``part``, and ``rating`` and ``timestamp``
        (seconds since 1970) where the log has them; ordered by user, then by time.
        """
        labels = np.array([part.label for part in Part], object)
        return event_table(
            self.split.interactions,
            parts=labels[self.split.parts - min(Part)],
            item_id=self.catalog.item_ids,
            title=self.catalog.titles,
        )

    def refuse_other(self, other: Data | None, who: str) -> None:
        """Refuse what knows other data: other users, items, names, events or parts of events.

        Raises:
            RecinjectError: ``who`` does; the message names it.
        """
        if other is None or other is self:
            return
        events, others = self.split.interactions, other.split.interactions
        if not (
            np.array_equal(self.split.parts, other.split.parts)
            and np.array_equal(events.users, others.users)
            and np.array_equal(events.items, others.items)
            and list(events.user_ids) == list(others.user_ids)
            and self.catalog.item_ids == other.catalog.item_ids
            and list(self.identifiers.texts) == list(other.identifiers.texts)
        ):
            raise RecinjectError(
                f"{who}: made of other data than those that are asked about",
                hint="give the data, split and named alike, that models and samples were made of",
            )

    def find_items(self, texts: Iterable[str]) -> Integers:
        """Return the indices of items that are named by their titles or by the log's own ids.

        Raises:
            RecinjectError: no item, or several, go by one of the texts.
        """
        named = listed(texts, "recommend: a history")
        return np.array([self._find(str(text)) for text in named], np.int32)

    def has_item(self, text: str) -> bool:
        """Whether an item, or several, go by a title or an id."""
        title = unicodedata.normalize("NFC", " ".join(text.split()))
        keys = (title, text, title.casefold())
        return any(key in table for table, key in zip(self._named, keys, strict=True))

    def find_users(self, user_ids: Iterable[str]) -> Integers:
        """Return the indices of users by the log's own ids.

        Raises:
            RecinjectError: the log has no such user, or cleaning left none of their events.
        """
        asked = list(map(str, listed(user_ids, "recommend: users")))
        for user in asked:
            if user not in self._users:
                hint = "ids are in data/users.parquet; cleaning drops users with few events"
                raise RecinjectError(f"no user has the id {user!r}", hint=hint)
        return np.array([self._users[user] for user in asked], np.int32)

    @cached_property
    def _users(self) -> dict[str, int]:
        return {user: index for index, user in enumerate(self.split.interactions.user_ids)}

    @cached_property
    def _named(self) -> list[dict[str, list[int]]]:
        """The items by title, by the log's own id, and by title whatever its capitals."""
        titles, ids = self.catalog.titles, self.catalog.item_ids
        return [_by(titles), _by(ids), _by([title.casefold() for title in titles])]

    def _find(self, text: str) -> int:
        # As titles are cleaned; ids are names, and stay as the log has them.
        title = unicodedata.normalize("NFC", " ".join(text.split()))
        titled, with_id = (self._named[n].get(key, []) for n, key in enumerate((title, text)))
        if titled and with_id and titled != with_id:
            one, other = self.catalog.item_ids[titled[0]], self.catalog.titles[with_id[0]]
            raise RecinjectError(
                f"{text!r} is the title of one item and the id of another",
                hint=f"give the id {one!r} of the one, or the title {other!r} of the other",
            )
        for table, key in zip(self._named, (title, text, title.casefold()), strict=True):
            if len(found := table.get(key, [])) > 1:
                ids = [self.catalog.item_ids[item] for item in found]
                fact = f"{len(found)} items have the title {text!r}"
                raise RecinjectError(fact, hint=f"give the id of one of them: {', '.join(ids)}")
            if found:
                return found[0]
        folded, wanted = self._named[2], title.casefold()
        near = [title for title in folded if len(wanted) > 2 and wanted in title][:_NEAREST]
        near = near or difflib.get_close_matches(wanted, folded, _NEAREST, cutoff=0.5)
        meant = " or ".join(repr(self.catalog.titles[folded[title][0]]) for title in near)
        hint = f"did you mean {meant}?" if near else "titles and ids are in data/items.parquet"
        raise RecinjectError(f"no item has the title or the id {text!r}", hint=hint)


def users_of(log: Log, split: Split) -> pd.DataFrame | None:
    """Return what a log knows of the users of its split, in their order; None for nothing."""
    if log.users is None:
        return None
    known = log.users.set_index("user_id").reindex(list(split.interactions.user_ids))
    return known.reset_index()


def split_log(
    log: Log,
    *,
    split: str = "leave_one_out",
    k_core: Annotated[int, Field(ge=0, le=MOST)] = 5,
    max_text: Annotated[int, Field(ge=1, le=MOST_LETTERS)] = MOST_LETTERS,
    ties: Ties = "auto",
    order: Literal["time", "rows"] = "time",
    repeats: Literal["auto", "keep", "first", "last"] = "auto",
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1,
    validation: bool = True,
    train_share: Annotated[float, Field(gt=0, le=1)] = 1.0,
    seed: Seed = 1,
) -> tuple[Split, Catalog, list[CleaningStep]]:
    """Clean a log and split it; also return its items, and what each step of cleaning left.

    See :func:`recinject.prepare`. ``test_share`` is how much is the test, and how much more the
    validation; without ``validation`` its events train. ``train_share`` is the fraction of the
    training events to learn from; the others stand in histories alone. Of a log without times and
    positions ``order`` puts each user's events in random order; ``rows`` trusts its rows.
    ``repeats`` of one item and one time stay as :func:`~recinject.data.cleaning.clean` says;
    ``auto`` is ``first``, but ``keep`` where a position, or the order of the rows, tells events
    apart.
    """
    chosen, why = choose_ties(log, ties)
    log, ordered_by, said = order_events(log, order, chosen, seed)
    if repeats == "auto":
        told = not log.timed and ordered_by in ("position", "rows")
        repeats = "keep" if told else "first"
    log, steps = clean(log, k_core=k_core, repeats=repeats, max_text=max_text)
    if done := "; ".join(filter(None, (why, said))):
        steps.insert(1, replace(steps[0], name="order", detail=done))
    found = replace(split_by(split, log.interactions, test_share, seed), order=ordered_by)
    if not validation:
        found = without_validation(found)
    if train_share < 1:
        found = learn_from(found, train_share, seed)
    return found, log.catalog, steps


def _by(texts: Sequence[str]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        table.setdefault(text, []).append(index)
    return table
