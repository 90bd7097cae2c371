import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.splitting import Part
from recinject.foundation.randomness import derive_rng
from recinject.tasks.bpr import BPR


@settings(max_examples=30)
@given(data=st.data())
def test_the_other_item_is_one_the_user_never_touched(splits, contexts, data):
    view = data.draw(splits(repeats=True)).view(Part.TRAIN)
    for context in contexts(BPR(), view):
        first, second = context.slots["pair"]
        touched = set(view.touched.items_of(context.user).tolist())
        assert {first, second} & touched == {context.target}
        assert first != second


def test_either_item_comes_first_equally_often(split_of):
    view = split_of([list(range(5))]).view(Part.TRAIN)
    words = np.ones(30, np.int32)
    samples = [BPR().sample(view, 0, 0, derive_rng(seed), words) for seed in range(2000)]
    first = sum(sample.slots["pair"][0] == sample.target for sample in samples)
    assert stats.binomtest(first, 2000).pvalue > 0.01
