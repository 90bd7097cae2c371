"""One table from one file, whatever its kind; errors name the file and the line."""

from __future__ import annotations

import codecs
import difflib
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from recinject.data.tables import Problem, Table, Wanted, refuse_repeated
from recinject.foundation.errors import RecinjectError

_NAMES_SHOWN = 12
_FIRST_BYTES = 1 << 16
_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
JSON_LINES = (".jsonl", ".ndjson", ".json")
ALL = Wanted()


def read_table(path: Path, wanted: Wanted = ALL) -> Table:
    """Read a csv, tsv, jsonl, parquet, RecBole ``.inter`` or ``.item`` file, plain or ``.gz``.

    Raises:
        RecinjectError: the file is absent, empty, broken, or of an unknown kind.
    """
    kind = kind_of(path)
    if kind not in KINDS:
        raise RecinjectError(
            f"{path}: {kind or 'a name without an ending'} is no kind of table",
            hint=f"give it one of these kinds and endings: {', '.join(KINDS)} (each also .gz)",
        )
    return KINDS[kind](path, wanted)


def read_utf8(path: Path) -> bytes:
    """Return the text of a file in UTF-8 or Latin-1, plain or ``.gz``, as UTF-8 without its mark.

    Raises:
        RecinjectError: the file is absent, empty, broken or no text.
    """
    data = _read_bytes(path)
    if b"\0" in data:
        raise RecinjectError(
            f"{path}: is not text in UTF-8 or Latin-1 (it holds zero bytes)",
            hint="save it as UTF-8, or give it the ending of what it is",
        )
    try:
        data.decode()
    except UnicodeDecodeError:
        data = data.decode("latin-1").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    if not data.strip():
        raise RecinjectError(f"{path}: is empty", hint="give a file with a header line and rows")
    return data


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, unpacked if its name ends in ``.gz``."""
    return path.open("rb") if without_gz(path) == path else cast(BinaryIO, gzip.open(path))


def without_gz(path: Path) -> Path:
    """Return a path without the ending ``.gz``, in whatever case."""
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


def kind_of(path: Path) -> str:
    """Return a file's ending without ``.gz``, e.g. ``.csv`` for ``log.csv.gz``."""
    return without_gz(path).suffix.lower()


def require_path(path: Path, setting: str) -> None:
    """Refuse a path that is neither a file nor a folder, naming what lies near it."""
    if path.exists():
        return
    parent = next(folder for folder in path.absolute().parents if folder.is_dir())
    names = listing(parent)
    near = difflib.get_close_matches(path.name, names, n=3)
    advice = f"did you mean {' or '.join(near)}? " if near else ""
    raise RecinjectError(
        f"{path}: there is no such file or folder",
        hint=f"{advice}set {setting}=PATH; {parent} holds {shown(names)}",
    )


