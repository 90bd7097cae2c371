"""The forms of logs that are known by their files: which files they have, and how they are read."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recinject.data.files import (
    JSON_LINES,
    KINDS,
    CsvDialect,
    Text,
    kind_of,
    listing,
    open_bytes,
    read_delimited,
    read_records,
    read_table,
    shown,
    text_lines,
    unpacked,
)
from recinject.data.tables import EVENT_COLUMNS, IDS, Block, Problem, Wanted, as_arrow
from recinject.foundation.errors import RecinjectError
from recinject.registry import find, names, pick, register

_FILES = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}
_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_WORK = ("occupation", "zip_code")
_DIALECTS = {
    "u.data": CsvDialect("\t", quoted=False, header=_RATINGS),
    "ratings.dat": CsvDialect("::", quoted=False, header=_RATINGS),
    "u.user": CsvDialect("|", quoted=False, header=("user_id", "age", "gender", *_WORK)),
    "users.dat": CsvDialect("::", quoted=False, header=("user_id", "gender", "age", *_WORK)),
}
USER_FILES = {"u.data": "u.user", "ratings.dat": "users.dat"}
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


def _read_movielens(path: Path, wanted: Wanted) -> Iterator[Block]:
    """Read a file by its name; movies get ``genres`` parted by ``|``, an empty text for none."""
    if path.name in _DIALECTS:
        yield from read_delimited(path, wanted, _DIALECTS[path.name])
    elif path.name == "movies.dat":
        hint = "mend or remove that line; fields are separated by ::"
        yield from _by_line(path, wanted, ["item_id", "title", "genres"], _movie, hint)
    elif path.name == "u.item":
        yield from _read_flags(path, wanted)
    else:
        for block in read_table(path, wanted):
            rows = as_arrow(path, block.rows)
            if "genres" in rows.column_names and pa.types.is_string(rows["genres"].type):
                genres = pc.replace_substring(rows["genres"], _NO_GENRES, "")
                place = rows.column_names.index("genres")
                rows = rows.set_column(place, "genres", genres)
            yield replace(block, rows=rows)


def _titled(line: str, separator: str, tail: int) -> list[str]:
    """Cut a line into an id, a title that may hold the separator, and a tail of fields."""
    item_id, found, rest = line.partition(separator)
    return [item_id, *rest.rsplit(separator, tail)] if found else [item_id]


def _movie(line: str, number: int) -> list[tuple[str, ...]] | str:
    fields = _titled(line, "::", 1)
    if len(fields) != 3:
        return f"{len(fields)} fields where there must be 3"
    return [(*fields[:2], fields[2].replace(_NO_GENRES, ""))]


def _read_flags(path: Path, wanted: Wanted) -> Iterator[Block]:
    """Read ``u.item``, whose lines end in a flag for each genre."""
    genres = _genre_names(path.with_name("u.genre"))
    count = 5 + len(genres)

    def parse(line: str, number: int) -> list[tuple[str, ...]] | str:
        fields = _titled(line, "|", count - 2)
        if len(fields) != count:
            return f"{len(fields)} fields where there must be {count}"
        item_id, title, date, _, url, *flags = fields
        # One flag too many would shift all genres by one, with the first flag for the address.
        if not {*flags} <= {"0", "1"} or url in ("0", "1"):
            return f"does not end in {len(genres)} flags of 0 and 1"
        own = compress(genres, map(int, flags))
        return [(item_id, title, date, "|".join(name for name in own if name != "unknown"))]

    names = ["item_id", "title", "release_date", "genres"]
    hint = "mend that line, whose fields are separated by |, or the list of genres in u.genre"
    return _by_line(path, wanted, names, parse, hint)


def _by_line(
    path: Path,
    wanted: Wanted,
    columns: Sequence[str],
    parse: Callable[[str, int], list[tuple[Any, ...]] | str],
    hint: str = "mend or remove that line",
) -> Iterator[Block]:
    """Yield the rows that each line of a text gives; ``parse`` says why one gives none."""
    text = Text.of(path, wanted.settings.encoding)
    lines = text.lines()
    while group := list(islice(lines, _LINES_AT_ONCE)):
        rows: list[tuple[Any, ...]] = []
        numbers: list[int] = []
        wrong = []
        for number, line in group:
            found = parse(line.rstrip("\r"), number)
            if isinstance(found, str):
                wrong.append((number, found))
            else:
                rows += found
                numbers += [number] * len(found)
        values = zip(*rows, strict=True) if rows else [()] * len(columns)
        arrays = [pa.array(own, pa.string()) for own in values]
        table = pa.table(arrays, names=list(columns))
        yield Block(table, numbers, Problem.of(wrong, hint), text.said)


def _genre_names(path: Path) -> list[str]:
    """Return the genre of each flag, from ``u.genre`` where it is there."""
    if not path.is_file():
        return _GENRES
    lines = [line.strip().rpartition("|") for _, line in text_lines(path)]
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
_TEXTS = {"reviewText", "text", "summary", "style", "helpful", "vote", "image", "images"}
_TEXTS |= {"imUrl", "imageURL", "imageURLHighRes", "videos", "tech1", "tech2", "fit", "date"}
_TEXTS |= {"details", "feature", "features", "salesRank", "rank", "average_rating", "related"}
_TEXTS |= {"rating_number", "also_buy", "also_view", "similar_item", "bought_together"}
_LEFT_OUT = frozenset(_TEXTS)


def _metadata_file(reviews: Path) -> Path | None:
    """Return the metadata that lie beside reviews: ``meta_X`` for ``reviews_X_5`` or ``X``."""
    stem = unpacked(reviews).stem.removeprefix("reviews_").removesuffix("_5")
    files = _matching(reviews.parent, "meta_*", JSON_LINES)
    return next((file for file in files if unpacked(file).stem == f"meta_{stem}"), None)


def _read_amazon(path: Path, wanted: Wanted) -> Iterator[Block]:
    """Read reviews or metadata: JSON lines, Python literals (metadata of 2014), or any table."""
    if kind_of(path) not in JSON_LINES:
        yield from read_table(path, wanted)
        return
    used = wanted.items() if wanted.items else None

    def keep(line: str) -> bool:  # metadata describe many times more items than a log uses
        if used is None or not (found := _ASIN.findall(line)):
            return True
        return any(name in used for name in found)

    is_empty = True
    for block in read_records(path, wanted, keep, _LEFT_OUT):
        is_empty = is_empty and not len(block.rows) and not block.problems
        yield block
    if is_empty and used is not None:
        raise RecinjectError(
            f"{path}: describes none of the log's items",
            hint="take the metadata of the reviews' own category and year, or set data.items",
        )


def _is_reviews(file: Path) -> bool:
    name = unpacked(file).stem
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


_LINES_LOOKED_AT, _LINES_AT_ONCE = 2000, 50_000


def _shape(path: Path) -> str:
    """Say which form of lines of numbers a text file has: pairs, lists, counted, or none."""
    if path.is_dir() or kind_of(path) not in (".txt", ".dat", ".data", ""):
        return ""
    try:
        rows = [line.split() for _, line in islice(text_lines(path), _LINES_LOOKED_AT)]
    except RecinjectError:
        return ""
    if not all(field.isdigit() for row in rows for field in row):
        return ""
    lengths = {len(row) for row in rows}
    if lengths == {2}:
        return "pairs"
    if all(int(row[0]) == len(row) - 1 for row in rows):
        return "counted"
    # Lines of one length are rows of a table, unless they have more columns than a table of
    # events has, and a user in each of them.
    own_line = len({row[0] for row in rows}) == len(rows) and min(lengths) > len(EVENT_COLUMNS)
    return "lists" if len(lengths) > 1 or own_line else ""


def _lists(shape: str) -> Callable[[Path, Wanted], Iterator[Block]]:
    """Return the reader of lines that hold a user and items, or their number and items."""

    def parse(line: str, number: int) -> list[tuple[str, str]] | str:
        user, *items = line.replace(",", " ").split()
        if shape == "pairs" and len(items) != 1:
            return f"{len(items) + 1} fields where there must be 2"
        if shape == "counted" and user != str(len(items)):
            return f"{len(items)} items where the line says {user!r}"
        user = str(number) if shape == "counted" else user
        return [(user, item) for item in items]

    def read(path: Path, wanted: Wanted) -> Iterator[Block]:
        is_table = kind_of(path) in KINDS  # of items
        return read_table(path, wanted) if is_table else _by_line(path, wanted, IDS, parse)

    return read


_MIND = ("impression_id", "user_id", "timestamp", "history", "impressions")


def _read_mind(path: Path, wanted: Wanted) -> Iterator[Block]:
    """Read clicks of impressions, and before them each user's history, whose times are unknown."""
    seen: set[str] = set()

    def parse(line: str, number: int) -> list[tuple[Any, ...]] | str:
        fields = line.split("\t")
        if len(fields) != len(_MIND):
            return f"{len(fields)} columns where there must be {len(_MIND)}"
        _, user, time, history, impressions = fields
        before = [] if user in seen else history.split()
        seen.add(user)
        clicked = [each[:-2] for each in impressions.split() if each.endswith("-1")]
        return [(user, item, None) for item in before] + [(user, item, time) for item in clicked]

    def news(line: str, number: int) -> list[tuple[Any, ...]] | str:
        fields = line.split("\t")
        wrong = f"{len(fields)} columns where there must be 8"
        return [(fields[0], fields[3], fields[1], fields[2])] if len(fields) >= 6 else wrong

    if path.name.startswith("news"):
        return _by_line(path, wanted, ["item_id", "title", "category", "subcategory"], news)
    if not path.name.startswith("behaviors"):
        return read_table(path, wanted)  # another table of items
    return _by_line(path, wanted, ["user_id", "item_id", "timestamp"], parse)


