"""Logs from tables in memory: the guesses and errors of files, with rows for lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recinject.data.readers import read_log
from recinject.data.schema import Log
from recinject.foundation.errors import RecinjectError

EVENTS = pd.DataFrame(
    {
        "userId": ["b", "a", "b"],
        "movieId": [10, 9, 9],
        "Overall": [5.0, 2.5, 3.0],
        "time": pd.to_datetime(["2014-03-03", "2014-03-02", "2014-03-01"]),
    }
)
ITEMS = pd.DataFrame({"asin": [9, 10], "name": [None, "Ten | é"], "genres": [["A", "B"], None]})
MAKERS = {
    "pandas": lambda frame: frame,
    "odd index": lambda frame: frame.set_index(pd.Index([7] * len(frame))),
    "named index": lambda frame: frame.set_index(frame.columns[0]),
    "categories": lambda frame: frame.astype({frame.columns[0]: "category"}),
    "arrow": pa.Table.from_pandas,
    "datasets": lambda frame: datasets.Dataset.from_pandas(frame, preserve_index=False),
}


def facts(log: Log) -> list[Any]:
    events = log.interactions
    assert events.ratings is not None and events.timestamps is not None
    arrays = (events.users, events.items, events.ratings, events.timestamps)
    return [list(events.user_ids), *map(np.ndarray.tolist, arrays)] + [
        log.catalog.frame.to_dict("records")
    ]


@pytest.mark.parametrize("maker", MAKERS)
def test_every_table_gives_the_log_of_its_file(tmp_path: Path, maker: str) -> None:
    EVENTS.to_parquet(tmp_path / "interactions.parquet")
    ITEMS.to_parquet(tmp_path / "items.parquet")
    before = EVENTS.copy(), ITEMS.copy()
    log = Log.from_frame(MAKERS[maker](EVENTS), MAKERS[maker](ITEMS))
    assert facts(log) == facts(read_log(tmp_path, columns={}))
    assert log.catalog.titles == ["Ten | é", ""]
    assert "of events and" in log.source and "user_id from 'userId'" in log.source
    pd.testing.assert_frame_equal(EVENTS, before[0])
    pd.testing.assert_frame_equal(ITEMS, before[1])


def test_columns_are_mapped_and_item_columns_may_stand_among_the_events() -> None:
    frame = pd.DataFrame({0: ["u", "v"], 1: ["x", "x"], "film": ["X", "X"]})
    log = Log.from_frame(frame, columns={"user_id": "0", "item_id": "1", "title": "film"})
    assert log.catalog.frame.to_dict("records") == [{"item_id": "x", "title": "X"}]
    assert log.source.startswith("DataFrame of events (")


@pytest.mark.parametrize(
    ("events", "items", "fragments"),
    [
        ({"user": ["u", None], "item": [1, 2]}, None, ["events, row 2", "user_id '' is empty"]),
        ({"user": [1], "item": [1], "rating": ["x"]}, None, ["events, row 1", "rating 'x'"]),
        ({"user": [1], "item": [1], "stars": [1e300]}, None, []),
        ({"user": [1], "item": [1], "time": ["soon"]}, None, ["events, row 1", "'soon'"]),
        ({"who": [1], "item": [1]}, None, ["events: no column looks like user_id", "who"]),
        ({"user": [], "item": []}, None, ["events: holds no events"]),
        ({"user": [1], "item": [1]}, {"asin": [1, None]}, ["items, row 2", "item_id ''"]),
        ({"user": [1], "item": [1]}, {"name": ["x"]}, ["items: no column looks like item_id"]),
    ],
)
def test_wrong_values_are_refused_with_their_row(
    events: dict[str, list[Any]], items: dict[str, list[Any]] | None, fragments: list[str]
) -> None:
    frames = [None if part is None else pd.DataFrame(part) for part in (events, items)]
    if not fragments:
        assert Log.from_frame(frames[0]).interactions.ratings == [1e300]  # type: ignore[arg-type]
        return
    with pytest.raises(RecinjectError) as caught:
        Log.from_frame(*frames)  # type: ignore[arg-type]
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"user": 1, "item": 2}], "events: a list is no table"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_dict({"user": [1]})}), "DatasetDict"),
        (pd.DataFrame([[1, 2, 3]], columns=["user", "item", "item"]), "'item' is there more than"),
        (pd.DataFrame({"item": [1]}, index=pd.Index([1], name="item")), "'item' is there more"),
        (pd.Series([1]), "events: a Series is no table"),
    ],
)
def test_what_is_no_table_is_refused(rows: Any, message: str) -> None:
    with pytest.raises(RecinjectError, match=message):
        Log.from_frame(rows)


def test_half_a_surrogate_pair_is_no_crash() -> None:
    frame = pd.DataFrame({"user": ["u"], "item": ["a\ud83d"], "x": [1]}, dtype=object)
    frame.columns = pd.Index(["user", "item", "\ud83d"], dtype=object)
    assert Log.from_frame(frame).catalog.item_ids == ["a?"]


@pytest.mark.parametrize("value", [{"a": "\ud83d"}, ["a", "b"], {"a": 1}])
def test_a_list_or_an_object_is_no_id(value: Any) -> None:
    frame = pd.DataFrame({"user": ["u"], "item": [value]}, dtype=object)
    with pytest.raises(RecinjectError, match=r"events, row 1: item_id '.*' is a list or an object"):
        Log.from_frame(frame)