def listing(folder: Path) -> list[str]:
    """Return the names in a folder, sorted, hidden ones left out."""
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def shown(names: Sequence[str]) -> str:
    """Join names for a message, cut short when they are many."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return (", ".join(names[:_NAMES_SHOWN]) or "nothing") + more


def _read_bytes(path: Path) -> bytes:
    try:
        with open_bytes(path) as stream:
            return stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise RecinjectError(
            f"{path}: cannot be read ({error})",
            hint="the file is cut off, broken or locked: fetch it again or mend its permissions",
        ) from error


def read_json_lines(
    path: Path,
    parse: Callable[[str], Any] = json.loads,
    keep: Callable[[str], bool] = lambda line: True,
) -> Table:
    """Read the objects of the lines to keep; lines that ``parse`` refuses are problems."""
    records, numbers, wrong = [], [], []
    # Only \n ends a line of JSON: str.splitlines would also cut at U+2028 inside a title.
    for number, line in enumerate(read_utf8(path).decode().split("\n"), start=1):
        if line and not line.isspace() and keep(line):
            record = _json_object(line, parse)
            if isinstance(record, dict):
                records.append(record)
                numbers.append(number)
            else:
                wrong.append((number, record))
    hint = 'write one JSON object a line, e.g. {"user_id": "u1", "item_id": "i1"}, or mend the line'
    frame = pd.DataFrame(records, dtype=object)
    return Table(path, frame, numbers, problems=Problem.of(wrong, hint))


def _json_object(line: str, parse: Callable[[str], Any]) -> dict[str, Any] | str:
    """Return the object of a line, or what is wrong with it."""
    try:
        record = parse(line)
    except (ValueError, RecursionError) as error:
        return f"is not JSON ({error})"
    if not isinstance(record, dict):
        return f"is JSON, but no object: {line.strip()[:40]}"
    if "\\u" not in line:
        return record
    # A name may be spelled as half of a surrogate pair, which no table can hold.
    return {name.encode("utf-8", "replace").decode(): value for name, value in record.items()}


def _read_parquet(path: Path, wanted: Wanted) -> Table:
    try:
        packed = without_gz(path) != path
        source = pa.BufferReader(_read_bytes(path)) if packed else path
        schema = parquet.ParquetFile(source).schema_arrow
        refuse_repeated(path, schema.names)
        columns = list(wanted.columns(schema.names)) if wanted.names else schema.names
        # Texts of events recur: as categories, each is held once.
        texts = (pa.string(), pa.large_string()) if wanted.names else ()
        recurring = [name for name in columns if schema.field(name).type in texts]
        table = parquet.ParquetFile(source, read_dictionary=recurring).read(columns)
        table.validate(full=True)  # a broken page may hold texts that are none
        gaps = any(column.null_count for column in table.columns)
        table = table.replace_schema_metadata(None)
        frame = table.to_pandas(types_mapper=_exact if gaps else None)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise RecinjectError(
            f"{path}: is no readable Parquet file ({str(error).partition(chr(10))[0]})",
            hint="fetch or write the file again",
        ) from error
    return Table(path, frame[columns])


def _exact(kind: pa.DataType) -> Any:
    """Return what keeps integers exact beside missing values, for pandas would make them floats."""
    if pa.types.is_signed_integer(kind):
        return pd.Int64Dtype()
    return pd.UInt64Dtype() if pa.types.is_unsigned_integer(kind) else None


@dataclass(frozen=True)
class CsvDialect:
    """How the lines of a file are cut into columns.

    The separator is one ASCII letter, or ``::``; None takes the header's most frequent of ``,;|``
    and tab.
    """

    separator: str | None
    quoted: bool = False  # whether quotes may enclose a value
    header: tuple[str, ...] = ()  # the columns' names, when the first line does not name them
    typed: bool = False  # whether the first line names them as ``NAME:TYPE``, as RecBole does

    @property
    def letter(self) -> str:
        """The letter that separates; no text has the one that stands for ``::``."""
        return "\x1f" if self.separator == "::" else self.separator or ","

    def rows(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """Yield each row that is not empty, with its first line: slow, for errors."""
        end = f"({re.escape(self.letter)}|\\r\\n|\\r|\\n|\\Z)"
        value = f"[^{re.escape(self.letter)}\\r\\n]*"
        if self.quoted:
            value = f'"[^"]*(?:""[^"]*)*(?:"{value}|\\Z)|{value}'
        row: list[str] = []
        start = line = 1
        for found in re.finditer(f"({value}){end}", text):
            row.append(found[1])
            line += len(_LINE_END.findall(found[0]))
            if found[2] != self.letter:
                if row != [""]:
                    yield start, row
                row, start = [], line

    def header_of(self, text: str) -> list[str]:
        """Return the columns' names, from a text's first row."""
        row = next(self.rows(text))[1]
        quoted = (self.quoted and name.startswith('"') for name in row)
        return [
            name[1:].removesuffix('"').replace('""', '"') if is_quoted else name
            for name, is_quoted in zip(row, quoted, strict=True)
        ]


_LINE_END = re.compile(r"\r\n|\r|\n")
DIALECTS = {
    ".csv": CsvDialect(None, quoted=True),
    ".tsv": CsvDialect("\t", quoted=True),
    ".inter": CsvDialect("\t", typed=True),
    ".item": CsvDialect("\t", typed=True),
}


def read_delimited(path: Path, dialect: CsvDialect, wanted: Wanted = ALL) -> Table:
    """Read a file whose lines are rows of columns; texts of events become categories.

    Rows that have not the header's columns, and a quote that never closes, are its problems.

    Raises:
        RecinjectError: the file or its header is at fault, or it is no table at all.
    """
    data = read_utf8(path)
    head = data[:_FIRST_BYTES]
    start = (head if b"\n" in head.lstrip() else data).decode(errors="ignore")
    line = start.lstrip().split("\n", 1)[0]
    dialect = replace(dialect, separator=dialect.separator or max(",;\t|", key=line.count))
    header = list(dialect.header) or dialect.header_of(start)
    refuse_repeated(path, header)
    kinds = _plain_names(path, header, dialect)
    raw = dict(zip(kinds, header, strict=True))
    used = wanted.columns(list(kinds))
    category = pa.dictionary(pa.int32(), pa.string())
    types = {
        raw[name]: category if wanted.names and not is_number else pa.string()
        for name, is_number in used.items()
    }
    if dialect.separator == "::":
        data = data.replace(b"::", dialect.letter.encode())
    table, problems = _parse_rows(path, data, dialect, header, types)
    del data
    columns = {
        name: _as_numbers(table[raw[name]]) if is_number else table[raw[name]]
        for name, is_number in used.items()
    }
    del table
    frame = pa.table(columns).unify_dictionaries().to_pandas()
    pa.default_memory_pool().release_unused()  # many times what the frame takes
    return Table(
        path,
        frame,
        partial(_lines, path, dialect, len(header)),
        problems=problems,
        sequences=frozenset(name for name, kind in kinds.items() if kind.endswith("_seq")),
    )


def _plain_names(path: Path, names: Sequence[str], dialect: CsvDialect) -> dict[str, str]:
    """Return the columns' names without types, each with its type; refuse what is no header."""
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


