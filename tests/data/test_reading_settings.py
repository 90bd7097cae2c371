"""Settings of reading mean what they say, and leave a line that says what they did."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from recinject.data.readers import read_log
from recinject.data.schema import Log
from recinject.foundation.errors import RecinjectError

EVENTS = """user,item,event,quantity,rating,time
a,i,view,1,5,1
a,j,buy,-1,-1,2
b,i,buy,7,3,3
b,k,cart,2,-1,4
"""


def log_of(folder: Path, text: str = EVENTS, **settings: Any) -> Log:
    (folder / "log.csv").write_text(text, encoding="utf-8")
    return read_log(folder / "log.csv", **settings)


def items_of(log: Log) -> list[str]:
    return log.to_pandas()["item_id"].tolist()


@pytest.mark.parametrize(
    ("settings", "left", "said"),
    [
        ({"keep": {"event": ["buy"]}}, ["j", "i"], "buy of 'event' left out 2 of 4 events"),
        ({"keep": {"event": "buy"}}, ["j", "i"], "left out 2 of 4"),
        ({"keep": {"rating": [">=3"]}}, ["i", "i"], ">=3 of 'rating' left out 2 of 4"),
        ({"drop": {"quantity": ["<0"]}}, ["i", "i", "k"], "<0 of 'quantity' left out 1 of 4"),
        ({"drop": {"event": ["view", "cart"]}}, ["j", "i"], "view, cart of 'event' left out 2"),
    ],
)
def test_events_are_kept_and_dropped_by_their_values(
    tmp_path: Path, settings: dict[str, Any], left: list[str], said: str
) -> None:
    log = log_of(tmp_path, **settings)
    assert items_of(log) == left
    assert any(said in finding.fact for finding in log.findings)


def test_keeping_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecinjectError, match="leaves no event of 4") as found:
        log_of(tmp_path, keep={"event": ["bought"]})
    assert "buy" in found.value.hint
    with pytest.raises(
        RecinjectError, match="data.keep: .*log.csv has no column 'events'"
    ) as found:
        log_of(tmp_path, keep={"events": ["buy"]})
    assert "did you mean 'event'" in found.value.hint


def test_unrated_events_stay_without_their_rating(tmp_path: Path) -> None:
    log = log_of(tmp_path, unrated=[-1])
    np.testing.assert_array_equal(log.interactions.ratings, [5, np.nan, 3, np.nan])
    assert "Events whose rating stands for none (data.unrated): 2." in map(str, log.findings)


@pytest.mark.parametrize(
    ("how", "expected"), [("none", [1, 7, 2]), ("log", [1, 3, 2]), ("bins", [1, 4, 2])]
)
def test_a_rating_is_made_of_a_count(tmp_path: Path, how: str, expected: list[float]) -> None:
    log = log_of(tmp_path, rating_of={"column": "quantity", "as": how}, drop={"quantity": ["<0"]})
    assert log.interactions.ratings is not None
    assert np.argsort(log.interactions.ratings).tolist() == np.argsort(expected).tolist()
    if how != "bins":
        assert log.interactions.ratings.tolist() == expected


def test_bad_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    text = EVENTS + ",i,buy,1,2,3\nb,l,buy,1,x,3\nb,m\n"
    with pytest.raises(RecinjectError, match="line 6: user_id '' is empty"):
        log_of(tmp_path, text)
    log = log_of(tmp_path, text, bad_rows="drop")
    assert len(log.interactions) == 4 and "l" not in log.catalog.item_ids
    said = [str(finding) for finding in log.findings]
    assert "Events with a user_id that is empty, dropped: 1." in said
    assert "Events with a rating that is not a number, dropped: 1." in said
    assert "Lines that are no rows, dropped: 1." in said


def test_texts_that_stand_for_nothing(tmp_path: Path) -> None:
    text = "user,item,rating,time\na,i,\\N,1\na,j,3,2\na,k,NA,3\n"
    with pytest.raises(RecinjectError, match=r"rating '\\\\N' is not a number") as found:
        log_of(tmp_path, text)
    typed = re.search(r"'data.missing=(.*?)'", found.value.hint)
    assert typed and yaml.safe_load(typed[1]) == ["NA", "\\N"]  # every such text, at once
    log = log_of(tmp_path, text, missing=yaml.safe_load(typed[1]))
    np.testing.assert_array_equal(log.interactions.ratings, [np.nan, 3, np.nan])
    text = "user,item,rating,time\na,i,\\N,1\na,j,3,NULL\n"
    log = log_of(tmp_path, text, missing=["\\N", "NULL"])
    np.testing.assert_array_equal(log.interactions.ratings, [np.nan, 3])
    np.testing.assert_array_equal(log.interactions.timestamps, [1, np.nan])
    with pytest.raises(RecinjectError, match="line 2: user_id '' is empty"):
        log_of(tmp_path, text.replace("a,i", "NA,i"), missing=["\\N", "NULL", "NA"])


def test_decimal_commas(tmp_path: Path) -> None:
    text = "user;item;rating\na;i;3,5\na;j;4\n"
    for settings in ({}, {"decimal": ",", "separator": ";"}):
        log = log_of(tmp_path, text, **settings)
        assert log.interactions.ratings is not None
        assert log.interactions.ratings.tolist() == [3.5, 4.0]


@pytest.mark.parametrize(
    ("times", "settings", "seconds"),
    [
        (["01/02/2014", "03/02/2014"], {"time_format": "%d/%m/%Y"}, [1391212800, 1391385600]),
        (["13/02/2014", "03/02/2014"], {}, [1392249600, 1391385600]),
        (["1000", "3000"], {"time_unit": "ms"}, [1, 3]),
        (["20101201", "20101202"], {}, [1291161600, 1291248000]),
        (["201012010826", "201012020826"], {}, [1291191960, 1291278360]),
        (["Nov 5, 2011", "Nov 6, 2011"], {}, [1320451200, 1320537600]),
        (["2014-03-01 01:00:00 EST"], {}, [1393653600]),
        (["1600000000", "1600000001000", "1600000002"], {}, [1600000000, 1600000001, 1600000002]),
    ],
)
def test_times(
    tmp_path: Path, times: list[str], settings: dict[str, Any], seconds: list[float]
) -> None:
    rows = "".join(f'u,i{n},"{time}"\n' for n, time in enumerate(times))
    frame = log_of(tmp_path, f"user,item,time\n{rows}", **settings).to_pandas()
    assert frame.sort_values("item_id")["timestamp"].tolist() == seconds


def test_days_and_months_that_cannot_be_told_apart_are_a_question(tmp_path: Path) -> None:
    text = "user,item,time\na,i,01/02/2014\na,j,03/02/2014\n"
    with pytest.raises(RecinjectError, match=r"'01/02/2014' may be read by '%m/%d/%Y'") as found:
        log_of(tmp_path, text)
    assert "data.time_format='%d/%m/%Y'" in found.value.hint


def test_the_table_of_items_may_name_its_columns_otherwise(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("key,label\ni,The I\n")
    columns = {"item_id": "key", "title": "label"}
    log = log_of(tmp_path, items=tmp_path / "items.csv", item_columns=columns, partial_items=True)
    assert log.catalog.titles == ["The I", "", ""]


def test_what_is_known_of_users_stays_with_the_log(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user,age\nb,30\nc,4\n")
    log = log_of(tmp_path, users=tmp_path / "users.csv")
    assert log.users is not None
    assert log.users["user_id"].tolist() == ["a", "b"]
    assert log.users["age"].tolist()[1] == 30
    log.save(tmp_path / "saved")
    pd.testing.assert_frame_equal(Log.load(tmp_path / "saved").users, log.users)
    assert Log.load(tmp_path / "saved").fingerprint == log.fingerprint


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"heeder": ["a"]}, "data.heeder: unknown key"),
        ({"bad_rows": "skip"}, "data.bad_rows: Input should be"),
        ({"encoding": "klingon"}, "'klingon' is no encoding"),
        ({"item_columns": {"titel": "x"}}, "data.item_columns: unknown column 'titel'"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, settings: dict[str, Any], fact: str) -> None:
    with pytest.raises(RecinjectError, match=fact):
        log_of(tmp_path, **settings)


@pytest.mark.parametrize(
    "names",
    [("Item", "item"), ("number", "text"), ("raw", "row"), ("rowid", "key"), ("user ", "x")],
)
def test_columns_may_have_any_name(tmp_path: Path, names: tuple[str, str]) -> None:
    one, other = names
    log = log_of(tmp_path, f"user,item_id,{one},{other}\nu,i,1,2\n")
    assert items_of(log) == ["i"]
