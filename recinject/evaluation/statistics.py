"""How sure a figure is, and whether one recommender is better than another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Floats
from recinject.evaluation.metrics import statistic_of
from recinject.evaluation.resampling import Clusters, bootstrap, interval, mean_of, observe
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.protocol import Prediction, Queries


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval over ``n`` users."""

    value: float
    ci_low: float
    ci_high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """How much more a recommender scores than a reference on the same queries.

    Attributes:
        task: the task that was asked.
        metric: the metric; for ``rmse`` and ``mae`` less is better.
        recommender: what is compared.
        reference: what it is compared with.
        difference: the recommender's figure less the reference's.
        ci_low: lower end of the difference's 95 % interval over users.
        ci_high: upper end of the interval.
        p_value: two-sided p-value of the paired bootstrap: how often a difference of the
            opposite sign, or none, came up.
        n: how many users it rests on.
    """

    task: str
    metric: str
    recommender: str
    reference: str
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int


def bootstrap_mean(
    values: Floats, users: NDArray[np.integer], resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Estimate the mean of one value a row, with users as the unit of chance.

    Args:
        values: shape (n,), n at least 1.
        users: the user of each row, shape (n,).
        resamples: how many times the users are drawn anew.
        seed: what the draws derive from.
    """
    clusters = Clusters.of(users)
    statistics = [mean_of(values, clusters)]
    draws = bootstrap(statistics, clusters, resamples, seed)[:, 0]
    value = float(observe(statistics, clusters)[0])
    return Estimate(value, *interval(draws), clusters.count)


def compare(
    prediction: Prediction,
    reference: Prediction,
    queries: Queries,
    metric: str,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison | None:
    """Compare two predictions for the same queries by a paired bootstrap over users.

    Both are measured on the same draws of users, so what makes a user easy or hard for
    everybody cancels out. One is added to each count, so no p-value is 0 (Davison and Hinkley,
    Bootstrap Methods and their Application, 1997, section 4.2).

    Returns:
        The comparison, or None where the metric is not defined on these queries.

    Raises:
        RecinjectError: the predictions' lists are of different lengths.
    """
    _require_equal_lists(prediction, reference)
    clusters = Clusters.of(queries.users)
    pair = [statistic_of(each, queries, metric, clusters) for each in (prediction, reference)]
    if not clusters.count or np.isnan(values := observe(pair, clusters)).any():
        return None
    draws = bootstrap(pair, clusters, resamples, seed)
    differences = draws[:, 0] - draws[:, 1]
    return Comparison(
        queries.task,
        metric,
        prediction.recommender,
        reference.recommender,
        float(values[0] - values[1]),
        *interval(differences),
        _two_sided(differences),
        clusters.count,
    )


def _two_sided(differences: Floats) -> float:
    defined = differences[~np.isnan(differences)]
    rarer_side = min(np.sum(defined <= 0), np.sum(defined >= 0))
    return min(1.0, 2 * (1 + int(rarer_side)) / (1 + len(defined)))


def _require_equal_lists(prediction: Prediction, reference: Prediction) -> None:
    lengths = [None if p.items is None else p.items.shape[1] for p in (prediction, reference)]
    if lengths[0] != lengths[1]:
        raise RecinjectError(
            f"{prediction.recommender} lists {lengths[0]} items and {reference.recommender} "
            f"{lengths[1]}: they cannot be compared",
            hint="ask every recommender for lists of the same length k",
        )
