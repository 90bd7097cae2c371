import numpy as np
import pytest

from recinject.evaluation.lists import measure_slices, slice_queries
from recinject.evaluation.metrics import evaluate_prediction
from recinject.recommenders.protocol import Prediction, Queries

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def training(split_of):
    # Item 0 has nine events, item 1 six, items 2 to 4 one each; nobody used items 5 to 7.
    rows = [[0, 1]] * 6 + [[0, 2], [0, 3], [0, 4]]
    return split_of(rows, n_items=8).interactions


@pytest.fixture(scope="module")
def queries():
    lengths = [1, 5, 6, 20, 21, 50, 51, 300]
    n = len(lengths)
    return Queries(
        "rating",
        [str(row) for row in range(n)],
        [""] * n,
        np.arange(n, dtype=np.int32) // 2,
        [np.zeros(length, np.int32) for length in lengths],
        np.arange(n, dtype=np.int32),
        labels=rng.integers(1, 6, n).astype(float),
    )


def test_each_query_is_in_one_slice_of_each_kind(queries, training):
    found = {}
    for each in slice_queries(queries, training):
        found.setdefault(each.by, {})[each.name] = each.rows.tolist()
    assert found == {
        "history length": {
            "1 to 5": [0, 1],
            "6 to 20": [2, 3],
            "21 to 50": [4, 5],
            "above 50": [6, 7],
        },
        "item popularity": {"unseen": [5, 6, 7], "tail": [2, 3, 4], "middle": [1], "head": [0]},
    }


def test_the_weighted_mean_of_the_slices_is_the_whole(queries, training):
    prediction = Prediction("model", "rating", ratings=rng.normal(3, 1, len(queries)))
    slices = slice_queries(queries, training)
    rows = list(measure_slices(prediction, queries, slices, "mae", 20, 1))
    (whole,) = [r for r in evaluate_prediction(prediction, queries) if r.metric == "mae"]
    for by in ("history length", "item popularity"):
        own = [row for row in rows if row.by == by]
        assert sum(row.queries for row in own) == len(queries)
        mean = sum(row.value * row.queries for row in own) / len(queries)
        assert mean == pytest.approx(whole.value)


def test_lists_are_sliced_too(queries, training):
    n = len(queries)
    prediction = Prediction(
        "model",
        "retrieval",
        items=np.zeros((n, 10), np.int32),
        ahead=np.arange(n) * 3.0,
        tied=np.ones(n),
    )
    asked = Queries(
        "retrieval", queries.sample_ids, queries.prompts, queries.users, queries.histories,
        queries.targets,
    )  # fmt: skip
    rows = measure_slices(prediction, asked, slice_queries(asked, training), "hr@10", 20, 1)
    assert {row.slice: row.value for row in rows if row.by == "history length"} == {
        "1 to 5": 1,
        "6 to 20": 1,
        "21 to 50": 0,
        "above 50": 0,
    }
