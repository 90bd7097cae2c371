"""The boundary of the command line: what libraries raise, as errors with place, fact and fix."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from types import TracebackType

from recinject.foundation.errors import RecinjectError

# What reads a damaged file raises its own; these modules do little else than read.
_READERS = (
    *("pyarrow", "safetensors", "safetensors_rust", "json", "zipfile", "zlib", "gzip"),
    *("duckdb", "_duckdb", "yaml", "pickle", "_pickle", "datasets"),
)
_SYSTEM = "free or mend that place, or choose another with runs=FOLDER; the same command goes on"
_DAMAGED = "'recinject verify RUN' finds damaged files, and 'recinject run RECIPE' makes them again"
_MEMORY = "take smaller sizes, such as evaluation.batch_size or training's batches, or more memory"
_NUL = "name a file without the character NUL"


def explain(error: Exception) -> RecinjectError | None:
    """Say what the user can mend of an error that a library or the system raised.

    A full disk or memory, a barred folder, a name that is too long, a link that leads to itself, a
    file that is cut off or damaged. Anything else is a fault of the program: None.
    """
    reason = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        place = " and ".join(str(name) for name in (error.filename, error.filename2) if name)
        return RecinjectError(f"{place or 'a file'}: {error.strerror or reason}", hint=_SYSTEM)
    if re.search(r"\(os error \d+\)$", reason):  # Rust's words for what the system refuses
        return RecinjectError(f"a file cannot be read or written: {reason}", hint=_SYSTEM)
    if isinstance(error, MemoryError) or "can't allocate memory" in reason:
        return RecinjectError(f"the memory is full ({reason})", hint=_MEMORY)
    if "null byte" in reason or "null character" in reason:
        return RecinjectError(f"a path cannot be: {reason}", hint=_NUL)
    if isinstance(error, RuntimeError) and "Symlink loop" in reason:
        return RecinjectError(reason, hint=_SYSTEM)
    place = _file_read(error.__traceback__)
    if place and _is_damage(error):
        return RecinjectError(f"{place}: is cut off or damaged ({reason})", hint=_DAMAGED)
    # A library's own kind says itself what is wrong.
    return RecinjectError(reason, hint=_DAMAGED) if isinstance(error, OSError) else None


def _is_damage(error: Exception) -> bool:
    home = type(error).__module__.partition(".")[0]
    # tokenizers, which is written in Rust, raises plain exceptions.
    own = type(error) is Exception or isinstance(error, (OSError, EOFError, UnicodeDecodeError))
    return own or home in _READERS


def _file_read(trace: TracebackType | None) -> str:
    """Return the file that the innermost function of ours had in hand; libraries name none."""
    for frame, _ in reversed(list(traceback.walk_tb(trace))):
        if frame.f_globals.get("__name__", "").startswith("recinject."):
            for value in reversed(frame.f_locals.values()):
                if isinstance(value, Path) and value.is_file():
                    return str(value)
    return ""
