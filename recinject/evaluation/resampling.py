"""Bootstrap over users: the rows of one user are drawn together, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Flags, Floats
from recinject.foundation.randomness import derive_rng

Statistic = Callable[[Floats], Floats]
"""A figure as a function of how often each user counts: (draws, users) -> (draws,)."""

_DRAWS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Clusters:
    """Which user each row belongs to.

    Attributes:
        of_row: the cluster number of each row, shape (n,).
        count: how many users there are.
    """

    of_row: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, users: NDArray[np.integer]) -> Clusters:
        """Number the users that occur, in ascending order."""
        found, of_row = np.unique(users, return_inverse=True)
        return cls(of_row, len(found))


def mean_of(values: Floats, clusters: Clusters) -> Statistic:
    """Return the mean of one value a row, shape (n,), as a function of the users' weights."""
    sums = np.bincount(clusters.of_row, weights=values, minlength=clusters.count)
    counts = np.bincount(clusters.of_row, minlength=clusters.count).astype(np.float64)
    return lambda weights: (weights @ sums) / (weights @ counts)


def root_mean_of(values: Floats, clusters: Clusters) -> Statistic:
    """Return the square root of :func:`mean_of`."""
    mean = mean_of(values, clusters)
    return lambda weights: np.sqrt(mean(weights))


def auc_of(scores: Floats, positive: Flags, clusters: Clusters) -> Statistic:
    """Return the chance that a positive row scores above a negative one, ties counted half.

    The figure is NaN where one of the two classes is not drawn.

    Args:
        scores: one score a row, shape (n,).
        positive: which rows are positive, shape (n,).
        clusters: the user of each row.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
    users, is_positive = clusters.of_row[order], positive[order]

    def statistic(weights: Floats) -> Floats:
        rows = weights[:, users]
        positives = np.add.reduceat(rows * is_positive, starts, axis=1)
        negatives = np.add.reduceat(rows * ~is_positive, starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        pairs = positives.sum(1) * negatives.sum(1)
        won = (positives * below).sum(1)
        chance: Floats = np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0)
        return chance

    return statistic


def observe(statistics: Sequence[Statistic], clusters: Clusters) -> Floats:
    """Return each figure on the users as they are: shape (figures,)."""
    once = np.ones((1, clusters.count))
    return np.array([statistic(once)[0] for statistic in statistics])


def bootstrap(
    statistics: Sequence[Statistic], clusters: Clusters, resamples: int, seed: int
) -> Floats:
    """Return each figure on users drawn with replacement: shape (resamples, figures).

    Draw b is the same for everything that has as many users, so that what two recommenders
    score on it may be compared (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
    """
    blocks = [
        np.stack([statistic(weights) for statistic in statistics], axis=1)
        for weights in _draws(clusters.count, resamples, seed)
    ]
    return np.concatenate(blocks)


def interval(draws: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval of one figure's draws, undefined ones left out."""
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _draws(users: int, resamples: int, seed: int) -> Iterator[Floats]:
    for start in range(0, resamples, _DRAWS_AT_ONCE):
        streams = [
            derive_rng(seed, "bootstrap", draw)
            for draw in range(start, min(start + _DRAWS_AT_ONCE, resamples))
        ]
        counts = [np.bincount(rng.integers(users, size=users), minlength=users) for rng in streams]
        yield np.array(counts, np.float64)
