"""A file's rows under its own column names, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recinject.data.schema import Flags
from recinject.foundation.errors import RecinjectError

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
