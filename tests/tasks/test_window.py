from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.splitting import Part, learn_from
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


def scarce(split, data):
    """Leave some of the training events to learn from; the others are histories alone."""
    learnt = learn_from(split, data.draw(st.floats(0.01, 0.9)), data.draw(st.integers(0, 9)))
    return learnt.view(Part.TRAIN)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(data=st.data())
def test_only_training_events_are_hidden(kind, splits, batch, data):
    view = scarce(data.draw(splits()), data)
    log, words = view.interactions, np.arange(30) % 4 + 1
    learnt = set((log.users * 30 + log.items)[view.is_target].tolist())
    samples = batch(kind(shortest=2, longest=6, per_event=1), view, words=words)
    items, hidden = samples.slots["history"], samples.hidden
    pairs = samples.users[items.rows] * 30 + items.values
    if kind is MaskedLanguageModelling:
        pairs = np.repeat(pairs, words[items.values])
    assert (hidden.sums(hidden.values) > 0).all()
    assert set(pairs[hidden.values].tolist()) <= learnt


@settings(max_examples=40)
@given(data=st.data())
def test_a_window_of_scarce_events_is_still_a_stretch_of_neighbours(splits, contexts, data):
    split = data.draw(splits())
    view = scarce(split, data)
    for context in contexts(MaskedItemModelling(shortest=3, longest=5), view):
        items = view.interactions.items_of(context.user).tolist()
        window = context.slots["history"]
        start = items.index(window[0])
        assert window == items[start : start + len(window)]


def test_windows_are_counted_by_training_events(split_of):
    view = learn_from(split_of([list(range(26)), list(range(26))]), 0.25, 1).view(Part.TRAIN)
    learnt = np.bincount(view.interactions.users[view.is_target], minlength=2)
    counts = MaskedItemModelling(per_event=0.5).count(view)
    assert counts.tolist() == np.where(learnt > 0, np.maximum(1, np.round(learnt / 2)), 0).tolist()
    assert learnt.sum() == 12


def test_a_scarce_event_is_hidden_at_every_place_of_a_window(split_of, contexts):
    split = split_of([list(range(23)), [5, 4, 3]])
    parts = np.where(split.parts == Part.TRAIN, np.int8(Part.HISTORY), split.parts)
    parts[10] = Part.TRAIN
    view = replace(split, parts=parts).view(Part.TRAIN)
    task = MaskedItemModelling(shortest=5, longest=5)
    drawn = contexts(task, view, [0], seeds=range(4000))
    places = Counter(tuple(np.flatnonzero(draw.hidden).tolist()) for draw in drawn)
    assert places.keys() == {(place,) for place in range(5)}
    assert stats.chisquare(list(places.values())).pvalue > 0.01