_FILM = re.compile(r"(\d+):\s*")


def _netflix_files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("combined_data_*.txt*"))
    files = [file for file in files if kind_of(file) == ".txt"]
    try:
        return [file for file in files if _FILM.fullmatch(next(text_lines(file))[1])]
    except RecinjectError:
        return []


def _read_netflix(path: Path, wanted: Wanted) -> Iterator[Block]:
    """Read ``FILM:`` and below it ``USER,RATING,DATE`` lines; or ``FILM,YEAR,TITLE`` lines."""
    of_films, film = path.name.startswith("movie_titles"), ""
    if kind_of(path) in KINDS and not of_films:
        return read_table(path, wanted)  # another table of items

    def parse(line: str, number: int) -> list[tuple[Any, ...]] | str:
        nonlocal film
        if not of_films and (found := _FILM.fullmatch(line)):
            film = found[1]
            return []
        fields = line.split(",", 2)
        wrong = f"{len(fields)} fields where there must be 3"
        return [(*fields, film)] if len(fields) == 3 else wrong

    names = ["item_id", "year", "title"] if of_films else ["user_id", "rating", "timestamp"]
    return _by_line(path, wanted, [*names, "film" if of_films else "item_id"], parse)


@dataclass(frozen=True)
class Format:
    """One form that logs come in: which files it has, and how they are read.

    A form of one's own is a ``Format`` that is registered as a reader. ``data.format=NAME`` asks
    for it; where no format is asked for, it is guessed like the others. :func:`files.read_table`
    reads the usual kinds of files, so a form needs a ``read`` of its own only for others.

    ``read`` makes a frame or an Arrow table of one of its files, or yields several, or
    :class:`tables.Block`, whose lines stand in messages; with the columns ``user_id`` and
    ``item_id`` or whatever ``data.columns`` says. :class:`tables.Wanted` has the settings of the
    reading, and tells which items are used; a reader may ignore it.

    Examples:
        A reader of lines such as ``Ann likes tea``:

        >>> import pandas as pd
        >>> from recinject.registry import register
        >>> def read(path, wanted):
        ...     rows = [line.split(" likes ") for line in path.read_text().splitlines()]
        ...     return pd.DataFrame(rows, columns=["user", "item"])
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
    read: Callable[[Path, Wanted], Any] = read_table
    guess_items: bool = True  # whether a ``title`` among the events may be the item's
    several: bool = False  # whether its log may lie in several files
    users: Callable[[Path], Path | None] = lambda events: None  # the table of users beside it


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
    path: Path | Sequence[Path], asked: str | None, items: Path | None, parts: bool = False
) -> tuple[Format, list[Path], Path | None]:
    """Return the format of a path, or of several files, and its files of events and of items.

    ``parts`` takes a folder's files that are called train, validation or test, as a split is.

    Raises:
        RecinjectError: the format that is asked for is unknown; the path looks like no format, or a
            folder like several; or one of its files is not to be told from others.
    """
    known = find_formats()
    if asked is not None:
        pick(asked, known, "data.format: unknown format")
    if isinstance(path, Path) and path.is_dir() and parts:
        found = [file for file in sorted(path.iterdir()) if part_of(file) is not None]
        path = found or path
    elif isinstance(path, Path) and asked is None and (lone := _lone_table(path, known)):
        items, path = items or next(iter(_matching(path, "items.*")), None), lone
    if not isinstance(path, Path):
        chosen = known[asked or _guess(path[0], known)]
        events = sorted(path, key=lambda file: part_of(file) or 0) if parts else list(path)
    else:
        chosen = known[asked or _guess(path, known)]
        events = [path] if path.is_file() else chosen.events(path)
        events = events if chosen.several and events else [_only(path, events, chosen.expects)]
    items = items or chosen.items(events[0])
    return chosen, events, items if items is not None and items.is_file() else None


def find_users(asked: Path | None, form: Format, events: Path) -> tuple[Path, Any] | None:
    """Return the table of users that is asked for, or lies beside a log, and what reads it."""
    beside = asked or form.users(events)
    if beside is None or not beside.is_file():
        return None
    if beside.name in USER_FILES.values():
        return beside, _read_movielens
    return beside, find_files(beside, None, None)[0].read if asked else form.read


_PART = re.compile(r"(?:^|[._-])(?:(train|training)|(valid|validation|val|dev)|(test))(?:[._-]|$)")


def part_of(file: Path) -> int | None:
    """Return the part of a split that a file's name tells: 0 of train, 1 of validation, 2 of test.

    Examples:
        >>> part_of(Path("ml.valid.inter")), part_of(Path("log.csv"))
        (1, None)
    """
    found = _PART.search(file.name.lower())
    return None if found is None else int(found.lastindex or 1) - 1


def _guess(path: Path, known: Mapping[str, Format]) -> str:
    matching = [name for name, form in known.items() if form.events(path)]
    matching = [name for name in matching if name != "table"] or matching  # any file may be one
    if len(matching) == 1 or (matching and path.is_file()):
        return matching[0]
    found = f"it holds {shown(listing(path))}" if path.is_dir() else "by its ending"
    expected = "; ".join(f"{name}: {form.expects}" for name, form in known.items())
    if matching:
        raise RecinjectError(
            f"{path}: could be a log of several forms, {' or '.join(matching)} ({found})",
            hint=f"set data.format={matching[0]} or data.path to the very file; give {expected}",
        )
    parts = [file.name for file in sorted(path.iterdir()) if part_of(file) is not None]
    advice = f"set data.split=given to read {shown(parts)} as its parts; or " if parts else ""
    if files := _tables(path) or sorted(path.glob("*.zip")):
        advice += f"set data.path={files[0]}, or to whichever file has the events; or "
    raise RecinjectError(
        f"{path}: is no log of a known form ({found})", hint=f"{advice}give {expected}"
    )


def _lone_table(path: Path, known: Mapping[str, Format]) -> Path | None:
    """Return the one file of a folder that may be a log, where no form knows the folder."""
    found = _tables(path) if path.is_dir() else []
    return None if len(found) != 1 or any(f.events(path) for f in known.values()) else found[0]


def _tables(folder: Path) -> list[Path]:
    """Return the files of a folder that may be a log of their own, by their names."""
    kinds = (*KINDS, ".txt", ".dat", ".data")
    about = ("items", "users", "readme", "license")
    found = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name[0] != "."]
    return [f for f in found if kind_of(f) in kinds and unpacked(f).stem.lower() not in about]


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
        users=lambda events: events.with_suffix(".user"),
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
        users=lambda events: events.with_name(USER_FILES.get(events.name, "users.dat")),
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
register("reader", "mind")(
    Format(
        name="MIND",
        expects="a folder with behaviors.tsv and maybe news.tsv",
        events=lambda path: (
            _matching(path if path.is_dir() else path.parent, "behaviors.tsv*")
            if path.is_dir() or path.name.startswith("behaviors.tsv")
            else []
        ),
        items=lambda events: events.with_name(events.name.replace("behaviors", "news")),
        read=_read_mind,
    )
)
register("reader", "netflix")(
    Format(
        name="Netflix Prize",
        expects="a folder with combined_data_1.txt and so on, and maybe movie_titles.csv",
        events=_netflix_files,
        items=lambda events: events.with_name("movie_titles.csv"),
        read=_read_netflix,
        several=True,
    )
)


def _format_of_lines(name: str, expects: str) -> Format:
    return Format(
        name=f"lines ({name})",
        expects=expects,
        events=lambda path: [path] if _shape(path) == name else [],
        items=lambda events: None,
        read=_lists(name),
    )


for _name, _expects in (
    ("pairs", "a .txt file of lines with a user and an item"),
    ("lists", "a .txt file of lines with a user and all its items"),
    ("counted", "a .txt file of lines, one a user, with the number of its items and these"),
):
    register("reader", _name)(_format_of_lines(_name, _expects))
register("reader", "table")(
    Format(
        name="table",
        expects="a folder with interactions.KIND and maybe items.KIND, or any file of lines of "
        f"columns, or of the kinds {', '.join(KINDS)} (each also .gz, .zst or .zip)",
        events=lambda path: [path] if path.is_file() else _matching(path, "interactions.*"),
        items=_items_table,
    )
)
