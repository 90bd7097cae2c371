"""What a table of a log is: how it is meant to be read, its rows in blocks, its columns' names."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.settings import explain, fields_of
from recinject.registry import pick

if TYPE_CHECKING:  # it takes longer to import than all that `recinject check` does
    import pandas as pd

# A shell turns data.columns.rating='' into nothing, which YAML reads as null; 0 names a column.
ColumnName = Annotated[str, BeforeValidator(lambda name: "" if name is None else str(name))]


def _several(given: Any) -> Any:
    return given if isinstance(given, list | tuple) else [given]


Words = Annotated[tuple[ColumnName, ...], BeforeValidator(_several)]


def _place(given: Any) -> Any:
    return Path(given) if isinstance(given, str) and ":/" not in given else given


Place = Annotated[Path | str, BeforeValidator(_place)]
"""A path, or a URL as text: as a path, its two slashes would become one."""
_LISTS = (list, tuple, np.ndarray)


class RatingOf(BaseModel):
    """The column that ratings are made of, such as a count, and how.

    ``as: log`` gives 1 to counts of 1, 2 to 2 and 3, 3 to 4 up to 7, and so on; ``bins`` gives 1
    to 5 to fifths of the events; ``none`` takes the numbers as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    column: ColumnName
    how: Annotated[Literal["log", "bins", "none"], Field(alias="as")] = "none"


class ReadSettings(BaseModel):
    r"""How the files of a log are meant; what is not set is detected, and said.

    Args:
        columns: our column names to the file's; an empty text leaves a column out.
        item_columns: the same for the table of items, where its names differ.
        header: the columns' names, of a file whose first line does not name them.
        separator: what stands between two columns, such as ``;`` or ``::``.
        decimal: what stands before decimals, ``.`` or ``,``.
        encoding: of text files, such as ``gbk``.
        missing: texts that stand for nothing, such as ``\N``.
        numeric_ids: whether ids are numbers, so that ``007`` and ``7.0`` are ``7``.
        partial_items: whether the table of items may know less than half of the log's items.
        time_format: of times, as ``strptime`` has it, such as ``%d/%m/%Y %H:%M``.
        time_unit: of times that are numbers: ``s``, ``ms``, ``us`` or ``ns``.
        keep: columns to the values that an event must have, or bounds such as ``">=4"``.
        drop: the same for events to leave out.
        unrated: ratings that stand for none, such as -1: the event stays.
        rating_of: the column that ratings are made of.
        bad_rows: whether rows with missing or broken values are refused or dropped.
        users: a table of what is known of users.
        query: an SQL query that gives the events, of a path such as ``duckdb:///shop.db``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    columns: dict[str, ColumnName] = {}
    item_columns: dict[str, ColumnName] = {}
    header: Words | None = None
    separator: str | None = None
    decimal: Literal[".", ","] | None = None
    encoding: str | None = None
    missing: Words = ()
    numeric_ids: bool = False
    partial_items: bool = False
    time_format: str | None = None
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    keep: dict[str, Words] = {}
    drop: dict[str, Words] = {}
    unrated: Annotated[tuple[float, ...], BeforeValidator(_several)] = ()
    rating_of: RatingOf | None = None
    bad_rows: Literal["refuse", "drop"] = "refuse"
    users: Place | None = None
    query: str | None = None

    @model_validator(mode="after")
    def _names_are_ours(self) -> ReadSettings:
        for section, given in (("columns", self.columns), ("item_columns", self.item_columns)):
            for name in given:
                pick(name, GUESSES, f"data.{section}: unknown column")
        return self


def read_settings(given: Mapping[str, Any]) -> ReadSettings:
    """Check settings of reading.

    Raises:
        RecinjectError: one is unknown, or what it cannot be.
    """
    try:
        return ReadSettings.model_validate(dict(given))
    except ValidationError as error:
        raise explain(error, "data.", fields_of(ReadSettings)) from error


@dataclass(frozen=True)
class Wanted:
    """How a reader is asked to read, and what it may restrict itself to."""

    settings: ReadSettings = field(default_factory=ReadSettings)
    items: Callable[[], Container[str]] | None = None  # the ids of the items in use; None: all


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
        lines = [line for line, _ in wrong[:SHOWN]]
        return [cls(lines, len(wrong), wrong[0][1], hint)] if wrong else []


SHOWN = 5


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a file under its own column names: what a reader yields, one after another.

    A reader may as well yield plain frames or Arrow tables. Rows that cannot be made out are left
    out and reported as problems. Messages count rows from 1 where there are no ``lines``.
    """

    rows: pd.DataFrame | pa.Table
    # On which line each row stands, or what tells the lines of rows, counted over all blocks.
    lines: Sequence[int] | Callable[[Sequence[int]], Sequence[int]] | None = None
    problems: Sequence[Problem] = ()
    said: str = ""  # how the file was made out, in words, where it was not told
    sequences: frozenset[str] = frozenset()  # columns of text that blanks divide, as RecBole's


