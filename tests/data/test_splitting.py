from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.data.cleaning import clean
from recinject.data.readers import make_log
from recinject.data.schema import Interactions, Log
from recinject.data.splitting import (
    Part,
    Split,
    cold_items,
    draw_negatives,
    global_time,
    learn_from,
    leave_one_out,
    order_ties,
    random,
    split_by,
    tied_order,
    time_facts,
    user_ratio,
    without_validation,
)
from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import Chance
from recinject.identifiers.data import split_log
from recinject.registry import find, names

# Files that are parts already have a split of their own.
RULES = sorted({*names("split")} - {"given"})


def log_of(lengths: list[int], timestamps: list[float] | None = None) -> Interactions:
    users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return Interactions(
        users=users,
        items=np.arange(len(users), dtype=np.int32),
        ratings=None,
        timestamps=None if timestamps is None else np.array(timestamps),
        user_ids=[str(user) for user in range(len(lengths))],
        n_items=len(users),
    )


lengths_of_users = st.lists(st.integers(0, 7), min_size=1, max_size=8)


@given(lengths_of_users)
def test_the_last_event_tests_and_the_one_before_validates(lengths: list[int]) -> None:
    log = log_of(lengths)
    split = leave_one_out(log)
    for user, length in enumerate(lengths):
        expected = [Part.TRAIN] * length
        if length >= 3:
            expected[-2:] = [Part.VALIDATION, Part.TEST]
        assert split.parts[log.users == user].tolist() == expected


@given(lengths_of_users, st.sampled_from(list(Part)))
def test_a_view_sees_nothing_later_than_its_part(lengths: list[int], part: Part) -> None:
    split = leave_one_out(log_of(lengths))
    view = split.view(part)
    # Items are numbered by event here, so an item tells which event of the whole log it is.
    parts = split.parts[view.interactions.items]
    assert (parts <= part).all()
    assert len(view.interactions) == int((split.parts <= part).sum())
    assert view.is_target.tolist() == (parts == part).tolist()
    assert len(view.touched) == len(split.interactions)


@given(lengths_of_users, st.sampled_from(list(Part)), st.integers(1, 4))
def test_a_history_is_everything_earlier_and_nothing_else(
    lengths: list[int], part: Part, length: int
) -> None:
    view = leave_one_out(log_of(lengths)).view(part)
    log = view.interactions
    for user in range(log.n_users):
        span = range(log.offsets[user], log.offsets[user + 1])
        targets = [e for e in span if view.is_target[e] and view.is_history[span.start : e].any()]
        assert view.targets[user].tolist() == targets
        before = [list(range(log.offsets[user], target)) for target in targets]
        assert view.histories(np.array(targets, int)).to_list() == before
        latest = [events[-length:] for events in before]
        assert view.histories(np.array(targets, int), length).to_list() == latest
    assert len(view.targets) == log.n_users


def test_the_test_history_holds_the_validation_event() -> None:
    view = leave_one_out(log_of([4])).view(Part.TEST)
    assert view.targets.to_list() == [[3]]
    assert view.histories(np.array([3])).to_list() == [[0, 1, 2]]


def test_the_train_view_is_the_training_part_alone() -> None:
    split = leave_one_out(log_of([4, 2]))
    view = split.view(Part.TRAIN)
    assert view.interactions.items.tolist() == split.train.items.tolist() == [0, 1, 4, 5]
    assert view.is_history.all() and view.is_target.all()
    assert view.targets.to_list() == [[1], [3]]


def test_part_labels() -> None:
    assert [part.label for part in Part] == [
        "history",
        "train",
        "validation",
        "test",
    ]


@pytest.mark.parametrize(
    ("name", "lengths", "fragments"),
    [
        ("leave_one_uot", [4], ["data.split", "did you mean 'leave_one_out'"]),
        ("leave_one_out", [2, 1], ["no event to test on", "at least three events"]),
        ("global_time", [4], ["needs timestamps", "data.columns.timestamp"]),
        ("cold_items", [1], ["no event to train on"]),
    ],
)
def test_bad_splits_are_refused(name: str, lengths: list[int], fragments: list[str]) -> None:
    with pytest.raises(RecinjectError) as caught:
        split_by(name, log_of(lengths))
    assert all(fragment in str(caught.value) for fragment in fragments)


