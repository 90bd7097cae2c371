"""Which column of a file is which of ours, and what its values mean."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recinject.data.schema import Columns, Flags, Floats
from recinject.data.table import Problem, Table
from recinject.foundation.errors import RecinjectError, did_you_mean

EVENT_COLUMNS = tuple(column.value for column in Columns)
ITEM_COLUMNS = ("item_id", "title", "brand", "category", "categories")
GUESSES: dict[str, tuple[str, ...]] = {
    "user_id": ("userid", "user", "reviewerid", "uid", "customerid", "visitorid"),
    "item_id": ("itemid", "item", "parentasin", "asin", "movieid", "productid", "bookid", "iid"),
    "rating": ("rating", "overall", "stars", "score"),
    "timestamp": ("timestamp", "unixreviewtime", "time", "datetime", "date"),
    "position": ("position",),
    "title": ("title", "movietitle", "booktitle", "itemtitle", "name", "itemname", "productname"),
    "brand": ("brand", "store", "manufacturer"),
    "category": ("category", "maincategory"),
    "categories": ("categories", "genres", "genre", "class", "categorylist"),
}
IDS = ("user_id", "item_id")
_WRONG = dict.fromkeys(IDS, "is empty")
_WRONG["timestamp"] = "is neither seconds since 1970 nor a date such as 2014-03-01T10:00:00"
_FIRST_NO_INTEGER = 2.0**63  # of 64 bits
_EPOCH = pd.Timestamp("1970-01-01", tz="UTC").as_unit("s")  # nanoseconds end in 2262
_FIRST_MILLISECONDS = 1e11  # as seconds, this is the year 5138; as milliseconds, 1973


def check_names(columns: Mapping[str, str]) -> None:
    """Refuse a setting for a column that is none of ours."""
    for name in columns:
        if name not in GUESSES:
            raise RecinjectError(
                f"data.columns: unknown column {name!r}", hint=did_you_mean(name, GUESSES)
            )


def match_names(
    path: Path | str,
    theirs: Sequence[str],
    wanted: Sequence[str],
    required: Sequence[str],
    columns: Mapping[str, str],
) -> dict[str, str]:
    """Find the file's column for each of ours: as the settings say, else by well-known names.

    Args:
        path: the file, for errors.
        theirs: the names of its columns.
        wanted: our names that this file may hold.
        required: those that it must hold.
        columns: the settings, our name to the file's; an empty text leaves a column out.

    Returns:
        Our name to the file's, for those found.

    Raises:
        RecinjectError: columns that were asked for or are required are not there; it names all.
    """
    asked = {ours: columns[ours] for ours in wanted if columns.get(ours)}
    found = {ours: name for ours, name in asked.items() if name in theirs}
    plain = {_plain(name): name for name in reversed(theirs) if name not in found.values()}
    for ours in wanted:
        guess = next((plain[name] for name in GUESSES[ours] if name in plain), None)
        if ours not in columns and guess is not None:
            found[ours] = guess
    absent = {ours: name for ours, name in asked.items() if ours not in found}
    missing = [ours for ours in required if ours not in found and ours not in absent]
    if absent or missing:
        said = [f"no column {name!r} to read {ours} from" for ours, name in absent.items()]
        said += [f"no column looks like {' or '.join(missing)}"] if missing else []
        settings = " ".join(f"data.columns.{ours}=NAME" for ours in (*absent, *missing))
        raise RecinjectError(
            f"{path}: {'there is ' if absent else ''}{', '.join(said)}",
            hint=f"{'the first line must name the columns; then ' if missing else ''}"
            f"set {settings}: {did_you_mean([*absent.values(), *missing], theirs)}",
        )
    return found


def match_items_among_events(
    path: Path | str,
    theirs: Sequence[str],
    names: Mapping[str, str],
    columns: Mapping[str, str],
) -> dict[str, str]:
    """Find columns about items in a file of events whose own columns are known by ``names``."""
    found = match_names(path, theirs, ITEM_COLUMNS[1:], (), columns)
    own = names.values()
    return {ours: name for ours, name in found.items() if columns.get(ours) or name not in own}


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def event_frame(table: Table, names: Mapping[str, str]) -> pd.DataFrame:
    """Return a file's events with checked values under our names.

    Ids are categories: text, in order. ``rating``, ``timestamp`` (seconds since 1970, NaN where
    unknown) and ``position`` are float64. A column without any value is left out.

    Raises:
        RecinjectError: there are no rows, or values are missing or not what their column says;
            all that is wrong with the file is said at once.
    """
    if table.frame.empty:
        raise RecinjectError(f"{table.path}: holds no events", hint="give a log with rows")
    frame, problems = pd.DataFrame(index=table.frame.index), list(table.problems)
    for ours, theirs in names.items():
        text = as_text(table.frame[theirs])
        if ours in IDS:
            frame[ours] = text.astype("category")
            problems += _empty_ids(table, ours, text)
        elif text.ne("").any():
            frame[ours], bad = _timestamps(text) if ours == "timestamp" else _numbers(text)
            hint = f"mend or remove it, or do without the column with data.columns.{ours}=''"
            problems += table.find(bad, partial(_said, ours, text), hint)
    table.refuse(problems)
    return frame


def item_frame(table: Table, names: Mapping[str, str]) -> pd.DataFrame:
    """Return a file's items as text under our names, missing values None.

    ``categories`` is a list of text. Columns that are none of ours keep their own name.

    Raises:
        RecinjectError: item ids are missing, or other lines of the file are at fault.
    """
    problems = list(table.problems)
    others = [
        name
        for name in table.frame.columns
        if name not in ("", "__index_level_0__", *names.values(), *ITEM_COLUMNS)
    ]
    frame = pd.DataFrame(index=table.frame.index)
    for ours, theirs in {**names, **{name: name for name in others}}.items():
        column = table.frame[theirs]
        lists = ours == "category" and "categories" not in names and _holds_lists(column)
        if lists or ours == "categories":
            separator = None if theirs in table.sequences else "|"
            values = [_labels(value, separator) or None for value in column]
            frame["categories"] = pd.Series(values, dtype=object)
        else:
            text = as_text(column)
            frame[ours] = text if ours == "item_id" else text.astype(object).where(text != "", None)
            problems += _empty_ids(table, ours, text) if ours == "item_id" else []
    table.refuse(problems)
    return frame


def as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column of any type as text without outer white space, missing values as ``""``.

    Whole numbers that a file stores as floats (as ids with gaps are) read as whole numbers.
    """
    missing = column.isna()
    whole = pd.api.types.is_float_dtype(column.dtype) and (column.dropna() % 1 == 0).all()
    if whole and not (column.abs() >= _FIRST_NO_INTEGER).any():
        column = column.astype("Int64")
    elif column.dtype == object:
        column = column.map(value_text)
    return column.astype(str).mask(missing, "").str.strip()


