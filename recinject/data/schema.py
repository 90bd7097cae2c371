"""A log as two tables of dense integers: its interactions and the catalogue of its items."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from recinject.data.findings import Finding
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged
from recinject.foundation.settings import expect

Integers = NDArray[np.int32]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Order = Literal["time", "position", "rows", "random"]

_EVENTS, _USERS, _ITEMS = "interactions.parquet", "users.parquet", "items.parquet"
_ATTRIBUTES, _GIVEN = "user_attributes.parquet", "given"
_LOG = "recinject.log"
_EVENTS_AT_ONCE = 1 << 20
_COLUMNS = ("users", "items", "ratings", "timestamps", "parts")
_MAPPED = 1 << 27  # bytes: larger arrays lie in a file


def empty_array(count: int, kind: Any) -> NDArray[Any]:
    """Return room for an array; a large one lies in a file without a name instead of in memory."""
    if count * np.dtype(kind).itemsize < _MAPPED:
        return np.empty(count, kind)
    with TemporaryFile() as file:
        return np.asarray(np.memmap(file, kind, "w+", shape=(count,)))


def release(*arrays: NDArray[Any] | None) -> None:
    """Leave arrays to their files until they are used again, those that lie in files."""
    for array in arrays:
        if array is not None and isinstance(array.base, np.memmap):
            pages: Any = array.base
            if hasattr(mmap, "MADV_DONTNEED"):
                pages._mmap.madvise(mmap.MADV_DONTNEED)


def _kept(column: NDArray[Any] | None, keep: Flags) -> Any:
    """Return the kept values of a column, some at a time where it lies in a file."""
    if column is None or not isinstance(column.base, np.memmap):
        return None if column is None else column[keep]
    kept, place = empty_array(int(np.count_nonzero(keep)), column.dtype), 0
    for start in range(0, len(column), _EVENTS_AT_ONCE):
        values = column[start : start + _EVENTS_AT_ONCE][keep[start : start + _EVENTS_AT_ONCE]]
        kept[place : place + len(values)] = values
        place += len(values)
    release(column, kept)
    return kept


@dataclass(frozen=True, eq=False)
class Interactions:
    """Who used what, when: one array of shape (events,) a column, by user, then by time."""

    users: Integers  # user numbers, ascending
    items: Integers  # item numbers, which are rows of the catalogue
    ratings: Floats | None  # None when the log has none
    timestamps: Floats | None  # seconds since 1970, NaN where unknown; None when the log has none
    user_ids: Sequence[str]  # the log's own id of each user number
    n_items: int  # of the catalogue
    parts: NDArray[np.int8] | None = None  # of a split that came with the log, as ``Part`` has them

    def __len__(self) -> int:
        return len(self.users)

    @property
    def n_users(self) -> int:
        """The number of users, those without an event included."""
        return len(self.user_ids)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each user's events start, in CSR form: shape (users + 1,)."""
        return np.searchsorted(self.users, np.arange(self.n_users + 1, dtype=self.users.dtype))

    @cached_property
    def by_user(self) -> Ragged:
        """Each user's items, oldest first."""
        return Ragged(self.items, self.offsets)

    def items_of(self, user: int) -> Integers:
        """Return one user's items, oldest first."""
        return self.by_user[user]

    def select(self, keep: Flags) -> Interactions:
        """Return the events that are kept, with the same user and item numbers."""
        if keep.all():
            return self
        return replace(self, **{name: _kept(getattr(self, name), keep) for name in _COLUMNS})

    def take(self, events: NDArray[np.int64]) -> Interactions:
        """Return all events in another order, which keeps users together."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        taken = {name: own[events] for name, own in columns.items() if own is not None}
        return replace(self, **taken)


def event_table(
    events: Interactions, *, parts: NDArray[np.object_] | None = None, **of_items: Sequence[str]
) -> pd.DataFrame:
    """Return a row an event for people: the user's id, what is known of the item, and so on."""
    columns: dict[str, Any] = {"user_id": np.array(events.user_ids, object)[events.users]}
    columns |= {name: np.array(own, object)[events.items] for name, own in of_items.items()}
    columns |= {"part": parts, "rating": events.ratings, "timestamp": events.timestamps}
    return pd.DataFrame({name: own for name, own in columns.items() if own is not None})


def known_times(times: Floats, users: Integers) -> Floats:
    """Give each event of unknown time that of the user's event before it, -inf without one."""
    if not np.isnan(times).any():
        return times
    known = pd.Series(times).groupby(users).ffill().fillna(-np.inf)
    return np.asarray(known, np.float64)


