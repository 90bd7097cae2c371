from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.splitting import Part
from recinject.foundation.randomness import derive_rng
from recinject.tasks.masked_item_modelling import MaskedItemModelling


@settings(max_examples=40)
@given(data=st.data(), share=st.floats(0.01, 0.99))
def test_some_are_hidden_never_all_and_named_in_order(splits, contexts, data, share):
    view = data.draw(splits(repeats=True)).view(Part.TRAIN)
    for context in contexts(MaskedItemModelling(shortest=2, longest=8, mask_share=share), view):
        window, hidden = context.slots["history"], context.hidden
        assert 1 <= len(hidden) < len(window)
        assert abs(len(hidden) - share * len(window)) <= 1
        assert list(hidden) == sorted(set(hidden))
        assert list(context.slots["masked"]) == [window[place] for place in hidden]
        assert context.target is None


def test_every_place_is_hidden_equally_often(split_of):
    view = split_of([list(range(7))]).view(Part.TRAIN)
    task = MaskedItemModelling(shortest=5, longest=5, mask_share=0.4)
    words = np.ones(30, np.int32)
    draws = [task.sample(view, 0, 0, derive_rng(seed), words).hidden for seed in range(3000)]
    pairs = Counter(map(tuple, draws))
    assert len(pairs) == 10
    assert stats.chisquare(list(pairs.values())).pvalue > 0.01
