from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.schema import Interactions
from recinject.data.splitting import Part, Split, View, draw_negatives
from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import Chance, combine, derive_bits


def view_of(touched: list[list[int]], n_items: int, later: list[int], by_item: bool = True) -> View:
    """The training view of users who touched some items, where some are held out for the test."""
    users = np.repeat(np.arange(len(touched), dtype=np.int32), list(map(len, touched)))
    items = np.array([item for own in touched for item in own], np.int32)
    names = [f"customer-{user}" for user in range(len(touched))]
    log = Interactions(users, items, None, None, names, n_items)
    parts = np.where(np.isin(items, later), Part.TEST, Part.TRAIN).astype(np.uint8)
    return Split(log, parts, by_item).view(Part.TRAIN)


def chance_of(rows: int, seed: int = 1) -> Chance:
    return Chance(combine(derive_bits("negatives", seed), np.arange(rows)))


def allowed(view: View, user: int) -> list[int]:
    """The items that may be a user's negatives, by a plain loop."""
    barred = {*view.touched.items_of(user).tolist(), *view.cold.tolist()}
    return [item for item in range(view.touched.n_items) if item not in barred]


@settings(max_examples=60)
@given(
    touched=st.lists(st.lists(st.integers(0, 19)), min_size=1, max_size=5),
    later=st.lists(st.integers(0, 19), max_size=6),
    by_item=st.booleans(),
    data=st.data(),
    seed=st.integers(0, 99),
)
def test_negatives_are_those_that_a_list_of_the_allowed_gives(touched, later, by_item, data, seed):
    view = view_of(touched, 20, later, by_item)
    users = data.draw(st.lists(st.sampled_from(range(len(touched))), max_size=8))
    free = [allowed(view, user) for user in users]
    count = data.draw(st.integers(0, min(map(len, free), default=20)))
    drawn = draw_negatives(view, np.array(users, int), chance_of(len(users), seed), count)
    ranks = chance_of(len(users), seed).distinct(np.array(list(map(len, free)), int), count)
    assert drawn.shape == (len(users), count) and drawn.dtype == np.int32
    for row, own, wanted in zip(drawn.tolist(), free, ranks.tolist(), strict=True):
        assert row == [own[rank] for rank in wanted]
        assert len(set(row)) == count and set(row) <= set(own)
        assert count < len(own) or set(row) == set(own)


@pytest.mark.parametrize(("count", "cold"), [(1, []), (2, []), (3, [6]), (4, [6, 2])])
def test_every_choice_is_equally_likely(count, cold):
    view = view_of([[1, 2], [3, 0, 3, 5], [], [6, 2]], 10, cold)
    rows = draw_negatives(view, np.tile([0, 1, 2], 6000), chance_of(18_000), count)
    for user in range(3):
        found = Counter(tuple(sorted(row)) for row in rows[user::3].tolist())
        assert found.keys() == set(combinations(allowed(view, user), count))
        assert stats.chisquare(list(found.values())).pvalue > 0.01


def test_too_few_untouched_items_are_an_error():
    view = view_of([[], [0, 1, 2, 2], [4]], 6, [4])
    assert draw_negatives(view, np.array([0, 1, 2]), chance_of(3), 2).shape == (3, 2)
    said = "user customer-1 leaves 2 of 6 items untouched: 3 negatives are too many"
    with pytest.raises(RecinjectError, match=said):
        draw_negatives(view, np.array([0, 1, 2]), chance_of(3), 3)
    # Whoever is asked for: the user is named who leaves the fewest, and the number that fits all.
    with pytest.raises(RecinjectError, match=r"customer-1 leaves 2 of(.|\n)*negatives=2 or fewer"):
        draw_negatives(view, np.array([0]), chance_of(1), 6)
    with pytest.raises(
        RecinjectError, match=r"leaves 0 of(.|\n)*leave the tasks ranking and bpr out"
    ):
        draw_negatives(view_of([[0, 1]], 2, []), np.array([0]), chance_of(1), 1)
    assert draw_negatives(view, np.array([0, 2]), chance_of(2), 5).tolist() == [[0, 1, 2, 3, 5]] * 2
