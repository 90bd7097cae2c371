"""The forms that logs come in, and which one a path has."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

from recinject.data.amazon import metadata_file, read_amazon, reviews_files
from recinject.data.movielens import movies_file, ratings_files, read_movielens
from recinject.data.table_reader import KINDS, Table, kind_of, listing, read_table, shown
from recinject.foundation.errors import RecinjectError, did_you_mean


def _read_any(path: Path, _used: Container[str] | None) -> Table:
    return read_table(path)


@dataclass(frozen=True)
class Format:
    """One form that logs come in: which files it has.

    How a file of a kind is read is ``table_reader.KINDS``; a new form is an entry there, here,
    or in both.

    Attributes:
        name: what messages call it.
        expects: what a path of this form is, in words.
        events: the files of events that a path holds; a file holds itself or nothing.
        items: the items file that belongs to an events file, None when there is none.
        read: makes a table of one of these files; for an items file it is told which items the
            events use, and may leave the others out.
    """

    name: str
    expects: str
    events: Callable[[Path], list[Path]]
    items: Callable[[Path], Path | None]
    read: Callable[[Path, Container[str] | None], Table] = _read_any


def find_files(
    path: Path, asked: str | None, items: Path | None
) -> tuple[Format, Path, Path | None]:
    """Return the format of a path, and its files of events and of items.

    Args:
        path: a file of events or a folder.
        asked: a name in :data:`FORMATS`; None takes the one that the path looks like.
        items: the file of items; None looks for it where the format expects it.

    Raises:
        RecinjectError: there is no such name; the path looks like no format, or a folder like
            several; or one of its files is not to be told from others.
    """
    if asked is not None and asked not in FORMATS:
        raise RecinjectError(
            f"data.format: unknown format {asked!r}", hint=did_you_mean(asked, FORMATS)
        )
    chosen = FORMATS[asked or _guess(path)]
    events = path if path.is_file() else _only(path, chosen.events(path), chosen.expects)
    items = items or chosen.items(events)
    return chosen, events, items if items is not None and items.is_file() else None


def _guess(path: Path) -> str:
    matching = [name for name, known in FORMATS.items() if known.events(path)]
    if len(matching) == 1 or (matching and path.is_file()):
        return matching[0]
    found = f"it holds {shown(listing(path))}" if path.is_dir() else "by its ending"
    expected = "; ".join(f"{name}: {known.expects}" for name, known in FORMATS.items())
    if matching:
        raise RecinjectError(
            f"{path}: could be a log of several forms, {' or '.join(matching)} ({found})",
            hint=f"set data.format={matching[0]} or data.path to the very file; give {expected}",
        )
    raise RecinjectError(f"{path}: is no log of a known form ({found})", hint=f"give {expected}")


def _only(folder: Path, files: list[Path], what: str) -> Path:
    """Return the only one of a folder's files, one named as the folder going first."""
    files = [file for file in files if file.stem == folder.name] or files
    if len(files) == 1:
        return files[0]
    raise RecinjectError(
        f"{folder}: {len(files) or 'no'} files match, where one is needed: {what}",
        hint="set data.path (or data.items) to the very file; "
        f"the folder holds {shown([file.name for file in files] or listing(folder))}",
    )


def _matching(path: Path, pattern: str, kinds: Container[str] = KINDS) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob(pattern))
    return [file for file in files if kind_of(file) in kinds]


def _items_table(events: Path) -> Path | None:
    items = _matching(events.parent, "items.*") if events.name.startswith("interactions.") else []
    return _only(events.parent, items, "items.KIND") if items else None


FORMATS: dict[str, Format] = {
    "recbole": Format(
        name="RecBole atomic files",
        expects="a folder with NAME.inter and maybe NAME.item, or a .inter file",
        events=lambda path: _matching(path, "*.inter", (".inter",)),
        items=lambda events: events.with_suffix(".item"),
    ),
    "movielens": Format(
        name="MovieLens",
        expects="a folder with u.data and u.item (100K), ratings.dat and movies.dat (1M, 10M), or "
        "ratings.csv and movies.csv (20M and later)",
        events=ratings_files,
        items=movies_file,
        read=read_movielens,
    ),
    "amazon": Format(
        name="Amazon reviews",
        expects="a folder with reviews_X_5.json (2014), X_5.json (2018) or X.jsonl (2023) and "
        "maybe meta_X of the same ending, or the file of reviews (each also .gz)",
        events=reviews_files,
        items=metadata_file,
        read=read_amazon,
    ),
    "table": Format(
        name="table",
        expects="a folder with interactions.KIND and maybe items.KIND, or a file of one of the "
        f"kinds {', '.join(KINDS)} (each also .gz)",
        events=lambda path: _matching(path, "interactions.*"),
        items=_items_table,
    ),
}
