"""The tables of a log in a connection of DuckDB, as its files have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recinject.data.findings import Finding, note, number_form, quoted
from recinject.data.tables import Block, Problem, ReadSettings, as_arrow, refuse

_LARGE, _MEMORY = 1 << 25, "400MB"
_NUMERIC = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "DOUBLE"}
_NUMERIC |= {"UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
_SPACES = (*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B))
BLANKS = "".join(map(chr, (*_SPACES, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)))


def literal(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


@dataclass(eq=False)
class LogTables:
    """The tables of a log in a connection of DuckDB, under the files' own column names.

    ``events``, ``items`` and ``users`` are there where their names are. A row's ``rowid`` in
    ``read_events`` counts the rows of all files; ``events`` is a view of those that are kept.
    """

    connection: duckdb.DuckDBPyConnection
    settings: ReadSettings
    scratch: TemporaryDirectory[str]
    source: str = ""
    names: dict[str, str] = field(default_factory=dict)  # our name of a column to the file's
    item_names: dict[str, str] = field(default_factory=dict)  # empty without a table of items
    user_names: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    selected: str = "true"  # the condition that kept events meet
    tables: dict[str, Loaded] = field(default_factory=dict)
    guess_items: bool = True
    examined: bool = True  # whether a careful eye looks at what comes from outside
    parts: Sequence[int] = ()  # of a given split, for each file of events

    @classmethod
    def open(
        cls, settings: ReadSettings, size: int = 0, scratch: TemporaryDirectory[str] | None = None
    ) -> LogTables:
        """Open an empty connection; one for much lies on disk, in the ``scratch`` folder."""
        scratch = scratch or TemporaryDirectory(prefix="recinject-")
        place = f"{scratch.name}/log.duckdb" if size > _LARGE else ":memory:"
        config: dict[str, Any] = {"memory_limit": _MEMORY, "temp_directory": scratch.name}
        tables = cls(duckdb.connect(place, config=config), settings, scratch)
        tables.connection.execute("SET TimeZone='UTC'")
        return tables

    def close(self) -> None:
        """Close the connection and remove what it has on disk."""
        self.connection.close()
        self.scratch.cleanup()

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(query).fetchall()

    def kept(self, chosen: str, rest: str = "") -> list[tuple[Any, ...]]:
        """Return the rows of a query about the events that are kept so far."""
        return self.ask(f"SELECT {chosen} FROM read_events WHERE {self.selected} {rest}")

    def say(self, name: str, fact: str) -> None:
        """Add a note to the findings."""
        self.findings.append(note(name, fact))

    @property
    def said_of_texts(self) -> list[Finding]:
        """How text files were made out, where they did not tell."""
        return [note("text", text) for each in self.tables.values() for text in each.said]

    def place(self, table: str = "read_events") -> Path | str:
        """Return the first file of a table, as messages name it."""
        return self.tables[table].sources[0].path

    def types(self, table: str) -> dict[str, str]:
        """Return the columns of a table with their types."""
        return {row[0]: row[1] for row in self.ask(f"DESCRIBE {table}")}

    def text(self, table: str, name: str) -> str:
        """Return the SQL of a column's values as text.

        Whole numbers that a file stores as floats (as ids with gaps are) read as whole numbers.
        """
        kind, column = self.types(table)[name], quoted(name)
        if kind in ("FLOAT", "DOUBLE"):
            (whole,) = self.ask(
                f"SELECT bool_and({column} = trunc({column}) AND abs({column}) < 2.0^63) "
                f"FROM {table}"
            )[0]
            shown = f"CAST({column} AS BIGINT)" if whole else column
            column = f"CAST({shown} AS VARCHAR)"
        elif kind != "VARCHAR":
            column = f"CAST({column} AS VARCHAR)"
        ids = {"read_events": self.names, "items": self.item_names}.get(table, {})
        if self.settings.numeric_ids and name in (ids.get("user_id"), ids.get("item_id")):
            return number_form(column)
        return column

    def number(self, name: str) -> str:
        """Return the SQL of an event's column as numbers, NULL where it holds none."""
        kind, column = self.types("read_events")[name], quoted(name)
        if kind == "VARCHAR":
            return f"TRY_CAST({column} AS DOUBLE)"
        if kind == "FLOAT":  # the decimals that it shows
            return f"CAST(CAST({column} AS VARCHAR) AS DOUBLE)"
        is_number = kind in _NUMERIC or kind.startswith("DECIMAL")
        return f"CAST({column if is_number else 'NULL'} AS DOUBLE)"

    def load(self, name: str, sources: Sequence[Source]) -> None:
        """Fill a table with the rows of its sources, one after another."""
        loaded = self.tables[name] = Loaded(sources)
        known: dict[str, str] = {}
        for source in sources:
            loaded.starts.append(loaded.rows)
            for block in source.blocks():
                loaded.problems += [(source.path, each) for each in block.problems]
                loaded.sequences |= block.sequences
                if block.said and block.said not in loaded.said:
                    loaded.said.append(block.said)
                rows = _tidy(as_arrow(source.path, block.rows), self.settings.missing)
                if not rows.column_names:
                    continue
                self.connection.register("block", rows)
                known = self._insert(name, known)
                self.connection.unregister("block")
                loaded.rows += len(rows)
        loaded.names = list(known)
        pa.default_memory_pool().release_unused()

    def _insert(self, name: str, known: dict[str, str]) -> dict[str, str]:
        if not known:
            self.connection.execute(f"CREATE TABLE {name} AS FROM block")
            return self.types(name)
        given = self.types("block")
        for column, kind in given.items():
            if column not in known:
                self.connection.execute(f"ALTER TABLE {name} ADD COLUMN {quoted(column)} {kind}")
            elif known[column] not in (kind, "VARCHAR"):
                change = f"ALTER TABLE {name} ALTER {quoted(column)} TYPE VARCHAR"
                self.connection.execute(change)
        self.connection.execute(f"INSERT INTO {name} BY NAME FROM block")
        return known if given == known else self.types(name)


