import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from recinject.data.schema import Catalog, Interactions
from recinject.evaluation.lists import MEASURES, ListMeasures
from recinject.recommenders.protocol import Prediction, Queries

N_ITEMS = 6
GENRES = [["a"], ["a"], ["b"], ["a", "b"], [], ["c"]]
# Training events an item: 0 is the most popular, 5 was never met.
EVENTS = [8, 4, 2, 1, 1, 0]


def catalog(**columns):
    ids = [f"i{item}" for item in range(N_ITEMS)]
    return Catalog(pd.DataFrame({"item_id": ids, "title": "", **columns}, dtype=object))


def describe(lists, histories=None, length=3, items=None, **columns):
    events = np.repeat(np.arange(N_ITEMS, dtype=np.int32), EVENTS)
    users = np.zeros(len(events), np.int32)
    log = Interactions(users, events, None, None, ["u"], N_ITEMS)
    n = len(lists)
    queries = Queries(
        "retrieval",
        [str(row) for row in range(n)],
        [""] * n,
        np.arange(n, dtype=np.int32),
        [np.array(past, np.int32) for past in histories or [[0]] * n],
        np.zeros(n, np.int32),
    )
    listed = Prediction("somebody", "retrieval", items=np.array(lists, np.int32))
    measures = ListMeasures(log, catalog(**columns), length, resamples=200, seed=1)
    found = measures.describe(listed, queries)
    assert {row.recommender for row in found} <= {"somebody"}
    return {row.measure.removesuffix(f"@{length}"): row for row in found}


def values(*given, **settings):
    return {name: row.value for name, row in describe(*given, **settings).items()}


def test_everybody_gets_everything_or_the_same():
    broad = values([[0, 1, 2], [3, 4, 5]])
    assert broad["coverage"] == 1 and broad["gini"] == pytest.approx(0)
    narrow = values([[2, -1, -1], [2, -1, -1]])
    assert narrow["coverage"] == 1 / N_ITEMS
    assert narrow["gini"] == pytest.approx((N_ITEMS - 1) / N_ITEMS)


def test_popularity_is_told_against_the_history_and_the_log():
    found = values([[0, 1, -1], [3, 5, -1]], [[1], [1, 1]])
    assert found["lift"] == pytest.approx(((8 + 4) / 2 / 4 - 1 + (1 + 0) / 2 / 4 - 1) / 2)
    # An item that training never met counts as one met once.
    surprise = -np.log2(np.array([8, 4, 1, 1]) / 16)
    assert found["novelty"] == pytest.approx(surprise.reshape(2, 2).mean(1).mean())
    assert found["tail"] == 0.5


@given(st.permutations(range(N_ITEMS)))
def test_the_most_popular_list_has_the_highest_lift_and_the_least_novelty(order):
    popular, other = values([[0, 1, 2]]), values([order[:3]])
    assert other["lift"] <= popular["lift"] and other["novelty"] >= popular["novelty"]


def test_categories_tell_how_varied_and_how_calibrated_a_list_is():
    found = values([[0, 1, -1]], [[0]], categories=GENRES)
    assert found["distance"] == 0 and found["miscalibration"] == pytest.approx(0)
    # a against b; a against a and b; b against a and b; what has no category is passed over.
    mixed = values([[0, 2, 3, 4]], [[0, 2, 2]], length=4, categories=GENRES)
    assert mixed["distance"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    wanted, listed = np.array([1, 2]) / 3, np.array([1.5, 1.5]) / 3
    kl = entropy(wanted, 0.99 * listed + 0.01 * wanted)
    assert mixed["miscalibration"] == pytest.approx(kl)
    assert values([[5, -1, -1]], categories=GENRES)["miscalibration"] > 4, "nothing in common"
    by_one = [own[0] if own else None for own in GENRES]
    assert values([[0, 1, 2]], category=by_one)["distance"] == pytest.approx(2 / 3)


def test_what_the_log_tells_nothing_of_is_left_out():
    assert set(values([[0, 1, 2]])) == set(MEASURES) - {"distance", "miscalibration", "slope"}
    assert set(values([[0, 1, 2]], [[]])) == {"coverage", "gini", "tail", "novelty"}
    assert describe([[-1, -1, -1]]) == {}
    assert describe(np.empty((0, 3)), []) == {}


def test_an_interval_holds_its_mean_and_places_beyond_the_length_do_not_count():
    found = describe([[0, 1, 5], [2, 3, 0], [4, 3, 1]], length=2)
    assert found["coverage"].value == 5 / N_ITEMS and found["coverage"].ci_low is None
    assert found["novelty"].ci_low <= found["novelty"].value <= found["novelty"].ci_high
    assert found["novelty"].ci_low < found["novelty"].ci_high
