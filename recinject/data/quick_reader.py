"""The events of a clean file, block by block into integers and numbers: for logs of any size.

Nothing is explained here. Whatever is not plain (an empty id, outer white space, a date for a
number of seconds, a row of another length, text that is not UTF-8) is left to the exact readers,
which hold the whole file as text and say what is wrong; what is read here, they would read alike.
"""

from __future__ import annotations

import codecs
import csv
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from recinject.data.schema import Floats, Integers
from recinject.data.table_reader import open_bytes
from recinject.data.tables import (
    EVENT_COLUMNS,
    IDS,
    Dialect,
    in_seconds,
    match_items_among_events,
    match_names,
    plain_names,
    refuse_repeated,
)
from recinject.foundation.errors import RecinjectError

_FIRST_BYTES = 1 << 16
_ROWS_AT_ONCE = 1 << 18
_ID = pa.dictionary(pa.int32(), pa.string())
Names = dict[str, str]
Match = Callable[[Sequence[str]], Names]
Events = tuple[pd.DataFrame, Names]
Opened = tuple[Names, Iterator[pa.RecordBatch]]


class UncleanError(Exception):
    """A file has something that the exact readers must see."""


def read_quickly(
    path: Path, dialect: Dialect | None, columns: Mapping[str, str], with_items: bool
) -> Events | None:
    """Read what :func:`columns.event_frame` would make of a file, if the file is clean.

    Args:
        path: a Parquet file or one of delimited rows, the latter plain or ``.gz``.
        dialect: how its lines are cut; None for Parquet.
        columns: our column names to the file's, as for :func:`readers.read_log`.
        with_items: whether columns about items are wanted too, which takes the exact readers.

    Returns:
        The events, and our names with the file's; None when it takes the exact readers.
    """

    def match(theirs: Sequence[str]) -> Names:
        names = match_names(path, theirs, EVENT_COLUMNS, IDS, columns)
        about_items = with_items and match_items_among_events(path, theirs, names, columns)
        if about_items or len(set(names.values())) < len(names):
            raise UncleanError
        return names

    try:
        if dialect is None:
            return _collect(*_open_parquet(path, match))
        with open_bytes(path) as stream:
            return _collect(*_open_delimited(path, stream, dialect, match))
    except (UncleanError, RecinjectError, pa.ArrowException, OSError, EOFError, ValueError):
        return None
    except (csv.Error, zlib.error):
        return None


class _Watched:
    """A stream of bytes that must be text in UTF-8; counts its quotes."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.quotes = 0

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self._decoder.decode(block, final=not block)
        self.quotes += block.count(b'"')
        if b"\0" in block or b"\x1f" in block:
            raise UncleanError
        return block


def _open_delimited(path: Path, stream: BinaryIO, dialect: Dialect, match: Match) -> Opened:
    header, dialect = _header(stream, dialect)
    names = match(theirs := list(plain_names(path, header, dialect)))
    raw = dict(zip(theirs, header, strict=True))
    types = {raw[name]: _ID if ours in IDS else pa.float64() for ours, name in names.items()}
    if dialect.separator == "::":
        # A parser that splits at single letters finds an empty column between any two.
        header = [name for own in header for name in (f"::{own}", own)][1:]
        types |= dict.fromkeys(header[1::2], pa.null())
    watched = _Watched(stream)
    reader = arrow_csv.open_csv(
        pa.PythonFile(watched, mode="r"),
        arrow_csv.ReadOptions(column_names=header if dialect.header else None),
        dialect.options(),
        arrow_csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=[""],
            strings_can_be_null=False,
        ),
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            columns = [_plain(batch.column(raw[name])) for name in names.values()]
            yield pa.RecordBatch.from_arrays(columns, list(names))
        if dialect.quoted and watched.quotes % 2:
            raise UncleanError

    return names, batches()


def _header(stream: BinaryIO, dialect: Dialect) -> tuple[list[str], Dialect]:
    """Return the columns' raw names and the dialect with its separator."""
    head = codecs.getincrementaldecoder("utf-8-sig")().decode(stream.read(_FIRST_BYTES))
    stream.seek(0)
    dialect = dialect.settled(head)
    if dialect.header:
        return list(dialect.header), dialect
    if "\n" not in head.lstrip():
        raise UncleanError
    return next(dialect.rows(head))[1], dialect


def _open_parquet(path: Path, match: Match) -> Opened:
    file = parquet.ParquetFile(path)
    refuse_repeated(path, file.schema_arrow.names)
    names = match(file.schema_arrow.names)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(names.values())):
            batch.validate(full=True)  # a broken page may hold texts that are none
            columns = [_typed(ours, batch.column(name)) for ours, name in names.items()]
            yield pa.RecordBatch.from_arrays(columns, list(names))

    return names, batches()


def _typed(ours: str, column: pa.Array) -> pa.Array:
    kind, known = column.type, pa.types
    if ours in IDS:
        if not (known.is_integer(kind) or known.is_string(kind) or known.is_large_string(kind)):
            raise UncleanError
        return column.cast(pa.string()).dictionary_encode()
    if not (known.is_integer(kind) or known.is_float64(kind)):
        raise UncleanError
    numbers = column.cast(pa.float64(), safe=False)
    return _plain(pc.if_else(pc.is_nan(numbers), None, numbers))


def _plain(column: pa.Array) -> pa.Array:
    """Return a column whose numbers, where there are any, are finite."""
    if pa.types.is_float64(column.type) and pc.any(pc.invert(pc.is_finite(column))).as_py():
        raise UncleanError
    return column


def _collect(names: Names, batches: Iterator[pa.RecordBatch]) -> Events:
    parts: dict[str, list[Any]] = {ours: [] for ours in names}
    for batch in batches:
        for ours, column in zip(names, batch.columns, strict=True):
            parts[ours].append(column)
    if not sum(map(len, parts["user_id"])):
        raise UncleanError
    joined: dict[str, Any] = {}
    for ours in names:
        own = parts.pop(ours)
        joined[ours] = _joined_ids(own) if ours in IDS else _joined_numbers(ours, own)
    found = {ours: column for ours, column in joined.items() if column is not None}
    return pd.DataFrame(found, copy=False), names


def _joined_ids(parts: list[Any]) -> pd.Categorical[str]:
    column = pa.chunked_array(parts).unify_dictionaries()
    found = column.chunk(0).dictionary
    texts = found.to_pylist()
    if column.null_count or any(not text or text != text.strip() for text in texts):
        raise UncleanError
    order = pc.sort_indices(found).to_numpy()
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    codes: Integers = np.concatenate([ranks[part.indices.to_numpy()] for part in column.chunks])
    return pd.Categorical.from_codes(codes, pd.Index([texts[place] for place in order]))


def _joined_numbers(ours: str, parts: list[Any]) -> Floats | None:
    """Join the parts of a column; None without any value."""
    unknown = sum(part.null_count for part in parts)
    if unknown == sum(map(len, parts)):
        return None
    if unknown and ours != "timestamp":
        raise UncleanError
    numbers = np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts])
    return in_seconds(numbers, ~np.isnan(numbers)) if ours == "timestamp" else numbers
