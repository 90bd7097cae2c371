from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.splitting import Part, cold_items
from recinject.tasks.task import BPR, Ranking


@settings(max_examples=30)
@given(data=st.data())
def test_the_other_item_is_one_the_user_never_touched(splits, contexts, data):
    view = data.draw(splits(repeats=True)).view(Part.TRAIN)
    for context in contexts(BPR(), view):
        first, second = context.slots["pair"]
        touched = set(view.touched.items_of(context.user).tolist())
        assert {first, second} & touched == {context.target}
        assert first != second


def test_a_cold_item_is_never_the_other_one(split_of, contexts):
    log = split_of([list(range(user, user + 12)) for user in range(8)]).interactions
    split = cold_items(log, 0.3, 1)
    cold = set(log.items[split.parts > Part.TRAIN].tolist())
    view = split.view(Part.TRAIN)
    for task in (BPR(), Ranking(train_negatives=2)):
        named = {item for context in contexts(task, view) for item in context.items}
        assert named and not named & cold


def test_either_item_comes_first_equally_often(split_of, contexts):
    view = split_of([list(range(5))]).view(Part.TRAIN)
    samples = contexts(BPR(), view, [0], seeds=range(2000))
    first = sum(sample.slots["pair"][0] == sample.target for sample in samples)
    assert stats.binomtest(first, 2000).pvalue > 0.01
