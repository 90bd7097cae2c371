"""Reads a log of anybody's form; what comes out is dense integers and a catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recinject.data.columns import (
    EVENT_COLUMNS,
    ITEM_COLUMNS,
    check_names,
    event_frame,
    item_frame,
    match_names,
    value_text,
)
from recinject.data.formats import find_files
from recinject.data.schema import Catalog, Interactions, Log
from recinject.data.table_reader import Table, refuse_repeated, require_path
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
            read from the events file.
        items: the item table, when it is not where the format expects it.
        format: a name in :data:`formats.FORMATS`; guessed from the files when None.

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
    described = f"{chosen.name} {events_path.name}"
    events = chosen.read(events_path, None)
    if items_path is None:
        return _join(events, None, columns, described)
    read_items = partial(chosen.read, items_path)
    return _join(events, read_items, columns, f"{described} and {items_path.name}")


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
        RecinjectError: a table is none, or as for :func:`read_log`; the message names the row,
            counted from 1.
    """
    check_names(columns)
    table, described = _frame_table("events", events), type(events).__name__
    if items is None:
        return _join(table, None, columns, f"{described} of events")
    item_table = _frame_table("items", items)
    described = f"{described} of events and {type(items).__name__} of items"
    return _join(table, lambda _used: item_table, columns, described)


def make_log(events: pd.DataFrame, items: pd.DataFrame | None, source: str) -> Log:
    """Number users and items, put each user's events in order, and join the catalogue.

    Users and items are numbered by their sorted ids. Numbers in order of appearance would leak:
    items that follow one another in a log would get neighbouring numbers, and a model that sees
    the numbers could guess the next item by counting.

    A user's order is the ``position`` when there is one; else the timestamp, ties and unknown
    times staying where the log has them; else the log's own order.

    Args:
        events: columns ``user_id`` and ``item_id`` (text), optionally ``rating``, ``timestamp``
            (seconds, NaN where unknown) and ``position`` (numbers); a row an event.
        items: columns ``item_id`` and whatever is known; of rows with one id the first counts,
            rows that no event uses are left out, items without a row get an empty title.
        source: where it came from, in words.
    """
    users, user_ids = pd.factorize(events["user_id"], sort=True)
    numbers, item_ids = pd.factorize(events["item_id"], sort=True)
    order = np.lexsort((_time_order(events, users), users))

    def ordered(name: str) -> NDArray[np.float64] | None:
        return events[name].to_numpy(np.float64)[order] if name in events else None

    interactions = Interactions(
        users=users[order].astype(np.int32),
        items=numbers[order].astype(np.int32),
        ratings=ordered("rating"),
        timestamps=ordered("timestamp"),
        user_ids=[str(name) for name in user_ids],
        n_items=len(item_ids),
    )
    return Log(interactions, _catalog([str(name) for name in item_ids], items), source)


def _time_order(events: pd.DataFrame, users: NDArray[np.intp]) -> NDArray[np.float64]:
    if "position" in events:
        return events["position"].to_numpy(np.float64)
    if "timestamp" in events:
        # An event of unknown time stays behind the event that it follows in the log.
        known = events["timestamp"].groupby(users).ffill()
        return known.fillna(-np.inf).to_numpy(np.float64)
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


def _join(
    table: Table,
    read_items: Callable[[frozenset[str]], Table] | None,
    columns: Mapping[str, str],
    source: str,
) -> Log:
    names = match_names(table, EVENT_COLUMNS, ("user_id", "item_id"), columns)
    events = event_frame(table, names)
    if read_items is None:
        items, item_names = _items_among_events(table, names["item_id"], columns)
    else:
        items = read_items(frozenset(events["item_id"]))
        item_names = _match_items(items, columns)
    source += _renamed({**names, **item_names})
    return make_log(events, item_frame(items, item_names), source)


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
    return Table(name, frame, lambda row: f"{name}, row {row + 1}")


def _match_items(table: Table, columns: Mapping[str, str]) -> dict[str, str]:
    # The item table may name its id otherwise than the events do.
    own = {ours: name for ours, name in columns.items() if ours != "item_id" or name in table.frame}
    return match_names(table, ITEM_COLUMNS, ("item_id",), own)


def _items_among_events(
    table: Table, item_id: str, columns: Mapping[str, str]
) -> tuple[Table, dict[str, str]]:
    asked = [name for name in ITEM_COLUMNS[1:] if columns.get(name)]
    names = {"item_id": item_id, **match_names(table, asked, (), columns)}
    return replace(table, frame=table.frame[list(dict.fromkeys(names.values()))]), names


def _renamed(names: Mapping[str, str]) -> str:
    renamed = [f"{ours} from {theirs!r}" for ours, theirs in names.items() if ours != theirs]
    return f" ({', '.join(renamed)})" if renamed else ""
