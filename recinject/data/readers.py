"""Reads a log in anybody's form; the result is dense integers and a catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recinject.data.files import require_path
from recinject.data.findings import Finding, note
from recinject.data.formats import find_files
from recinject.data.schema import Catalog, Integers, Interactions, Log, known_times
from recinject.data.tables import (
    EVENT_COLUMNS,
    IDS,
    ITEM_COLUMNS,
    Table,
    Wanted,
    as_ids,
    check_names,
    event_frame,
    item_frame,
    match_items_among_events,
    match_names,
    refuse_repeated,
    value_text,
)
from recinject.foundation.errors import RecinjectError
from recinject.foundation.settings import expect


def read_log(
    path: str | Path,
    *,
    items: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,  # noqa: A002 (the name of the recipe's setting)
) -> Log:
    """Read a log of events, and what is known of its items; ``findings`` tell what was found.

    Args:
        path: a folder of RecBole, MovieLens or Amazon reviews, or its file of events; a csv, tsv,
            jsonl or parquet file, plain or ``.gz``; or a folder with ``interactions.KIND`` and
            optionally ``items.KIND``.
        items: the item table, when it is not where the format expects it.
        columns: our column names to the file's, where the well-known names do not do. An empty
            text leaves a column out. When there is no item table, item columns named here are
            read from the events file, and well-known ones where no item has two values in them.
        format: the name of a registered reader, such as ``"movielens"``; detected from the files
            when None.

    Raises:
        RecinjectError: a file or column is absent or broken, or a value is missing or not what its
            column holds; the message names the file and the line.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "log.csv").write_text("user,sku,title\\nann,a7,Tea\\nbob,a7,Tea\\n")
        >>> log = read_log(folder / "log.csv", columns={"item_id": "sku"})
        >>> log.catalog.titles, log.interactions.n_users
        (['Tea'], 2)
        >>> print(log.findings[0])
        The format was detected: table log.csv.
    """
    path, columns, items = Path(path), columns or {}, Path(items) if items else None
    require_path(path, "data.path")
    check_names(columns)
    if items is not None:
        require_path(items, "data.items")
    chosen, events_path, items_path = find_files(path, format, items)
    source = f"{chosen.name} {events_path.name}"
    if items_path is not None:
        source += f" and {items_path.name}"
    elif not chosen.guess_items:  # an empty name leaves a column out
        columns = {**dict.fromkeys(ITEM_COLUMNS[1:], ""), **columns}
    names = partial(_names_in_use, events_path, columns, items_path is None)
    events = _read_events(chosen.read(events_path, Wanted(names)), columns)
    about = None
    if items_path is not None:
        used = frozenset(events.frame["item_id"].cat.categories)
        about = chosen.read(items_path, Wanted(items=used))
    found = f"The format was {'detected' if format is None else 'asked for'}: {source}."
    return _join(events, about, columns, source, found)


def log_of_frames(events: object, items: object, columns: Mapping[str, str]) -> Log:
    """Make a log of tables in memory; see :meth:`Log.from_frame`."""
    expect(columns, Mapping, "columns", "write them as {'user_id': 'customer'}")
    check_names(columns)
    columns = {ours: "" if name is None else value_text(name) for ours, name in columns.items()}
    table, source = _frame_table("events", events), f"{type(events).__name__} of events"
    about = None
    if items is not None:
        about = _frame_table("items", items)
        source += f" and {type(items).__name__} of items"
    found = f"The log is a {source.replace(' and ', ' and a ')}."
    return _join(_read_events(table, columns), about, columns, source, found)


def make_log(events: pd.DataFrame, items: pd.DataFrame | None, source: str) -> Log:
    """Number users and items, put each user's events in order, and join the catalogue.

    Users and items are numbered by their sorted ids. Numbers in order of appearance would leak:
    items that follow one another in a log would get neighbouring numbers, and a model that sees
    the numbers could guess the next item by counting.

    A user's order is the ``position`` when there is one; else the timestamp, ties and unknown
    times staying where the log has them; else the log's own order. Ids are text, or categories that
    are text in order and all in use. Of rows of ``items`` with one id the first counts, rows that
    no event uses are left out, and items without a row get an empty title.
    """
    users, user_ids = _numbered(events["user_id"])
    items_used, item_ids = _numbered(events["item_id"])
    if "position" in events:
        times = events["position"].to_numpy(np.float64)
    elif "timestamp" in events:
        # An event of unknown time stays behind the event that it follows in the log.
        times = known_times(events["timestamp"].to_numpy(np.float64), users)
    else:
        times = np.zeros(len(events))
    order = np.lexsort((times, users))

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
    log = Log(interactions, _catalog(item_ids, items), source)
    return replace(log, findings=_findings(log, "position" in events, items))


def _numbered(ids: pd.Series[Any]) -> tuple[Integers, list[str]]:
    """Return the number of each id among the sorted ones, and these."""
    found = ids.astype("category").cat
    codes: Integers = np.asarray(found.codes, np.int32)
    return codes, [str(name) for name in found.categories]


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


@dataclass(frozen=True, eq=False)
class _Events:
    """Events as read: the checked frame under our names, our names to the table's, the table."""

    frame: pd.DataFrame
    names: dict[str, str]
    table: Table


