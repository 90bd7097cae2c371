"""Forms of logs as people really have them: read right, or refused with a fix that works."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pytest

from recinject.data.readers import read_log
from recinject.data.schema import Log
from recinject.foundation.errors import RecinjectError


def write(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))
    return path


def pairs(log: Log) -> list[tuple[str, str]]:
    frame = log.to_pandas()
    return list(zip(frame["user_id"], frame["item_id"], strict=True))


TEXTS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "pairs": ("1 2\n1 5\n2 2\n", [("1", "2"), ("1", "5"), ("2", "2")]),
    "lists": ("0 7 5 9\n1 5\n", [("0", "7"), ("0", "5"), ("0", "9"), ("1", "5")]),
    "lists of one length": (
        "0 1 2 3 4 5 6\n1 6 5 4 3 2 1\n",
        [("0", str(n)) for n in range(1, 7)] + [("1", str(n)) for n in range(6, 0, -1)],
    ),
    "counted": ("2 7 5\n1 9\n", [("1", "7"), ("1", "5"), ("2", "9")]),
}


@pytest.mark.parametrize("case", TEXTS)
def test_lines_of_items(tmp_path: Path, case: str) -> None:
    text, expected = TEXTS[case]
    log = read_log(write(tmp_path / "train.txt", text))
    assert pairs(log) == expected
    assert f"lines ({case.split()[0]}) train.txt" in log.findings[0].fact


def test_a_broken_line_of_items_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "log.txt", "1 2\n1 3 4\n")
    with pytest.raises(RecinjectError, match=r"log.txt, line 2: 3 fields where there must be 2"):
        read_log(path, format="pairs")


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array(tmp_path: Path, indent: int | None) -> None:
    rows = [{"user": "u", "item": f"i{n}", "rating": n, "time": n} for n in range(3)]
    path = write(tmp_path / "log.json", json.dumps(rows, indent=indent))
    assert pairs(read_log(path)) == [("u", "i0"), ("u", "i1"), ("u", "i2")]
    rows[1]["rating"] = "x"
    write(tmp_path / "log.json", json.dumps(rows, indent=1))
    with pytest.raises(RecinjectError, match=r"log.json, line 8: rating 'x'"):
        read_log(path)


def test_python_dictionaries_with_a_list_of_events(tmp_path: Path) -> None:
    rows = [
        {"user_id": u, "reviews": [{"item_id": f"i{n}", "posted": "x", "ok": True} for n in (2, 1)]}
        for u in ("a", "b")
    ]
    path = write(tmp_path / "reviews.json", "".join(f"{row!r}\n" for row in rows))
    assert pairs(read_log(path)) == [("a", "i2"), ("a", "i1"), ("b", "i2"), ("b", "i1")]


def test_netflix(tmp_path: Path) -> None:
    write(tmp_path / "combined_data_1.txt", "1:\n7,3,2005-09-06\n8,5,2005-09-07\n")
    write(tmp_path / "combined_data_2.txt", "2:\n7,4,2005-09-05\n")
    write(tmp_path / "movie_titles.csv", "1,2003,Dinosaur, the Planet\n2,NULL,Amélie\n", "latin-1")
    log = read_log(tmp_path)
    assert pairs(log) == [("7", "2"), ("7", "1"), ("8", "1")]
    assert log.catalog.titles == ["Dinosaur, the Planet", "Amélie"]
    assert pairs(read_log(tmp_path / "combined_data_1.txt")) == [("7", "1"), ("8", "1")]


def test_mind(tmp_path: Path) -> None:
    rows = [
        "1\tU1\t11/12/2019 2:14:46 PM\tN1 N2\tN3-1 N4-0",
        "2\tU1\t11/11/2019 9:00:00 AM\tN1 N2\tN5-1",
        "3\tU2\t11/11/2019 9:00:00 AM\t\tN4-0 N3-1",
    ]
    write(tmp_path / "behaviors.tsv", "\n".join(rows))
    news = "".join(f'N{n}\tnews\tworld\tTitle "{n}\ta\tu\t[]\t[]\n' for n in range(1, 6))
    write(tmp_path / "news.tsv", news)
    log = read_log(tmp_path)
    assert pairs(log) == [("U1", "N1"), ("U1", "N2"), ("U1", "N5"), ("U1", "N3"), ("U2", "N3")]
    assert log.catalog.titles[0] == 'Title "1'


def test_a_query(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "shop.db")) as shop:
        shop.execute(
            "CREATE TABLE sales AS SELECT 'u' || range % 2 AS who, range AS sku, "
            "TIMESTAMP '2020-01-01' - INTERVAL (range) DAY AS day FROM range(4)"
        )
    query = "SELECT who AS user_id, sku AS item_id, day AS timestamp FROM sales"
    log = read_log(f"duckdb:///{tmp_path}/shop.db", query=query)
    assert pairs(log) == [("u0", "2"), ("u0", "0"), ("u1", "3"), ("u1", "1")]
    for wrong, said in (("SELEC", "cannot be answered"), (None, "no query says")):
        with pytest.raises(RecinjectError, match=said):
            read_log(f"duckdb:///{tmp_path}/shop.db", query=wrong)


def test_a_url_and_a_zip_of_a_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item\nu,i\n")
    assert pairs(read_log(f"file://{path}")) == [("u", "i")]
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        archive.writestr("ml/ratings.dat", "1::2::3::4\n")
        archive.writestr("ml/movies.dat", "2::Two::A\n")
    log = read_log(tmp_path / "ml.zip")
    assert (pairs(log), log.catalog.titles) == ([("1", "2")], ["Two"])
    with pytest.raises(RecinjectError, match=r"nope://x: cannot be fetched"):
        read_log("nope://x")


HEADLESS: dict[str, tuple[str, str]] = {
    "amazon": (
        "A3A,0000000078,5.0,1092182400\nB,1,4,1092182401\n",
        "user_id,item_id,rating,timestamp",
    ),
    "taobao": ("1,2268318,2520377,pv,1511544070\n", "user_id,item_id,column_3,column_4,timestamp"),
    "tabs": ("7\t5\t3\n7\t4\t1\n", "user_id,item_id,rating"),
}


@pytest.mark.parametrize("case", HEADLESS)
@pytest.mark.parametrize("ending", ["csv", "dat", "inter.txt"])
def test_a_first_line_of_values_is_no_header(tmp_path: Path, case: str, ending: str) -> None:
    text, names = HEADLESS[case]
    path = write(tmp_path / f"log.{ending}", text)
    with pytest.raises(RecinjectError, match="line 1: the first line looks like a row") as found:
        read_log(path, columns={"user_id": text.split(",")[0]})
    assert f"data.header=[{names}]" in found.value.hint
    log = read_log(path, header=names.split(","))
    assert len(log.interactions) == text.count("\n")


def test_numbers_as_names_are_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ",0,1\n0,u,i\n1,v,i\n")
    columns: dict[str, Any] = {"user_id": 0, "item_id": 1}
    assert pairs(read_log(path, columns=columns)) == [("u", "i"), ("v", "i")]


def test_a_format_overrules_the_ending(tmp_path: Path) -> None:
    path = write(tmp_path / "user_artists.dat", "userID\tartistID\tweight\r\n2\t51\t13883\r\n")
    for asked in (None, "table"):
        assert pairs(read_log(path, format=asked)) == [("2", "51")]


def test_quotes_of_a_tab_separated_file_swallow_nothing(tmp_path: Path) -> None:
    text = 'user\titem\ttitle\nu1\t"a\tx\nu2\tb"\ty\nu3\t"c ""d"""\t"z"\n'
    log = read_log(write(tmp_path / "log.tsv", text))
    assert pairs(log) == [("u1", '"a'), ("u2", 'b"'), ("u3", 'c "d"')]


