from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.data.readers import make_log, read_log
from recinject.data.schema import Log
from recinject.foundation.errors import RecinjectError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(log: Log) -> list[tuple[str, str]]:
    events, item_ids = log.interactions, log.catalog.item_ids
    return [
        (events.user_ids[user], item_ids[item])
        for user, item in zip(events.users, events.items, strict=True)
    ]


def times_of(log: Log) -> list[float]:
    assert log.interactions.timestamps is not None
    return log.interactions.timestamps.tolist()


def recbole(folder: Path) -> Path:
    write(folder / f"{folder.name}.inter", INTER + 'b\t10\t4.5\t3\na\t9\t1\t2\nb\t"9\t3\t1\n')
    write(
        folder / f"{folder.name}.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "10\tToy  Story\t1995\tComedy Drama Comedy\n9\t\t\t\n8\tUnused\t\tX\n"
        '"9\t"Quoted" half\t1\t\n',
    )
    return folder


def test_a_recbole_folder(tmp_path: Path) -> None:
    log = read_log(recbole(tmp_path / "ml"), columns={})
    assert rows_of(log) == [("a", "9"), ("b", '"9'), ("b", "10")]
    assert log.interactions.ratings is not None
    assert log.interactions.ratings.tolist() == [1.0, 3.0, 4.5]
    assert times_of(log) == [2.0, 1.0, 3.0]
    assert log.catalog.titles == ['"Quoted" half', "Toy  Story", ""]
    assert log.catalog.frame["categories"].tolist() == [None, ["Comedy", "Drama"], None]
    assert log.catalog.frame["release_year"].tolist() == ["1", "1995", None]
    assert log.source == (
        "RecBole atomic files ml.inter and ml.item (title from 'movie_title', "
        "categories from 'class')"
    )


def test_a_recbole_file_finds_its_items_and_may_go_without(tmp_path: Path) -> None:
    folder = recbole(tmp_path / "ml")
    assert "Toy  Story" in read_log(folder / "ml.inter", columns={}).catalog.titles
    (folder / "ml.item").unlink()
    log = read_log(folder / "ml.inter", columns={})
    assert log.catalog.titles == ["", "", ""]
    assert log.source == "RecBole atomic files ml.inter"


EVENTS = pd.DataFrame(
    {
        "userId": ["b", "a", "b"],
        "movieId": [10, 9, 9],
        "Overall": [5.0, 2.0, 3.0],
        "unixReviewTime": [30, 20, 10],
    }
)
ITEMS = [
    {"asin": 9, "title": None, "categories": None, "store": "Acme", "price": 2.5},
    {"asin": 10, "title": "Ten", "categories": [["A", "B"], ["A", "C"]], "store": None},
    {"asin": 9, "title": "a second row", "categories": None, "store": None},
]


def write_events(path: Path) -> None:
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        EVENTS.to_parquet(path)
    elif kind in ("csv", "tsv"):
        EVENTS.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    else:
        EVENTS.to_json(path, orient="records", lines=True)


@pytest.mark.parametrize(
    "name", ["csv", "csv.gz", "tsv", "tsv.gz", "jsonl", "jsonl.gz", "json", "ndjson", "parquet"]
)
def test_every_kind_of_table_gives_the_same_log(tmp_path: Path, name: str) -> None:
    write_events(tmp_path / f"interactions.{name}")
    lines = "".join(json.dumps(item) + "\n" for item in ITEMS)
    write(tmp_path / "items.jsonl.gz", gzip.compress(lines.encode()))
    log = read_log(tmp_path, columns={})
    assert rows_of(log) == [("a", "9"), ("b", "9"), ("b", "10")]
    assert times_of(log) == [20.0, 10.0, 30.0]
    assert log.interactions.ratings is not None
    assert log.interactions.ratings.tolist() == [2.0, 3.0, 5.0]
    assert log.catalog.frame.to_dict("records") == [
        {"item_id": "10", "title": "Ten", "brand": None, "categories": ["A", "B", "C"]}
        | {"price": None},
        {"item_id": "9", "title": "", "brand": "Acme", "categories": None, "price": "2.5"},
    ]
    assert log.source.startswith(f"table interactions.{name} and items.jsonl.gz (user_id from")


def test_parquet_items_with_nested_lists_and_dates(tmp_path: Path) -> None:
    events = pd.DataFrame({"user": ["u", "u"], "item": [1.0, 2.0]})
    events["time"] = pd.to_datetime(["2014-03-02T00:00:00", "2014-03-01T12:00:00"])
    events.to_parquet(tmp_path / "interactions.parquet")
    items = pd.DataFrame({"item": [1, 2], "category": [["A", "B"], None]}, index=[3, 7])
    items.to_parquet(tmp_path / "items.parquet")
    log = read_log(tmp_path, columns={})
    assert times_of(log) == [1393675200.0, 1393718400.0]
    assert rows_of(log) == [("u", "2"), ("u", "1")]
    assert log.catalog.frame["categories"].tolist() == [["A", "B"], None]
    assert log.catalog.frame.columns.tolist() == ["item_id", "title", "categories"]


