"""Rows of a file as columns with places for error messages: csv, JSON lines, Parquet, frames."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv

from recinject.data.schema import Columns, Flags, Floats
from recinject.foundation.errors import RecinjectError, did_you_mean

_SHOWN = 5


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with some lines of a file."""

    lines: Sequence[int]  # the first of them, at least one
    count: int  # of all such lines
    what: str  # is wrong with the first one
    hint: str  # what to do about all of them

    @classmethod
    def of(cls, wrong: Sequence[tuple[int, str]], hint: str) -> list[Problem]:
        """Return the problem of lines of which it is said what is wrong, if there are any."""
        lines = [line for line, _ in wrong[:_SHOWN]]
        return [cls(lines, len(wrong), wrong[0][1], hint)] if wrong else []


@dataclass(frozen=True, eq=False)
class Table:
    """A file's rows, with a range index, under the file's own column names.

    Text files give text only. Rows that could not be made out are left out, and are problems.
    ``lines`` gives the lines of the file on which some rows stand, both ascending; a table without
    lines has its rows counted from 1.
    """

    path: Path | str  # the file, or what a table from Python is called
    frame: pd.DataFrame
    lines: Callable[[Sequence[int]], Sequence[int]] | None = None
    problems: Sequence[Problem] = ()
    sequences: frozenset[str] = frozenset()  # columns of text that blanks divide into a list

    def find(self, bad: Flags, what: Callable[[int], str], hint: str) -> list[Problem]:
        """Return the problem of the rows that are flagged, shape (rows,), if any are."""
        rows = np.flatnonzero(bad).tolist()
        if not rows:
            return []
        shown = rows[:_SHOWN]
        lines = self.lines(shown) if self.lines else [row + 1 for row in shown]
        return [Problem(lines or [0], len(rows), what(rows[0]), hint)]

    def refuse(self, problems: Sequence[Problem]) -> None:
        """Raise an error if there is a problem; each has a line of its message."""
        if problems:
            message = "\n".join(map(self._said, sorted(problems, key=lambda own: own.lines[0])))
            raise RecinjectError(message, hint="; ".join({own.hint: 0 for own in problems}))

    def _said(self, problem: Problem) -> str:
        first, *others = problem.lines
        unit = "line" if self.lines else "row"
        said = f"{self.path}, {unit} {first}: {problem.what}"
        if not others:
            return said
        listed = ", ".join(map(str, others)) + (", ..." if problem.count > len(others) + 1 else "")
        return f"{said} ({problem.count} such {unit}s: {first}, {listed})"