def test_a_quoted_line_end_of_a_tab_separated_file_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "log.tsv", 'user\titem\nu1\t"a\nb"\n')
    assert pairs(read_log(path)) == [("u1", "a\nb")]


@pytest.mark.parametrize("given", ["folder", "list", "mapping"])
def test_files_of_a_split(tmp_path: Path, given: str) -> None:
    names = {"train": "train.csv", "validation": "valid.csv", "test": "test.csv"}
    for number, name in enumerate(names.values()):
        write(tmp_path / name, f"user,item,time\nu,i{number},{9 - number}\nv,j{number},{number}\n")
    paths = {part: tmp_path / name for part, name in names.items()}
    path: Any = {"folder": tmp_path, "list": list(paths.values()), "mapping": paths}[given]
    log = read_log(path, split="given")
    assert pairs(log)[:3] == [("u", "i2"), ("u", "i1"), ("u", "i0")]
    assert log.interactions.parts is not None
    assert log.interactions.parts.tolist() == [2, 1, 0, 0, 1, 2]
    log.save(tmp_path / "saved")
    loaded = Log.load(tmp_path / "saved")
    assert loaded.fingerprint == log.fingerprint
    assert loaded.interactions.parts is not None
    together = read_log(list(paths.values()))
    assert together.interactions.parts is None and len(together.interactions) == 6


def test_a_fault_in_the_second_file_names_it(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "user,item,rating\nu,i,1\n")
    second = write(tmp_path / "b.csv", "user,item,rating\nu,i,1\nu,j,x\n")
    with pytest.raises(RecinjectError, match=r"b.csv, line 3: rating 'x'"):
        read_log([first, second])
