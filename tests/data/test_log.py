"""The log as a value: frames in and out, saved and loaded, its fingerprint and its findings."""

from __future__ import annotations

import inspect
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recinject.data.readers import read_log
from recinject.data.schema import Log
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import leave_one_out, save_split
from recinject.foundation.errors import RecinjectError

EVENTS = pd.DataFrame(
    {
        "user": ["b", "a", "b"],
        "item": ["y", "x", "x"],
        "rating": [5.0, 2.5, 3.0],
        "time": [30.0, np.nan, 10.0],
    }
)
ITEMS = pd.DataFrame(
    {"item": ["x", "y", "z", "x"], "name": ["X", None, "Z", "2"], "genres": [["A"], None, [], None]}
)


def test_a_log_comes_back_as_it_was(tmp_path: Path) -> None:
    log = Log.from_frame(EVENTS, ITEMS)
    log.save(str(tmp_path / "new" / "log"))
    loaded = Log.load(tmp_path / "new" / "log")
    assert loaded.fingerprint == log.fingerprint
    assert (loaded.source, list(loaded.findings)) == (log.source, list(log.findings))
    for name, value in vars(log.interactions).items():
        found = vars(loaded.interactions)[name]
        np.testing.assert_array_equal(found, value)
        assert not isinstance(value, np.ndarray) or found.dtype == value.dtype
    assert loaded.catalog.frame.to_dict("records") == log.catalog.frame.to_dict("records")


def test_a_log_without_ratings_and_times_comes_back(tmp_path: Path) -> None:
    log = Log.from_frame(EVENTS[["user", "item"]])
    log.save(tmp_path)
    loaded = Log.load(tmp_path)
    assert loaded.interactions.ratings is None and loaded.interactions.timestamps is None
    assert loaded.fingerprint == log.fingerprint


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecinjectError, match=r"holds no interactions.parquet"):
        Log.load(tmp_path)
    log = Log.from_frame(EVENTS)
    save_split(tmp_path, leave_one_out(log.interactions), log.catalog)
    with pytest.raises(RecinjectError, match="holds a split, and no log"):
        Log.load(tmp_path)


def test_frames_come_out_with_raw_ids() -> None:
    log = Log.from_frame(EVENTS, ITEMS)
    frame = log.to_pandas()
    assert frame.columns.tolist() == ["user_id", "item_id", "rating", "timestamp"]
    assert frame[["user_id", "item_id"]].to_numpy().tolist() == [["a", "x"], ["b", "x"], ["b", "y"]]
    assert frame["rating"].tolist() == [2.5, 3.0, 5.0]
    items = log.catalog.to_pandas()
    assert items["title"].tolist() == ["X", ""] and items["categories"].tolist() == [["A"], None]
    items["title"] = "changed"
    assert log.catalog.titles == ["X", ""]
    assert Log.from_frame(EVENTS[["user", "item"]]).to_pandas().columns.tolist() == [
        "user_id",
        "item_id",
    ]
    assert Log.from_frame(frame, log.catalog.to_pandas()).fingerprint == log.fingerprint


def test_one_content_has_one_fingerprint(tmp_path: Path) -> None:
    EVENTS.to_csv(tmp_path / "interactions.csv", index=False)
    ITEMS.to_parquet(tmp_path / "items.parquet")
    logs = [
        Log.from_frame(EVENTS, ITEMS),
        Log.from_frame(pa.Table.from_pandas(EVENTS), pa.Table.from_pandas(ITEMS)),
        Log.from_frame(*(datasets.Dataset.from_pandas(own) for own in (EVENTS, ITEMS))),
        Log.from_frame(EVENTS.iloc[::-1], ITEMS),
        read_log(str(tmp_path)),
    ]
    assert len({log.fingerprint for log in logs}) == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [("user", "c"), ("item", "z"), ("rating", 2.0), ("time", 31.0), ("name", "Y"), ("genres", [])],
)
def test_one_other_value_gives_another_fingerprint(column: str, value: object) -> None:
    events, items = EVENTS.copy(), ITEMS.copy()
    frame = events if column in events else items
    frame[column] = pd.Series([value, *frame[column].tolist()[1:]], dtype=frame[column].dtype)
    found = Log.from_frame(events, items).fingerprint
    assert found != Log.from_frame(EVENTS, ITEMS).fingerprint
    assert found != Log.from_frame(events.drop(columns="time"), items).fingerprint


def test_findings_say_what_was_read(tmp_path: Path) -> None:
    EVENTS.to_csv(tmp_path / "interactions.csv", index=False)
    ITEMS.to_parquet(tmp_path / "items.parquet")
    assert list(map(str, read_log(tmp_path).findings))[:7] == [
        "The format was detected: table interactions.csv and items.parquet.",
        "user_id is read from 'user', item_id from 'item', timestamp from 'time', "
        "title from 'name', categories from 'genres'.",
        "It holds 3 events of 2 users and 2 items.",
        "Events without a timestamp, kept behind the event before: 1.",
        "Items without a title: 1.",
        "Rows of items without an event, dropped: 1.",
        "Further rows of an item, dropped: 1.",
    ]
    columns = {"rating": "", "timestamp": ""}
    log = read_log(tmp_path / "interactions.csv", format="table", columns=columns)
    facts = [finding.fact for finding in log.findings]
    assert facts[0] == "The format was asked for: table interactions.csv and items.parquet."
    assert "It has no timestamps: only its rows' order." in facts
    assert "It has no ratings." in facts


def test_findings_tell_what_gives_the_order_and_leave_empty_columns_out() -> None:
    events = EVENTS.rename(columns={"rating": "stars"}).assign(stars=np.nan, position=[2, 1, 1])
    log = Log.from_frame(events, pd.DataFrame({"movie_id": ["x"]}))
    assert list(map(str, log.findings))[:7] == [
        "The log is a DataFrame of events and a DataFrame of items.",
        "user_id is read from 'user', item_id from 'item', timestamp from 'time', "
        "item_id of items from 'movie_id'.",
        "It holds 3 events of 2 users and 2 items.",
        "Events without a timestamp: 1.",
        "The position is each user's order, not the timestamp.",
        "It has no ratings.",
        "Items without a title: 2.",
    ]


def test_a_simulated_log_has_findings() -> None:
    log = simulate_shop(users=5, items=40, events_per_user=6, seed=1)
    assert (
        log.findings[0].fact
        == f"It holds {len(log.interactions)} events of 5 users and {len(log.catalog)} items."
    )


def test_only_the_first_argument_is_required() -> None:
    for function, count in ((read_log, 1), (Log.from_frame, 1)):
        parameters = inspect.signature(function).parameters.values()
        named = [own for own in parameters if own.kind is not own.VAR_KEYWORD]
        assert sum(own.default is own.empty for own in named) == count
