from dataclasses import replace

import numpy as np

from recinject.data.schema import Interactions
from recinject.recommenders.popularity import Popularity, Random
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
