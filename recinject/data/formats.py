"""The forms of logs that are known by their files: MovieLens, Amazon reviews, RecBole, tables."""

from __future__ import annotations

import ast
import json
import re
import zlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import pandas as pd

from recinject.data.files import (
    JSON_LINES,
    KINDS,
    CsvDialect,
    kind_of,
    listing,
    open_bytes,
    read_delimited,
    read_json_lines,
    read_table,
    read_utf8,
    shown,
    without_gz,
)
from recinject.data.tables import Problem, Table, Wanted
from recinject.foundation.errors import RecinjectError
from recinject.registry import find, names, pick, register

_FILES = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}
_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_DIALECTS = {
    "u.data": CsvDialect("\t", header=_RATINGS),
    "ratings.dat": CsvDialect("::", header=_RATINGS),
}
_NO_GENRES = "(no genres listed)"
_GENRES = ["unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"]
_GENRES += ["Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"]
_GENRES += ["Romance", "Sci-Fi", "Thriller", "War", "Western"]


def _ratings_files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else [path / name for name in _FILES]
    # Many a log calls its file ratings.csv; only MovieLens has movies.csv beside it.
    return [
        file
        for file in files
        if file.name in _FILES
        and file.is_file()
        and (file.suffix != ".csv" or file.with_name("movies.csv").is_file())
    ]


def _read_movielens(path: Path, wanted: Wanted) -> Table:
    """Read a file by its name; movies get ``genres`` parted by ``|``, an empty text for none."""
    if path.name in _DIALECTS:
        return read_delimited(path, _DIALECTS[path.name], wanted)
    if path.name == "u.item":
        return _with_flags(path)
    is_dat = path.name == "movies.dat"
    table = _titled(path, "::", ["genres"]) if is_dat else read_table(path, wanted)
    if "genres" in table.frame:
        table.frame["genres"] = table.frame["genres"].replace(_NO_GENRES, "")
    return table


def _titled(path: Path, separator: str, tail: Sequence[str]) -> Table:
    """Read lines of an id, a title that may hold the separator, and a tail of fields."""
    rows, numbers, wrong = [], [], []
    for number, line in enumerate(read_utf8(path).decode().split("\n"), start=1):
        if not line.strip():
            continue
        item_id, *rest = line.rstrip("\r").split(separator, 1)
        fields = [item_id, *(rest[0].rsplit(separator, len(tail)) if rest else [])]
        if len(fields) == len(tail) + 2:
            rows.append(fields)
            numbers.append(number)
        else:
            wrong.append((number, f"{len(fields)} fields where there must be {len(tail) + 2}"))
    frame = pd.DataFrame(rows, columns=["item_id", "title", *tail], dtype=object)
    hint = f"mend or remove that line; fields are separated by {separator}"
    return Table(path, frame, numbers, problems=Problem.of(wrong, hint))


def _with_flags(path: Path) -> Table:
    genres = _genre_names(path.with_name("u.genre"))
    table = _titled(path, "|", ["release_date", "video_release_date", "url", *genres])
    flags = table.frame.iloc[:, 5:]
    # One flag too many would shift all genres by one, with the first flag for the address.
    wrong = ~flags.isin(["0", "1"]).all(axis=1) | table.frame["url"].isin(["0", "1"])
    what = f"does not end in {len(genres)} flags of 0 and 1"
    hint = "mend that line, or the list of genres in u.genre"
    found = table.find(wrong.to_numpy(bool), lambda row: what, hint)
    named = [
        "|".join(name for name in compress(genres, row) if name != "unknown")
        for row in (flags == "1").to_numpy()
    ]
    kept = table.frame[["item_id", "title", "release_date"]]
    return replace(table, frame=kept.assign(genres=named), problems=[*table.problems, *found])


def _genre_names(path: Path) -> list[str]:
    """Return the genre of each flag, from ``u.genre`` where it is there."""
    if not path.is_file():
        return _GENRES
    lines = [
        line.strip().rpartition("|")
        for line in read_utf8(path).decode().split("\n")
        if line.strip()
    ]
    if [number for _, _, number in lines] != [str(number) for number in range(len(lines))]:
        raise RecinjectError(
            f"{path}: is no list of genres numbered from 0",
            hint="write NAME|NUMBER a line, in order, or remove the file for MovieLens's own list",
        )
    return [name for name, _, _ in lines]


_KEYS = ((b'"reviewerID"', b'"asin"'), (b'"user_id"', b'"parent_asin"'))
_FIRST_BYTES = 1 << 16
_ASIN = re.compile(r"""["'](?:parent_asin|asin)["']\s*:\s*["']([^"']*)["']""")
# Long texts that no stage reads, pictures, and what was counted over all reviews: ranks, mean
# ratings and what others bought tell of the events that are held out.
_LEFT_OUT = {"reviewText", "text", "summary", "style", "helpful", "vote", "image", "images"}
_LEFT_OUT |= {"imUrl", "imageURL", "imageURLHighRes", "videos", "tech1", "tech2", "fit", "date"}
_LEFT_OUT |= {"details", "feature", "features", "salesRank", "rank", "average_rating", "related"}
_LEFT_OUT |= {"rating_number", "also_buy", "also_view", "similar_item", "bought_together"}


def _metadata_file(reviews: Path) -> Path | None:
    """Return the metadata that lie beside reviews: ``meta_X`` for ``reviews_X_5`` or ``X``."""
    stem = without_gz(reviews).stem.removeprefix("reviews_").removesuffix("_5")
    files = _matching(reviews.parent, "meta_*", JSON_LINES)
    return next((file for file in files if without_gz(file).stem == f"meta_{stem}"), None)