@dataclass(frozen=True, eq=False)
class Source:
    """One file, or table in memory, that rows come from; it can be read again."""

    path: Path | str
    read: Callable[[], object]

    def blocks(self) -> Iterator[Block]:
        """Read it, block by block."""
        given: Any = self.read()
        for each in given if isinstance(given, Iterator) else [given]:
            yield each if isinstance(each, Block) else Block(each)


@dataclass(eq=False)
class Loaded:
    """Where the rows of a table came from, and what was wrong with some."""

    sources: Sequence[Source]
    starts: list[int] = field(default_factory=list)  # the number of each source's first row
    names: list[str] = field(default_factory=list)
    rows: int = 0
    problems: list[tuple[Path | str, Problem]] = field(default_factory=list)
    sequences: frozenset[str] = frozenset()
    said: list[str] = field(default_factory=list)

    def refuse(self, found: Sequence[tuple[Sequence[int], int, str, str]]) -> None:
        """Raise one error about rows of the first source at fault, if there are any.

        ``found`` holds for each fault its first rows, their count, what is wrong, and a hint.
        """
        paths = [path for path, _ in self.problems]
        paths += [self.sources[self._source(rows[0])].path for rows, *_ in found]
        if not paths:
            return
        number = min(n for n, each in enumerate(self.sources) if each.path in paths)
        source = self.sources[number]
        problems = [each for path, each in self.problems if path == source.path]
        mine = [each for each in found if self._source(each[0][0]) == number]
        lines, unit = self._lines(number, [row for rows, *_ in mine for row in rows])
        for rows, count, what, hint in mine:
            own = [lines[row] for row in rows if row in lines]
            problems.append(Problem(own, count, what, hint))
        refuse(source.path, unit, problems)

    def _source(self, row: int) -> int:
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def _lines(self, number: int, rows: Sequence[int]) -> tuple[dict[int, int], str]:
        """Read a source again for the lines of some rows."""
        start = self.starts[number]
        own = sorted({row - start for row in rows if self._source(row) == number})
        found: dict[int, int] = {}
        before, unit = 0, "line"
        for block in self.sources[number].blocks() if own else ():
            lines = block.lines
            if callable(lines):
                return dict(zip((row + start for row in own), lines(own), strict=True)), unit
            unit = "row" if lines is None else unit
            for row in own:
                if before <= row < before + len(block.rows):
                    found[row + start] = row + 1 if lines is None else lines[row - before]
            before += len(block.rows)
        return found, unit


def _tidy(rows: pa.Table, missing: Sequence[str]) -> pa.Table:
    """Take outer blanks off texts; what is empty or stands for nothing becomes NULL.

    Columns without a name are left out; those that differ by capitals alone get other names.
    """
    kept = [name for name in rows.column_names if name not in ("", "__index_level_0__")]
    columns: dict[str, pa.ChunkedArray] = {}
    for name in kept:
        column = rows[name]
        nothing = pa.nulls(len(column), column.type)  # a scalar, or an array, would import pandas
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pc.utf8_trim(column, BLANKS)
            filled = pc.cast(pc.binary_length(column), pa.bool_())
            if missing:
                filled = pc.and_not(filled, pc.is_in(column, pa.array(missing, column.type)))
            column = pc.if_else(filled, column, nothing)
        elif pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), nothing, column)
        alike = sum(other.lower() == name.lower() for other in (*columns, "rowid"))
        columns[f"{name} ({alike + 1})" if alike else name] = column
    return pa.table(columns)