def test_columns_are_mapped_and_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "who,what,rating,when,user\n1,x,bad,5,2\n3,y,,4,2\n")
    columns = {"user_id": "who", "item_id": "what", "timestamp": "when", "rating": ""}
    log = read_log(path, columns=columns)
    assert rows_of(log) == [("1", "x"), ("3", "y")]
    assert times_of(log) == [5.0, 4.0] and log.interactions.ratings is None
    assert "timestamp from 'when'" in log.source


def test_items_may_be_named_and_call_their_id_otherwise(tmp_path: Path) -> None:
    events = write(tmp_path / "log.csv", "user,product\n1,x\n2,y\n")
    items = write(tmp_path / "things.csv", 'asin,name,text\nx,"X, the ""first""","two\nlines"\n')
    log = read_log(events, columns={"item_id": "product"}, items=items)
    assert log.catalog.titles == ['X, the "first"', ""]
    assert log.catalog.frame["text"].tolist() == ["two\nlines", None]
    assert "log.csv and things.csv" in log.source


def test_other_encodings_separators_and_line_ends(tmp_path: Path) -> None:
    latin = write(tmp_path / "latin.csv", "user;item\r\n1;café\r\n".encode("latin-1"))
    marked = write(tmp_path / "marked.csv", "\ufeffuser,item\n1,café".encode())
    odd = write(tmp_path / "odd.jsonl", '{"user": 1, "item": "caf\u00e9"}\n\n')
    for path in (latin, marked, odd):
        assert rows_of(read_log(path, columns={})) == [("1", "café")]


def test_quotes_inside_a_value_are_letters(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", 'user,item,time\nu,5" disk,3\nu,a "b" c,4\n')
    assert read_log(path, columns={}).catalog.item_ids == ['5" disk', 'a "b" c']


def test_half_a_surrogate_pair_is_no_crash(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", '{"user": "u", "item": "i\\ud83d"}\n')
    assert rows_of(read_log(path, columns={})) == [("u", "i?")]


def test_text_that_parquet_stores_as_bytes_is_text(tmp_path: Path) -> None:
    rows = {"user": [b"u", b"v"], "item": [b"caf\xc3\xa9", b"\xff"], "title": [b"X", None]}
    pd.DataFrame(rows).to_parquet(tmp_path / "log.parquet")
    log = read_log(tmp_path / "log.parquet", columns={})
    assert rows_of(log) == [("u", "café"), ("v", "\ufffd")]
    assert log.catalog.titles == ["X", ""]


def test_position_alone_gives_the_order(tmp_path: Path) -> None:
    rows = "user_id\titem_id\tposition\ttimestamp\nu\ta\t10\t1\nu\tb\t9\t\nu\tc\t1\t7\n"
    log = read_log(write(tmp_path / "log.tsv", rows), columns={})
    assert [item for _, item in rows_of(log)] == ["c", "b", "a"]
    assert times_of(log)[::2] == [7.0, 1.0] and np.isnan(times_of(log)[1])


def test_ties_and_unknown_times_stay_where_the_log_has_them(tmp_path: Path) -> None:
    rows = "user,item,time\nu,a,5\nu,b,\nu,c,1\nu,d,5\nv,e,\nv,f,2\n"
    log = read_log(write(tmp_path / "log.csv", rows), columns={})
    assert [item for _, item in rows_of(log)] == ["c", "a", "b", "d", "e", "f"]


def test_without_times_the_file_gives_the_order(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item,time,stars\nu,b,,\nu,a,,\n")
    log = read_log(path, columns={})
    assert [item for _, item in rows_of(log)] == ["b", "a"]
    assert log.interactions.timestamps is None and log.interactions.ratings is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1393632000", 1393632000.0),
        ("1393632000000", 1393632000.0),
        ("2014-03-01", 1393632000.0),
        ("2014-03-01T00:00:00Z", 1393632000.0),
        ("2014-03-01T10:00:00", 1393668000.0),
        ("2014-03-01 01:00:00+01:00", 1393632000.0),
        ("3014-03-01", 32950540800.0),
        ("-5", -5.0),
        ("0", 0.0),
    ],
)
def test_times_in_every_spelling(tmp_path: Path, text: str, seconds: float) -> None:
    path = write(tmp_path / "log.csv", f"user,item,time\nu,i,{text}\n")
    assert times_of(read_log(path, columns={})) == [seconds]


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (
            {"columns": {"item_id": "itm"}},
            ["log.csv", "'itm'", "did you mean 'item'", "data.columns.item_id=", "user"],
        ),
        (
            {"columns": {"user_id": "usr", "item_id": "itm"}},
            [
                "there is no column 'usr' to read user_id from, no column 'itm' to read item_id",
                "did you mean 'user' and 'item'?",
                "data.columns.user_id=NAME data.columns.item_id=NAME",
            ],
        ),
        (
            {"columns": {"user_id": "", "item_id": "itm", "rating": "x"}},
            ["'itm' to read item_id", "no column 'x' to read rating", "looks like user_id"],
        ),
        ({"columns": {"titel": "x"}}, ["'titel'", "did you mean 'title'"]),
        ({"columns": {"title": "x"}}, ["log.csv", "'x'", "data.columns.title="]),
        ({"columns": {"item_id": ""}}, ["no column looks like item_id"]),
        ({"format": "recbol"}, ["data.format", "did you mean 'recbole'"]),
        ({"items": "itms.csv"}, ["itms.csv", "did you mean items.csv", "data.items="]),
        ({"path": "logg.csv"}, ["logg.csv", "did you mean log.csv", "data.path="]),
        ({"path": "no/such/log.csv"}, ["no such file", "holds items.csv, log.csv"]),
        ({"path": ".", "format": "table"}, ["no files match", "interactions.KIND", "log.csv"]),
    ],
)
def test_wrong_settings_name_the_right_ones(
    tmp_path: Path, arguments: dict[str, object], fragments: list[str]
) -> None:
    write(tmp_path / "log.csv", "user,item\n1,2\n")
    write(tmp_path / "items.csv", "item,title\n2,Two\n")
    settled: dict[str, object] = {"columns": {}, "path": "log.csv", **arguments}
    for name in ("path", "items"):
        if name in settled:
            settled[name] = tmp_path / str(settled[name])
    with pytest.raises(RecinjectError) as caught:
        read_log(**settled)  # type: ignore[arg-type]
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


