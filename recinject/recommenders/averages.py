"""Ratings predicted by plain means: what any rating model has to beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from recinject.data.schema import Floats, Integers, Interactions
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.protocol import Prediction, Queries, Recommender


def mean_rating(training: Interactions, name: str) -> float:
    """Return the mean of all training ratings.

    Raises:
        RecinjectError: the training events, which the recommender called ``name`` needs, have none.
    """
    if training.ratings is None or not len(training.ratings):
        raise RecinjectError(
            f"{name}: the training events have no ratings to average",
            hint="set data.columns.rating, or leave the rating task and its baselines out",
        )
    return float(training.ratings.mean())


class GlobalMean(Recommender):
    """Predicts the mean of all training ratings, whatever the query."""

    name: ClassVar[str] = "global_mean"
    tasks: ClassVar[frozenset[str]] = frozenset({"rating"})

    def fit(self, training: Interactions, seed: int) -> None:
        """Take the mean of the training ratings.

        Raises:
            RecinjectError: the training events have no ratings.
        """
        self._mean = mean_rating(training, self.name)

    def predict(self, queries: Queries, k: int) -> Prediction:
        """Predict one rating a query; ``k`` plays no part."""
        return Prediction(self.name, queries.task, ratings=self._ratings(queries))

    def _ratings(self, queries: Queries) -> Floats:
        return np.full(len(queries), self._mean)


class ItemMean(GlobalMean):
    """Predicts the item's mean training rating, or the global mean for an item without one."""

    name: ClassVar[str] = "item_mean"

    def fit(self, training: Interactions, seed: int) -> None:
        """Take the mean of each item's training ratings."""
        super().fit(training, seed)
        self._means = self._means_by(training.items, training.ratings, training.n_items)

    def _means_by(self, groups: Integers, ratings: Floats | None, size: int) -> Floats:
        sums = np.bincount(groups, weights=ratings, minlength=size)
        counts = np.bincount(groups, minlength=size)
        return np.where(counts > 0, sums / np.maximum(counts, 1), self._mean)

    def _ratings(self, queries: Queries) -> Floats:
        return self._means[queries.targets]


class UserMean(ItemMean):
    """Predicts the user's mean training rating, or the global mean for a user without one."""

    name: ClassVar[str] = "user_mean"

    def fit(self, training: Interactions, seed: int) -> None:
        """Take the mean of each user's training ratings."""
        super().fit(training, seed)
        self._means = self._means_by(training.users, training.ratings, training.n_users)

    def _ratings(self, queries: Queries) -> Floats:
        return self._means[queries.users]
