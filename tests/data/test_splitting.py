from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recinject.data.schema import Interactions
from recinject.data.splitting import Part, Split, leave_one_out, split_by, time_facts
from recinject.foundation.errors import RecinjectError


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
        assert split.parts[log.span(user)].tolist() == expected


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
        assert view.targets_of(user).tolist() == targets
        assert view.target_counts[user] == len(targets)
        for target in targets:
            before = list(range(log.offsets[user], target))
            assert view.history_before(target).tolist() == before
            assert view.history_before(target, length).tolist() == before[-length:]


def test_the_test_history_holds_the_validation_event() -> None:
    view = leave_one_out(log_of([4])).view(Part.TEST)
    assert view.targets_of(0).tolist() == [3]
    assert view.history_before(3).tolist() == [0, 1, 2]


def test_the_train_view_is_the_training_part_alone() -> None:
    split = leave_one_out(log_of([4, 2]))
    view = split.view(Part.TRAIN)
    assert view.interactions.items.tolist() == split.train.items.tolist() == [0, 1, 4, 5]
    assert view.is_history.all() and view.is_target.all()
    assert view.targets_of(0).tolist() == [1]
    assert view.targets_of(1).tolist() == [3]


def test_part_labels() -> None:
    assert [part.label for part in Part] == ["train", "validation", "test"]


@pytest.mark.parametrize(
    ("name", "lengths", "fragments"),
    [
        ("leave_one_uot", [4], ["data.split", "did you mean 'leave_one_out'"]),
        ("leave_one_out", [2, 1], ["no event to test on", "fewer than three events"]),
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