@dataclass(frozen=True, eq=False)
class Catalog:
    """What the items are: one row an item, its row number being the item number.

    The frame has a range index, the columns ``item_id`` and ``title`` (text, never missing) and
    whatever else the log knows: ``brand`` and ``category`` are text, ``categories`` a list of
    text; missing values are None.
    """

    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def item_ids(self) -> list[str]:
        """The log's own id of each item number."""
        return [str(value) for value in self.frame["item_id"]]

    @cached_property
    def titles(self) -> list[str]:
        """The title of each item number."""
        return [str(value) for value in self.frame["title"]]

    def to_pandas(self) -> pd.DataFrame:
        """Return a copy of the frame: a row an item, in the order of the item numbers."""
        return self.frame.copy()


@dataclass(frozen=True, eq=False)
class Log:
    """Who used what, when, and what the items are: what every stage after the readers starts from.

    :func:`read_log` makes one of files, :meth:`from_frame` of tables in memory.

    Examples:
        >>> import pandas as pd
        >>> events = pd.DataFrame(
        ...     {"user": ["ann", "ann", "bob"], "item": [7, 9, 7], "rating": [5, 3, 4]}
        ... )
        >>> log = Log.from_frame(events, pd.DataFrame({"item": [7, 9], "title": ["Tea", "Mug"]}))
        >>> len(log.interactions), log.catalog.titles
        (3, ['Tea', 'Mug'])
        >>> log.to_pandas()
          user_id item_id  rating
        0     ann       7     5.0
        1     ann       9     3.0
        2     bob       7     4.0
        >>> print(*log.findings[:4], sep="\\n")
        The log is a DataFrame of events and a DataFrame of items.
        user_id is read from 'user', item_id from 'item'.
        It holds 3 events of 2 users and 2 items.
        It has no timestamps: only its rows' order.
    """

    interactions: Interactions
    catalog: Catalog  # the items that the events name
    source: str  # where the log came from, in words
    findings: Sequence[Finding] = ()  # what reading found; cleaning leaves them alone
    positioned: bool = False  # whether a column of positions put each user's events in order
    users: pd.DataFrame | None = None  # what ``data.users`` knows of each user as read

    @classmethod
    def from_frame(
        cls,
        events: object,
        items: object = None,
        *,
        columns: Mapping[str, str] | None = None,
        users: object = None,
        **settings: Any,
    ) -> Log:
        """Make a log of tables in memory, which finds its columns as :func:`read_log` does.

        Args:
            events: a row an event: a pandas frame, or whatever has ``to_pandas``, such as an Arrow
                table or a ``datasets.Dataset``. The columns of users and items are required;
                ``rating``, ``timestamp`` (seconds, milliseconds or dates) and ``position`` are not.
            items: a row an item, in any of these forms; only the item's id is required.
            columns: our column names to the tables', where the well-known names do not do; an
                empty text leaves a column out.
            users: a row a user, in any of these forms: what is known of them.
            **settings: how values are meant, as :func:`read_log` has them, such as ``keep``.

        Raises:
            RecinjectError: a table is none, a required column is absent, or a value is missing or
                not what its column holds; the message names the row, counted from 1.

        Examples:
            >>> import pyarrow as pa
            >>> table = pa.table({"who": ["ann"], "sku": ["a7"]})
            >>> log = Log.from_frame(table, columns={"user_id": "who", "item_id": "sku"})
            >>> log.interactions.user_ids, log.catalog.item_ids
            (['ann'], ['a7'])
        """
        from recinject.data.readers import make_log  # which makes logs, and so imports them

        expect(columns or {}, Mapping, "columns", "write them as {'user_id': 'customer'}")
        source = f"{type(events).__name__} of events"
        source += "" if items is None else f" and {type(items).__name__} of items"
        said = f"The log is a {source.replace(' and ', ' and a ')}."
        settings["columns"] = columns or {}
        return make_log(events, items, source, users=users, settings=settings, said=said)

    def to_pandas(self) -> pd.DataFrame:
        """Return a row an event with raw ids: ``user_id``, ``item_id``, ``rating``, ``timestamp``.

        Events are ordered by user, then by time; a column that the log has not is left out.
        """
        return event_table(self.interactions, item_id=self.catalog.item_ids)

    @property
    def order(self) -> Order:
        """What each user's events are in order of; ``rows`` where no two times differ."""
        return "position" if self.positioned else "time" if self.timed else "rows"

    @property
    def timed(self) -> bool:
        """Whether any two events have different times."""
        times = self.interactions.timestamps
        if times is None or not len(times):
            return False
        return bool(np.fmin.reduce(times) < np.fmax.reduce(times))  # NaN is passed over

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the log's content, 32 hexadecimal digits, wherever it came from.

        A frame, its Arrow table and its file have the same; one other value gives another.
        """
        digest = hashlib.blake2b(digest_size=16)
        for part in self._content():
            digest.update(f"{len(part)}:".encode())
            digest.update(part)
        return digest.hexdigest()

    def _content(self) -> Iterator[bytes | memoryview]:
        events, items = self.interactions, self.catalog.frame
        columns = [events.users, events.items, events.ratings, events.timestamps]
        for column in columns if events.parts is None else [*columns, events.parts]:
            yield b"" if column is None else np.ascontiguousarray(column).view(np.uint8).data
        yield json.dumps(list(events.user_ids)).encode()
        for name in items.columns:
            yield json.dumps([name, items[name].tolist()], default=str).encode()

    def save(self, folder: str | Path) -> None:
        """Write the log into a folder as Parquet files; :meth:`load` gives the very same log."""
        found = [asdict(finding) for finding in self.findings]
        facts = {"source": self.source, "findings": found, "positioned": self.positioned}
        more = {} if self.interactions.parts is None else {_GIVEN: self.interactions.parts}
        save_tables(Path(folder), self.interactions, self.catalog, more, {_LOG: json.dumps(facts)})
        save_users(Path(folder), self.users)

    @classmethod
    def load(cls, folder: str | Path) -> Log:
        """Read what :meth:`save` wrote.

        Raises:
            RecinjectError: the folder holds no log.
        """
        interactions, catalog, more, about = load_tables(Path(folder))
        if _LOG not in about:
            raise RecinjectError(
                f"{folder}: holds a split, and no log", hint="name a folder that Log.save wrote"
            )
        known = json.loads(about[_LOG])
        known["findings"] = [Finding.of_dict(each) for each in known["findings"]]
        interactions = replace(interactions, parts=more.get(_GIVEN))
        return cls(interactions, catalog, **known, users=load_users(Path(folder)))


def save_users(folder: Path, users: pd.DataFrame | None) -> None:
    """Write what is known of users, if anything is."""
    if users is not None:
        users.to_parquet(folder / _ATTRIBUTES, index=False)


def load_users(folder: Path) -> pd.DataFrame | None:
    """Read what :func:`save_users` wrote; None where nothing is known."""
    file = folder / _ATTRIBUTES
    return pd.read_parquet(file) if file.is_file() else None


def save_tables(
    folder: Path,
    events: Interactions,
    catalog: Catalog,
    more: Mapping[str, NDArray[Any]],
    about: Mapping[str, str],
) -> None:
    """Write events with their users and items; numbers stand for both, tables name them.

    ``more`` are further columns of the events, and ``about`` is stored beside all of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "user": events.users,
        "item": events.items,
        "rating": events.ratings,
        "timestamp": events.timestamps,
        **more,
    }
    known = {name: column for name, column in columns.items() if column is not None}
    fields = [(name, pa.from_numpy_dtype(own.dtype)) for name, own in known.items()]
    schema = pa.schema(fields, metadata=about)
    with parquet.ParquetWriter(folder / _EVENTS, schema) as writer:
        for start in range(0, len(events), _EVENTS_AT_ONCE):
            stop = start + _EVENTS_AT_ONCE
            rows = [pa.array(column[start:stop]) for column in known.values()]
            writer.write_table(pa.table(rows, schema=schema))
            release(*known.values())
    pd.DataFrame({"user_id": list(events.user_ids)}).to_parquet(folder / _USERS, index=False)
    catalog.frame.to_parquet(folder / _ITEMS, index=False)


