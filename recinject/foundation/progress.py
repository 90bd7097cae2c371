"""Progress for the person who waits: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import ClassVar, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")
console = Console(highlight=False, soft_wrap=True, stderr=True)
_SECONDS_TO_BAR = 2.0
# Beside ESC and its kin: what turns the direction of a line, or ends one unseen.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_SECONDS_TO_LINE = 15.0


def say(text: str) -> None:
    """Print one line for the person who started the command."""
    console.print(plain(text), markup=False)


def echo(text: str) -> None:
    """Print a result, which may hold what a log holds, on standard output."""
    sys.stdout.write(f"{plain(text)}\n")


def plain(text: str) -> str:
    """Write the control characters of a text, which a terminal might obey, as escapes of JSON.

    >>> plain("a title\\x1b[2J")
    'a title\\\\u001b[2J'
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def cell(text: str) -> str:
    """Write a text for rich's tables and trees: one line, neither obeyed nor taken for markup.

    >>> cell("a [bold]\\ntitle\\x1b")
    'a \\\\[bold] title\\\\u001b'
    """
    return escape(plain(text).replace("\n", " "))


class Bar:
    """How far a job is: a bar with rate and time left once two seconds have passed.

    Where the output is no terminal, it is a plain line every fifteen seconds. Units of work that
    were ``done`` before count for no speed. Within another job nothing is shown.
    """

    _open: ClassVar[list[Bar]] = []

    def __init__(self, description: str, total: int | None = None, done: int = 0) -> None:
        self._description, self._total, self._before = description, total, done
        self._started = self._shown = time.monotonic()
        self.done = done
        self._progress: Progress | None = None
        self._open.append(self)
        if console.is_terminal:
            known = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
            times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
            self._progress = Progress(*known, *times, console=console, transient=True)
            self._task = self._progress.add_task(description, total=total, completed=done)

    def update(self, done: int, note: str = "") -> None:
        """Show that so many units are done, and a note beside them such as ``", loss 1.234"``."""
        self.done, now = done, time.monotonic()
        if self._open and self._open[0] is not self:
            return
        if self._progress:
            if not self._progress.live.is_started and now - self._started > _SECONDS_TO_BAR:
                self._progress.start()
            text = f"{self._description}{note}"
            self._progress.update(self._task, completed=done, description=text)
        elif now - self._shown > _SECONDS_TO_LINE:
            self._shown = now
            rate = (done - self._before) / (now - self._started)
            say(f"  {self._description}: {progress_text(done, self._total, rate, note)}")

    def close(self) -> None:
        """Take the bar away."""
        if self in self._open:
            self._open.remove(self)
        if self._progress:
            self._progress.stop()


def track(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    size: Callable[[T], int] = lambda item: 1,
    done: int = 0,
) -> Iterator[T]:
    """Yield the items and show by a :class:`Bar` how many units of work are done, ``size`` each."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    bar = Bar(description, total, done)
    try:
        for item in items:
            yield item
            bar.update(bar.done + size(item))
    finally:
        bar.close()


def progress_text(done: int, total: int | None, rate: float, note: str = "") -> str:
    """Write how far a job is.

    >>> progress_text(3000, 6000, 50.0), progress_text(3, None, 0.125, ", loss 0.5")
    ('3,000 of 6,000, 50 a second, about 60 s left', '3, loss 0.5, 0.12 a second')
    """
    of = f" of {total:,}" if total else ""
    left = f", about {(total - done) / rate:.0f} s left" if total and rate else ""
    return f"{done:,}{of}{note}, {_rate_text(rate)} a second{left}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = "" if task.speed is None else f"{_rate_text(task.speed)}/s"
        return Text(rate, style="progress.data.speed")


def _rate_text(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
