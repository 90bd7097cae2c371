from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.negatives import draw_negatives
from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import derive_rng


@settings(max_examples=50)
@given(st.lists(st.integers(0, 19)), st.integers(0, 20), st.integers(0, 99))
def test_negatives_are_distinct_and_never_touched(touched, count, seed):
    untouched = set(range(20)) - set(touched)
    count = min(count, len(untouched))
    drawn = draw_negatives(derive_rng(seed), np.array(touched, np.int32), 20, count).tolist()
    assert len(drawn) == len(set(drawn)) == count
    assert set(drawn) <= untouched
    assert count < len(untouched) or set(drawn) == untouched


def test_every_ordered_choice_is_equally_likely():
    touched = np.array([3, 0, 3, 5], np.int32)
    rng = derive_rng(1, "negatives")
    found = Counter(tuple(draw_negatives(rng, touched, 7, 2).tolist()) for _ in range(6000))
    assert found.keys() == set(permutations([1, 2, 4, 6], 2))
    assert stats.chisquare(list(found.values())).pvalue > 0.01


def test_too_few_untouched_items_are_an_error():
    with pytest.raises(RecinjectError, match="a user has 3 of 5 items: no 3 negatives are left"):
        draw_negatives(derive_rng(1), np.array([0, 1, 2, 2], np.int32), 5, 3)