def _read_amazon(path: Path, wanted: Wanted) -> Table:
    """Read reviews or metadata: JSON lines, Python literals (metadata of 2014), or any table."""
    if kind_of(path) not in JSON_LINES:
        return read_table(path, wanted)
    used = wanted.items

    def keep(line: str) -> bool:  # metadata describe many times more items than a log uses
        if used is None or not (found := _ASIN.findall(line)):
            return True
        return any(name in used for name in found)

    table = read_json_lines(path, _parse, keep)
    if table.frame.empty and not table.problems and used is not None:
        raise RecinjectError(
            f"{path}: describes none of the log's items",
            hint="take the metadata of the reviews' own category and year, or set data.items",
        )
    return table


def _parse(line: str) -> Any:
    try:
        record = json.loads(line)
    except ValueError:
        if not line.lstrip().startswith("{'"):
            raise
        try:
            record = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise ValueError(f"nor a Python dictionary: {error}") from error
    if not isinstance(record, dict):
        return record
    return {str(name): value for name, value in record.items() if name not in _LEFT_OUT}


def _is_reviews(file: Path) -> bool:
    name = without_gz(file).stem
    if name in ("interactions", "items") or name.startswith("meta_"):
        return False
    if name.startswith("reviews_") or _metadata_file(file):
        return True
    try:
        with open_bytes(file) as stream:
            line = stream.readline(_FIRST_BYTES)
    except (OSError, EOFError, zlib.error):
        return False
    return any(all(key in line for key in keys) for keys in _KEYS)


@dataclass(frozen=True)
class Format:
    """One form that logs come in: which files it has, and how they are read.

    A form of one's own is a ``Format`` that is registered as a reader. ``data.format=NAME`` asks
    for it; where no format is asked for, it is guessed like the others. :func:`files.read_table`
    reads the usual kinds of files, so a form needs a ``read`` of its own only for others.

    ``read`` makes a table of one of its files, with the columns ``user_id`` and ``item_id`` or
    whatever ``data.columns`` says. :class:`tables.Wanted` tells which columns and items are used; a
    reader may leave the others out, or ignore it.

    Examples:
        A reader of lines such as ``Ann likes tea``:

        >>> from recinject.data.tables import Table
        >>> from recinject.registry import register
        >>> def read(path, wanted):
        ...     rows = [line.split(" likes ") for line in path.read_text().splitlines()]
        ...     return Table(path, pd.DataFrame(rows, columns=["user", "item"]))
        >>> likes = Format(
        ...     name="sentences",
        ...     expects="a .likes file",
        ...     events=lambda path: [path] if path.suffix == ".likes" else [],
        ...     items=lambda events: None,
        ...     read=read,
        ... )
        >>> register("reader", "likes")(likes)  # doctest: +SKIP
    """

    name: str  # what messages call it
    expects: str  # what a path of this form is, in words
    events: Callable[[Path], list[Path]]  # the files of events in a path; a file is itself or none
    items: Callable[[Path], Path | None]  # the items file that belongs to an events file
    read: Callable[[Path, Wanted], Table] = read_table
    guess_items: bool = (
        True  # whether a column such as ``title`` among the events may be the item's
    )


def find_formats() -> dict[str, Format]:
    """Return every form that ``data.format`` may name: the project's own, and everybody's own."""
    formats = {}
    for name in names("reader"):
        try:
            formats[name] = find("reader", name)
        except Exception as error:  # somebody else's package may raise anything
            formats[name] = f"{type(error).__name__}: {error}"
        if not isinstance(formats[name], Format):
            raise RecinjectError(
                f"data.format: the reader {name!r} of a package or plugin is no Format "
                f"({formats[name]})",
                hint="mend or remove the package that offers it",
            )
    return formats


def find_files(
    path: Path, asked: str | None, items: Path | None
) -> tuple[Format, Path, Path | None]:
    """Return the format of a path, and its files of events and of items.

    Raises:
        RecinjectError: the format that is asked for is unknown; the path looks like no format, or a
            folder like several; or one of its files is not to be told from others.
    """
    known = find_formats()
    if asked is not None:
        pick(asked, known, "data.format: unknown format")
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


register("reader", "recbole")(
    Format(
        name="RecBole atomic files",
        expects="a folder with NAME.inter and maybe NAME.item, or a .inter file",
        events=lambda path: _matching(path, "*.inter", (".inter",)),
        items=lambda events: events.with_suffix(".item"),
    )
)
register("reader", "movielens")(
    Format(
        name="MovieLens",
        expects="a folder with u.data and u.item (100K), ratings.dat and movies.dat (1M, 10M), or "
        "ratings.csv and movies.csv (20M and later)",
        events=_ratings_files,
        items=lambda events: events.with_name(_FILES.get(events.name, "movies.csv")),
        read=_read_movielens,
    )
)
register("reader", "amazon")(
    Format(
        name="Amazon reviews",
        expects="a folder with reviews_X_5.json (2014), X_5.json (2018) or X.jsonl (2023) and "
        "maybe meta_X of the same ending, or the file of reviews (each also .gz)",
        events=lambda path: list(filter(_is_reviews, _matching(path, "*", JSON_LINES))),
        items=_metadata_file,
        read=_read_amazon,
        guess_items=False,  # a review has a title of its own
    )
)
register("reader", "table")(
    Format(
        name="table",
        expects="a folder with interactions.KIND and maybe items.KIND, or a file of one of the "
        f"kinds {', '.join(KINDS)} (each also .gz)",
        events=lambda path: _matching(path, "interactions.*"),
        items=_items_table,
    )
)
