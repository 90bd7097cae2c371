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
        assert len(slate) == len(set(slate))
        assert 2 <= len(slate) <= 5 if part is Part.TRAIN else len(slate) == 10
        assert slate.count(context.target) == 1
        touched = set(view.touched.items_of(context.user).tolist())
        assert set(slate) & touched == {context.target}


def train_slates(split_of, contexts, **settings):
    """Draw many training slates of one user, who took items 0 to 5 and has one target."""
    others = [[user % 20 + 6, 29, user % 20 + 7, 28, 27] for user in range(60)]
    view = split_of([[0, 1, 2, 3], *others]).view(Part.TRAIN)
    drawn = contexts(Ranking(**settings), view, [0], seeds=range(4000))
    assert {sample.target for sample in drawn} == {1}
    return view, [sample.slots["candidates"] for sample in drawn]


def test_training_slates_have_every_size_up_to_the_tests(split_of, contexts):
    _, slates = train_slates(split_of, contexts, negatives=7)
    sizes = Counter(len(slate) for slate in slates)
    assert sorted(sizes) == list(range(2, 9))
    assert stats.chisquare(list(sizes.values())).pvalue > 0.01
    for size in sizes:
        places = Counter(slate.index(1) for slate in slates if len(slate) == size)
        assert len(places) == size
        assert stats.chisquare(list(places.values())).pvalue > 0.001


def test_negatives_are_uniform_or_popular_by_the_share(split_of, contexts):
    _, slates = train_slates(split_of, contexts, negatives=3, hard_share=0.0)
    uniform = Counter(item for slate in slates for item in slate if item != 1)
    assert sorted(uniform) == list(range(4, 30))
    assert stats.chisquare(list(uniform.values())).pvalue > 0.01
    view, slates = train_slates(split_of, contexts, negatives=1, hard_share=1.0)
    popular = Counter(item for slate in slates for item in slate if item != 1)
    events = Counter(view.interactions.items[view.is_target].tolist())
    # Item 29, of a third of the events; what the user touched is drawn again, uniformly.
    assert popular[29] / 4000 == pytest.approx(events[29] / events.total(), abs=0.03)
    _, slates = train_slates(split_of, contexts, negatives=1, hard_share=0.5)
    mixed = sum(slate.count(29) for slate in slates) / 4000
    assert mixed == pytest.approx((popular[29] / 4000 + 1 / 26) / 2, abs=0.03)


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
