"""Reads a log of anybody's form; what comes out is dense integers and a catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

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
)
from recinject.data.schema import Catalog, Interactions, Log
from recinject.data.table_reader import (
    KINDS,
    Table,
    kind_of,
    listing,
    read_table,
    require_path,
    shown,
)
from recinject.foundation.errors import RecinjectError, did_you_mean


@dataclass(frozen=True)
class Format:
    """One form that logs come in: which files it has.

    How a file of a kind is read is ``table_reader.KINDS``; a new form is an entry there, here,
    or in both.

    Attributes:
        name: what messages call it.
        expects: what a path of this form is, in words.
        matches: whether a path looks like this form.
        files: the events file of a path and its items file, None when it has none.
    """

    name: str
    expects: str
    matches: Callable[[Path], bool]
    files: Callable[[Path], tuple[Path, Path | None]]


def read_log(
    path: Path,
    *,
    columns: Mapping[str, str],
    items: Path | None = None,
    format: str | None = None,  # noqa: A002 (the name of the recipe's setting)
) -> Log:
    """Read a log of events, and what is known of its items.

    Args:
        path: a RecBole folder or ``.inter`` file; a csv, tsv, jsonl or parquet file, plain or
            ``.gz``; or a folder with ``interactions.KIND`` and optionally ``items.KIND``.
        columns: our column names to the file's, where the well-known names do not do. An empty
            text leaves a column out. When there is no item table, item columns named here are
            read from the events file.
        items: the item table, when it is not where the format expects it.
        format: a name in :data:`FORMATS`; guessed from the files when None.

    Returns:
        The log; its ``source`` says what was read and which columns were guessed.

    Raises:
        RecinjectError: a file or column is absent or broken, or a value is missing or makes no
            sense; the message names the file and the line.
    """
    require_path(path, "data.path")
    check_names(columns)
    chosen = _choose_format(path, format)
    events_path, items_path = chosen.files(path)
    if items is not None:
        require_path(items, "data.items")
        items_path = items
    events_table = read_table(events_path)
    names = match_names(events_table, EVENT_COLUMNS, ("user_id", "item_id"), columns)
    events = event_frame(events_table, names)
    if items_path is None:
        items_table, item_names = _items_among_events(events_table, names["item_id"], columns)
    else:
        items_table = read_table(items_path)
        item_names = _match_items(items_table, columns)
    files = events_path.name + (f" and {items_path.name}" if items_path else "")
    source = f"{chosen.name} {files}{_renamed({**names, **item_names})}"
    return make_log(events, item_frame(items_table, item_names), source)


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


def _choose_format(path: Path, asked: str | None) -> Format:
    if asked is None:
        matching = [known for known in FORMATS.values() if known.matches(path)]
        if matching:
            return matching[0]
        found = f"it holds {shown(listing(path))}" if path.is_dir() else "by its ending"
        expected = "; ".join(f"{name}: {known.expects}" for name, known in FORMATS.items())
        raise RecinjectError(
            f"{path}: is no log of a known form ({found})", hint=f"give {expected}"
        )
    if asked not in FORMATS:
        raise RecinjectError(
            f"data.format: unknown format {asked!r}", hint=did_you_mean(asked, FORMATS)
        )
    return FORMATS[asked]


def _matching(folder: Path, pattern: str) -> list[Path]:
    return [file for file in sorted(folder.glob(pattern)) if kind_of(file) in KINDS]


def _one_file(folder: Path, pattern: str) -> Path:
    """Return the only file of a folder that matches, one named as the folder going first."""
    files = _matching(folder, pattern)
    files = [file for file in files if file.stem == folder.name] or files
    if len(files) == 1:
        return files[0]
    raise RecinjectError(
        f"{folder}: {len(files) or 'no'} files match {pattern}, where one is needed",
        hint="set data.path (or data.items) to the very file; "
        f"the folder holds {shown([file.name for file in files] or listing(folder))}",
    )


def _recbole_files(path: Path) -> tuple[Path, Path | None]:
    events = path if path.is_file() else _one_file(path, "*.inter")
    items = events.with_suffix(".item")
    return events, items if items.is_file() else None


def _table_files(path: Path) -> tuple[Path, Path | None]:
    if path.is_file():
        return path, None
    items = _one_file(path, "items.*") if _matching(path, "items.*") else None
    return _one_file(path, "interactions.*"), items


FORMATS: dict[str, Format] = {
    "recbole": Format(
        name="RecBole atomic files",
        expects="a folder with NAME.inter and maybe NAME.item, or a .inter file",
        matches=lambda path: kind_of(path) == ".inter" or bool(_matching(path, "*.inter")),
        files=_recbole_files,
    ),
    "table": Format(
        name="table",
        expects="a folder with interactions.KIND and maybe items.KIND, or a file of one of the "
        f"kinds {', '.join(KINDS)} (each also .gz)",
        matches=lambda path: (
            kind_of(path) in KINDS if path.is_file() else bool(_matching(path, "interactions.*"))
        ),
        files=_table_files,
    ),
}