def test_tie_facts_count_tests_tied_with_the_event_before() -> None:
    # User 0: test tied with validation. User 1: not. User 2 has no test event.
    times = [1.0, 5.0, 5.0, 1.0, 2.0, 3.0, 9.0]
    facts = time_facts(leave_one_out(log_of([3, 3, 1], times)))
    # The average test is at 4.0; of the training events at 1, 1 and 9, one is later.
    assert facts == {"tie_rate": 0.5, "future_share": pytest.approx(1 / 3)}


def test_unknown_times_are_no_ties_and_no_future() -> None:
    facts = time_facts(leave_one_out(log_of([3], [np.nan, np.nan, 7.0])))
    assert facts == {"tie_rate": 0.0, "future_share": 0.0}


def test_without_timestamps_there_are_no_time_facts() -> None:
    assert time_facts(leave_one_out(log_of([3]))) == {}


def test_a_split_by_name_is_the_split() -> None:
    split = split_by("leave_one_out", log_of([3]))
    assert isinstance(split, Split) and split.parts.tolist() == [0, 1, 2]


@st.composite
def timed_logs(draw: st.DrawFn) -> Interactions:
    """Small logs with repeated items, ties, and times that are sometimes unknown."""
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any))
    events = sum(lengths)
    times = st.lists(st.integers(0, 8), min_size=events, max_size=events)
    items = st.lists(st.integers(0, 11), min_size=events, max_size=events)
    log = log_of(lengths)
    moments = np.array(draw(times), np.float64)
    ordered = moments[np.lexsort((moments, log.users))]
    ordered[draw(st.lists(st.integers(0, events - 1), max_size=2))] = np.nan
    return Interactions(
        users=log.users,
        items=np.array(draw(items), np.int32),
        ratings=None,
        timestamps=ordered,
        user_ids=log.user_ids,
        n_items=12,
    )


rules = st.sampled_from(RULES)
shares = st.sampled_from([0.05, 0.1, 0.25, 0.49])


@given(timed_logs(), rules, shares, st.sampled_from(list(Part)[1:]))
def test_the_histories_of_every_rule_are_earlier_parts_before_the_target(
    log: Interactions, rule: str, share: float, part: Part
) -> None:
    split = find("split", rule)(log, share, 1)
    view = split.view(part)
    places = np.flatnonzero(split.parts <= part)  # of the view's events in the whole log
    allowed = [0] if part is Part.TRAIN else range(part)
    targets, histories = [], []
    for user in range(log.n_users):
        past: list[int] = []
        for event in range(log.offsets[user], log.offsets[user + 1]):
            if split.parts[event] == part and past:
                targets.append((user, event))
                histories.append(past.copy())
            if split.parts[event] in allowed:
                past.append(event)
    found = view.targets
    assert list(zip(found.rows, places[found.values], strict=True)) == targets
    for length in (None, 1, 2):
        shown = view.histories(found.values, length)
        assert shown.of(places[shown.values]).to_list() == [
            past[-(length or len(past)) :] for past in histories
        ]
    # In any order, and any number of times.
    backwards = view.histories(np.concatenate([found.values[::-1], found.values[:1]]))
    assert backwards.of(places[backwards.values]).to_list() == histories[::-1] + histories[:1]


@given(timed_logs(), shares)
def test_global_time_cuts_at_two_moments(log: Interactions, share: float) -> None:
    parts = global_time(log, share).parts
    known = pd.Series(log.timestamps).groupby(log.users).ffill().fillna(-np.inf).to_numpy()
    for earlier, later in ((0, 1), (1, 2), (0, 2)):
        if (parts == earlier).any() and (parts == later).any():
            assert known[parts == earlier].max() < known[parts == later].min()
    at_least = max(1, round(share * len(log)))
    assert (parts == Part.TEST).sum() >= at_least
    # But for the events of the boundary's own time there would be too few.
    assert (known > known[parts == Part.TEST].min()).sum() < at_least


@given(lengths_of_users, shares)
def test_a_user_ratio_is_the_end_of_each_history(lengths: list[int], share: float) -> None:
    log = log_of(lengths)
    split = user_ratio(log, share)
    for user, length in enumerate(lengths):
        held_out = max(1, int(share * length)) if length >= 3 else 0
        expected = [0] * (length - 2 * held_out) + [1] * held_out + [2] * held_out
        assert split.parts[log.users == user].tolist() == expected


