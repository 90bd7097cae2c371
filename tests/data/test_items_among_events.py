"""Columns about items in the file of events: read where they are named, or are the items' own."""

from __future__ import annotations

from pathlib import Path

import pytest

from recinject.data.readers import read_log


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
        ("1,x,Great!,A|B\n2,x,Not for me,A|B\n2,y,,A\n", ["", ""]),
    ],
    ids=["of the items", "of the reviews"],
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
