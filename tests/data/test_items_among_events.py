"""Columns about items in the file of events: read where they are named, or are the items' own."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from recinject.data.readers import read_log
from recinject.data.schema import Log


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_item_columns_can_stand_among_the_events(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item,film,genres\n1,x,The X,A|B\n2,x,The X,A|B\n")
    columns = {"title": "film", "categories": "genres"}
    frame = read_log(path, columns=columns).catalog.frame
    assert frame.to_dict("records") == [
        {"item_id": "x", "title": "The X", "categories": ["A", "B"]}
    ]


@pytest.mark.parametrize(
    ("rows", "titles"),
    [
        ("1,x,The X,A|B\n2,x,The X,A|B\n2,y,The Y,A\n", ["The X", "The Y"]),
        ("1,x,,A|B\n2,x,The X,\n3,x, The X ,A|B\n2,y,,A\n", ["The X", ""]),
        ("1,x,Great!,A|B\n2,x,Not for me,A|B\n2,y,,A\n", ["", ""]),
    ],
    ids=["of the items", "with gaps", "of the reviews"],
)
def test_well_known_columns_are_the_items_where_they_say_one_thing(tmp_path, rows, titles) -> None:
    path = write(tmp_path / "log.csv", f"user,item,title,genres\n{rows}")
    log = read_log(path, columns={})
    assert log.catalog.titles == titles
    assert log.catalog.frame["categories"].tolist() == [["A", "B"], ["A"]]
    assert "categories from 'genres'" in log.source
    left_out = read_log(path, columns={"title": "", "categories": ""})
    assert left_out.catalog.frame.to_dict("records") == [
        {"item_id": "x", "title": ""},
        {"item_id": "y", "title": ""},
    ]
    write(tmp_path / "items.csv", "item,title\nx,The other\n")
    beside = read_log(path, columns={}, items=tmp_path / "items.csv")
    assert beside.catalog.titles == ["The other", ""]
    assert "categories" not in beside.catalog.frame


def test_a_recbole_file_has_its_items_among_its_events(tmp_path: Path) -> None:
    header = "user_id:token\titem_id:token\ttitle:token_seq\tclass:token_seq\n"
    path = write(tmp_path / "x.inter", f"{header}u\ti\tThe I\tA B\nv\ti\t\tA B\n")
    log = read_log(path, columns={})
    assert log.catalog.frame.to_dict("records") == [
        {"item_id": "i", "title": "The I", "categories": ["A", "B"]}
    ]
    assert log.source.endswith("x.inter (title from 'title', categories from 'class')")


def test_a_frame_has_its_items_among_its_events() -> None:
    events = pd.DataFrame({"user_id": ["u", "v", "v"], "item_id": ["i", "i", "j"]})
    said = {"title": ["The I", None, "The J"], "category": [["A"], None, ["B"]], "brand": "Acme"}
    log = Log.from_frame(events.assign(**said, categories=None))
    assert log.catalog.frame.to_dict("records") == [
        {"item_id": "i", "title": "The I", "brand": "Acme", "categories": ["A"]},
        {"item_id": "j", "title": "The J", "brand": "Acme", "categories": ["B"]},
    ]
    assert log.source == (
        "DataFrame of events (title from 'title', brand from 'brand', category from 'category')"
    )


def test_a_column_that_is_named_is_read_even_where_it_differs(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user_id,item_id,title\n1,x,\n2,x,Good\n3,x,Bad\n")
    log = read_log(path, columns={"title": "title"})
    assert log.catalog.titles == ["Good"]
    assert log.source == "table log.csv (title from 'title')"
    unasked = read_log(path, columns={})
    assert unasked.catalog.titles == [""] and unasked.source == "table log.csv"


def test_a_column_that_says_nothing_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user_id,item_id,brand\n1,x,\n2,x, \n")
    log = read_log(path, columns={})
    assert log.catalog.frame.columns.tolist() == ["item_id", "title"]
    assert log.source == "table log.csv"


def test_the_column_of_users_is_not_the_items(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "name,item_id\nAnn,x\nBob,y\n")
    log = read_log(path, columns={"user_id": "name"})
    assert log.catalog.titles == ["", ""]
