"""Recommending without looking at the user: by chance, or what most people used."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from recinject.data.schema import Floats, Interactions
from recinject.foundation.randomness import derive_rng
from recinject.recommenders.protocol import ItemScorer, Queries


class Random(ItemScorer):
    """Scores every item by chance: the floor of every metric."""

    name: ClassVar[str] = "random"

    def fit(self, training: Interactions, seed: int) -> None:
        """Remember the seed and how many items there are."""
        self._seed, self._n_items = seed, training.n_items

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Draw the scores of each query from the stream of its user and sample id."""
        keys = zip(queries.users[rows], queries.sample_ids[rows], strict=True)
        streams = (derive_rng(self._seed, self.name, int(user), key) for user, key in keys)
        scores = [stream.random(self._n_items) for stream in streams]
        return np.array(scores).reshape(-1, self._n_items)


class Popularity(ItemScorer):
    """Scores every item by how many training events it has."""

    name: ClassVar[str] = "popularity"

    def fit(self, training: Interactions, seed: int) -> None:
        """Count the events of each item."""
        self._counts = item_counts(training)

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Give every query the same scores."""
        return np.tile(self._counts, (len(queries.users[rows]), 1))


def item_counts(training: Interactions) -> Floats:
    """Count the training events of each item: shape (items,)."""
    return np.bincount(training.items, minlength=training.n_items).astype(np.float64)
