import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.foundation.randomness import derive_rng

keys = st.lists(st.text(alphabet="abc/0", max_size=4) | st.integers(0, 9), max_size=4)


@settings(max_examples=50)
@given(keys, keys)
def test_equal_keys_give_equal_streams_and_others_do_not(left, right):
    streams = [derive_rng(1, *key).integers(2**63, size=2).tolist() for key in (left, right)]
    assert (streams[0] == streams[1]) == (list(map(str, left)) == list(map(str, right)))


def test_streams_do_not_depend_on_the_platform_or_on_what_was_drawn():
    derive_rng(7, "other").random(5)
    np.random.default_rng(0).random()
    drawn = derive_rng(7, "retrieval", "train", "u1", 3).integers(1_000_000, size=3)
    assert drawn.tolist() == [875809, 533173, 427832]


@pytest.mark.parametrize("neighbours", ["indices", "seeds"])
def test_neighbouring_streams_are_uniform_and_uncorrelated(neighbours):
    draws = [derive_rng(n, "k") if neighbours == "seeds" else derive_rng(1, n) for n in range(4000)]
    first = np.array([rng.random() for rng in draws])
    assert stats.kstest(first, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05