def _parse_rows(
    path: Path,
    data: bytes,
    dialect: CsvDialect,
    header: Sequence[str],
    types: Mapping[str, pa.DataType],
) -> tuple[pa.Table, list[Problem]]:
    """Return the rows that have the header's columns, and what is wrong with the others."""
    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "skip"

    table, message = None, "its rows have not the header's columns"
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data if data.endswith(b"\n") else data + b"\n"),
            arrow_csv.ReadOptions(column_names=list(dialect.header) or None),
            arrow_csv.ParseOptions(
                delimiter=dialect.letter,
                quote_char='"' if dialect.quoted else False,
                newlines_in_values=dialect.quoted,
                invalid_row_handler=note,
            ),
            arrow_csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowException as error:
        message = str(error).splitlines()[0]
    # An odd number of quotes is the one trace that a quote swallowing the file's end leaves.
    suspect = table is None or ragged or (dialect.quoted and data.count(b'"') % 2)
    problems = _wrong_rows(path, dialect, len(header)) if suspect else []
    if table is None or (ragged and not problems):
        Table(path, pd.DataFrame(), ()).refuse(problems)
        raise RecinjectError(
            f"{path}: cannot be read as a table ({message})",
            hint="save the table anew, as csv with quotes or as jsonl",
        )
    return table, problems


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of text as numbers where each is finite or missing; else as it is."""
    try:
        numbers = column.cast(pa.float64())
    except pa.ArrowInvalid:
        return column
    return column if pc.all(pc.is_finite(numbers)).as_py() is False else numbers


def _rows_of(path: Path, dialect: CsvDialect, end: str = "") -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a file, and of a text after it, with their lines, its header first."""
    text = read_utf8(path).decode() + end
    return dialect.rows(text.replace("::", dialect.letter) if dialect.separator == "::" else text)


def _wrong_rows(path: Path, dialect: CsvDialect, width: int) -> list[Problem]:
    """Find the rows of another length than the header, and a quote that never closes."""
    end = ["end of the file"]
    line, row, ragged = 1, end, []
    expected = f"there must be {width}" if dialect.header else f"the header has {width}"
    for line, row in _rows_of(path, dialect, f"\n{end[0]}"):
        if len(row) != width and row != end:
            ragged.append((line, f"{len(row)} columns where {expected}"))
    quoting = "; a separator inside a value needs quotes, closed ones" if dialect.quoted else ""
    problems = Problem.of(ragged, f"mend or remove that line{quoting}")
    opened = [] if row == end else [(line, "a quote opens and never closes")]
    return problems + Problem.of(opened, 'close the quote, or write it as "" inside a quoted value')


def _lines(path: Path, dialect: CsvDialect, width: int, rows: Sequence[int]) -> list[int]:
    """Return the lines on which some rows of the header's length stand."""
    wanted, first = set(rows), 0 if dialect.header else 1
    whole = (line for line, row in _rows_of(path, dialect) if len(row) == width)
    found = islice(whole, first, first + rows[-1] + 1)
    return [line for number, line in enumerate(found) if number in wanted]


KINDS: dict[str, Callable[[Path, Wanted], Table]] = {
    **dict.fromkeys(
        DIALECTS, lambda path, wanted: read_delimited(path, DIALECTS[kind_of(path)], wanted)
    ),
    **dict.fromkeys(JSON_LINES, lambda path, wanted: read_json_lines(path)),
    ".parquet": _read_parquet,
}
