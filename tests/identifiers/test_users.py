from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recinject.data.cleaning import SPECIAL_TOKENS
from recinject.identifiers.table import name_users, user_tokens


@given(st.lists(st.text(max_size=6), unique=True, max_size=30), st.integers(1, 50))
def test_a_name_is_a_function_of_the_id_alone(ids, count):
    names = name_users(ids, count, seed=3)
    assert set(names) <= set(user_tokens(count))
    assert names[::-1] == name_users(ids[::-1], count, seed=3)


def test_users_share_tokens_evenly_and_another_seed_shares_otherwise():
    ids = [str(number) for number in range(20_000)]
    counts = Counter(name_users(ids, 100, seed=1))
    assert len(counts) == 100
    # 200 users a token: chi squared with 99 degrees of freedom is above 150 once in 1,500 times.
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 150
    same = np.array(name_users(ids, 100, seed=1)) == np.array(name_users(ids, 100, seed=2))
    assert same.mean() == pytest.approx(0.01, abs=0.005)


def test_a_title_cannot_pass_for_a_user():
    assert all(SPECIAL_TOKENS.fullmatch(token) for token in user_tokens(30))
