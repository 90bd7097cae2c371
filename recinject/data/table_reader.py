"""One table from one file, whatever its kind; whatever is wrong with it is said with its line."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from recinject.foundation.errors import RecinjectError

_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
_NAMES_SHOWN = 12
JSON_LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True, eq=False)
class Table:
    """A file's rows under the file's own column names.

    Attributes:
        path: the file, or what a table from Python is called.
        frame: its rows, with a range index; text files give text only.
        place: says where in the file a row of the frame stands, e.g. ``log.csv, line 7``.
        sequences: columns whose text is a list separated by spaces (RecBole's ``token_seq``).
    """

    path: Path | str
    frame: pd.DataFrame
    place: Callable[[int], str]
    sequences: frozenset[str] = frozenset()


def read_table(path: Path) -> Table:
    """Read a csv, tsv, jsonl, parquet, RecBole ``.inter`` or ``.item`` file, plain or ``.gz``.

    Raises:
        RecinjectError: the file is absent, empty, broken, of an unknown kind, or a line of it
            does not have the header's columns.
    """
    kind = kind_of(path)
    if kind not in KINDS:
        raise RecinjectError(
            f"{path}: {kind or 'a name without an ending'} is no kind of table",
            hint=f"give it one of these kinds and endings: {', '.join(KINDS)} (each also .gz)",
        )
    return KINDS[kind](path, _read_bytes(path))


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8 or Latin-1, plain or ``.gz``.

    Raises:
        RecinjectError: the file is absent, empty, broken or no text.
    """
    return _decode(path, _read_bytes(path))


def kind_of(path: Path) -> str:
    """Return a file's ending without ``.gz``, e.g. ``.csv`` for ``log.csv.gz``."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def require_path(path: Path, setting: str) -> None:
    """Refuse a path that is not there, naming what lies near it.

    Raises:
        RecinjectError: neither a file nor a folder has this path.
    """
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
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise RecinjectError(
            f"{path}: cannot be read ({error})",
            hint="the file is cut off, broken or locked: fetch it again or mend its permissions",
        ) from error
    if not data.strip():
        raise RecinjectError(f"{path}: is empty", hint="give a file with a header line and rows")
    return data


def refuse_repeated(path: Path | str, names: list[str]) -> None:
    """Refuse a table that has two columns of one name.

    Raises:
        RecinjectError: a name stands more than once.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise RecinjectError(
            f"{path}: the column {repeated[0]!r} is there more than once",
            hint="give every column of the header its own name",
        )


def _decode(path: Path, data: bytes) -> str:
    if b"\0" in data:
        raise RecinjectError(
            f"{path}: is not text in UTF-8 or Latin-1 (it holds zero bytes)",
            hint="save it as UTF-8, or give it the ending of what it is",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _csv_rows(
    text: str, separator: str, quoted: bool, first: int = 1
) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the line it starts on: slow and exact, for the header and for errors.

    ``first`` is the number of the first line, 0 for a header that the file itself has not.
    """
    csv.field_size_limit(max(len(text), 1 << 17))  # its default refuses long descriptions
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    line = first
    for row in reader:
        if row:
            yield line, row
        line = reader.line_num + first


def read_delimited(
    path: Path, text: str, separator: str | None, quoted: bool, header: Sequence[str] = ()
) -> Table:
    """Read a file's text whose lines are rows of columns.

    Args:
        path: the file, for errors.
        text: its text.
        separator: one ASCII letter; None takes the header's most frequent of ``,;|`` and tab.
        quoted: whether quotes may enclose a value.
        header: the columns' names when the first line does not name them.

    Raises:
        RecinjectError: a row has not the header's columns, or a quote never closes.
    """
    first = 0 if header else 1
    if header:
        text = f"{(separator or ',').join(header)}\n{text}"
    if separator is None:
        header_line = text.lstrip().split("\n", 1)[0]
        separator = max(",;\t|", key=header_line.count)
    names = next(_csv_rows(text, separator, quoted))[1]
    refuse_repeated(path, names)
    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "skip"

    try:
        arrow = arrow_csv.read_csv(
            pa.BufferReader(f"{text}\n".encode()),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                invalid_row_handler=note,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        _refuse_rows(path, text, separator, quoted, first)
        raise RecinjectError(
            f"{path}: cannot be read as a table ({str(error).splitlines()[0]})",
            hint="save the table anew, as csv with quotes or as jsonl",
        ) from error
    # An odd number of quotes is the one trace that a quote swallowing the file's end leaves.
    if ragged or (quoted and text.count('"') % 2):
        _refuse_rows(path, text, separator, quoted, first)

    def place(row: int) -> str:
        rows = _csv_rows(text, separator, quoted, first)
        return f"{path}, line {next(islice(rows, row + 1, None))[0]}"

    return Table(path, arrow.to_pandas(), place)


def _refuse_rows(path: Path, text: str, separator: str, quoted: bool, first: int) -> None:
    """Refuse the first row of another length than the header, and a quote that never closes."""
    end = ["end of the file"]
    rows = _csv_rows(f"{text}\n{end[0]}", separator, quoted, first)
    expected, line, row = 0, 1, end
    for line, row in rows:
        expected = expected or len(row)
        if len(row) != expected and row != end:
            raise RecinjectError(
                f"{path}, line {line}: {len(row)} columns where "
                f"{'the header has' if first else 'there must be'} {expected}",
                hint="mend or remove that line"
                + ("; a separator inside a value needs quotes, closed ones" if quoted else ""),
            )
    if row != end:
        raise RecinjectError(
            f"{path}, line {line}: a quote opens and never closes",
            hint='close the quote, or write it as "" inside a quoted value',
        )


def _read_recbole(path: Path, data: bytes) -> Table:
    table = read_delimited(path, _decode(path, data), "\t", quoted=False)
    typed = {str(name): str(name).rpartition(":") for name in table.frame.columns}
    for name, (_, _, kind) in typed.items():
        if kind not in _RECBOLE_TYPES:
            raise RecinjectError(
                f"{path}, line 1: the column {name!r} has no RecBole type",
                hint="write the header as name:type, separated by tabs, e.g. user_id:token; "
                f"types: {', '.join(_RECBOLE_TYPES)}",
            )
    frame = table.frame.rename(columns={name: parts[0] for name, parts in typed.items()})
    refuse_repeated(path, list(frame.columns))
    sequences = frozenset(parts[0] for parts in typed.values() if parts[2].endswith("_seq"))
    return replace(table, frame=frame, sequences=sequences)


def read_json_lines(
    path: Path,
    text: str,
    parse: Callable[[str], Any] = json.loads,
    wanted: Callable[[str], bool] = lambda line: True,
) -> Table:
    """Read a file's text that has one object a line.

    ``parse`` makes a line's object, or raises ValueError; ``wanted`` says which lines are read.

    Raises:
        RecinjectError: a line is no object.
    """
    records, numbers = [], []
    # Only \n ends a line of JSON: str.splitlines would also cut at U+2028 inside a title.
    for number, line in enumerate(text.split("\n"), start=1):
        if line and not line.isspace() and wanted(line):
            records.append(_json_object(f"{path}, line {number}", line, parse))
            numbers.append(number)
    frame = pd.DataFrame(records, dtype=object)
    return Table(path, frame, lambda row: f"{path}, line {numbers[row]}")


def _json_object(place: str, line: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        record = parse(line)
    except (ValueError, RecursionError) as error:
        raise RecinjectError(
            f"{place}: is not JSON ({error})", hint="write one JSON object a line, or mend the line"
        ) from error
    if not isinstance(record, dict):
        raise RecinjectError(
            f"{place}: is JSON, but no object: {line.strip()[:40]}",
            hint='write one JSON object a line, e.g. {"user_id": "u1", "item_id": "i1"}',
        )
    if "\\u" not in line:
        return record
    # A name may be spelled as half of a surrogate pair, which no table can hold.
    return {name.encode("utf-8", "replace").decode(): value for name, value in record.items()}


def _read_parquet(path: Path, data: bytes) -> Table:
    try:
        table = parquet.read_table(pa.BufferReader(data)).replace_schema_metadata(None)
        table.validate(full=True)  # a broken page may hold texts that are none
        refuse_repeated(path, table.column_names)
        frame = table.to_pandas()
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise RecinjectError(
            f"{path}: is no readable Parquet file ({str(error).partition(chr(10))[0]})",
            hint="fetch or write the file again",
        ) from error
    return Table(path, frame, lambda row: f"{path}, row {row + 1}")


KINDS: dict[str, Callable[[Path, bytes], Table]] = {
    ".csv": lambda path, data: read_delimited(path, _decode(path, data), None, quoted=True),
    ".tsv": lambda path, data: read_delimited(path, _decode(path, data), "\t", quoted=True),
    **dict.fromkeys(JSON_LINES, lambda path, data: read_json_lines(path, _decode(path, data))),
    ".parquet": _read_parquet,
    ".inter": _read_recbole,
    ".item": _read_recbole,
}