def refuse_repeated(path: Path | str, names: Sequence[str]) -> None:
    """Refuse a table that has two columns of one name."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise RecinjectError(
            f"{path}: the column {repeated[0]!r} is there more than once",
            hint="give every column of the header its own name",
        )


def numbered(lines: Sequence[int]) -> Callable[[Sequence[int]], list[int]]:
    """Return what gives the lines of some rows, of a table whose rows stand on these lines."""
    return lambda rows: [lines[row] for row in rows]


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


_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True)
class Dialect:
    """How the lines of a file are cut into columns.

    The separator is one ASCII letter, or ``::``; None takes the header's most frequent of ``,;|``
    and tab.
    """

    separator: str | None
    quoted: bool = False  # whether quotes may enclose a value
    header: tuple[str, ...] = ()  # the columns' names when the first line does not name them
    typed: bool = False  # whether the first line has them as NAME:TYPE, as RecBole does

    def settled(self, text: str) -> Dialect:
        """Return the same with the separator that a text has."""
        header_line = text.lstrip().split("\n", 1)[0]
        return replace(self, separator=self.separator or max(",;\t|", key=header_line.count))

    def options(self) -> arrow_csv.ParseOptions:
        """Return the same for Arrow, which splits at the first letter of the separator."""
        return arrow_csv.ParseOptions(
            delimiter=self.separator[0] if self.separator else ",",
            quote_char='"' if self.quoted else False,
            newlines_in_values=self.quoted,
        )

    def rows(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """Yield each row of a text, the header first, with its line: slow and exact."""
        csv.field_size_limit(max(len(text), 1 << 17))  # its default refuses long descriptions
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=self.separator or ",",
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
        )
        # A header that the file itself has not stands before its first line.
        line = before = 0 if self.header else 1
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + before


DIALECTS = {
    ".csv": Dialect(None, quoted=True),
    ".tsv": Dialect("\t", quoted=True),
    ".inter": Dialect("\t", typed=True),
    ".item": Dialect("\t", typed=True),
}


def plain_names(path: Path, names: Sequence[str], dialect: Dialect) -> dict[str, str]:
    """Return the columns' names without types, in the file's order, each with its type.

    Names that are there twice are refused, and types that are missing or none of RecBole's.
    """
    refuse_repeated(path, names)
    parts = [name.rpartition(":") if dialect.typed else (name, "", "") for name in names]
    for name, (_, _, kind) in zip(names, parts, strict=True):
        if dialect.typed and kind not in _RECBOLE_TYPES:
            raise RecinjectError(
                f"{path}, line 1: the column {name!r} has no RecBole type",
                hint="write the header as name:type, separated by tabs, e.g. user_id:token; "
                f"types: {', '.join(_RECBOLE_TYPES)}",
            )
    refuse_repeated(path, [name for name, _, _ in parts])
    return {name: kind for name, _, kind in parts}


def read_delimited(path: Path, text: str, dialect: Dialect) -> Table:
    """Read a file's text whose lines are rows of columns.

    Rows that have not the header's columns, and a quote that never closes, are problems of the
    table.

    Raises:
        RecinjectError: the header is at fault, or the text is no table at all.
    """
    dialect = dialect.settled(text)
    if dialect.separator == "::":
        # The parser splits at single letters only; no text has this one, made to separate.
        text, dialect = text.replace("::", "\x1f"), replace(dialect, separator="\x1f")
    if dialect.header:
        text = f"{str(dialect.separator).join(dialect.header)}\n{text}"
    names = next(dialect.rows(text))[1]
    refuse_repeated(path, names)
    frame, problems = _parse_delimited(path, text, dialect, names)
    kinds = plain_names(path, list(map(str, frame.columns)), dialect)
    return Table(
        path,
        frame.set_axis(list(kinds), axis=1),
        partial(_lines, text, dialect, len(names)),
        problems=problems,
        sequences=frozenset(name for name, kind in kinds.items() if kind.endswith("_seq")),
    )


def _parse_delimited(
    path: Path, text: str, dialect: Dialect, names: Sequence[str]
) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the rows that have the header's columns, and what is wrong with the others."""
    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "skip"

    options, frame, said = dialect.options(), None, "its rows have not the header's columns"
    options.invalid_row_handler = note
    try:
        frame = arrow_csv.read_csv(
            pa.BufferReader(f"{text}\n".encode()),
            parse_options=options,
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        ).to_pandas()
    except pa.ArrowInvalid as error:
        said = str(error).splitlines()[0]
    # An odd number of quotes is the one trace that a quote swallowing the file's end leaves.
    suspect = frame is None or ragged or (dialect.quoted and text.count('"') % 2)
    problems = _wrong_rows(text, dialect) if suspect else []
    if frame is not None and (problems or not ragged):
        return frame, problems
    Table(path, pd.DataFrame(), list).refuse(problems)
    raise RecinjectError(
        f"{path}: cannot be read as a table ({said})",
        hint="save the table anew, as csv with quotes or as jsonl",
    )


def _wrong_rows(text: str, dialect: Dialect) -> list[Problem]:
    """Find the rows of another length than the header, and a quote that never closes."""
    end = ["end of the file"]
    rows = dialect.rows(f"{text}\n{end[0]}")
    (line, row), ragged = next(rows), []
    width = len(row)
    expected = f"there must be {width}" if dialect.header else f"the header has {width}"
    for line, row in rows:
        if len(row) != width and row != end:
            ragged.append((line, f"{len(row)} columns where {expected}"))
    quoting = "; a separator inside a value needs quotes, closed ones" if dialect.quoted else ""
    problems = Problem.of(ragged, f"mend or remove that line{quoting}")
    opened = [] if row == end else [(line, "a quote opens and never closes")]
    return problems + Problem.of(opened, 'close the quote, or write it as "" inside a quoted value')


def _lines(text: str, dialect: Dialect, width: int, rows: Sequence[int]) -> list[int]:
    whole = (line for line, row in dialect.rows(text) if len(row) == width)
    wanted = set(rows)
    numbered = enumerate(islice(whole, 1, rows[-1] + 2))
    return [line for number, line in numbered if number in wanted]