def _names_in_use(
    path: Path, columns: Mapping[str, str], with_items: bool, theirs: Sequence[str]
) -> dict[str, str]:
    """Return the names of all columns that a file of events is read for, ours to the file's."""
    try:
        names = match_names(path, theirs, EVENT_COLUMNS, IDS, columns)
        found = match_items_among_events(path, theirs, names, columns) if with_items else {}
    except RecinjectError:  # is raised again when the lines have been looked at
        return {}
    return {**found, **names}


def _read_events(table: Table, columns: Mapping[str, str]) -> _Events:
    names = _match(table, EVENT_COLUMNS, IDS, columns)
    return _Events(event_frame(table, names), names, table)


def _join(
    events: _Events, about: Table | None, columns: Mapping[str, str], source: str, found: str
) -> Log:
    """Join events with what is known of their items, by their own table or among the events."""
    names = {ours: name for ours, name in events.names.items() if ours in events.frame}
    taken: dict[str, str] = {}
    items: pd.DataFrame | None = None
    if about is not None:
        # The item table may name its id otherwise than the events do.
        own = {k: name for k, name in columns.items() if k != "item_id" or name in about.frame}
        item_names = _match(about, ITEM_COLUMNS, IDS[1:], own)
        items, item_id = item_frame(about, item_names), item_names.pop("item_id")
        names |= item_names
        if item_id != names["item_id"]:
            names["item_id of items"] = item_id
    elif taken := _among_events(events, columns):
        items = _first_of_each(events, taken)
    renamed = {ours: name for ours, name in names.items() if ours != name} | taken
    listed = ", ".join(f"{ours} from {name!r}" for ours, name in renamed.items())
    log = make_log(events.frame, items, f"{source} ({listed})" if listed else source)
    read = [note("columns", f"{listed.replace(' from ', ' is read from ', 1)}.")] if listed else []
    return replace(log, findings=[note("format", found), *read, *log.findings])


def _findings(log: Log, by_position: bool, items: pd.DataFrame | None) -> list[Finding]:
    """Say how large a log is, what is missing in it, and which rows of items were left out."""
    events, said = log.interactions, []
    if events.timestamps is None:
        order = "position" if by_position else "order of the rows"
        said.append(f"It has no timestamps: the {order} is each user's order.")
    else:
        kept = "" if by_position else ", kept behind the event before"
        if unknown := int(np.isnan(events.timestamps).sum()):
            said.append(f"Events without a timestamp{kept}: {unknown:,}.")
        said += ["The position is each user's order, not the timestamp."] * by_position
    if events.ratings is None:
        said.append("It has no ratings.")
    counts = {"Items without a title": log.catalog.titles.count("")}
    if items is not None:
        used = items["item_id"].isin(log.catalog.item_ids)
        counts["Rows of items without an event, dropped"] = int((~used).sum())
        repeated = int((used & items["item_id"].duplicated()).sum())
        counts["Further rows of an item, dropped"] = repeated
    sizes = f"{len(events):,} events of {events.n_users:,} users and {events.n_items:,} items"
    listed = [f"{what}: {count:,}." for what, count in counts.items() if count]
    return [
        note("size", f"It holds {sizes}."),
        *(note("columns", each) for each in [*said, *listed]),
    ]


def _among_events(events: _Events, columns: Mapping[str, str]) -> dict[str, str]:
    """Find item columns among the events: those that are asked for, and guessed ones.

    A guess holds where no item has two values: the title of a review differs from row to row.
    """
    table, items = events.table, events.frame["item_id"].cat.codes.to_numpy()
    theirs = list(table.frame.columns)
    candidates = match_items_among_events(table.path, theirs, events.names, columns)

    def holds_one_value_an_item(name: str) -> bool:
        values = as_ids(table.frame[name]).codes
        known = values >= 0
        pairs = np.unique(np.stack([items[known], values[known]]), axis=1)
        return bool(len(pairs[0])) and len(np.unique(pairs[0])) == len(pairs[0])

    return {
        ours: name
        for ours, name in candidates.items()
        if columns.get(ours) or holds_one_value_an_item(name)
    }


def _first_of_each(events: _Events, names: Mapping[str, str]) -> pd.DataFrame:
    """Return a row an item, with the first value that the events have of it in each column."""
    table, items = events.table, events.frame["item_id"].cat.codes.to_numpy()
    rows = [np.unique(items, return_index=True)[1]]
    for name in names.values():
        known = np.flatnonzero(as_ids(table.frame[name]).codes >= 0)
        rows.append(known[np.unique(items[known], return_index=True)[1]])
    first, theirs = np.unique(np.concatenate(rows)), {"item_id": events.names["item_id"], **names}
    frame = table.frame[list(dict.fromkeys(theirs.values()))].iloc[first].reset_index(drop=True)
    found = item_frame(replace(table, frame=frame), theirs)
    return found.groupby("item_id", sort=False, as_index=False).first()


def _match(
    table: Table, wanted: Sequence[str], required: Sequence[str], columns: Mapping[str, str]
) -> dict[str, str]:
    if table.frame.empty:  # no header to trust
        table.refuse(table.problems)
    return match_names(table.path, list(table.frame.columns), wanted, required, columns)


def _frame_table(name: str, rows: object) -> Table:
    convert = getattr(rows, "to_pandas", None)  # of Arrow tables, datasets.Dataset, polars
    frame = convert() if callable(convert) else rows
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
