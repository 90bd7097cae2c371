"""Columns keep their types: every kind of file gives the values that its text or its cells mean."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.data.readers import read_log
from recinject.data.schema import Log
from recinject.foundation.errors import RecinjectError

HEADER = ("userId", "movieId", "rating", "timestamp")
FILES = {
    "interactions.csv": (",", HEADER),
    "interactions.csv.gz": (",", HEADER),
    "interactions.tsv": ("\t", HEADER),
    "ratings.csv": (",", HEADER),
    "ratings.dat": ("::", ()),
    "u.data": ("\t", ()),
    "x.inter": ("\t", ("user_id:token", "item_id:token", "rating:float", "timestamp:float")),
}


def write(folder: Path, name: str, rows: list[tuple[str, ...]]) -> Path:
    separator, header = FILES[name]
    lines = [separator.join(row) for row in ([header, *rows] if header else rows)]
    data = "".join(f"{line}\n" for line in lines).encode()
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    if name == "ratings.csv":
        (folder / "movies.csv").write_text("movieId,title,genres\n1,One,A\n")
    return path


def check(log: Log, rows: list[tuple[str, ...]]) -> None:
    """Compare a log with its rows as Python reads them: a stable sort by user, then by time."""
    times = [float(row[3]) if row[3] else np.nan for row in rows]
    known = [abs(time) for time in times if not np.isnan(time)]
    bounds = [1e11, 1e14, 1e17]
    for bound in bounds:  # most of them tell the unit of all
        if known and 2 * sum(time <= bound for time in known) <= len(known):
            times = [time / 1000 for time in times]
    filled: dict[str, float] = {}
    keys = []
    for row, time in zip(rows, times, strict=True):
        filled[row[0]] = filled.get(row[0], -np.inf) if np.isnan(time) else time
        keys.append((row[0], filled[row[0]]))
    order = sorted(range(len(rows)), key=keys.__getitem__)
    events = log.interactions
    assert [events.user_ids[user] for user in events.users] == [rows[n][0] for n in order]
    found = [log.catalog.item_ids[item] for item in events.items]
    assert found == [rows[n][1] for n in order]
    assert events.ratings is not None
    assert events.ratings.tolist() == [float(rows[n][2]) for n in order]
    if np.isnan(times).all():
        assert events.timestamps is None
    else:
        np.testing.assert_array_equal(events.timestamps, np.array(times)[order])


ids = st.text(alphabet="ab01é\u0663 '", min_size=1, max_size=4).map(str.strip).filter(bool)
numbers = st.one_of(
    st.integers(-9, 10**13).map(str),
    st.sampled_from(["0.5", "4.0", "1e3", ".5", "5.", "-0.25", "00012", "+7", " 3 "]),
    st.floats(-1e12, 1e15).map(repr),
    st.decimals(-(10**9), 10**9, allow_nan=False, places=20).map(str),
)
rows = st.lists(st.tuples(ids, ids, numbers, numbers), min_size=1, max_size=30)
gaps = st.lists(st.booleans(), min_size=30, max_size=30)


@settings(max_examples=30, deadline=None)
@given(rows, gaps, st.sampled_from(sorted(FILES)))
def test_every_kind_of_file_gives_what_its_text_means(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, ...]],
    gaps: list[bool],
    name: str,
) -> None:
    rows = [(*row[:3], "" if gap else row[3]) for row, gap in zip(rows, gaps, strict=False)]
    path = write(tmp_path_factory.mktemp("log"), name, rows)
    check(read_log(path, partial_items=True), rows)


CSV: dict[str, str] = {
    "quotes": 'userId,movieId\nu,"a, ""b"""\n"v","two\nlines"\n',
    "a quoted header": '"user ""Id""\n2","movieId","userId"\nx,i,u\n',
    "other columns": 'note,userId,movieId,rating\n"x, y",u,i,1\n,v,i,2\n',
    "the last line open": "userId,movieId\nu,i\nv,j",
    "empty lines and a mark": "\ufeff\nuserId,movieId\n\nu,i\n\n",
    "line ends of Windows": "userId,movieId\r\nu,i\r\nv,j\r\n",
    "blanks about ids": "userId,movieId,rating\n u , i ,1\n",
    "our own separator": "userId,movieId\nu\x1f,i\n",
    "quotes among letters": 'userId,movieId\nu,5" disk\n',
}


