"""Files whose lines are rows of columns; whatever is wrong with them is said with its line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv

from recinject.data.table import Problem, Table, refuse_repeated
from recinject.foundation.errors import RecinjectError

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
    frame, problems = _parse(path, text, dialect, names)
    kinds = plain_names(path, list(map(str, frame.columns)), dialect)
    return Table(
        path,
        frame.set_axis(list(kinds), axis=1),
        partial(_lines, text, dialect, len(names)),
        problems=problems,
        sequences=frozenset(name for name, kind in kinds.items() if kind.endswith("_seq")),
    )


def _parse(
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
