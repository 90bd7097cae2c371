"""One writer: a run's folder is filled by one process at a time."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.foundation.storage import read_json, write_json
from recinject.pipeline.run import Run


class RunIsBusyError(RecinjectError):
    """Another process fills the run's folder, and nobody wants to wait."""

    exit_code = 3


def _files(folder: Path) -> tuple[Path, Path]:
    """Return the lock and the file that says who holds it, both beside the run's folder."""
    return folder.with_name(f".{folder.name}.lock"), folder.with_name(f".{folder.name}.lock.json")


@contextmanager
def only_writer(run: Run, folder: Path | None = None, *, wait: bool = True) -> Iterator[None]:
    """Let nobody else fill a run's folder in a block; the system frees what a dead process held.

    Of several processes that were launched together the first one holds it for all. A ``folder``
    within it may be given in its place.

    Raises:
        RecinjectError: a process with other settings holds it.
        RunIsBusyError: one with the same settings does, and ``wait`` is false.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    folder = folder or run.recipe.folder
    file, holder = _files(folder)
    lock = FileLock(file)
    own = json.loads(json.dumps(run.resolved.model_dump(mode="json"), default=str))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _wait_for(folder, lock, own, wait)
    except (OSError, NotImplementedError):  # a folder that cannot be written is filled by nobody
        yield
        return
    try:
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "recipe": own}
        with suppress(OSError):
            write_json(holder, who)
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()
        if not folder.exists():  # nothing came of it
            with suppress(OSError):
                file.unlink()
                folder.parent.rmdir()


def _wait_for(folder: Path, lock: FileLock, own: dict[str, Any], wait: bool) -> None:
    holder: dict[str, Any] = {}
    with suppress(RecinjectError, OSError):  # it may be written, or removed, just now
        holder = read_json(_files(folder)[1])
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
    fact = f"{folder}: {who} fills it, since {holder.get('since', 'a moment ago')}"
    theirs = holder.get("recipe", own)
    if other := [key for key in own if own[key] != theirs.get(key)]:
        hint = "choose another name=, or wait for its end"
        raise RecinjectError(f"{fact}, with other settings: {', '.join(other)}", hint=hint)
    if not wait:
        raise RunIsBusyError(fact, hint="leave out --no-wait, or come back later")
    say(f"{fact}; waiting for it")
    lock.acquire()