def refuse(path: Path | str, unit: str, problems: Iterable[Problem]) -> None:
    """Raise one error that has a line for each problem of a file, if there is one."""
    ordered = sorted(problems, key=lambda own: own.lines[0])
    if not ordered:
        return
    said = []
    for problem in ordered:
        first, *others = problem.lines
        message = f"{path}, {unit} {first}: {problem.what}"
        if others:
            listed = ", ".join(map(str, others))
            more = ", ..." if problem.count > len(others) + 1 else ""
            message += f" ({problem.count} such {unit}s: {first}, {listed}{more})"
        said.append(message)
    raise RecinjectError("\n".join(said), hint="; ".join({own.hint: 0 for own in ordered}))


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
    "user_id": (
        *("userid", "user", "reviewerid", "uid", "customerid", "visitorid"),
        *("memberid", "accountid", "profileid", "sessionid"),
    ),
    "item_id": (
        *("itemid", "item", "parentasin", "asin", "movieid", "productid", "bookid", "iid"),
        *("articleid", "clickarticleid", "newsid", "animeid", "artistid", "trackid", "songid"),
        *("gameid", "appid", "businessid", "venueid", "recipeid", "videoid", "isbn", "sku"),
        *("stockcode",),
    ),
    "rating": ("rating", "overall", "stars", "score"),
    "timestamp": (
        *("timestamp", "unixreviewtime", "time", "datetime", "date", "ts", "eventtime"),
        *("clicktimestamp", "createdat", "invoicedate", "eventdate", "tdat", "timestamps"),
        *("purchasedate", "orderdate", "reviewtime", "utctime", "unixtime"),
    ),
    "position": ("position",),
    "title": ("title", "movietitle", "booktitle", "itemtitle", "name", "itemname", "productname"),
    "brand": ("brand", "store", "manufacturer"),
    "category": ("category", "maincategory"),
    "categories": ("categories", "genres", "genre", "class", "categorylist"),
}


def match_names(
    path: Path | str,
    theirs: Sequence[str],
    wanted: Sequence[str],
    required: Sequence[str],
    columns: Mapping[str, str],
    setting: str = "columns",
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
        settings = " ".join(f"data.{setting}.{ours}=NAME" for ours in (*absent, *missing))
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


def as_arrow(path: Path | str, rows: object) -> pa.Table:
    """Return a frame, or whatever has ``to_pandas``, as an Arrow table that keeps its types.

    Columns that hold values of several kinds, or bytes, become text.
    """
    if isinstance(rows, pa.RecordBatch | pa.Table):
        refuse_repeated(path, rows.schema.names)
        return pa.table({name: _plain_type(rows[name]) for name in rows.schema.names})
    import pandas as pd

    convert = getattr(rows, "to_pandas", None)  # of datasets.Dataset, polars
    frame = convert() if callable(convert) else rows
    if not isinstance(frame, pd.DataFrame):
        raise RecinjectError(
            f"{path}: a {type(rows).__name__} is no table",
            hint="give a pandas frame, an Arrow table or a datasets.Dataset (one split of it)",
        )
    named = [level for level in frame.index.names if level is not None]
    frame = frame.reset_index(named, allow_duplicates=True) if named else frame
    columns = list(map(value_text, frame.columns))
    refuse_repeated(path, columns)
    return pa.table({name: _arrow(frame.iloc[:, n]) for n, name in enumerate(columns)})


def _arrow(column: pd.Series[Any]) -> pa.ChunkedArray:
    try:
        return _plain_type(pa.chunked_array([pa.array(column, from_pandas=True)]))
    except (pa.ArrowException, UnicodeError, TypeError, ValueError, OverflowError):
        return pa.chunked_array([pa.array(map(_text_or_none, column), pa.string())])


def _plain_type(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain_type(column.cast(kind.value_type))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind):
        return pa.chunked_array([pa.array(map(_text_or_none, column.to_pylist()), pa.string())])
    return column.cast(pa.float32()) if pa.types.is_float16(kind) else column


def _text_or_none(value: Any) -> str | None:
    import pandas as pd

    is_missing = value is None or (not isinstance(value, (*_LISTS, dict)) and pd.isna(value))
    return None if is_missing else value_text(value)


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


def labels(value: Any, separator: str | None) -> list[str]:
    """Split, flatten and tidy one item's categories; each stands once, in the file's order."""
    if isinstance(value, str):
        value = value_text(value).split(separator)
    elif not isinstance(value, _LISTS):
        value = [] if value is None else [value]
    return [label for label in dict.fromkeys(_flatten(value)) if label]
