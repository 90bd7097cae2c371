"""Reads a log in anybody's form through DuckDB; the result is dense integers and a catalogue."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import duckdb

from recinject.data.checking import check, look_at
from recinject.data.files import refuse_dense, require_path
from recinject.data.findings import Finding
from recinject.data.formats import Format, find_files, find_users, part_of
from recinject.data.loading import LogTables, Source, literal
from recinject.data.tables import (
    EVENT_COLUMNS,
    IDS,
    ITEM_COLUMNS,
    Wanted,
    match_names,
    read_settings,
)
from recinject.foundation.errors import RecinjectError
from recinject.foundation.storage import hash_files
from recinject.registry import find

if TYPE_CHECKING:
    from recinject.data.schema import Log

Places = str | Path | Sequence[str | Path] | Mapping[str, str | Path]


def read_log(
    path: Places,
    *,
    items: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,  # noqa: A002 (the name of the recipe's setting)
    split: str = "",
    **settings: Any,
) -> Log:
    r"""Read a log of events, and what is known of its items; ``findings`` tell what was found.

    Args:
        path: a folder or file of a known form, plain or packed: RecBole, MovieLens, Amazon
            reviews, MIND, Netflix Prize, lines of items, or any csv, jsonl or Parquet; a list of
            files of one form; a URL such as ``s3://...``; or ``duckdb:///file.db``, with a
            ``query`` among the settings.
        items: the item table, when it is not where the format expects it.
        columns: our column names to the file's, where the well-known names do not do. An empty
            text leaves a column out. When there is no item table, item columns named here are
            read from the events file, and well-known ones where no item has two values in them.
        format: the name of a registered reader, such as ``"movielens"``; detected from the files
            when None.
        split: ``given`` where files called train, validation and test are the parts of a split.
        **settings: any of :class:`~recinject.data.tables.ReadSettings`, such as ``header``,
            ``separator``, ``encoding``, ``missing``, ``time_format``, ``keep`` or ``bad_rows``.

    Raises:
        RecinjectError: a file or column is absent or broken, or a value is missing or not what its
            column holds; the message names the file and the line.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "log.csv").write_text("user,sku,title\nann,a7,Tea\nbob,a7,Tea\n")
        >>> log = read_log(folder / "log.csv", columns={"item_id": "sku"})
        >>> log.catalog.titles, log.interactions.n_users
        (['Tea'], 2)
        >>> print(log.findings[0])
        The format was detected: table log.csv.
    """
    from recinject.data.collecting import collect  # pandas, which `look` does without

    settings["columns"] = columns or {}
    with closing(open_log(path, items=items, format=format, split=split, **settings)) as tables:
        return collect(tables)


def look(path: Places, **settings: Any) -> list[Finding]:
    """Return what reading a log finds, as :func:`read_log` takes it; a refusal is an error."""
    try:
        with closing(open_log(path, **settings)) as tables:
            seen = look_at(tables, check(tables))
            return [*tables.findings, *tables.said_of_texts, *seen]
    except RecinjectError as error:
        return [Finding("error", "unreadable", error.message, fix=error.hint)]


def open_log(
    path: Places,
    *,
    items: str | Path | None = None,
    format: str | None = None,  # noqa: A002
    split: str = "",
    **settings: Any,
) -> LogTables:
    """Read the files of a log into a connection of DuckDB, and match their columns.

    See :func:`read_log`; ``columns`` are among the settings. The tables are to be closed.

    Raises:
        RecinjectError: a file or a column that is needed is absent or broken.
    """
    asked = read_settings(settings)
    scratch = TemporaryDirectory(prefix="recinject-")
    fetch = partial(local, scratch=Path(scratch.name))
    try:
        about = None if items is None else fetch(items, "data.items")
        if isinstance(path, str | Path) and str(path).startswith("duckdb:"):
            tables = LogTables.open(asked, 0, scratch)
            tables.source = _load_query(tables, str(path))
            _load_others(tables, find("reader", "table"), Path(scratch.name), about)
            return tables
        places = [fetch(each, "data.path") for each in _files(path)]
        given = places[0] if isinstance(path, str | Path) else places
        form, files, about = find_files(given, format, about, split == "given")
        tables = LogTables.open(asked, sum(file.stat().st_size for file in files), scratch)
        tables.source = f"{form.name} {shown_names(files)}{f' and {about.name}' if about else ''}"
        how = "asked for" if format else "detected"
        tables.say("format", f"The format was {how}: {tables.source}.")
        wanted = Wanted(asked)
        tables.load("read_events", [Source(f, partial(form.read, f, wanted)) for f in files])
        tables.parts = _parts(path, files) if split == "given" else ()
        _load_others(tables, form, files[0], about)
    except BaseException:
        scratch.cleanup()
        raise
    return tables


def _load_others(tables: LogTables, form: Format, events: Path, about: Path | None) -> None:
    """Match the events' columns, and load the tables of items and of users, if there are any.

    The users' lies beside the events, where no setting names it.
    """
    asked, place = tables.settings, None
    if asked.users is not None:
        place = local(asked.users, "data.users", Path(tables.scratch.name))
    users = find_users(place, form, events)
    if users and place is None:
        tables.say("users", f"What is known of users is in {users[0].name}.")
    _match(tables, "read_events")
    tables.guess_items = form.guess_items
    if about is not None:
        wanted = Wanted(asked, partial(_ids_in_use, tables))
        _load(tables, "items", Source(about, partial(form.read, about, wanted)))
    if users is not None:
        file, read = users
        _load(tables, "users", Source(file, partial(read, file, Wanted(asked))))


def _files(path: Any) -> list[Any]:
    if isinstance(path, str | Path):
        return [path]
    return list(path.values()) if isinstance(path, Mapping) else list(path)


def _parts(path: Places, files: Sequence[Path]) -> list[int]:
    """Return the part of a given split that each file is."""
    names = {"train": 0, "validation": 1, "test": 2}
    if isinstance(path, Mapping) and path.keys() <= names.keys():
        return [names[name] for name in path]
    parts = [part_of(file) for file in files]
    if None in parts or not {0, 2} <= set(parts):
        raise RecinjectError(
            f"data.split=given: {shown_names(files)} are not a training and a test part by name",
            hint="write data.path={train: FILE, validation: FILE, test: FILE}, or give a folder "
            "with such files as train.csv, valid.csv and test.csv",
        )
    return [part for part in parts if part is not None]


def hash_log(
    path: Places,
    items: str | Path | None,
    users: str | Path | None,
    format: str | None,  # noqa: A002
    split: str,
) -> dict[str, str]:
    """Hash the very files that a log is read from, an item table found beside it too.

    Of a URL, what its file system calls the state of the file; of a folder's forms, their files.
    """
    listed = _files(path)
    places = [place for place in (*listed, items, users) if place is not None]
    local_ones = [Path(place) for place in places if ":/" not in str(place)]
    for place in local_ones:
        require_path(place, "data.path")
    plain = not any(place.suffix.lower() == ".zip" for place in local_ones)
    hashes = {str(place.absolute()): hash_files(place) for place in local_ones if place.is_file()}
    if plain and len(local_ones) == len(places):
        first = Path(path) if isinstance(path, str | Path) else [Path(each) for each in listed]
        about = None if items is None else Path(items)
        chosen, files, beside = find_files(first, format, about, split == "given")
        known = None if users is not None else find_users(None, chosen, files[0])
        more = [*files, *([beside] if beside else []), *([known[0]] if known else [])]
        hashes |= {str(file.absolute()): hash_files(file) for file in more}
    for place in places:
        if ":/" in str(place):
            hashes[str(place)] = _state(str(place))
    return hashes


def _state(url: str) -> str:
    """Return what changes when the file of a URL does."""
    if url.startswith("duckdb:"):
        file = Path(_database(url))
        return hash_files(file) if file.is_file() else ""
    import fsspec

    files, name = fsspec.url_to_fs(url)
    return str(files.ukey(name))


def _database(url: str) -> str:
    """Return the file of a URL such as ``duckdb:///shop.db`` or ``duckdb:////srv/shop.db``."""
    name = url.removeprefix("duckdb:").removeprefix("//")
    relative = name.removeprefix("/")
    return name if Path(name).is_file() and not Path(relative).is_file() else relative


