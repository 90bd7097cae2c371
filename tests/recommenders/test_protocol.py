import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recinject.data.schema import Floats, Interactions
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.protocol import ItemScorer, Queries, places, top_k

SCORES = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]),
)


class Given(ItemScorer):
    name = "given"

    def __init__(self, scores: Floats) -> None:
        self._scores = scores

    def fit(self, training: Interactions, seed: int) -> None:
        pass

    def score(self, queries: Queries, rows: slice) -> Floats:
        return self._scores[rows]


def one_query(target: int, history: list[int], candidates: list[int] | None = None) -> Queries:
    return Queries(
        task="ranking" if candidates else "retrieval",
        sample_ids=["s"],
        prompts=[""],
        users=np.array([0], np.int32),
        histories=[np.array(history, np.int32)],
        targets=np.array([target], np.int32),
        candidates=np.array([candidates], np.int32) if candidates else None,
    )


@given(SCORES, st.integers(1, 15))
def test_top_k_is_a_stable_sort_cut_short(scores: Floats, k: int) -> None:
    check_top(scores, k)


@pytest.mark.parametrize("values", [2, 50, 10**9])
@pytest.mark.parametrize("k", [1, 15])
def test_top_k_of_many_columns_is_a_stable_sort_cut_short(values: int, k: int) -> None:
    rng = np.random.default_rng(values)
    scores = rng.integers(0, values, (5, 2000)).astype(np.float64)
    scores[:, 100:900] = -np.inf
    check_top(scores, k)
    scores[0] = -np.inf
    check_top(scores, k)


def check_top(scores: Floats, k: int) -> None:
    columns, values = top_k(scores, k)
    assert columns.shape == values.shape == (len(scores), k)
    for row, found, value in zip(scores, columns, values, strict=True):
        best = [c for c in np.argsort(-row, kind="stable")[:k] if row[c] > -np.inf]
        padding = k - len(best)
        assert found.tolist() == best + [-1] * padding
        assert value.tolist() == [*row[best], *[-np.inf] * padding]


@given(SCORES, st.data())
def test_places_count_what_a_loop_counts(scores: Floats, data: st.DataObject) -> None:
    n, columns = scores.shape
    targets = np.array([data.draw(st.integers(0, columns - 1)) for _ in range(n)], np.int32)
    for row, target, ahead, tied in zip(scores, targets, *places(scores, targets), strict=True):
        if row[target] == -np.inf:
            assert ahead == np.inf
        else:
            assert ahead == sum(score > row[target] for score in row)
            assert tied == sum(score == row[target] for score in row)


def test_a_target_that_was_seen_is_never_a_hit() -> None:
    got = Given(np.array([[3.0, 2.0, 1.0]])).predict(one_query(0, [0]), 3)
    assert got.items is not None and got.ahead is not None
    assert got.items.tolist() == [[1, 2, -1]]
    assert got.ahead.tolist() == [np.inf]


def test_a_target_outside_its_candidates_is_never_a_hit() -> None:
    got = Given(np.array([[3.0, 2.0, 1.0]])).predict(one_query(0, [], [2, 1]), 3)
    assert got.items is not None and got.ahead is not None
    assert got.items.tolist() == [[1, 2, -1]]
    assert got.ahead.tolist() == [np.inf]


def test_ranking_keeps_seen_candidates() -> None:
    got = Given(np.array([[3.0, 2.0, 1.0]])).predict(one_query(1, [0], [1, 0]), 2)
    assert got.items is not None and got.items.tolist() == [[0, 1]]


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(RecinjectError, match="not numbers"):
        Given(np.array([[np.nan, 2.0]])).predict(one_query(0, []), 1)
