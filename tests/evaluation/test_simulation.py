"""Rounds of recommending and choosing, with known slopes."""

import json

import numpy as np
import pytest

import recinject as ri
from recinject.data.simulator import simulate_shop
from recinject.evaluation.simulation import choose
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.protocol import Prediction, Recommender


class Fixed(Recommender):
    """Gives everybody the same list, whatever was taken."""

    name = "fixed"
    tasks = frozenset({"retrieval"})

    def __init__(self):
        self.seen = []

    def fit(self, training, seed):
        self.seen.append(len(training))

    def predict(self, queries, k):
        items = np.tile(np.arange(k, dtype=np.int32), (len(queries), 1))
        return Prediction(self.name, queries.task, items, -items.astype(float))


@pytest.fixture(scope="module")
def data():
    return ri.prepare(simulate_shop(users=80, items=60, events_per_user=8, seed=1), k_core=2)


def slopes(found, name):
    rows = found.slopes[found.slopes["recommender"] == name]
    return {(row.measure, row.reference): row for row in rows.itertuples()}


def test_a_list_that_never_changes_has_no_slope(data):
    own = Fixed()
    found = ri.simulate([own], data, rounds=3, length=4, users=50)
    mine = slopes(found, "fixed")
    for measure in ("coverage", "gini", "overlap"):
        assert mine[measure, ""].value == pytest.approx(0)
    rounds = found.rounds[found.rounds["recommender"] == "fixed"]
    assert set(rounds[rounds["measure"] == "overlap"]["value"]) == {1.0}
    assert set(rounds["round"]) == {1, 2, 3}
    n = len(data.split.interactions)
    assert own.seen == [n, n + 50, n + 100], "what was taken joins the log"


def test_random_lists_stay_as_they_are_and_popular_lists_stay_alike(data):
    found = ri.simulate(["popularity"], data, rounds=4, length=5)
    random = slopes(found, "random")
    assert random["overlap", ""].ci_low - 0.01 < 0 < random["overlap", ""].ci_high + 0.01
    assert ("coverage", "random") in slopes(found, "popularity")
    last = found.rounds[(found.rounds["measure"] == "overlap") & (found.rounds["round"] == 4)]
    values = dict(zip(last["recommender"], last["value"], strict=True))
    assert values["popularity"] > 3 * values["random"]


def test_choices_follow_rank_and_popularity():
    lists = np.tile([[0, 1]], (4000, 1))
    rng = np.random.default_rng(1)
    by_rank = choose(lists, np.array([5, 5]), 0.5, rng)
    assert (by_rank == 0).mean() == pytest.approx(1 / (1 + 1 / np.log2(3)), abs=0.03)
    by_both = choose(lists, np.array([0, 8]), 1.0, rng)
    assert (by_both == 0).mean() == pytest.approx(1 / (1 + 9 / np.log2(3)), abs=0.03)


def test_it_is_the_same_again_and_is_written(data, tmp_path):
    found = ri.simulate(["item_knn"], data, rounds=2, users=30)
    again = ri.simulate(["item_knn"], data, rounds=2, users=30)
    assert found.slopes.equals(again.slopes)
    found.save(tmp_path)
    assert len(json.loads((tmp_path / "slopes.json").read_text())) == len(found.slopes)
    with pytest.raises(RecinjectError, match="simulate.rounds"):
        ri.simulate(["item_knn"], data, rounds=1)
