"""Amazon's three collections: one log, written three times, reads the same three times."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recinject.data.readers import read_log
from recinject.data.schema import Log
from recinject.foundation.errors import RecinjectError

EVENTS = [("B", "i2", 5.0, 30), ("A", "i1", 1.0, 20), ("B", "i1", 3.0, 10)]
TITLE = "Kid's \"Toy\" &amp; Café | 'asin': :: \u2028 end"
BRANDS = {"i1": "Acme", "i2": None}
CATEGORIES = {"i1": ["Toys & Games", "Dolls", "Games"], "i2": None}


def write(path: Path, lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def reviews(old: bool, scale: int = 1) -> list[str]:
    names = ("reviewerID", "asin", "overall", "unixReviewTime")
    names = names if old else ("user_id", "parent_asin", "rating", "timestamp")
    extra = {"reviewText": "long", "style": {"a": 1}} if old else {"asin": "x", "title": "Great!"}
    at = 1_400_000_000
    return [
        json.dumps({**extra, **dict(zip(names, (u, i, r, (at + t) * scale), strict=True))})
        for u, i, r, t in EVENTS
    ]


def write_2014(folder: Path, gz: str = ".gz") -> None:
    write(folder / f"reviews_Toys_5.json{gz}", reviews(old=True))
    nested = [["Toys & Games", "Dolls"], ["Toys & Games", "Games"]]
    rows: list[dict[str, Any]] = [
        {"asin": "unused", "title": "Unused"},
        {
            "asin": "i1",
            "title": TITLE,
            "brand": "Acme",
            "categories": nested,
            "salesRank": {"T": 1},
        },
        {"related": {"also_bought": ["i1"]}, "imUrl": "http://x", "asin": "i2"},
    ]
    write(folder / f"meta_Toys.json{gz}", list(map(repr, rows)))


def write_2018(folder: Path) -> None:
    write(folder / "Toys_5.json.gz", reviews(old=True))
    rows = [
        {"category": CATEGORIES["i1"] + ["Dolls"], "title": TITLE, "brand": "Acme", "asin": "i1"},
        {"category": [], "brand": "", "asin": "i2", "also_buy": ["i1"], "rank": "7 in Toys"},
    ]
    write(folder / "meta_Toys.json.gz", list(map(json.dumps, rows)))


def write_2023(folder: Path) -> None:
    write(folder / "Toys.jsonl", reviews(old=False, scale=1000))
    rows = [
        {"title": TITLE, "store": "Acme", "categories": CATEGORIES["i1"], "parent_asin": "i1"},
        {"title": "", "store": None, "categories": [], "parent_asin": "i2", "average_rating": 4.1},
    ]
    write(folder / "meta_Toys.jsonl", [json.dumps(row, ensure_ascii=False) for row in rows])


FORMS: dict[str, Callable[[Path], None]] = {
    "2014": write_2014,
    "2014 unpacked": lambda folder: write_2014(folder, ""),
    "2018": write_2018,
    "2023": write_2023,
}


def check(log: Log) -> None:
    events = log.interactions
    assert list(events.user_ids) == ["A", "B"]
    assert events.users.tolist() == [0, 1, 1] and events.items.tolist() == [0, 0, 1]
    assert events.ratings is not None and events.ratings.tolist() == [1.0, 3.0, 5.0]
    assert events.timestamps is not None
    assert (events.timestamps - 1_400_000_000).tolist() == [20.0, 10.0, 30.0]
    assert log.catalog.frame.to_dict("records") == [
        {"item_id": i, "title": t, "brand": BRANDS[i], "categories": CATEGORIES[i]}
        for i, t in (("i1", TITLE), ("i2", ""))
    ]


@pytest.mark.parametrize("form", FORMS)
def test_every_collection_gives_the_same_log(tmp_path: Path, form: str) -> None:
    FORMS[form](tmp_path)
    log = read_log(tmp_path, columns={})
    check(log)
    assert log.source.startswith("Amazon reviews ") and " and meta_Toys.json" in log.source
    file = next(file for file in tmp_path.iterdir() if not file.name.startswith("meta_"))
    check(read_log(file, columns={}))


def test_metadata_may_lie_elsewhere_or_nowhere(tmp_path: Path) -> None:
    write_2014(tmp_path)
    (tmp_path / "more").mkdir()
    items = (tmp_path / "meta_Toys.json.gz").rename(tmp_path / "more" / "meta_Toys.json.gz")
    log = read_log(tmp_path, columns={})
    assert log.catalog.titles == ["", ""] and "meta" not in log.source
    check(read_log(tmp_path, columns={}, items=items))


def test_reviews_are_known_by_their_keys(tmp_path: Path) -> None:
    write(tmp_path / "anything.jsonl", reviews(old=False))
    write(tmp_path / "settings.json", ["{}"])
    assert read_log(tmp_path, columns={}).source.startswith("Amazon reviews anything.jsonl")


def test_tables_with_amazon_keys_stay_tables(tmp_path: Path) -> None:
    write(tmp_path / "interactions.jsonl", reviews(old=True))
    assert read_log(tmp_path, columns={}).source.startswith("table interactions.jsonl")


def test_several_reviews_are_a_question(tmp_path: Path) -> None:
    write_2018(tmp_path)
    write(tmp_path / "Toys.json.gz", reviews(old=True))
    with pytest.raises(
        RecinjectError, match=r"2 files match.*reviews_X_5.*\n.*holds Toys.json.gz, Toys_5"
    ):
        read_log(tmp_path, columns={})


@pytest.mark.parametrize(
    ("name", "line", "fragments"),
    [
        ("reviews_Toys_5.json", '{"asin": "i1"', ["line 4", "is not JSON"]),
        ("reviews_Toys_5.json", "{'asin': 'i1'}", ["line 4", "user_id '' is empty"]),
        ("reviews_Toys_5.json", '{"reviewerID": "A", "asin": ""}', ["line 4", "item_id ''"]),
        ("meta_Toys.json", "{'asin': 'i1', 'title': 'x", ["line 4", "nor a Python dictionary"]),
        ("meta_Toys.json", "{'asin': __import__('os').getcwd()}", ["line 4", "malformed"]),
        ("meta_Toys.json", "{'asin', 'i1'}", ["line 4", "no object"]),
        ("meta_Toys.json", "{'asin': " + "[" * 9999, ["line 4", "nor a Python dictionary"]),
        ("meta_Toys.json", "{'asin': " + "-" * 99999 + "1}", ["line 4", "nor a Python"]),
        ("meta_Toys.json", "{'asin': {[]: 1}}", ["line 4", "nor a Python dictionary"]),
        ("meta_Toys.json", "{'title': 'no id'}", ["line 4", "item_id '' is empty"]),
    ],
)
def test_broken_lines_are_refused(
    tmp_path: Path, name: str, line: str, fragments: list[str]
) -> None:
    write_2014(tmp_path, "")
    with (tmp_path / name).open("a") as stream:
        stream.write(line)
    with pytest.raises(RecinjectError) as caught:
        read_log(tmp_path, columns={})
    message = str(caught.value)
    assert name in message and all(fragment in message for fragment in fragments), message


def test_metadata_of_other_items_are_refused(tmp_path: Path) -> None:
    write_2014(tmp_path, "")
    write(tmp_path / "meta_Toys.json", ["{'asin': 'other'}"])
    with pytest.raises(RecinjectError, match="meta_Toys.json: describes none of the log's items"):
        read_log(tmp_path, columns={})


def test_the_title_of_a_review_is_not_the_items(tmp_path: Path) -> None:
    rows = [{"user_id": "A", "parent_asin": "i1", "rating": 5, "title": "Great!", "timestamp": 1}]
    write(tmp_path / "Toys.jsonl", [json.dumps(row) for row in rows])
    assert read_log(tmp_path, columns={}).catalog.titles == [""]
    assert read_log(tmp_path, columns={"title": "title"}).catalog.titles == ["Great!"]


def test_an_ending_in_capitals_is_the_same_ending(tmp_path: Path) -> None:
    rows = [{"user_id": "A", "parent_asin": "i1", "rating": 5, "timestamp": 1}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "Toys.JSONL.GZ").write_bytes(gzip.compress(lines.encode()))
    assert read_log(tmp_path, columns={}).source.startswith("Amazon reviews Toys.JSONL.GZ")
