"""What the quick reader reads, the exact ones read alike; what it leaves, it leaves to them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.data.formats import FORMATS, find_files
from recinject.data.quick_reader import Events
from recinject.data.readers import make_log, read_log
from recinject.data.tables import EVENT_COLUMNS, IDS, event_frame, match_names

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


def quickly(path: Path, **columns: str) -> Events | None:
    form, events, _ = find_files(path, None, None)
    return form.quick(events, columns, False)


def exactly(path: Path, **columns: str) -> Events:
    form, events, _ = find_files(path, None, None)
    table = form.read(events, None)
    names = match_names(events, list(table.frame.columns), EVENT_COLUMNS, IDS, columns)
    return event_frame(table, names), names


def check_same(quick: Events | None, exact: Events) -> None:
    assert quick is not None and quick[1] == exact[1]
    assert list(quick[0].columns) == list(exact[0].columns)
    for name in quick[0].columns:
        pd.testing.assert_series_equal(quick[0][name], exact[0][name], check_exact=True)
    logs = [make_log(frame, None, "").interactions for frame, _ in (quick, exact)]
    for name in ("users", "items", "ratings", "timestamps"):
        np.testing.assert_array_equal(*(vars(log)[name] for log in logs))
        assert vars(logs[0])[name] is None or vars(logs[0])[name].dtype == vars(logs[1])[name].dtype
    assert logs[0].user_ids == logs[1].user_ids


def write(folder: Path, name: str, rows: list[tuple[str, ...]]) -> Path:
    separator, header = FILES[name]
    lines = [separator.join(row) for row in ([header, *rows] if header else rows)]
    data = "".join(f"{line}\n" for line in lines).encode()
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    if name == "ratings.csv":
        (folder / "movies.csv").write_text("movieId,title,genres\n1,One,A\n")
    return path


ids = st.text(alphabet="ab01é\u0663 '", min_size=1, max_size=4).map(str.strip).filter(bool)
numbers = st.one_of(
    st.integers(-9, 10**13).map(str),
    st.sampled_from(["0.5", "4.0", "1e3", ".5", "5.", "-0.25", "00012"]),
    st.floats(-1e12, 1e15).map(repr),
    st.decimals(-(10**9), 10**9, allow_nan=False, places=20).map(str),
)
rows = st.lists(st.tuples(ids, ids, numbers, numbers), min_size=1, max_size=30)
gaps = st.lists(st.booleans(), min_size=30, max_size=30)


@settings(max_examples=100)
@given(rows, gaps, st.sampled_from(sorted(FILES)))
def test_clean_files_are_read_alike(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, ...]],
    gaps: list[bool],
    name: str,
) -> None:
    rows = [(*row[:3], "" if gap else row[3]) for row, gap in zip(rows, gaps, strict=False)]
    path = write(tmp_path_factory.mktemp("log"), name, rows)
    check_same(quickly(path), exactly(path))


CLEAN: dict[str, str] = {
    "quotes": 'userId,movieId\nu,"a, ""b"""\n"v","two\nlines"\n',
    "other columns": 'note,userId,movieId,rating\n"x, y",u,i,1\n,v,i,2\n',
    "the last line open": "userId,movieId\nu,i\nv,j",
    "empty lines and a mark": "\ufeff\nuserId,movieId\n\nu,i\n\n",
    "line ends of Windows": "userId;movieId\r\nu;i\r\nv;j\r\n",
    "columns without values": "userId,movieId,rating,timestamp\nu,i,,\nv,i,,\n",
    "milliseconds": "userId,movieId,timestamp\nu,i,1393632000000\nv,i,1393632000001\n",
    "blanks about numbers": "userId,movieId,rating\nu,i, 1 \nv,i,2\n",
}


