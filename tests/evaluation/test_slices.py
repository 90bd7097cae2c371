import numpy as np
import pytest

from recinject.evaluation.lists import measure_slices, position_slope, slice_queries
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


def slates(slots, width=20):
    """Queries of one target each, in some slot of its slate."""
    n = len(slots)
    candidates = np.tile(np.arange(1, width + 1, dtype=np.int32), (n, 1))
    candidates[np.arange(n), slots] = 0
    past = [np.zeros(1, np.int32)] * n
    asked = ("ranking", [str(row) for row in range(n)], [""] * n, np.arange(n, dtype=np.int32))
    return Queries(*asked, past, np.zeros(n, np.int32), candidates=candidates)


def ranked(ahead):
    items = np.zeros((len(ahead), 10), np.int32)
    return Prediction("model", "ranking", items, ahead=ahead, tied=np.ones(len(ahead)))


def test_slates_are_sliced_by_the_slot_of_the_target(training):
    slots = np.arange(40) % 20
    found = [each for each in slice_queries(slates(slots), training) if "slot" in each.by]
    assert [each.name for each in found] == ["1 to 4", "5 to 8", "9 to 12", "13 to 16", "17 to 20"]
    assert [sorted({*slots[each.rows].tolist()}) for each in found] == np.arange(20).reshape(
        5, 4
    ).tolist()


def test_the_slope_by_slot_is_that_of_the_hits_and_0_where_order_does_not_matter():
    slots = np.arange(400) % 20
    late = np.where(slots >= 10, 10.0, 0.0)  # hits in the first half of the slate alone
    (found,) = position_slope(ranked(late), slates(slots), 10, 200, 1)
    assert found.value == pytest.approx(10 * np.polyfit(slots, slots < 10, 1)[0])
    assert found.measure == "slope@10" and found.ci_high < -0.5 and found.ci_low > -1.2
    rng = np.random.default_rng(1)
    (fair,) = position_slope(ranked(rng.permutation(late)), slates(slots), 10, 200, 1)
    assert fair.ci_low < 0 < fair.ci_high
    (always,) = position_slope(ranked(np.zeros(400)), slates(slots), 10, 20, 1)
    assert always.value == always.ci_low == always.ci_high == 0
    assert position_slope(ranked(np.zeros(9)), slates(np.zeros(9, int)), 10, 20, 1) == []
