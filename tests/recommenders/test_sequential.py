import numpy as np
import pytest

from recinject.recommenders.baselines import MarkovChain


@pytest.mark.parametrize("order", [1, 3])
def test_scores_equal_counting_pair_by_pair(order, training, retrieval):
    chain = MarkovChain(order)
    chain.fit(training, seed=0)
    got = chain.score(retrieval, slice(0, len(retrieval)))
    followed = np.zeros((training.n_items, training.n_items))
    for user in range(training.n_users):
        items = training.items_of(user)
        for place, item in enumerate(items):
            for distance in range(1, min(order, place) + 1):
                followed[items[place - distance], item] += 1 / distance
    for row, history in enumerate(retrieval.histories):
        latest = history[::-1][:order]
        expected = sum((followed[item] / d for d, item in enumerate(latest, 1)), np.zeros(1))
        np.testing.assert_array_equal(np.round(got[row] - expected), 0)
        assert np.all(got[row] - expected < 1 / order), "popularity only breaks ties"


def test_nothing_known_falls_back_on_popularity(training, retrieval):
    chain = MarkovChain()
    chain.fit(training, seed=0)
    row = training.n_users - 1  # the last user of the fixture has no event
    scores = chain.score(retrieval, slice(row, row + 1))[0]
    counts = np.bincount(training.items, minlength=training.n_items)
    np.testing.assert_array_equal(
        np.argsort(scores, kind="stable"), np.argsort(counts, kind="stable")
    )
