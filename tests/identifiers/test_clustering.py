import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.data.schema import Interactions
from recinject.identifiers.clustering import cluster_items


def training_of(baskets, n_items):
    lengths = [len(basket) for basket in baskets]
    return Interactions(
        users=np.repeat(np.arange(len(baskets), dtype=np.int32), lengths),
        items=np.array([item for basket in baskets for item in basket], np.int32),
        ratings=None,
        timestamps=None,
        user_ids=[str(user) for user in range(len(baskets))],
        n_items=n_items,
    )


baskets = st.lists(st.lists(st.integers(0, 19), max_size=6), min_size=1, max_size=12)


@settings(max_examples=40)
@given(baskets, st.integers(20, 24), st.integers(2, 5), st.integers(1, 6))
def test_levels_and_leaves_keep_their_sizes(baskets, n_items, clusters, leaf_items):
    paths = cluster_items(training_of(baskets, n_items), clusters, leaf_items, 1)
    assert len(set(paths)) == len(paths) == n_items
    children = {}
    for path in paths:
        for depth in range(len(path)):
            children.setdefault(path[:depth], set()).add(path[depth])
    for branch, numbers in children.items():
        is_leaf = any(path[:-1] == branch for path in paths)
        assert sorted(numbers) == list(range(len(numbers)))
        assert len(numbers) <= (leaf_items if is_leaf else clusters)
        # No path begins another: below a leaf there is nothing but places.
        assert not is_leaf or all(
            len(p) == len(branch) + 1 for p in paths if p[: len(branch)] == branch
        )


@pytest.mark.parametrize("n_items", [60, 1200])  # by dense eigenvectors, by sparse singular ones
def test_what_the_same_people_use_shares_its_first_code(n_items):
    rng = np.random.default_rng(0)
    kinds = rng.permutation(n_items) % 3
    baskets = [
        rng.choice(np.flatnonzero(kinds == user % 3), 12).tolist() for user in range(n_items)
    ]
    training = training_of(baskets, n_items)
    paths = cluster_items(training, 3, n_items // 3 + 1, 1)
    codes = np.array([path[0] for path in paths])
    together = [len(set(codes[kinds == kind])) for kind in range(3)]
    assert together == [1, 1, 1] and len(set(codes)) == 3
    assert paths == cluster_items(training, 3, n_items // 3 + 1, 1)


def test_the_place_in_a_leaf_says_nothing_of_the_order():
    paths = cluster_items(training_of([[0]], 500), 2, 500, 1)
    places = [place for (place,) in paths]
    assert sorted(places) == list(range(500))
    assert abs(np.corrcoef(places, np.arange(500))[0, 1]) < 0.15
