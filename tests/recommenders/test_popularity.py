from dataclasses import replace

import numpy as np
import pytest

from recinject.data.schema import Interactions
from recinject.recommenders.baselines import Popularity, Random, RecentPopularity
from recinject.recommenders.protocol import Queries


def test_popularity_lists_the_most_used_unseen_items(
    training: Interactions, retrieval: Queries
) -> None:
    model = Popularity()
    model.fit(training, seed=0)
    got = model.predict(retrieval, 1)
    counts = np.bincount(training.items, minlength=training.n_items)
    assert got.items is not None and got.scores is not None
    newcomer = training.n_users - 1
    assert got.items[newcomer, 0] == np.argmax(counts)
    assert got.scores[newcomer, 0] == counts.max()


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.0, 40.0, 80.0, 20.0, 80.0], [2**-4 + 2**-3, 2**-2 + 1, 1]),
        # An unknown time is as old as the mean of the others: 35 of 80.
        ([0.0, 40.0, 80.0, np.nan, 60.0], [2**-4 + 2**-1.75, 2**-2 + 2**-1, 1]),
        ([5.0] * 5, [2, 2, 1]),
        ([np.nan] * 5, [2**-4 + 2**-4, 2**-2 + 1, 1]),
        (None, [2**-4 + 2**-4, 2**-2 + 1, 1]),
    ],
)
def test_an_event_halves_in_weight_with_every_half_life(
    times: list[float] | None, expected: list[float], retrieval: Queries
) -> None:
    log = Interactions(
        users=np.array([0, 0, 0, 1, 1], np.int32),
        items=np.array([0, 1, 2, 0, 1], np.int32),
        ratings=None,
        timestamps=None if times is None else np.array(times),
        user_ids=["a", "b"],
        n_items=3,
    )
    model = RecentPopularity(half_life=0.25)
    model.fit(log, seed=0)
    scores = model.score(retrieval, slice(0, 2))
    np.testing.assert_allclose(scores, [expected] * 2)


def test_chance_depends_on_seed_and_sample_and_on_nothing_else(
    training: Interactions, retrieval: Queries
) -> None:
    everything = slice(0, len(retrieval))

    def draw(seed: int, queries: Queries) -> list[list[float]]:
        model = Random()
        model.fit(training, seed)
        return model.score(queries, everything).tolist()

    first = draw(1, retrieval)
    renamed = replace(retrieval, sample_ids=["other", *retrieval.sample_ids[1:]])
    assert first == draw(1, retrieval)
    assert first != draw(2, retrieval)
    assert first[0] != draw(1, renamed)[0]
    assert first[1:] == draw(1, renamed)[1:]
