"""Rows of a file or frame as columns: whose names are matched, and whose values are checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recinject.data.schema import Flags, Floats
from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.registry import pick

_SHOWN = 5


@dataclass(frozen=True)
class Wanted:
    """What a reader may restrict itself to, so that a large file costs no more than is used of it.

    Of the file's own column names, ``names`` returns those in use: our name to the file's. None, or
    an empty result, means every column. ``items`` are the ids of the items in use; None means all.
    """

    names: Callable[[Sequence[str]], Mapping[str, str]] | None = None
    items: Container[str] | None = None

    def columns(self, theirs: Sequence[str]) -> dict[str, bool]:
        """Return the file's columns in use, each with whether it holds numbers and nothing else."""
        names = dict(self.names(theirs)) if self.names else {}
        texts = {name for ours, name in names.items() if ours not in NUMBERS}
        return {name: name not in texts for name in names.values()} or dict.fromkeys(theirs, False)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with some lines of a file."""

    lines: Sequence[int]  # the first of them, at least one
    count: int  # of all such lines
    what: str  # is wrong with the first one
    hint: str  # what to do about all of them

    @classmethod
    def of(cls, wrong: Sequence[tuple[int, str]], hint: str) -> list[Problem]:
        """Return the problem of lines, each given with what is wrong with it, if there are any."""
        lines = [line for line, _ in wrong[:_SHOWN]]
        return [cls(lines, len(wrong), wrong[0][1], hint)] if wrong else []


@dataclass(frozen=True, eq=False)
class Table:
    """A file's rows under the file's own column names: what a reader returns.

    Rows that cannot be made out are left out of the frame and reported as problems. ``lines`` has
    the line of the file on which each row stands, ascending, or is a function from some row
    numbers to their lines. If it is None, messages count rows from 1.
    """

    path: Path | str  # or what a table from Python is called
    frame: pd.DataFrame  # the rows, with a range index; values of any type
    lines: Sequence[int] | Callable[[Sequence[int]], Sequence[int]] | None = None
    problems: Sequence[Problem] = ()  # what is wrong with the lines that are not in the frame
    sequences: frozenset[str] = frozenset()  # columns of text that blanks divide, as RecBole's

    def find(self, bad: Flags, what: Callable[[int], str], hint: str) -> list[Problem]:
        """Return the problem of the rows that are flagged, shape (rows,), if any are."""
        rows = np.flatnonzero(bad).tolist()
        if not rows:
            return []
        shown = rows[:_SHOWN]
        if callable(self.lines):
            lines = self.lines(shown)
        else:
            lines = [row + 1 if self.lines is None else self.lines[row] for row in shown]
        return [Problem(lines or [0], len(rows), what(rows[0]), hint)]

    def refuse(self, problems: Sequence[Problem]) -> None:
        """Raise one error that has a line for each problem, if there is one."""
        if problems:
            ordered = sorted(problems, key=lambda own: own.lines[0])
            message = "\n".join(map(self._message, ordered))
            raise RecinjectError(message, hint="; ".join({own.hint: 0 for own in problems}))

    def _message(self, problem: Problem) -> str:
        first, *others = problem.lines
        unit = "row" if self.lines is None else "line"
        message = f"{self.path}, {unit} {first}: {problem.what}"
        if not others:
            return message
        listed = ", ".join(map(str, others)) + (", ..." if problem.count > len(others) + 1 else "")
        return f"{message} ({problem.count} such {unit}s: {first}, {listed})"


def refuse_repeated(path: Path | str, names: Sequence[str]) -> None:
    """Refuse a table that has two columns of one name."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise RecinjectError(
            f"{path}: the column {repeated[0]!r} is there more than once",
            hint="give every column of the header its own name",
        )


