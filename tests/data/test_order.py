"""What each user's events are in order of, and which of repeated ones stay."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.data.cleaning import clean
from recinject.data.schema import Log
from recinject.data.splitting import Part, load_split, order_events, save_split
from recinject.foundation.errors import RecinjectError
from recinject.identifiers.data import split_log

EVENTS = pd.DataFrame(
    [(f"u{u}", f"i{n * n % 13}") for u in range(7) for n in range(u, u + 8)],
    columns=["user_id", "item_id"],
).drop_duplicates(ignore_index=True)


def log_of(events: pd.DataFrame) -> Log:
    return Log.from_frame(events)


def split_of(events, **given):
    return split_log(log_of(events), k_core=0, **given)


def lists(split, catalog):
    """The items of each user in order, by their ids, with the part of each."""
    events = split.interactions
    names = np.array(catalog.item_ids, object)
    return {
        user: list(zip(names[events.items_of(n)], split.parts[events.users == n], strict=True))
        for n, user in enumerate(events.user_ids)
    }


@settings(max_examples=12)
@given(order=st.permutations(range(len(EVENTS))), rule=st.sampled_from(["leave_one_out", "random"]))
def test_without_times_the_rows_order_decides_nothing(order, rule):
    """A file sorted by item id gave its highest ids to the test."""
    shuffled = EVENTS.iloc[list(order)].reset_index(drop=True)
    one, other = (split_of(events, split=rule, seed=3) for events in (EVENTS, shuffled))
    if rule == "leave_one_out":
        assert lists(*one[:2]) == lists(*other[:2])
    assert one[0].order == other[0].order == "random"
    assert one[0].interactions.items.tolist() == other[0].interactions.items.tolist()


@pytest.mark.parametrize("times", [None, float("nan"), 1e9])
def test_random_order_is_seeded_even_and_said(times):
    rows = pd.DataFrame([(f"u{u}", f"i{n:02d}") for u in range(400) for n in range(6)])
    rows = rows.set_axis(["user_id", "item_id"], axis=1)
    events = rows if times is None else rows.assign(timestamp=times)
    found = [split_of(events, seed=seed) for seed in (1, 1, 2)]
    assert lists(*found[0][:2]) == lists(*found[1][:2]) != lists(*found[2][:2])
    split, catalog, steps = found[0]
    last = [items[-1][0] for items in lists(split, catalog).values()]
    assert pd.Series(last).value_counts().between(40, 95).all()  # 67 of each on average
    step = {step.name: step for step in steps}["order"]
    assert "random order (seed 1)" in step.detail and "data.order=rows" in step.detail
    assert (step.users, step.items, step.events) == (400, 6, 2400)


def test_rows_are_trusted_when_they_are_asked_to_be():
    split, catalog, steps = split_of(EVENTS, order="rows")
    for user, items in lists(split, catalog).items():
        assert [item for item, _ in items] == EVENTS[EVENTS.user_id == user].item_id.tolist()
        assert [part for _, part in items][-2:] == [Part.VALIDATION, Part.TEST]
    assert split.order == "rows"
    assert {step.name: step for step in steps}["order"].detail.endswith("(data.order=rows)")


@pytest.mark.parametrize("column", ["timestamp", "position"])
def test_what_has_an_order_keeps_it_and_rows_cannot_be_asked_for(column):
    events = EVENTS.assign(**{column: np.arange(len(EVENTS))[::-1]})
    split, catalog, steps = split_of(events)
    for user, items in lists(split, catalog).items():
        own = EVENTS[EVENTS.user_id == user].item_id.tolist()[::-1]
        assert [item for item, _ in items] == own
    assert "order" not in {step.name for step in steps}
    assert split.order == {"timestamp": "time", "position": "position"}[column]
    with pytest.raises(RecinjectError, match=f"data.columns.{column}=''"):
        split_of(events, order="rows")


def test_events_of_unknown_time_among_known_ones_stay_where_they_are():
    events = EVENTS.assign(timestamp=np.where(np.arange(len(EVENTS)) % 3, 5.0, np.nan))
    events.loc[0, "timestamp"] = 1.0
    log = log_of(events)
    found, order, said = order_events(log, "time", "log_order", 1)
    assert (found, order, said) == (log, "time", "")


def test_ties_that_a_hash_moves_are_counted():
    events = EVENTS.assign(timestamp=np.arange(len(EVENTS)) // 4)
    _, _, steps = split_of(events, ties="hash")
    detail = {step.name: step for step in steps}["order"].detail
    assert int(detail.split()[0]) > 10 and "data.ties=hash" in detail
    _, _, steps = split_of(EVENTS.assign(timestamp=np.arange(len(EVENTS))), ties="hash")
    assert "order" not in {step.name for step in steps}


def test_the_order_is_stored(tmp_path):
    split, catalog, _ = split_of(EVENTS)
    save_split(tmp_path / "split", split, catalog)
    assert load_split(tmp_path / "split")[0].order == "random"
    log = log_of(EVENTS.assign(position=1.0))
    log.save(tmp_path / "log")
    assert Log.load(tmp_path / "log").order == log.order == "position"


TWICE = pd.concat([EVENTS, EVENTS], ignore_index=True)


@pytest.mark.parametrize(
    ("column", "given", "kept"),
    [
        ({}, {}, 1),  # nothing tells them apart
        ({}, {"order": "rows"}, 2),
        ({}, {"repeats": "keep"}, 2),
        ({"position": np.arange(len(TWICE))}, {}, 2),
        ({"position": np.arange(len(TWICE))}, {"repeats": "first"}, 1),
        ({"timestamp": np.arange(len(TWICE))}, {}, 2),  # at other times: no repeats
        ({"timestamp": np.arange(len(TWICE)) % len(EVENTS)}, {}, 1),
        ({"timestamp": np.arange(len(TWICE)) % len(EVENTS)}, {"repeats": "keep"}, 2),
    ],
)
def test_repeats_are_dropped_where_nothing_tells_them_apart(column, given, kept):
    split, _, steps = split_of(TWICE.assign(**column), **given)
    assert len(split.interactions) == kept * len(EVENTS)
    detail = {step.name: step for step in steps}["duplicates"].detail
    differs = "timestamp" in column and kept == 2 and not given
    said = "0 repeated" if differs else f"{len(EVENTS)} repeated"
    assert said in detail or (differs and detail == "0 repeated events dropped")
    assert ("kept" in detail) == (kept == 2 and not differs)


def test_repeats_that_are_kept_do_not_stand_side_by_side_by_rule():
    """Else the last event would tell the next wherever order is random."""
    rows = [(f"u{u}", f"i{n % 6}") for u in range(100) for n in range(12)]
    events = pd.DataFrame(rows, columns=["user_id", "item_id"])
    split, _, _ = split_of(events, repeats="keep")
    items = split.interactions.items.reshape(100, 12)
    assert (items[:, 1:] == items[:, :-1]).mean() < 0.15  # 1 in 11 by chance


@pytest.mark.parametrize(("repeats", "rating"), [("first", 2.0), ("last", 4.0)])
def test_of_other_ratings_the_number_is_said_and_what_keeps_the_other(repeats, rating):
    """One pair with two ratings at one time: some export each change of a rating."""
    events = EVENTS.assign(timestamp=np.arange(len(EVENTS)), rating=2.0)
    again = events.assign(rating=4.0)
    again.loc[:2, "rating"] = 2.0  # three agree
    split, _, steps = split_of(pd.concat([events, again]), repeats=repeats)
    assert np.unique(split.interactions.ratings[3:]).tolist() == [rating]
    detail = {step.name: step for step in steps}["duplicates"].detail
    other = {"first": "last", "last": "first"}[repeats]
    assert f"{len(EVENTS)} repeated events dropped, {len(EVENTS) - 3} of them" in detail
    assert f"data.repeats={other} keeps the {other}" in detail


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([1.0, 2.0, np.nan])),
        min_size=1,
    )
)
def test_the_last_is_the_first_of_the_log_read_backwards(rows):
    log = log_of(
        pd.DataFrame(
            {
                "user_id": [f"u{user}" for user, _, _ in rows],
                "item_id": [f"i{item}" for _, item, _ in rows],
                "timestamp": [time for *_, time in rows],
                "position": range(len(rows)),
                "rating": np.arange(len(rows)) % 5 + 1.0,
            }
        )
    )
    events = log.interactions
    back = np.lexsort((-np.arange(len(events)), events.users))
    columns = {name: getattr(events, name) for name in ("items", "ratings", "timestamps")}
    known = {name: column[back] for name, column in columns.items() if column is not None}
    reversed_ = replace(events, **known)
    last, _ = clean(log, k_core=0, repeats="last")
    first, _ = clean(replace(log, interactions=reversed_), k_core=0, repeats="first")
    for user in range(last.interactions.n_users):
        own, theirs = last.interactions.items_of(user), first.interactions.items_of(user)
        assert own.tolist() == theirs[::-1].tolist()


def test_parts_that_come_with_the_log_follow_one_another_in_random_order():
    """Else a tested event would stand before those that its user trained on."""
    log = log_of(EVENTS)
    parts = np.arange(len(EVENTS), dtype=np.int8) % 3
    log = replace(log, interactions=replace(log.interactions, parts=parts))
    shuffled, _, _ = order_events(log, "time", "log_order", 1)
    events = shuffled.interactions
    before = {
        (user, item): part
        for user, item, part in zip(
            log.interactions.users, log.interactions.items, parts, strict=True
        )
    }
    for user in range(events.n_users):
        own = events.parts[events.users == user]
        assert (np.diff(own) >= 0).all() and len(set(own)) == 3
        assert [before[user, item] for item in events.items_of(user)] == own.tolist()
