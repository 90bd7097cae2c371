"""One table from one file, whatever its kind; whatever is wrong with it is said with its line."""

from __future__ import annotations

import difflib
import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from recinject.data.tables import (
    DIALECTS,
    Problem,
    Table,
    numbered,
    read_delimited,
    refuse_repeated,
)
from recinject.foundation.errors import RecinjectError

Content = TypeVar("Content", bytes, str)
_NAMES_SHOWN = 12
JSON_LINES = (".jsonl", ".ndjson", ".json")


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
        with open_bytes(path) as stream:
            data = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise RecinjectError(
            f"{path}: cannot be read ({error})",
            hint="the file is cut off, broken or locked: fetch it again or mend its permissions",
        ) from error
    return _not_empty(path, data)


def _not_empty(path: Path, content: Content) -> Content:
    if not content.strip():
        raise RecinjectError(f"{path}: is empty", hint="give a file with a header line and rows")
    return content


def _decode(path: Path, data: bytes) -> str:
    if b"\0" in data:
        raise RecinjectError(
            f"{path}: is not text in UTF-8 or Latin-1 (it holds zero bytes)",
            hint="save it as UTF-8, or give it the ending of what it is",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return _not_empty(path, text)  # but for a byte order mark


def read_json_lines(
    path: Path,
    text: str,
    parse: Callable[[str], Any] = json.loads,
    wanted: Callable[[str], bool] = lambda line: True,
) -> Table:
    """Read a file's text that has one object a line; lines that are none are its problems.

    ``parse`` makes a line's object, or raises ValueError; ``wanted`` says which lines are read.
    """
    records, numbers, wrong = [], [], []
    # Only \n ends a line of JSON: str.splitlines would also cut at U+2028 inside a title.
    for number, line in enumerate(text.split("\n"), start=1):
        if line and not line.isspace() and wanted(line):
            record = _json_object(line, parse)
            if isinstance(record, dict):
                records.append(record)
                numbers.append(number)
            else:
                wrong.append((number, record))
    hint = 'write one JSON object a line, e.g. {"user_id": "u1", "item_id": "i1"}, or mend the line'
    frame = pd.DataFrame(records, dtype=object)
    return Table(path, frame, numbered(numbers), problems=Problem.of(wrong, hint))


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
    return Table(path, frame)


def _read_rows(path: Path, data: bytes) -> Table:
    return read_delimited(path, _decode(path, data), DIALECTS[kind_of(path)])


KINDS: dict[str, Callable[[Path, bytes], Table]] = {
    **dict.fromkeys(DIALECTS, _read_rows),
    **dict.fromkeys(JSON_LINES, lambda path, data: read_json_lines(path, _decode(path, data))),
    ".parquet": _read_parquet,
}