IDS = ("user_id", "item_id")
NUMBERS = ("rating", "timestamp", "position")
EVENT_COLUMNS = (*IDS, *NUMBERS)
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
_LISTS = (list, tuple, np.ndarray)
_WRONG = dict.fromkeys(IDS, "is empty")
_WRONG["timestamp"] = "is neither seconds since 1970 nor a date such as 2014-03-01T10:00:00"
_FIRST_NO_INTEGER = 2.0**63  # of 64 bits
_EPOCH = pd.Timestamp("1970-01-01", tz="UTC").as_unit("s")  # nanoseconds end in 2262
_FIRST_MILLISECONDS = 1e11  # as seconds, this is the year 5138; as milliseconds, 1973


def check_names(columns: Mapping[str, str]) -> None:
    """Refuse a setting for a column that is none of ours."""
    for name in columns:
        pick(name, GUESSES, "data.columns: unknown column")


def match_names(
    path: Path | str,
    theirs: Sequence[str],
    wanted: Sequence[str],
    required: Sequence[str],
    columns: Mapping[str, str],
) -> dict[str, str]:
    """Return our name to the file's: as ``columns`` says, else for well-known names.

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
    path: Path | str, theirs: Sequence[str], names: Mapping[str, str], columns: Mapping[str, str]
) -> dict[str, str]:
    """Find columns about items in a file of events whose own columns are known by ``names``."""
    found = match_names(path, theirs, ITEM_COLUMNS[1:], (), columns)
    own = names.values()
    return {ours: name for ours, name in found.items() if columns.get(ours) or name not in own}


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def event_frame(table: Table, names: Mapping[str, str]) -> pd.DataFrame:
    """Return a file's events with checked values under our names, or raise all that is wrong.

    Ids are categories: text, in order. ``rating``, ``timestamp`` (seconds since 1970, NaN where
    unknown) and ``position`` are float64. A column without any value is left out.
    """
    if table.frame.empty:
        raise RecinjectError(f"{table.path}: holds no events", hint="give a log with rows")
    found: dict[str, Any] = {}
    problems = list(table.problems)
    for ours, theirs in names.items():
        column = table.frame[theirs]
        if ours in IDS:
            found[ours] = as_ids(column)
            bad, hint = found[ours].codes < 0, "mend or remove it"
        else:
            values, bad = _timestamps(column) if ours == "timestamp" else _numbers(column)
            if not bad.any() and np.isnan(values).all():
                continue
            bad = bad if ours == "timestamp" else bad | np.isnan(values)
            hint = f"mend or remove it, or do without the column with data.columns.{ours}=''"
            found[ours] = values
        problems += table.find(bad, partial(_fault, ours, column), hint)
    table.refuse(problems)
    return pd.DataFrame(found, copy=False)


def item_frame(table: Table, names: Mapping[str, str]) -> pd.DataFrame:
    """Return a file's items as text under our names, or raise all that is wrong.

    Missing values are None, ``categories`` is a list of text, and other columns keep their name.
    """
    problems = list(table.problems)
    known = ("", "__index_level_0__", *names.values(), *ITEM_COLUMNS)
    others = {name: name for name in table.frame.columns if name not in known}
    frame = pd.DataFrame(index=table.frame.index)
    for ours, theirs in {**names, **others}.items():
        column = table.frame[theirs]
        first = next(iter(column.dropna()), None)
        lists = isinstance(first, _LISTS) and ours == "category" and "categories" not in names
        if lists or ours == "categories":
            separator = None if theirs in table.sequences else "|"
            values = [_labels(value, separator) or None for value in column]
            frame["categories"] = pd.Series(values, dtype=object)
        else:
            text = as_text(column)
            frame[ours] = text if ours == "item_id" else text.astype(object).where(text != "", None)
            if ours == "item_id":
                empty = (text == "").to_numpy(bool)
                problems += table.find(empty, partial(_fault, ours, column), "mend or remove it")
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


def as_ids(column: pd.Series[Any]) -> pd.Categorical[str]:
    """Return a column of any type as text categories, in order and all in use.

    Each distinct value is made into text once. Missing and empty values have the code -1.
    """
    column = as_text(column) if column.dtype == object else column
    codes, found = pd.factorize(column)
    texts = pd.concat([as_text(pd.Series(found)).astype(object), pd.Series([""], dtype=object)])
    # A missing value's code of -1 points at the last text, "", which comes first in order.
    ranks, ordered = pd.factorize(texts.to_numpy(), sort=True)
    return pd.Categorical.from_codes((ranks - 1).astype(np.int32)[codes], pd.Index(ordered[1:]))


def value_text(value: Any) -> str:
    """Return a value of any type as text that UTF-8 can store."""
    if isinstance(value, _LISTS):
        return ", ".join(_flatten(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):  # Parquet by writers that do not mark text as text
        return value.decode(errors="replace")
    is_dict = isinstance(value, dict)
    text = json.dumps(value, ensure_ascii=False, default=str) if is_dict else str(value)
    # JSON can spell half of a surrogate pair, which no file can then store as UTF-8.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _flatten(value: Any) -> Iterator[str]:
    if isinstance(value, _LISTS):
        for part in value:
            yield from _flatten(part)
    elif value is not None:
        yield value_text(value).strip()


def _labels(value: Any, separator: str | None) -> list[str]:
    """Split, flatten and tidy one item's categories; each stands once, in the file's order."""
    if isinstance(value, str):
        value = value_text(value).split(separator)
    elif not isinstance(value, _LISTS):
        value = [] if pd.isna(value) else [value]
    return [label for label in dict.fromkeys(_flatten(value)) if label]


def _fault(name: str, column: pd.Series[Any], row: int) -> str:
    """Name what is wrong with a row's value."""
    text = str(as_text(column.iloc[[row]]).iloc[0])[:40]
    return f"{name} {text!r} {_WRONG.get(name, 'is not a number')}"


