from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError
from recinject.tasks.task import Ranking


@pytest.mark.parametrize("part", Part)
@settings(max_examples=30)
@given(data=st.data())
def test_a_slate_is_the_chosen_item_among_untouched_ones(part, splits, contexts, data):
    view = data.draw(splits(repeats=True)).view(part)
    for context in contexts(Ranking(negatives=9, train_negatives=4), view):
        slate = context.slots["candidates"]
        assert len(slate) == len(set(slate)) == (5 if part is Part.TRAIN else 10)
        assert slate.count(context.target) == 1
        touched = set(view.touched.items_of(context.user).tolist())
        assert set(slate) & touched == {context.target}


def test_the_chosen_item_stands_anywhere(split_of, contexts):
    view = split_of([list(range(6))]).view(Part.TEST)
    drawn = contexts(Ranking(negatives=4), view, [0], seeds=range(2500))
    slates = [sample.slots["candidates"] for sample in drawn]
    places = Counter(slate.index(5) for slate in slates)
    assert len(places) == 5
    assert stats.chisquare(list(places.values())).pvalue > 0.01
    for place in range(5):
        negatives = Counter(slate[place] for slate in slates if slate[place] != 5)
        assert sorted(negatives) == list(range(6, 30))
        assert stats.chisquare(list(negatives.values())).pvalue > 0.01


def test_a_small_catalogue_says_which_setting_to_lower(split_of, contexts):
    view = split_of([[3], list(range(6))], 30).view(Part.TEST)
    with pytest.raises(RecinjectError, match="customer-1 leaves 24 of 30 items") as caught:
        contexts(Ranking(), view)
    assert "samples.tasks.ranking.negatives" in str(caught.value)