@pytest.mark.parametrize("case", CLEAN)
def test_odd_but_clean_files_are_read_alike(tmp_path: Path, case: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(CLEAN[case].encode())
    check_same(quickly(path), exactly(path))


UNCLEAN: dict[str, tuple[str, str | bytes]] = {
    "a date": ("log.csv", "userId,movieId,time\nu,i,2014-03-01\n"),
    "letters": ("log.csv", "userId,movieId,rating\nu,i,good\n"),
    "no number": ("log.csv", "userId,movieId,rating\nu,i,nan\n"),
    "no number for a time": ("log.csv", "userId,movieId,time\nu,i,NaN\n"),
    "an infinite one": ("log.csv", "userId,movieId,rating\nu,i,1e999\n"),
    "some ratings": ("log.csv", "userId,movieId,rating\nu,i,1\nv,i,\n"),
    "blanks about an id": ("log.csv", "userId,movieId\nu , i\n"),
    "no id": ("log.csv", "userId,movieId\n,i\n"),
    "a short row": ("log.csv", "userId,movieId\nu\n"),
    "an open quote": ("log.csv", 'userId,movieId\nu,"i\n'),
    "Latin-1": ("log.csv", "userId,movieId,note\nu,i,é\n".encode("latin-1")),
    "zero bytes": ("log.csv", "userId,movieId,note\nu,i,\0\n"),
    "a column twice": ("log.csv", "userId,movieId,x,x\nu,i,1,2\n"),
    "one column for two": ("log.csv", "userId,movieId\nu,1\n"),
    "no rows": ("log.csv", "userId,movieId\n"),
    "nothing": ("log.csv", ""),
    "broken gzip": ("log.csv.gz", gzip.compress(b"userId,movieId\nu,i\n" * 99)[:-12]),
    "a separator's half": ("ratings.dat", "1::2:x:3::4\n"),
    "an odd separator": ("ratings.dat", "1:::2::3::4\n"),
    "our own separator": ("ratings.dat", "1\x1f0::2::3::4\n"),
    "no RecBole types": ("x.inter", "user_id\titem_id\nu\ti\n"),
    "JSON": ("log.jsonl", '{"userId": "u", "movieId": "i"}\n'),
    "broken Parquet": ("log.parquet", b"PAR1 rubbish PAR1"),
}


@pytest.mark.parametrize("case", UNCLEAN)
def test_what_is_unclean_is_left_to_the_exact_readers(tmp_path: Path, case: str) -> None:
    name, content = UNCLEAN[case]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    columns = dict.fromkeys(IDS, "userId") if case == "one column for two" else {}
    assert quickly(path, **columns) is None


PARQUET: dict[str, tuple[bool, Any]] = {
    "integers": (True, {"rating": [4, 5], "time": [10**12, 2]}),
    "large integers": (True, {"rating": [2**53 + 1, -(2**60) - 1]}),
    "floats": (True, {"rating": [0.1 + 0.2, 1e300], "time": [1.5, None]}),
    "nothing at all": (True, {"rating": [None, None], "time": np.array([np.nan, np.nan])}),
    "small integers": (True, {"rating": np.array([4, 5], np.uint8)}),
    "single precision": (False, {"rating": np.array([3.3, 4], np.float32)}),
    "dates": (False, {"time": pd.to_datetime(["2014-03-01", "2014-03-02"])}),
    "some ratings": (False, {"rating": [1.5, None]}),
    "texts": (False, {"rating": ["1", "2"]}),
    "float ids": (False, {"user": [1.0, 2.0]}),
    "empty ids": (False, {"user": [" ", "x"]}),
}


@pytest.mark.parametrize("case", PARQUET)
def test_parquet_is_read_alike_or_left(tmp_path: Path, case: str) -> None:
    is_clean, columns = PARQUET[case]
    frame = pd.DataFrame({"user": ["v", "u"], "item": [10, 9], "extra": [[1], [2]], **columns})
    if case == "nothing at all":
        frame["rating"] = frame["rating"].astype(np.float64)
    frame.to_parquet(tmp_path / "log.parquet")
    quick = quickly(tmp_path / "log.parquet")
    if is_clean:
        check_same(quick, exactly(tmp_path / "log.parquet"))
    else:
        assert quick is None


def test_blocks_are_joined(tmp_path: Path) -> None:
    """The parser reads blocks of a megabyte: the ids of all of them get one numbering."""
    numbers = np.random.default_rng(1).permutation(100_000)
    frame = pd.DataFrame({"user": numbers % 977, "item": numbers[::-1] % 4999, "rating": 0.5})
    frame.assign(note='a long, "quoted" note').to_csv(tmp_path / "log.csv", index=False)
    assert (tmp_path / "log.csv").stat().st_size > 3 << 20
    check_same(quickly(tmp_path / "log.csv"), exactly(tmp_path / "log.csv"))


def test_item_columns_among_the_events_take_the_exact_reader(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,film\nu,i,The I\n")
    assert quickly(path) is not None
    assert read_log(path, columns={"title": "film"}).catalog.titles == ["The I"]


@pytest.mark.parametrize(
    ("header", "columns", "is_quick"),
    [
        ("user,item,note", {}, True),
        ("user,item,title", {}, False),
        ("user,item,film", {"title": "film"}, False),
        ("user,item,title", {"title": ""}, True),
        ("name,item,note", {"user_id": "name"}, True),
    ],
)
def test_only_columns_about_items_cost_a_log_its_quick_way(
    tmp_path: Path, header: str, columns: dict[str, str], is_quick: bool
) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"{header}\nu,i,x\n")
    form, events, _ = find_files(path, None, None)
    assert (form.quick(events, columns, True) is not None) == is_quick
    assert form.quick(events, columns, False) is not None


def test_every_form_but_json_has_a_quick_way(tmp_path: Path) -> None:
    for name in ("recbole", "movielens", "table"):
        assert FORMATS[name].quick(tmp_path / "none.csv", {}, False) is None
    assert FORMATS["amazon"].quick(tmp_path / "X.jsonl", {}, False) is None