def _numbers(column: pd.Series[Any]) -> tuple[Floats, Flags]:
    """Return the numbers of a column, NaN where missing, and which rows hold something else."""
    kind: Any = column.dtype
    typed = kind.kind in "iu" or (kind.kind == "f" and kind.itemsize == 8)
    if column.dtype == object:
        found = pd.api.types.infer_dtype(column, skipna=True)
        typed = found in ("integer", "floating", "mixed-integer-float")
    if typed:
        with suppress(OverflowError):  # an integer of 400 digits
            numbers = column.to_numpy(np.float64, na_value=np.nan)
            return numbers, np.isinf(numbers)
    # Single precision goes by its text too: 3.3 is meant, not 3.2999999523162842.
    text = as_text(column)
    parsed = pd.to_numeric(text, errors="coerce")
    numbers = parsed.to_numpy(np.float64, na_value=np.nan)
    return numbers, (text != "").to_numpy(bool) & ~np.isfinite(numbers)


def _timestamps(column: pd.Series[Any]) -> tuple[Floats, Flags]:
    """Return the seconds of a column, NaN where unknown, and which rows hold something else."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return _since_epoch(pd.to_datetime(column, utc=True)), np.zeros(len(column), bool)
    seconds, bad = _numbers(column)
    counted = np.isfinite(seconds)
    if bad.any():
        texts = as_text(column[bad])
        dates = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
        seconds = seconds.copy()
        seconds[bad] = _since_epoch(dates)
    unknown = bad & ~np.isfinite(seconds)
    while counted.any():  # milliseconds, and what is smaller still, are divided by thousands
        magnitudes = seconds[counted]
        np.abs(magnitudes, out=magnitudes)
        if np.median(magnitudes, overwrite_input=True) <= _FIRST_MILLISECONDS:
            break
        seconds = np.where(counted, seconds / 1000, seconds)
    return seconds, unknown


def _since_epoch(dates: pd.Series[pd.Timestamp]) -> Floats:
    return np.array((dates - _EPOCH) / pd.Timedelta(seconds=1), np.float64)
