"""What came after what: the simplest recommender that knows of order."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.sparse import coo_array

from recinject.data.schema import Floats, Interactions
from recinject.recommenders.popularity import item_counts
from recinject.recommenders.protocol import ItemScorer, Queries


class MarkovChain(ItemScorer):
    """Counts which items followed which within a few steps, the nearer the more they count.

    An item's score is the sum, over the last few items of the history, of how often it followed
    them in training; each pair of places counts with one over its distance, in training and in
    the query alike. Where nothing followed, popularity decides.

    Args:
        order: how many steps back it looks.
    """

    name: ClassVar[str] = "markov_chain"

    def __init__(self, order: int = 3) -> None:
        self._order = order

    def fit(self, training: Interactions, seed: int) -> None:
        """Count the training part's successions."""
        firsts, seconds, weights = [], [], []
        for distance in range(1, self._order + 1):
            same_user = training.users[distance:] == training.users[:-distance]
            firsts.append(training.items[:-distance][same_user])
            seconds.append(training.items[distance:][same_user])
            weights.append(np.full(len(firsts[-1]), 1 / distance))
        pairs = (np.concatenate(firsts), np.concatenate(seconds))
        shape = (training.n_items, training.n_items)
        self._followed = coo_array((np.concatenate(weights), pairs), shape=shape).tocsr()
        # Below one in sum, so that popularity orders only what successions leave tied.
        self._popularity = item_counts(training) / (1 + len(training)) / self._order

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Add up what followed the last items of each query's history."""
        histories = queries.histories[rows]
        n_items = len(self._popularity)
        places = [
            (row, history[-distance], 1 / distance)
            for row, history in enumerate(histories)
            for distance in range(1, min(self._order, len(history)) + 1)
        ]
        at, items, weights = zip(*places, strict=True) if places else ((), (), ())
        latest = coo_array((weights, (at, items)), shape=(len(histories), n_items)).tocsr()
        scores: Floats = (latest @ self._followed).toarray() + self._popularity
        return scores