def value_text(value: Any) -> str:
    """Return a value of any type as text that UTF-8 can store."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(_flatten(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):  # Parquet by writers that do not mark text as text
        return value.decode(errors="replace")
    text = (
        json.dumps(value, ensure_ascii=False, default=str)
        if isinstance(value, dict)
        else str(value)
    )
    # JSON can spell half of a surrogate pair, which no file can then store as UTF-8.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _flatten(value: Any) -> Iterator[str]:
    if isinstance(value, (list, tuple, np.ndarray)):
        for part in value:
            yield from _flatten(part)
    elif value is not None:
        yield value_text(value).strip()


def _labels(value: Any, separator: str | None) -> list[str]:
    """Split, flatten and tidy one item's categories; each stands once, in the file's order."""
    if isinstance(value, str):
        value = value_text(value).split(separator)
    elif not isinstance(value, (list, tuple, np.ndarray)):
        value = [] if pd.isna(value) else [value]
    return [label for label in dict.fromkeys(_flatten(value)) if label]


def _holds_lists(column: pd.Series[Any]) -> bool:
    present = column.dropna()
    return not present.empty and isinstance(present.iloc[0], (list, tuple, np.ndarray))


def _empty_ids(table: Table, name: str, text: pd.Series[Any]) -> list[Problem]:
    return table.find((text == "").to_numpy(bool), partial(_said, name, text), "mend or remove it")


def _said(name: str, text: pd.Series[Any], row: int) -> str:
    """Say what is wrong with a row's value."""
    return f"{name} {str(text.iloc[row])[:40]!r} {_WRONG.get(name, 'is not a number')}"


def _numbers(text: pd.Series[Any]) -> tuple[Floats, Flags]:
    """Return the numbers of a column, and which rows are none."""
    numbers = _parse(text)
    return numbers, ~np.isfinite(numbers)


def _timestamps(text: pd.Series[Any]) -> tuple[Floats, Flags]:
    """Return the seconds of a column, and which rows are neither that nor empty."""
    seconds = _parse(text)
    known = (text != "").to_numpy(bool)
    dated = known & np.isnan(seconds)
    if dated.any():
        dates = pd.to_datetime(text[dated], format="ISO8601", utc=True, errors="coerce")
        seconds[dated] = (dates - _EPOCH) / pd.Timedelta(seconds=1)
    bad = known & ~np.isfinite(seconds)
    return in_seconds(seconds, known & ~dated & ~bad), bad


def in_seconds(times: Floats, counted: Flags) -> Floats:
    """Divide milliseconds, and what is smaller still, by thousands: those that are flagged."""
    while counted.any():
        magnitudes = times[counted]
        np.abs(magnitudes, out=magnitudes)
        if np.median(magnitudes, overwrite_input=True) <= _FIRST_MILLISECONDS:
            break
        times[counted] /= 1000
    return times


def _parse(text: pd.Series[Any]) -> Floats:
    return pd.to_numeric(text, errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
