"""The forms that logs come in, and which one a path has."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from recinject.data import movielens
from recinject.data.amazon import metadata_file, read_amazon, reviews_files
from recinject.data.delimited import DIALECTS
from recinject.data.movielens import movies_file, ratings_files, read_movielens
from recinject.data.quick_reader import Events, read_quickly
from recinject.data.table import Table
from recinject.data.table_reader import KINDS, kind_of, listing, read_table, shown
from recinject.foundation.errors import RecinjectError, did_you_mean

ENTRY_POINTS = "recinject.readers"


def _quick_table(path: Path, columns: Mapping[str, str], with_items: bool) -> Events | None:
    # No two forms have a file of one name and different dialects.
    dialect = movielens.DIALECTS.get(path.name, DIALECTS.get(kind_of(path)))
    known = dialect is not None or path.suffix == ".parquet"
    return read_quickly(path, dialect, columns, with_items) if known else None


@dataclass(frozen=True)
class Format:
    """One form that logs come in: which files it has, and how they are read.

    A package offers a form of its own by the entry point group ``recinject.readers``::

        [project.entry-points."recinject.readers"]
        lastfm = "my_package.lastfm:LASTFM"

    ``LASTFM`` is a ``Format``; ``data.format=lastfm`` asks for it, and where no format is asked
    for it is guessed like the others. How a file of a kind is read is ``table_reader.KINDS``.

    Attributes:
        name: what messages call it.
        expects: what a path of this form is, in words.
        events: the files of events that a path holds; a file holds itself or nothing.
        items: the items file that belongs to an events file, None when there is none.
        read: makes a table of one of these files, with the columns ``user_id`` and ``item_id``
            or whatever ``data.columns`` says; for an items file it is told which items the
            events use, and may leave the others out.
        quick: reads a clean file of events at once, and gives None for others, or if columns about
            items are wanted (its last argument) and are there: it spares time and memory.
        guess_items: whether a column such as ``title`` in the file of events may be the item's.
    """

    name: str
    expects: str
    events: Callable[[Path], list[Path]]
    items: Callable[[Path], Path | None]
    read: Callable[[Path, Container[str] | None], Table] = lambda path, used: read_table(path)
    quick: Callable[[Path, Mapping[str, str], bool], Events | None] = lambda *arguments: None
    guess_items: bool = True


def find_formats() -> dict[str, Format]:
    """Return every form that ``data.format`` may name: the project's own, and packages' own."""
    return {**FORMATS, **{own.name: _load(own) for own in entry_points(group=ENTRY_POINTS)}}


def _load(entry: EntryPoint) -> Format:
    try:
        found = entry.load()
    except Exception as error:  # somebody else's package may raise anything
        found = f"{type(error).__name__}: {error}"
    if isinstance(found, Format):
        return found
    raise RecinjectError(
        f"data.format: the reader {entry.name!r} of {entry.value} is no Format ({found})",
        hint="mend or remove the package that offers it",
    )


def find_files(
    path: Path, asked: str | None, items: Path | None
) -> tuple[Format, Path, Path | None]:
    """Return the format of a path, and its files of events and of items.

    Args:
        path: a file of events or a folder.
        asked: a name of :func:`find_formats`; None takes the one that the path looks like.
        items: the file of items; None looks for it where the format expects it.

    Raises:
        RecinjectError: there is no such name; the path looks like no format, or a folder like
            several; or one of its files is not to be told from others.
    """
    known = find_formats()
    if asked is not None and asked not in known:
        raise RecinjectError(
            f"data.format: unknown format {asked!r}", hint=did_you_mean(asked, known)
        )
    chosen = known[asked or _guess(path, known)]
    events = path if path.is_file() else _only(path, chosen.events(path), chosen.expects)
    items = items or chosen.items(events)
    return chosen, events, items if items is not None and items.is_file() else None


def _guess(path: Path, known: Mapping[str, Format]) -> str:
    matching = [name for name, form in known.items() if form.events(path)]
    if len(matching) == 1 or (matching and path.is_file()):
        return matching[0]
    found = f"it holds {shown(listing(path))}" if path.is_dir() else "by its ending"
    expected = "; ".join(f"{name}: {form.expects}" for name, form in known.items())
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
        quick=_quick_table,
    ),
    "movielens": Format(
        name="MovieLens",
        expects="a folder with u.data and u.item (100K), ratings.dat and movies.dat (1M, 10M), or "
        "ratings.csv and movies.csv (20M and later)",
        events=ratings_files,
        items=movies_file,
        read=read_movielens,
        quick=_quick_table,
    ),
    "amazon": Format(
        name="Amazon reviews",
        expects="a folder with reviews_X_5.json (2014), X_5.json (2018) or X.jsonl (2023) and "
        "maybe meta_X of the same ending, or the file of reviews (each also .gz)",
        events=reviews_files,
        items=metadata_file,
        read=read_amazon,
        guess_items=False,  # a review has a title of its own
    ),
    "table": Format(
        name="table",
        expects="a folder with interactions.KIND and maybe items.KIND, or a file of one of the "
        f"kinds {', '.join(KINDS)} (each also .gz)",
        events=lambda path: _matching(path, "interactions.*"),
        items=_items_table,
        quick=_quick_table,
    ),
}
