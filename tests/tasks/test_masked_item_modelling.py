from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.splitting import Part
from recinject.tasks.task import MaskedItemModelling


@settings(max_examples=40)
@given(data=st.data(), share=st.sampled_from([0.01, 0.99]) | st.floats(0.01, 0.99))
def test_some_are_hidden_never_all_and_named_in_order(splits, contexts, data, share):
    view = data.draw(splits(repeats=True)).view(Part.TRAIN)
    for context in contexts(MaskedItemModelling(shortest=2, longest=8, mask_share=share), view):
        window, hidden = context.slots["history"], context.hidden
        assert len(hidden) == len(window)
        assert sum(hidden) == min(max(1, round(share * len(window))), len(window) - 1)
        named = [item for item, is_hidden in zip(window, hidden, strict=True) if is_hidden]
        assert context.slots["masked"] == named
        assert context.target is None


def test_every_place_is_hidden_equally_often(split_of, contexts):
    view = split_of([list(range(7))]).view(Part.TRAIN)
    task = MaskedItemModelling(shortest=5, longest=5, mask_share=0.4)
    pairs = Counter(tuple(draw.hidden) for draw in contexts(task, view, [0], seeds=range(3000)))
    assert len(pairs) == 10
    assert stats.chisquare(list(pairs.values())).pvalue > 0.01