texts = st.text(alphabet='ab,"; \u00e9\u0663', min_size=1, max_size=4).filter(str.strip)
event_rows = st.lists(st.tuples(texts, texts, st.integers(0, 3)), min_size=1, max_size=25)


@settings(deadline=None, max_examples=25)
@given(event_rows, st.sampled_from(["csv", "tsv", "jsonl"]))
def test_any_log_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]], kind: str
) -> None:
    rows = [(user.strip(), item.strip(), time) for user, item, time in rows]
    frame = pd.DataFrame(rows, columns=["user", "item", "time"])
    path = tmp_path_factory.mktemp("log") / f"log.{kind}"
    if kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    log = read_log(path, columns={})
    in_order = sorted(rows, key=lambda row: (row[0], row[2]))
    assert rows_of(log) == [(user, item) for user, item, _ in in_order]
    assert list(log.interactions.user_ids) == sorted({user for user, _, _ in rows})
    assert log.catalog.item_ids == sorted({item for _, item, _ in rows})


def test_numbers_do_not_tell_the_order_of_appearance() -> None:
    events = pd.DataFrame({"user_id": ["z", "a"], "item_id": ["9", "10"]})
    log = make_log(events, None, "a test")
    assert (log.interactions.user_ids, log.catalog.item_ids) == (["a", "z"], ["10", "9"])
    assert log.interactions.users.dtype == log.interactions.items.dtype == np.int32


def test_a_look_imports_no_heavy_library(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,rating,title,weight\nu1,i1,1,One,\nu2,i1,2.5,One,0.5\n")
    code = "import sys; from recinject.data.readers import look; print(look(sys.argv[1])[0].fact)"
    code += "; print(*sys.modules)"
    found = [sys.executable, "-c", code, str(path)]
    loaded = subprocess.run(found, capture_output=True, text=True, check=True).stdout.split("\n")
    assert loaded[0] == "The format was detected: table log.csv."
    heavy = {"torch", "transformers", "scipy", "sklearn", "matplotlib", "datasets", "pandas"}
    assert not heavy & set(loaded[1].split())


@pytest.mark.parametrize(
    ("folder", "users", "items", "events", "untitled"),
    [
        ("ml-100k", 943, 1682, 100_000, 0),
        ("amazon-2014-toys", 19_412, 11_924, 167_597, 59),
        ("amazon-2014-beauty", 22_363, 12_101, 198_502, 7),
        ("amazon-2014-sports", 35_598, 18_357, 296_337, 18_357),
    ],
)
def test_public_data_sets(
    shared_data: Path, folder: str, users: int, items: int, events: int, untitled: int
) -> None:
    log = read_log(shared_data / folder, columns={})
    counts = (log.interactions.n_users, len(log.catalog), len(log.interactions))
    assert counts == (users, items, events)
    assert log.catalog.titles.count("") == untitled
