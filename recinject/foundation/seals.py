"""Seals: what a file was when it was written, so that damage since then is noticed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_WHOLE = 32 << 20  # bytes; a larger file is read whole only where that is asked for
_BLOCK, _BLOCKS = 1 << 16, 128

Seal = list[Any]
"""A file's size, the SHA-256 of its content, and that of the sampled blocks of a large file."""


def seal_file(path: Path) -> Seal:
    """Return a file's seal; what it holds is on the disk then, not in the system's memory alone."""
    with path.open("rb") as stream:
        with suppress(OSError):  # not every disk can, and some only where writing is allowed
            os.fsync(stream.fileno())
        whole = hashlib.file_digest(stream, "sha256").hexdigest()
    return [path.stat().st_size, whole, _sample(path)]


def seal_folder(folder: Path, *left_out: str) -> dict[str, Seal]:
    """Return the seals of all files in a folder, by their names below it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: seal_file(path) for name, path in names.items() if name not in left_out}


def find_damage(folder: Path, seals: Mapping[str, Seal], *, whole: bool = False) -> str:
    """Say which sealed file of a folder is no longer what it was, or return ``""``.

    Files above 32 MB are compared by size and a sample of their blocks, unless ``whole``.
    """
    for name, (size, digest, sample) in seals.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size:,} bytes, and had {size:,}"
        if size > _WHOLE and not whole:
            found, known = _sample(path), sample
        else:
            with path.open("rb") as stream:
                found, known = hashlib.file_digest(stream, "sha256").hexdigest(), digest
        if found != known:
            return f"{path} was changed after it was written"
    return ""


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, too."""
    with suppress(OSError):  # not every system can open a folder
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _sample(path: Path) -> str:
    """Hash blocks that are evenly spread over a large file, the first and the last among them."""
    size = path.stat().st_size
    if size <= _WHOLE:
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for number in range(_BLOCKS):
            stream.seek((size - _BLOCK) * number // (_BLOCKS - 1))
            digest.update(stream.read(_BLOCK))
    return digest.hexdigest()
