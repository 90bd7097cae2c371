"""What a person sees while waiting: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
console = Console(highlight=False, soft_wrap=True, stderr=True)
_QUIET_SECONDS = 2.0
_PLAIN_LINE_SECONDS = 15.0


def say(text: str) -> None:
    """Print one line for the person who started the command."""
    console.print(text, markup=False)


def progress_bar() -> Progress:
    """Return the one style of bar that this project shows: count, time spent, time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items, showing progress once two seconds have passed.

    Args:
        items: what to go through.
        description: what is being done, e.g. ``"Building retrieval"``.
        total: how many there are; taken from ``len(items)`` when it has one.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    tracker = _bar if console.is_terminal else _lines
    yield from tracker(items, description, total)


def _bar(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    started = time.monotonic()
    progress = progress_bar()
    bar = progress.add_task(description, total=total)
    try:
        for item in items:
            if not progress.live.is_started and time.monotonic() - started > _QUIET_SECONDS:
                progress.start()
            yield item
            progress.advance(bar)
    finally:
        progress.stop()


def _lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    started = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - said > _PLAIN_LINE_SECONDS:
            said = now
            left = f", about {(now - started) / done * (total - done):.0f} s left" if total else ""
            say(f"  {description}: {done}{f' of {total}' if total else ''}{left}")
        yield item
