"""Files that are either whole or absent: atomic folders, JSON, and content hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recinject.foundation.errors import RecinjectError

UNREADABLE_ARRAYS = (OSError, EOFError, ValueError, zipfile.BadZipFile)
"""What numpy raises of a ``.npy`` or ``.npz`` that is absent, cut off or something else."""


@contextmanager
def atomic_folder(path: Path, key: str | None = None) -> Iterator[Path]:
    """Give a temporary folder that takes the place of ``path`` when the block succeeds.

    When the block raises, the temporary folder is removed, with the folders above that were made
    for it, and ``path`` is as it was before. One process at a time makes a folder: what others
    left unfinished is removed.

    With a key, which says what the content depends on, a block that is interrupted or killed
    leaves its temporary folder, and the next block with the same key is given it to go on.

    Raises:
        RecinjectError: the parent folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{key or os.getpid()}.partial")
    for left in path.parent.glob(f".{path.name}.*.partial"):
        # What a killed process left; in a container its number may even come again.
        if left != temporary or key is None:
            shutil.rmtree(left, ignore_errors=True)
    made = [folder for folder in path.parents if not folder.exists()]
    keep = False
    try:
        temporary.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecinjectError(
            f"{path}: cannot be written ({error.strerror})",
            hint="choose a folder you may write to with runs=FOLDER, or mend its permissions",
        ) from error
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except KeyboardInterrupt:
        keep = key is not None
        raise
    finally:
        if not keep:
            shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):  # by now others may have put something into them
                for folder in made:
                    folder.rmdir()


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON, replacing the file in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Read what :func:`write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def hash_value(value: Any) -> str:
    """Return a short stable hash of a JSON-like value.

    Examples:
        >>> hash_value({"a": 1, "b": 2}) == hash_value({"b": 2, "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def hash_files(path: Path) -> str:
    """Return a short hash of a file's content, or of all files (name and content) in a folder."""
    digest = hashlib.blake2b(digest_size=8)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def shipped_folder(name: str) -> Path:
    """Return a folder of words that ships with the package: ``prompts`` or ``recipes``.

    In a checkout they lie beside the package, in an installed wheel inside of it.
    """
    package = Path(__file__).parents[1]
    installed = package / "_shipped" / name
    return installed if installed.is_dir() else package.parent / name