def test_a_round_share_of_a_round_count_is_not_one_too_few() -> None:
    assert (user_ratio(log_of([100]), 0.29).parts == Part.TEST).sum() == 29


@given(timed_logs(), shares, st.integers(0, 3))
def test_cold_items_are_never_met_in_training(log: Interactions, share: float, seed: int) -> None:
    split = cold_items(log, share, seed)
    assert split.parts.tolist() == cold_items(log, share, seed).parts.tolist()
    of_item = {int(item): set(split.parts[log.items == item].tolist()) for item in log.items}
    assert all(len(parts) == 1 for parts in of_item.values())
    view = split.view(Part.TRAIN)
    cold = {item for item, parts in of_item.items() if parts != {Part.TRAIN}}
    assert not cold & set(view.interactions.items.tolist())
    assert set(view.cold.tolist()) == cold
    for user in range(log.n_users):
        # All that may be drawn are drawn.
        untouched = set(range(12)) - cold - set(log.items_of(user).tolist())
        chance = Chance(np.array([seed], np.uint64))
        drawn = draw_negatives(view, np.array([user]), chance, len(untouched))
        assert set(drawn[0].tolist()) == untouched


@given(timed_logs(), shares, st.integers(0, 3))
def test_a_random_split_holds_out_a_share_of_the_events(
    log: Interactions, share: float, seed: int
) -> None:
    parts = random(log, share, seed).parts
    held_out = max(1, round(share * len(log)))
    assert (parts == Part.TEST).sum() == held_out
    assert (parts == Part.VALIDATION).sum() == min(held_out, len(log) - held_out)


@given(timed_logs(), rules, shares)
def test_without_validation_its_events_train(log: Interactions, rule: str, share: float) -> None:
    split = find("split", rule)(log, share, 1)
    parts = without_validation(split).parts
    assert ((parts == Part.TEST) == (split.parts == Part.TEST)).all()
    assert ((parts == Part.TRAIN) == (split.parts <= Part.VALIDATION)).all()


@given(timed_logs(), rules)
def test_what_is_not_learnt_from_still_stands_in_histories(log: Interactions, rule: str) -> None:
    split = find("split", rule)(log, 0.2, 1)
    training = (split.parts == Part.TRAIN).sum()
    less, more = (learn_from(split, share, 3) for share in (0.3, 0.6))
    for share, kept in ((0.3, less), (0.6, more)):
        assert len(kept.train) == min(training, max(1, round(share * training)))
        assert (kept.parts[split.parts > Part.TRAIN] == split.parts[split.parts > Part.TRAIN]).all()
        view, whole = kept.view(Part.TRAIN), split.view(Part.TRAIN)
        assert len(view.interactions) == len(whole.interactions)
        own = view.targets.values
        assert set(own.tolist()) <= set(whole.targets.values.tolist())
        assert view.histories(own).to_list() == whole.histories(own).to_list()
        tested = [each.view(Part.TEST) for each in (kept, split)]
        events = tested[0].targets.values
        assert events.tolist() == tested[1].targets.values.tolist()
        assert [v.histories(events).to_list() for v in tested] == [
            tested[1].histories(events).to_list()
        ] * 2
    assert not ((less.parts == Part.TRAIN) & (more.parts != Part.TRAIN)).any()


def test_another_seed_holds_other_items_out() -> None:
    log = log_of([40])
    assert len({cold_items(log, 0.1, seed).parts.tobytes() for seed in range(5)}) == 5


def test_ties_count_where_another_part_stands_before() -> None:
    # Two tests each; that the second has the first's time is of no account.
    times = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 1.0, 2.0, 3.0, 4.0, 4.0, 6.0]
    assert time_facts(user_ratio(log_of([6, 6], times), 0.4))["tie_rate"] == 0.5


events = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 3), st.integers(1, 5)),
    min_size=8,
    max_size=24,
)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ties", ["hash", "position"])
@settings(max_examples=15)
@given(rows=events, shuffled=st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_the_order_of_rows(
    ties: str, rule: str, rows: list[tuple[int, ...]], shuffled
) -> None:
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "rating"])
    frame = frame.astype({"user_id": str, "item_id": str, "timestamp": float, "rating": float})
    if ties == "position":
        frame["position"] = np.arange(len(frame), dtype=np.float64)
    found = []
    for order in (list(range(len(frame))), shuffled.sample(range(len(frame)), len(frame))):
        log = make_log(frame.iloc[order].reset_index(drop=True), None, "a test")
        log = clean(log if ties == "position" else order_ties(log, 7), k_core=0)[0]
        kept = log.interactions
        columns = (kept.users, kept.items, kept.ratings, find("split", rule)(kept, 0.2, 7).parts)
        found.append([column.tolist() for column in columns])
    assert found[0] == found[1]


def test_the_hash_orders_ties_and_nothing_else() -> None:
    frame = pd.DataFrame(
        {
            "user_id": ["u"] * 12,
            "item_id": [str(n) for n in range(12)],
            "timestamp": [1.0, 2.0] + [3.0] * 8 + [4.0, np.nan],
        }
    )
    log = make_log(frame, None, "a test")
    orders = [order_ties(log, seed).interactions.items.tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert order[:2] == [log.catalog.item_ids.index(name) for name in ("0", "1")]
        assert sorted(order) == list(range(12))
        assert order[10:] == [log.catalog.item_ids.index(name) for name in ("10", "11")]
    untimed = make_log(frame.drop(columns="timestamp"), None, "a test")
    assert order_ties(untimed, 1) is untimed


def a_day_s_log(sort: list[str], prefix: str = "") -> Log:
    """Forty users with five items on each of three days, the rows of a file in some order."""
    rng = np.random.default_rng(3)
    rows = [
        {"user_id": f"u{user}", "item_id": f"{prefix}{item}", "timestamp": 86400.0 * day}
        for user in range(40)
        for day in range(3)
        for item in rng.choice(200, 5, replace=False)
    ]
    frame = pd.DataFrame(rows)
    if sort:
        order = frame["item_id"].map(len), frame["item_id"]  # numbers as numbers, "9" before "10"
        keys = {"size": order[0], "item_id": order[1], "timestamp": frame["timestamp"]}
        frame = frame.loc[pd.DataFrame(keys).sort_values(sort, kind="stable").index]
    catalog = pd.DataFrame({"item_id": sorted(set(frame["item_id"]))}).assign(title="x")
    return make_log(frame, catalog, "a file")


@pytest.mark.parametrize(("prefix", "keys"), [("", ["size", "item_id"]), ("B00", ["item_id"])])
def test_ties_that_a_file_has_sorted_by_item_id_are_found_and_ordered_by_a_hash(
    prefix: str, keys: list[str]
) -> None:
    as_it_came, by_id = (a_day_s_log(sort, prefix) for sort in ([], keys))
    assert 0.4 < tied_order(as_it_came).ascending < 0.6 and not tied_order(as_it_came).is_sorted
    assert tied_order(by_id).ascending == 1 and tied_order(by_id).pairs == 40 * 3 * 4
    left, sorted_, hashed = (
        split_log(log, ties=ties, k_core=0)  # type: ignore[arg-type]
        for log, ties in ((as_it_came, "auto"), (by_id, "auto"), (as_it_came, "hash"))
    )
    np.testing.assert_array_equal(sorted_[0].interactions.items, hashed[0].interactions.items)
    assert [step.name for step in left[2]][:2] == ["as read", "duplicates"]
    assert sorted_[2][1].detail.startswith(
        "item ids ascend in 100% of 480 tied neighbours: a hash orders them (data.ties=auto)"
    )
    split, _, steps = split_log(by_id, ties="log_order", k_core=0)
    assert "they keep the log's order (data.ties=log_order)" in steps[1].detail
    assert not np.array_equal(split.interactions.items, hashed[0].interactions.items)


def test_what_luck_sorts_among_few_ties_is_left_alone() -> None:
    log = a_day_s_log(["size", "item_id"])
    few = replace(log, interactions=log.interactions.select(np.arange(len(log.interactions)) < 12))
    assert tied_order(few).ascending == 1 and not tied_order(few).is_sorted
    untimed = replace(log, interactions=replace(log.interactions, timestamps=None))
    assert tied_order(untimed).pairs == 0