@pytest.mark.parametrize("case", CSV)
def test_odd_csv_files_are_read_as_csv(tmp_path: Path, case: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(CSV[case].encode())
    frame = read_log(path).to_pandas()
    with path.open(encoding="utf-8-sig", newline="") as stream:
        own = [row for row in csv.reader(stream) if row]
    users, items = (own[0].index(name) for name in ("userId", "movieId"))
    pairs = [(row[users].strip(), row[items].strip()) for row in own[1:]]
    assert list(zip(frame["user_id"], frame["item_id"], strict=True)) == pairs


CELLS: dict[str, tuple[Any, list[float]]] = {
    "integers": ([4, 5], [4.0, 5.0]),
    "integers beyond floats": ([2**53 + 1, -(2**60) - 1], [float(2**53), -float(2**60)]),
    "floats": ([0.1 + 0.2, 1e300], [0.1 + 0.2, 1e300]),
    "small integers": (np.array([4, 5], np.uint8), [4.0, 5.0]),
    "single precision": (np.array([3.3, 4], np.float32), [3.3, 4.0]),
    "texts": (["1", " 2.5 "], [1.0, 2.5]),
    "nullable": (pd.array([4, 5], "Int64"), [4.0, 5.0]),
}


@pytest.mark.parametrize("case", CELLS)
@pytest.mark.parametrize("maker", ["file", "frame"])
def test_numbers_of_every_type_are_their_values(tmp_path: Path, case: str, maker: str) -> None:
    cells, values = CELLS[case]
    frame = pd.DataFrame({"user": ["a", "b"], "item": [10, 9], "extra": [[1], [2]]})
    frame["rating"] = cells
    if maker == "file":
        frame.to_parquet(tmp_path / "log.parquet")
        log = read_log(tmp_path / "log.parquet")
    else:
        log = Log.from_frame(frame)
    assert log.interactions.ratings is not None
    assert log.interactions.ratings.tolist() == values
    assert log.catalog.item_ids == ["10", "9"]


def test_large_ids_beside_missing_values_stay_exact(tmp_path: Path) -> None:
    big = 2**53 + 1
    items = pd.DataFrame({"item": [big], "title": ["Big"]}).astype({"item": "Int64"})
    items["year"] = pd.array([None], "Int64")
    items.to_parquet(tmp_path / "items.parquet")
    pd.DataFrame({"user": ["u"], "item": [big]}).to_parquet(tmp_path / "interactions.parquet")
    log = read_log(tmp_path)
    assert (log.catalog.item_ids, log.catalog.titles) == ([str(big)], ["Big"])


@pytest.mark.parametrize("cells", [[True, False], ["1", "x"], [1.0, np.inf], [{"a": 1}, 2]])
def test_what_is_no_number_is_refused_with_its_row(cells: list[Any]) -> None:
    frame = pd.DataFrame({"user": ["a", "b"], "item": ["i", "j"], "rating": cells})
    with pytest.raises(RecinjectError, match=r"events, row [12]: rating '.*' is not a number"):
        Log.from_frame(frame)


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_dates_of_every_type_are_seconds(tmp_path: Path, zone: str | None) -> None:
    times = pd.to_datetime(["2014-03-01T00:00:00.5", None]).tz_localize(zone)
    frame = pd.DataFrame({"user": ["a", "b"], "item": ["i", "j"], "time": times})
    frame.to_parquet(tmp_path / "log.parquet")
    frame.to_csv(tmp_path / "log.csv", index=False)
    expected = [1393632000.5 - (3600 if zone == "Europe/Berlin" else 0), np.nan]
    logs = [Log.from_frame(frame), *(read_log(tmp_path / f"log.{e}") for e in ("parquet", "csv"))]
    for log in logs:
        np.testing.assert_array_equal(log.interactions.timestamps, expected)


def test_blocks_are_joined(tmp_path: Path) -> None:
    """The parser reads blocks of a megabyte: the ids of all of them get one numbering."""
    numbers = np.random.default_rng(1).permutation(100_000)
    frame = pd.DataFrame({"user": numbers % 977, "item": numbers[::-1] % 4999, "rating": 0.5})
    frame.assign(note='a long, "quoted" note').to_csv(tmp_path / "log.csv", index=False)
    frame.to_parquet(tmp_path / "log.parquet", row_group_size=999)
    assert (tmp_path / "log.csv").stat().st_size > 3 << 20
    logs = [Log.from_frame(frame), *(read_log(tmp_path / f"log.{e}") for e in ("parquet", "csv"))]
    assert len({log.fingerprint for log in logs}) == 1


def test_texts_of_events_are_held_once(tmp_path: Path) -> None:
    table = pa.table({"user": ["u", "v"] * 500, "item": ["i", "j"] * 500, "note": ["x"] * 1000})
    log = Log.from_frame(table)
    assert log.interactions.users.nbytes == 4000 and len(log.catalog) == 2


def test_reading_changes_no_setting_of_the_process(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    (tmp_path / "log.csv").write_text(f'user,item,rating\nu,"{"i" * 200_000}",x\n')
    with pytest.raises(RecinjectError, match="line 2: rating 'x'"):
        read_log(tmp_path / "log.csv")
    assert csv.field_size_limit() == before