def load_tables(
    folder: Path,
) -> tuple[Interactions, Catalog, dict[str, NDArray[Any]], dict[str, str]]:
    """Read what :func:`save_tables` wrote: events, items, further columns, and ``about``."""
    if not (folder / _EVENTS).is_file():
        raise RecinjectError(f"{folder}: holds no {_EVENTS}", hint="name a folder that was saved")
    try:
        # pandas would read None as NaN and lists as arrays: to a phrase, something that is there.
        items = parquet.read_table(folder / _ITEMS).to_pydict()
        user_ids = pd.read_parquet(folder / _USERS)["user_id"].tolist()
        with parquet.ParquetFile(folder / _EVENTS) as file:
            metadata = file.schema_arrow.metadata or {}
            columns = {name: _read_column(file, name) for name in file.schema_arrow.names}
    except (pa.ArrowException, FileNotFoundError) as error:
        raise RecinjectError(
            f"{folder}: a file is broken or absent ({error})", hint="save the folder again"
        ) from error
    catalog = Catalog(pd.DataFrame(items, dtype=object))
    interactions = Interactions(
        users=columns.pop("user"),
        items=columns.pop("item"),
        ratings=columns.pop("rating", None),
        timestamps=columns.pop("timestamp", None),
        user_ids=user_ids,
        n_items=len(catalog),
    )
    about = {name.decode(): value.decode() for name, value in metadata.items()}
    return interactions, catalog, columns, about


def _read_column(file: parquet.ParquetFile, name: str) -> NDArray[Any]:
    """Read a column into one array, without a second copy of it all."""
    values = np.empty(file.metadata.num_rows, file.schema_arrow.field(name).type.to_pandas_dtype())
    start = 0
    for batch in file.iter_batches(_EVENTS_AT_ONCE, columns=[name]):
        values[start : start + len(batch)] = batch.column(0).to_numpy()
        start += len(batch)
    return values