def shown_names(files: Sequence[Path]) -> str:
    """Join the names of a few files."""
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return ", ".join(file.name for file in files[:3]) + more


def local(place: str | Path, setting: str, scratch: Path) -> Path:
    """Return the path of a file or folder; a URL is fetched and a zip unpacked into ``scratch``.

    Raises:
        RecinjectError: there is no such file, or it cannot be fetched or unpacked.
    """
    path = Path(place)
    if "://" in str(place):
        path = scratch / Path(str(place)).name
        try:
            import fsspec

            with fsspec.open(str(place), "rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 22)
        except Exception as error:  # each kind of URL raises its own
            raise RecinjectError(
                f"{place}: cannot be fetched ({type(error).__name__}: {error})",
                hint=f"mend {setting}, or install what this kind of URL needs, such as s3fs for s3",
            ) from error
    require_path(path, setting)
    if path.suffix.lower() != ".zip":
        return path
    folder = scratch / path.stem
    try:
        with ZipFile(path) as packed:
            refuse_dense(path, sum(each.file_size for each in packed.infolist()))
            packed.extractall(folder)
    except (BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise RecinjectError(
            f"{path}: cannot be unpacked ({error})", hint="fetch the file again, or unpack it"
        ) from error
    while len(found := [each for each in folder.iterdir() if each.name != "__MACOSX"]) == 1:
        folder = found[0]
        if folder.is_file():
            break
    return folder


def _load_query(tables: LogTables, path: str) -> str:
    """Fill the events with the rows of an SQL query; return what messages call them."""
    query, file = tables.settings.query, _database(path)
    if query is None:
        raise RecinjectError(
            f"{path}: no query says which rows are the events",
            hint='set data.query="select user_id, item_id, timestamp from TABLE"',
        )
    try:
        if file:
            require_path(Path(file), "data.path")
            tables.connection.execute(f"ATTACH {literal(file)} AS shop (READ_ONLY)")
            tables.connection.execute("USE shop")
        rows = tables.connection.execute(query).to_arrow_table()
        tables.connection.execute("USE memory")
    except duckdb.Error as error:
        raise RecinjectError(
            f"{path}: the query cannot be answered ({str(error).splitlines()[0]})",
            hint="mend data.query; it is one SELECT in DuckDB's SQL",
        ) from error
    tables.load("read_events", [Source(path, lambda: rows)])
    return f"query of {file or 'DuckDB'}"


_COLUMNS = {  # that each table may have, and must
    "read_events": (EVENT_COLUMNS, IDS),
    "items": (ITEM_COLUMNS, IDS[1:]),
    "users": (IDS[:1], IDS[:1]),
}


def _load(tables: LogTables, table: str, source: Source) -> None:
    tables.load(table, [source])
    _match(tables, table)


def _match(tables: LogTables, table: str) -> None:
    """Match the names of a table's columns; items and users may have ids of another name."""
    loaded, asked, key = tables.tables[table], tables.settings, "columns"
    columns = asked.columns
    if table != "read_events":
        columns = {k: v for k, v in columns.items() if k not in IDS or v in loaded.names}
    if table == "items" and asked.item_columns:
        columns, key = {**columns, **asked.item_columns}, "item_columns"
    if not loaded.rows:
        loaded.refuse([])
        if table == "read_events":
            raise RecinjectError(f"{tables.place()}: holds no events", hint="give a log with rows")
    try:
        names = match_names(tables.place(table), loaded.names, *_COLUMNS[table], columns, key)
    except RecinjectError:
        loaded.refuse([])  # what is wrong with the lines explains it
        raise
    own = {"read_events": tables.names, "items": tables.item_names, "users": tables.user_names}
    own[table].update(names)


def _ids_in_use(tables: LogTables) -> frozenset[str]:
    text = tables.text("read_events", tables.names["item_id"])
    return frozenset(row[0] for row in tables.ask(f"SELECT DISTINCT {text} FROM read_events"))


def make_log(
    events: object,
    items: object,
    source: str,
    *,
    users: object = None,
    settings: Mapping[str, Any] | None = None,
    said: str = "",
) -> Log:
    """Make a log of tables in memory; see :func:`~recinject.data.collecting.collect`.

    What comes from outside is examined, and ``said`` what it is; the tables of others have columns
    of our names.
    """
    from recinject.data.collecting import collect

    with closing(LogTables.open(read_settings(settings or {}))) as tables:
        tables.source, tables.examined = source, bool(said)
        if said:
            tables.say("format", said)
        for name, given in (("read_events", events), ("items", items), ("users", users)):
            if given is not None:
                _load(tables, name, _in_memory(name.removeprefix("read_"), given))
        return collect(tables)


def _in_memory(name: str, table: object) -> Source:
    return Source(name, lambda: table)
