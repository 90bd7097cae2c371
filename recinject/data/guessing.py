"""Which columns of a table with names of its own are users, items, times and titles."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from recinject.data.formats import find_files
from recinject.data.tables import (
    EVENT_COLUMNS,
    ITEM_COLUMNS,
    ReadSettings,
    Wanted,
    as_arrow,
    match_names,
)

_ROWS = 200_000
_WORDS = {
    "user_id": r"user|customer|client|kund|member|visitor|account|buyer|shopper|reader|viewer|"
    r"listener|person|people|profile|reviewer|usuario|cliente|utilisateur|session|cookie|device",
    "item_id": r"item|produ|article|artikel|sku|movie|film|book|buch|song|track|news|story|post|"
    r"url|page|game|show|recipe|venue|video|course|listing|content|asin|isbn|stock",
    "title": r"title|titel|titre|titulo|name|nombre|bezeichnung|descri|headline",
}
_IDS_WANTED = ("user_id", "item_id")
_MOST_ATTRIBUTES = 3


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are taken for, where their names are not well-known ones."""

    columns: dict[str, str] = field(default_factory=dict)  # our name to the file's
    attributes: list[str] = field(default_factory=list)  # of users, one value a user
    file: Path | None = None  # the table


def guess_columns(path: str | Path, settings: ReadSettings, form: str | None = None) -> Columns:
    """Guess by names and values which columns hold users, items and titles.

    Well-known names are left to :func:`~recinject.data.readers.read_log`, and so are forms of logs
    that are no plain tables.
    """
    found_rows = _first_rows(path, settings, form)
    if found_rows is None:
        return Columns()
    frame, file = found_rows
    asked = (*EVENT_COLUMNS, *ITEM_COLUMNS[1:])
    known = match_names(file, list(frame.columns), asked, (), settings.columns)
    taken, found = dict(known), dict[str, str]()
    for ours in _IDS_WANTED:
        if ours not in taken and (name := _best(ours, frame, taken)):
            taken[ours] = found[ours] = name
    if not taken.keys() >= set(_IDS_WANTED):
        return Columns(found, file=file)
    if "title" not in taken and "title" not in settings.columns:
        title = _title(frame, taken)
        found |= {"title": title} if title else {}
    attributes = list(islice(_of_users(frame, taken | found), _MOST_ATTRIBUTES))
    return Columns(found, attributes, file)


def _first_rows(
    path: str | Path, settings: ReadSettings, form: str | None
) -> tuple[pd.DataFrame, Path] | None:
    """Return the first rows of a plain table, and its file."""
    place = Path(path)
    if not place.exists() or place.suffix.lower() == ".zip":
        return None
    chosen, (file, *_), _ = find_files(place, form, None)
    blocks = chosen.read(file, Wanted(settings)) if chosen.name == "table" else ()
    first: Any = next(iter(blocks), None)
    if first is None:
        return None
    return as_arrow(file, getattr(first, "rows", first)).slice(0, _ROWS).to_pandas(), file


def _best(ours: str, frame: pd.DataFrame, taken: Mapping[str, str]) -> str | None:
    """Return the column that looks most like ids: by its name, else by how its values repeat."""
    free = [name for name in frame.columns if name not in taken.values()]
    fit = [name for name in free if _repeats(frame[name])]
    named = [name for name in fit if re.search(_WORDS[ours], name.lower())]
    other = _IDS_WANTED[1 - _IDS_WANTED.index(ours)]
    unnamed = [name for name in fit if not re.search(_WORDS[other], name.lower())]
    for among in (named, unnamed):
        if among:
            ids = [name for name in among if re.search(r"id|nr|no$|num|key", name.lower())]
            return max(ids or among, key=lambda name: frame[name].nunique())
    return None


def _repeats(column: pd.Series[Any]) -> bool:
    """Whether values come again and again, as ids do, and are neither decimals nor a few kinds."""
    known = column.dropna()
    try:
        distinct = known.nunique()
    except TypeError:  # lists
        return False
    decimals = known.dtype.kind == "f" and not (known == known.round()).all()
    return 2 * distinct <= len(known) and distinct >= min(20, len(known) // 2) and not decimals


def _title(frame: pd.DataFrame, taken: Mapping[str, str]) -> str | None:
    """Return a column with one text an item; items that go by words are their own titles."""
    item = taken["item_id"]
    free = [name for name in frame.columns if name not in taken.values()]
    for name in (name for name in free if re.search(_WORDS["title"], name.lower())):
        several, texts = frame.groupby(item)[name].nunique().max(), frame[name].nunique()
        if several == 1 < texts:
            return name
    words = frame[item].dropna().astype(str).str.contains(" ").mean()
    return item if words > 0.5 else None


def _of_users(frame: pd.DataFrame, taken: Mapping[str, str]) -> Iterator[str]:
    """Yield columns that tell something of users: one value each, shared by several users."""
    user = taken["user_id"]
    users = frame[user].nunique()
    for name in frame.columns:
        if name in taken.values():
            continue
        try:
            several, values = frame.groupby(user)[name].nunique().max(), frame[name].nunique()
        except TypeError:
            continue
        if several == 1 and 2 <= values <= users / 2:
            yield name


def first_override(fix: str) -> str | None:
    """Return the first override of a finding's fix, as ``recinject`` takes it; None without one.

    Examples:
        >>> first_override("data.columns.timestamp=when")
        'data.columns.timestamp=when'
        >>> first_override("'data.unrated=[-1]' keeps the events unrated")
        'data.unrated=[-1]'
        >>> first_override("take a longer log")
    """
    found = re.match(r"'(data\.[^']+)'|(data\.[\w.]+=(?:''|\S+))", fix)
    return None if found is None else (found[1] or found[2]).removesuffix("''").rstrip(",;")
