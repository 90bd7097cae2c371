from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import derive_rng
from recinject.tasks.ranking import Ranking

WORDS = np.ones(30, np.int32)


@pytest.mark.parametrize("part", Part)
@settings(max_examples=30)
@given(data=st.data())
def test_a_slate_is_the_chosen_item_among_untouched_ones(part, splits, contexts, data):
    view = data.draw(splits(repeats=True)).view(part)
    for context in contexts(Ranking(negatives=9, train_negatives=4), view):
        slate = list(context.slots["candidates"])
        assert len(slate) == len(set(slate)) == (5 if part is Part.TRAIN else 10)
        assert slate.count(context.target) == 1
        touched = set(view.touched.items_of(context.user).tolist())
        assert set(slate) & touched == {context.target}


def test_the_chosen_item_stands_anywhere(split_of):
    view = split_of([list(range(6))]).view(Part.TEST)
    task = Ranking(negatives=4)
    slates = [
        task.sample(view, 0, 0, derive_rng(seed), WORDS).slots["candidates"] for seed in range(2500)
    ]
    places = Counter(list(slate).index(5) for slate in slates)
    assert len(places) == 5
    assert stats.chisquare(list(places.values())).pvalue > 0.01
    negatives = Counter(item for slate in slates for item in slate if item != 5)
    assert sorted(negatives) == list(range(6, 30))
    assert stats.chisquare(list(negatives.values())).pvalue > 0.01


def test_a_small_catalogue_says_which_setting_to_lower(split_of):
    view = split_of([list(range(6))], 30).view(Part.TEST)
    with pytest.raises(RecinjectError, match=r"samples\.tasks\.ranking\.negatives"):
        Ranking().sample(view, 0, 0, derive_rng(1), WORDS)
