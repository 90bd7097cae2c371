"""Reads a log of anybody's form; what comes out is dense integers and a catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recinject.data.formats import find_files
from recinject.data.quick_reader import Events
from recinject.data.schema import Catalog, Integers, Interactions, Log, known_times
from recinject.data.table_reader import require_path
from recinject.data.tables import (
    EVENT_COLUMNS,
    IDS,
    ITEM_COLUMNS,
    Table,
    as_text,
    check_names,
    event_frame,
    item_frame,
    match_items_among_events,
    match_names,
    refuse_repeated,
    value_text,
)
from recinject.foundation.errors import RecinjectError


@runtime_checkable
class Tabular(Protocol):
    """What makes itself a pandas frame: an Arrow table, a ``datasets.Dataset``, polars."""

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a frame."""


def read_log(
    path: Path,
    *,
    columns: Mapping[str, str],
    items: Path | None = None,
    format: str | None = None,  # noqa: A002 (the name of the recipe's setting)
) -> Log:
    """Read a log of events, and what is known of its items.

    Args:
        path: a folder of RecBole, MovieLens or Amazon reviews, or its file of events; a csv, tsv,
            jsonl or parquet file, plain or ``.gz``; or a folder with ``interactions.KIND`` and
            optionally ``items.KIND``.
        columns: our column names to the file's, where the well-known names do not do. An empty
            text leaves a column out. When there is no item table, item columns named here are
            read from the events file, and well-known ones that never say two things of an item.
        items: the item table, when it is not where the format expects it.
        format: a name in :func:`formats.find_formats`; guessed from the files when None.

    Returns:
        The log; its ``source`` says what was read and which columns were guessed.

    Raises:
        RecinjectError: a file or column is absent or broken, or a value is missing or makes no
            sense; the message names the file and the line.
    """
    require_path(path, "data.path")
    check_names(columns)
    if items is not None:
        require_path(items, "data.items")
    chosen, events_path, items_path = find_files(path, format, items)
    source, among = f"{chosen.name} {events_path.name}", None
    if items_path is not None:
        source += f" and {items_path.name}"
    elif not chosen.guess_items:  # an empty name leaves a column out
        columns = {**dict.fromkeys(ITEM_COLUMNS[1:], ""), **columns}
    found = chosen.quick(events_path, columns, items_path is None)
    if found is None:
        among = chosen.read(events_path, None)
        found = _read_events(among, columns)
    used = frozenset(found[0]["item_id"].cat.categories)
    about = None if items_path is None else chosen.read(items_path, used)
    return _join(found, about, among, columns, source)


def read_frame(
    events: pd.DataFrame | Tabular,
    items: pd.DataFrame | Tabular | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
) -> Log:
    """Make a log of tables that are in memory, by the same guesses as :func:`read_log`.

    Args:
        events: a row an event: a pandas frame, or whatever has ``to_pandas``, e.g. an Arrow table
            or a ``datasets.Dataset``.
        items: a row an item, in any of these forms.
        columns: our column names to the tables', as for :func:`read_log`.

    Raises:
        RecinjectError: as for :func:`read_log`; the message names the row, counted from 1.
    """
    check_names(columns)
    table, source = _frame_table("events", events), f"{type(events).__name__} of events"
    about = None
    if items is not None:
        about = _frame_table("items", items)
        source += f" and {type(items).__name__} of items"
    return _join(_read_events(table, columns), about, table, columns, source)


def make_log(events: pd.DataFrame, items: pd.DataFrame | None, source: str) -> Log:
    """Number users and items, put each user's events in order, and join the catalogue.

    Users and items are numbered by their sorted ids. Numbers in order of appearance would leak:
    items that follow one another in a log would get neighbouring numbers, and a model that sees
    the numbers could guess the next item by counting.

    A user's order is the ``position`` when there is one; else the timestamp, ties and unknown
    times staying where the log has them; else the log's own order.

    Args:
        events: columns ``user_id`` and ``item_id`` (text, or categories that are text in order and
            all in use), optionally ``rating``, ``timestamp`` (seconds, NaN where unknown) and
            ``position``; a row an event.
        items: columns ``item_id`` and whatever is known; of rows with one id the first counts,
            rows that no event uses are left out, items without a row get an empty title.
        source: where it came from, in words.
    """
    users, user_ids = _numbered(events["user_id"])
    items_used, item_ids = _numbered(events["item_id"])
    order = np.lexsort((_time_order(events, users), users))

    def ordered(name: str) -> NDArray[np.float64] | None:
        return events[name].to_numpy(np.float64)[order] if name in events else None

    interactions = Interactions(
        users=users[order],
        items=items_used[order],
        ratings=ordered("rating"),
        timestamps=ordered("timestamp"),
        user_ids=user_ids,
        n_items=len(item_ids),
    )
    return Log(interactions, _catalog(item_ids, items), source)


