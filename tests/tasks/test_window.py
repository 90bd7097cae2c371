from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.splitting import Part
from recinject.tasks.task import MaskedItemModelling, MaskedLanguageModelling

KINDS = [MaskedItemModelling, MaskedLanguageModelling]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(data=st.data())
def test_a_window_is_a_stretch_of_the_training_part(kind, splits, contexts, data):
    split = data.draw(splits())
    for context in contexts(kind(shortest=3, longest=5), split.view(Part.TRAIN)):
        window = context.slots["history"]
        items = split.train.items_of(context.user).tolist()
        start = items.index(window[0])
        assert window == items[start : start + len(window)]
        assert 3 <= len(window) <= 5


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(data=st.data(), shortest=st.integers(2, 4), more=st.integers(0, 3))
def test_a_window_is_one_of_all_there_are(kind, splits, contexts, data, shortest, more):
    split = data.draw(splits(repeats=True))
    task = kind(shortest=shortest, longest=shortest + more, per_event=1)
    for context in contexts(task, split.view(Part.TRAIN)):
        items = split.train.items_of(context.user).tolist()
        assert context.slots["history"] in [
            items[start : start + length]
            for length in range(shortest, shortest + more + 1)
            for start in range(len(items) - length + 1)
        ]


def test_users_have_windows_by_their_events(split_of):
    lengths = [0, 4, 6, 7, 12, 30]
    view = split_of([list(range(n)) for n in lengths]).view(Part.TRAIN)
    # In training two fewer; five make a window.
    counts = MaskedItemModelling(per_event=0.25).count(view)
    assert counts.tolist() == [0, 0, 0, 1, 2, 7]


def test_length_and_place_are_uniform(split_of, contexts):
    view = split_of([[8, 9, 3, 4], list(range(9))]).view(Part.TRAIN)
    task = MaskedItemModelling(shortest=2, longest=4)
    drawn = [sample.slots["history"] for sample in contexts(task, view, [1], seeds=range(6000))]
    found = Counter((len(window), window[0]) for window in drawn)
    expected = {(n, at): 6000 / 3 / (8 - n) for n in (2, 3, 4) for at in range(8 - n)}
    assert found.keys() == expected.keys()
    observed = np.array([found[key] for key in expected])
    assert stats.chisquare(observed, list(expected.values())).pvalue > 0.01
