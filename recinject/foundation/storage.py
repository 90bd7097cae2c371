"""Folders that are whole or absent, the manifest in them, and the small files they are made of."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from recinject.foundation.errors import RecinjectError, StoppedError
from recinject.foundation.seals import Seal, find_damage, seal_file, sync_folder

MANIFEST_NAME, _SEAL = "manifest.json", "seal"
_DEEPEST, _MOST_VALUES = 100, 100_000  # of a document of YAML
_AGAIN = "'recinject run RECIPE' makes it again"
UNREADABLE_ARRAYS = (OSError, EOFError, ValueError, zipfile.BadZipFile)
"""What ``numpy.load`` raises if a ``.npy`` or ``.npz`` is absent, cut off or something else."""


@contextmanager
def atomic_folder(path: Path, key: str | None = None) -> Iterator[Path]:
    """Give a temporary folder that replaces ``path`` when the block succeeds.

    If the block raises, the temporary folder is removed together with the parent folders that were
    made for it, and ``path`` stays as it was. Only one process at a time may make a folder: the
    temporary folders of others are removed.

    With a ``key``, a hash of what the content depends on, the temporary folder of an interrupted or
    killed block stays, and the next block with the same key continues in it.

    Raises:
        RecinjectError: the parent folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{key or os.getpid()}.partial")
    for left in path.parent.glob(f".{path.name}.*.partial"):
        # A killed process left it; in a container its process id may even be ours.
        if left != temporary or key is None:
            shutil.rmtree(left, ignore_errors=True)
    made = [folder for folder in path.parents if not folder.exists()]
    keep = False
    try:
        temporary.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "choose a folder you may write to with runs=FOLDER, or mend its permissions"
        raise RecinjectError(f"{path}: cannot be written ({error.strerror})", hint=hint) from error
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        sync_folder(path.parent)
    except (KeyboardInterrupt, StoppedError):
        keep = key is not None
        raise
    finally:
        if not keep:
            shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):  # others may have written into them by now
                for folder in made:
                    folder.rmdir()


@dataclass(frozen=True)
class RunManifest:
    """The record of one finished stage of a run; the file is written last in its folder."""

    stage: str  # its name, which is its folder's
    version: str  # of recinject
    settings: dict[str, Any]  # the plain arguments that the stage was called with
    inputs: dict[str, str]  # hashes of what it read: earlier stages by name, files by path
    facts: dict[str, Any] = field(default_factory=dict)  # what the report and the cards show
    files: dict[str, Seal] = field(default_factory=dict)  # of every file beside it, by its name

    @property
    def fingerprint(self) -> str:
        """Hash of everything the stage's output depends on."""
        return hash_value([self.stage, self.version, self.settings, self.inputs])

    def difference(self, other: RunManifest) -> str:
        """Describe what changed since another manifest of the same stage, or return ``""``."""
        if self.version != other.version:
            return f"version {other.version} became {self.version}"
        changed = _changed(other.settings, self.settings, "")
        changed += _changed(other.inputs, self.inputs, "input ")
        return ", ".join(changed[:3]) + (" and more" if len(changed) > 3 else "")

    def write(self, folder: Path) -> None:
        """Write the manifest, with a hash of itself, into a stage's folder."""
        content = json.loads(json.dumps(asdict(self)))
        write_json(folder / MANIFEST_NAME, {**content, _SEAL: _digest(content)})

    def add(self, folder: Path, name: str) -> None:
        """Seal one more file of a finished stage, or one that was written anew."""
        replace(self, files={**self.files, name: seal_file(folder / name)}).write(folder)

    def refuse_damage(self, folder: Path, *, whole: bool = False) -> None:
        """Refuse a stage's folder whose files are not those that were written.

        Raises:
            RecinjectError: one of them is missing or changed; of large ones a sample is compared,
                unless they are to be read ``whole``.
        """
        if damage := find_damage(folder, self.files, whole=whole):
            raise RecinjectError(damage, hint=_AGAIN)

    @classmethod
    def read(cls, folder: Path) -> RunManifest | None:
        """Read a stage's manifest, or return None when the stage was never finished.

        Raises:
            RecinjectError: it is not as it was written.
        """
        path = folder / MANIFEST_NAME
        try:
            return cls.parse(path.read_bytes(), path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    @classmethod
    def parse(cls, written: bytes, path: str | Path) -> RunManifest:
        """Read the bytes of a manifest that lay at a path; see :meth:`read`."""
        content = _parse_json(written, path)
        seal = content.pop(_SEAL, None) if isinstance(content, dict) else None
        if seal != _digest(content):
            raise RecinjectError(f"{path} was changed after it was written", hint=_AGAIN)
        return cls(**content)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _changed(old: dict[str, Any], new: dict[str, Any], prefix: str) -> list[str]:
    changes: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += _changed(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key} changed")
    return changes


def link_file(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, or copy it where the disk has no hard links."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON, replacing the file in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file; refuse one that is cut off or no JSON."""
    return _parse_json(path.read_bytes(), path)


def _parse_json(written: bytes, path: str | Path) -> Any:
    try:
        return json.loads(written.decode("utf-8"))
    except ValueError as error:
        hint = "it is cut off or broken: write its folder again"
        raise RecinjectError(f"{path}: is no JSON ({error})", hint=hint) from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers and truth values of YAML 1.2's core schema."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)


def load_yaml(text: str) -> Any:
    """Read one YAML document, without ever running code.

    >>> load_yaml("{learning_rate: 1e-4, save_strategy: no, bf16: true, steps: 10}")
    {'learning_rate': 0.0001, 'save_strategy': 'no', 'bf16': True, 'steps': 10}
    """
    try:
        return _refuse_huge(yaml.load(text, Loader=_Loader))
    except RecursionError as error:
        raise yaml.YAMLError("too many brackets or sections within each other") from error
    except ValueError as error:  # such as an integer of thousands of digits
        raise yaml.YAMLError(str(error)) from error


def _refuse_huge(document: Any) -> Any:
    """Refuse a document that is deep, or large once each alias is what it stands for."""
    left, seen = [(document, 0)], 0
    while left:
        value, depth = left.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST_VALUES:
            raise yaml.YAMLError(
                f"more than {_MOST_VALUES:,} values, or {_DEEPEST} within each other"
            )
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            left += [(each, depth + 1) for each in inner]
    return document


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader above would not read as text."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump_yaml(value: Any) -> str:
    """Write plain values as YAML that :func:`load_yaml` reads as the same values."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def hash_value(value: Any) -> str:
    """Return a short stable hash of a JSON-like value, whatever the order of its keys."""
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
    """Return a folder that ships with the package: ``prompts`` or ``recipes``.

    In a checkout it lies beside the package, in an installed wheel inside it.
    """
    package = Path(__file__).parents[1]
    installed = package / "_shipped" / name
    return installed if installed.is_dir() else package.parent / name