def _numbered(ids: pd.Series[Any]) -> tuple[Integers, list[str]]:
    """Return the number of each id among the sorted ones, and these."""
    found = ids.astype("category").cat
    codes: Integers = np.asarray(found.codes, np.int32)
    return codes, [str(name) for name in found.categories]


def _time_order(events: pd.DataFrame, users: Integers) -> NDArray[np.float64]:
    if "position" in events:
        return events["position"].to_numpy(np.float64)
    if "timestamp" in events:
        # An event of unknown time stays behind the event that it follows in the log.
        return known_times(events["timestamp"].to_numpy(np.float64), users)
    return np.zeros(len(events))


def _catalog(item_ids: list[str], items: pd.DataFrame | None) -> Catalog:
    frame = pd.DataFrame({"item_id": item_ids, "title": ""}, dtype=object)
    if items is not None:
        known = items.drop_duplicates("item_id").set_index("item_id").reindex(item_ids)
        for name in known.columns:
            values = known[name].astype(object).reset_index(drop=True)
            if values.notna().any():
                frame[name] = values.where(values.notna(), None)
    frame["title"] = frame["title"].fillna("")
    return Catalog(frame)


def _read_events(table: Table, columns: Mapping[str, str]) -> Events:
    names = _match(table, EVENT_COLUMNS, IDS, columns)
    return event_frame(table, names), names


def _join(
    found: Events,
    about: Table | None,
    among: Table | None,
    columns: Mapping[str, str],
    source: str,
) -> Log:
    """Join events with what is known of their items, by their own table or among the events."""
    (events, names), items, taken = found, None, dict[str, str]()
    if about is not None:
        # The item table may name its id otherwise than the events do.
        own = {k: name for k, name in columns.items() if k != "item_id" or name in about.frame}
        item_names = _match(about, ITEM_COLUMNS, ("item_id",), own)
        names, items = {**names, **item_names}, item_frame(about, item_names)
    elif among is not None:
        taken = _among_events(among, found, columns)
        items = _first_of_each(among, {"item_id": names["item_id"], **taken}) if taken else None
    said = {ours: name for ours, name in names.items() if ours != name} | taken
    renamed = ", ".join(f"{ours} from {name!r}" for ours, name in said.items())
    return make_log(events, items, f"{source} ({renamed})" if renamed else source)


def _among_events(table: Table, found: Events, columns: Mapping[str, str]) -> dict[str, str]:
    """Find item columns among the events: those that the settings name, and guessed ones.

    A guess holds where no item has two values: the title of a review, or the name of a customer,
    differs from row to row.
    """
    events, names = found
    candidates = match_items_among_events(table.path, list(table.frame.columns), names, columns)

    def says_one_thing(name: str) -> bool:
        text = as_text(table.frame[name])
        values = text[text != ""].groupby(events["item_id"], observed=True).nunique()
        return bool(values.max() == 1)

    return {
        ours: name for ours, name in candidates.items() if columns.get(ours) or says_one_thing(name)
    }


def _first_of_each(table: Table, names: Mapping[str, str]) -> pd.DataFrame:
    """Return a row an item, with the first that the events say of it in each column."""
    own = replace(table, frame=table.frame[list(dict.fromkeys(names.values()))])
    return item_frame(own, names).groupby("item_id", sort=False, as_index=False).first()


def _match(
    table: Table, wanted: Sequence[str], required: Sequence[str], columns: Mapping[str, str]
) -> dict[str, str]:
    if table.frame.empty:  # no header to trust
        table.refuse(table.problems)
    return match_names(table.path, list(table.frame.columns), wanted, required, columns)


def _frame_table(name: str, rows: object) -> Table:
    frame = rows.to_pandas() if isinstance(rows, Tabular) else rows
    if not isinstance(frame, pd.DataFrame):
        raise RecinjectError(
            f"{name}: a {type(rows).__name__} is no table",
            hint="give a pandas frame, an Arrow table or a datasets.Dataset (one split of it)",
        )
    named = [level for level in frame.index.names if level is not None]
    frame = frame.reset_index(named, allow_duplicates=True) if named else frame
    columns = list(map(value_text, frame.columns))
    refuse_repeated(name, columns)
    frame = frame.reset_index(drop=True).set_axis(columns, axis=1)
    return Table(name, frame)
