"""Stores of files behind a URL, such as S3: no renames, and requests that fail now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from recinject.foundation.errors import RecinjectError
from recinject.foundation.storage import MANIFEST_NAME, RunManifest

T = TypeVar("T")
_TRIES, _FIRST_WAIT = 8, 0.05
# What another try won't mend.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def is_url(place: object) -> bool:
    """Whether a place is in a store and not a path of this machine."""
    return "://" in str(place)


@dataclass(frozen=True)
class Store:
    """Files below a URL that fsspec knows, such as ``s3://bucket/runs`` or ``memory://runs``.

    A folder in it is whole once it has a manifest, which is written last. A request that fails is
    made again, eight times at most, after waits that double.
    """

    url: str

    @cached_property
    def _files(self) -> tuple[Any, str]:
        import fsspec

        try:
            files, root = fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            hint = "install what this kind of URL needs, such as recinject[s3], or mend it"
            raise RecinjectError(f"{self.url}: cannot be opened ({error})", hint=hint) from error
        files.use_listings_cache = False
        return files, root.rstrip("/")

    def _ask(self, verb: str, name: str, *given: Any) -> Any:
        files, root = self._files
        return self._again(lambda: getattr(files, verb)(f"{root}/{name}", *given), name)

    def _again(self, request: Callable[[], T], name: str) -> T:
        for number in range(_TRIES):
            try:
                return request()
            except FileNotFoundError:
                raise
            except Exception as error:  # each kind of store raises its own
                if number + 1 == _TRIES or isinstance(error, _FINAL):
                    raise RecinjectError(
                        f"{self.url}/{name}: refused ({type(error).__name__}: {error})",
                        hint="mend the store's permissions or address; the same command goes on",
                    ) from error
                time.sleep(_FIRST_WAIT * 2**number)
        raise AssertionError

    def __truediv__(self, name: str) -> Store:
        return Store(f"{self.url.rstrip('/')}/{name}")

    def names(self) -> set[str]:
        """Return the names of the files and folders right below the URL."""
        files, root = self._files
        files.invalidate_cache()
        try:
            found = self._again(lambda: files.ls(root, detail=False), "")
        except FileNotFoundError:
            return set()
        return {str(name).rstrip("/").rpartition("/")[2] for name in found}

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None where there is none."""
        try:
            return bytes(self._ask("cat_file", name))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        self._ask("pipe_file", name, content)

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if there is one."""
        files, root = self._files
        try:
            self._again(lambda: files.rm(f"{root}/{name}", recursive=True), name)
        except FileNotFoundError:
            return

    def manifest(self) -> RunManifest | None:
        """Return the manifest of a stage that was put here; None where it is not whole."""
        content = self.read(MANIFEST_NAME)
        return None if content is None else RunManifest.parse(content, f"{self.url}/manifest.json")

    def put(self, folder: Path) -> None:
        """Upload a finished stage, its manifest last: until then the store holds no stage."""
        found = RunManifest.read(folder)
        assert found is not None
        self.remove(MANIFEST_NAME)
        for name in found.files:
            self._upload(folder / name, name)
        self._upload(folder / MANIFEST_NAME, MANIFEST_NAME)

    def _upload(self, file: Path, name: str) -> None:
        files, root = self._files
        parent = f"{root}/{name}".rpartition("/")[0]
        self._again(lambda: files.makedirs(parent, exist_ok=True), name)
        self._again(lambda: files.put_file(str(file), f"{root}/{name}"), name)

    def get(self, folder: Path) -> None:
        """Download a whole stage into a new folder; its files are compared with their seals.

        Raises:
            RecinjectError: a file is missing, or it is not what was put here.
        """
        files, root = self._files
        found = self.manifest()
        assert found is not None
        for name in found.files:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._again(partial(files.get_file, f"{root}/{name}", str(file)), name)
            except FileNotFoundError:
                file.unlink(missing_ok=True)
        found.refuse_damage(folder, whole=True)
        (folder / MANIFEST_NAME).write_bytes(self.read(MANIFEST_NAME) or b"")
