"""Metrics that equal scores cannot flatter, with bootstrap intervals over users."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Flags, Floats
from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.randomness import derive_rng
from recinject.recommenders.protocol import Prediction, Queries

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


POSITIVE_RATING = 4.0
"""The lowest true rating that counts as positive in the AUC."""

_RATING_METRICS = ("rmse", "mae", "auc", "ece")
_BINS = 10


@dataclass(frozen=True)
class MetricResult:
    """One figure with its 95 % interval over users.

    Attributes:
        task: the task that was asked.
        recommender: the name of what answered.
        metric: ``hr@K``, ``ndcg@K`` or ``mrr``; for ratings ``rmse``, ``mae``, ``auc`` or ``ece``.
        value: the figure on all queries.
        ci_low: lower end of the interval.
        ci_high: upper end of the interval.
        n: how many users it rests on.
    """

    task: str
    recommender: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int


def hit_rate(ahead: Floats, tied: Floats, k: int) -> Floats:
    """Return the chance that the target is among the first ``k``: shape (n,).

    Here and below, items with equal scores stand in random order: the target's rank is uniform
    on ``ahead + 1 .. ahead + tied``, and the metric is its expected value over those ranks.

    Examples:
        >>> hit_rate(np.array([0.0, 9.0, np.inf]), np.array([1.0, 4.0, 1.0]), 10).tolist()
        [1.0, 0.25, 0.0]
    """
    return _expected(np.ones(k), ahead, tied)


def ndcg(ahead: Floats, tied: Floats, k: int) -> Floats:
    """Return the expected 1 / log2(1 + rank) of the one relevant item, 0 after rank ``k``."""
    return _expected(1 / np.log2(np.arange(2, k + 2)), ahead, tied)


def reciprocal_rank(ahead: Floats, tied: Floats, cutoff: int) -> Floats:
    """Return the expected 1 / rank, 0 after the cutoff."""
    return _expected(1 / np.arange(1, cutoff + 1), ahead, tied)


def _expected(gains: Floats, ahead: Floats, tied: Floats) -> Floats:
    total = np.concatenate([[0.0], np.cumsum(gains)])
    first = np.minimum(ahead, len(gains)).astype(np.int64)
    last = np.minimum(ahead + tied, len(gains)).astype(np.int64)
    expected: Floats = (total[last] - total[first]) / tied
    return expected


_LIST_METRICS: dict[str, Callable[[Floats, Floats, int], Floats]] = {
    "hr": hit_rate,
    "ndcg": ndcg,
    "rr": reciprocal_rank,
}


def metric_names(task: str, cutoffs: Sequence[int] = (5, 10)) -> list[str]:
    """List the metrics of a task.

    Examples:
        >>> metric_names("retrieval", [10])
        ['hr@10', 'ndcg@10', 'mrr']
    """
    if task == "rating":
        return list(_RATING_METRICS)
    return [f"{name}@{k}" for name in ("hr", "ndcg") for k in cutoffs] + ["mrr"]


def statistic_of(
    prediction: Prediction, queries: Queries, metric: str, clusters: Clusters
) -> Statistic:
    """Return one metric of a prediction as a function of how often each user counts.

    ``mrr`` is cut off at the length of the recommended list, since beyond it a recommender that
    searches rather than scores knows nothing.

    Raises:
        RecinjectError: the task has no such metric, the prediction does not hold what it
            needs, or its lists end before the metric's cutoff.
    """
    if queries.task == "rating":
        return _rating_statistic(prediction, queries, metric, clusters)
    if prediction.items is None or prediction.ahead is None or prediction.tied is None:
        raise _incomplete(prediction, "a list of items, `ahead` and `tied`")
    if not np.all(prediction.tied >= 1):
        raise _incomplete(prediction, "scores that are numbers: a target ties with itself at least")
    length = prediction.items.shape[1]
    name, _, cutoff = ("rr", "@", str(length)) if metric == "mrr" else metric.partition("@")
    if name not in _LIST_METRICS or not cutoff.isdecimal():
        raise _unknown(metric, queries.task)
    if int(cutoff) > length:
        raise RecinjectError(
            f"{metric} of {prediction.recommender}: its lists end after {length} items",
            hint="recommend longer lists, or lower evaluation.cutoffs",
        )
    values = _LIST_METRICS[name](prediction.ahead, prediction.tied, int(cutoff))
    return mean_of(values, clusters)


def _rating_statistic(
    prediction: Prediction, queries: Queries, metric: str, clusters: Clusters
) -> Statistic:
    ratings, labels = prediction.ratings, queries.labels
    if ratings is None or labels is None or not np.isfinite(ratings).all():
        raise _incomplete(prediction, "a number for each rating")
    if metric == "rmse":
        return root_mean_of((ratings - labels) ** 2, clusters)
    if metric == "mae":
        return mean_of(np.abs(ratings - labels), clusters)
    if metric == "auc":
        return auc_of(ratings, labels >= POSITIVE_RATING, clusters)
    if metric == "ece":
        return _calibration_error(prediction, labels >= POSITIVE_RATING, clusters)
    raise _unknown(metric, queries.task)


def _calibration_error(prediction: Prediction, positive: Flags, clusters: Clusters) -> Statistic:
    """Return the expected calibration error of the chance of a positive rating, in ten bins.

    The mean over the bins, weighted by their rows, of the distance between mean chance and share
    of positives (Naeini et al., AAAI 2015); NaN where no distribution was predicted.
    """
    if prediction.probabilities is None or prediction.values is None:
        return lambda weights: np.full(len(weights), np.nan)
    chances = prediction.probabilities[:, prediction.values >= POSITIVE_RATING].sum(1)
    cells = clusters.of_row * _BINS + np.minimum((chances * _BINS).astype(np.int64), _BINS - 1)
    surplus, rows = (
        np.bincount(cells, each, clusters.count * _BINS).reshape(-1, _BINS)
        for each in (chances - positive, np.ones(len(cells)))
    )
    return lambda weights: np.abs(weights @ surplus).sum(1) / (weights @ rows).sum(1)


def _incomplete(prediction: Prediction, needed: str) -> RecinjectError:
    return RecinjectError(
        f"{prediction.recommender}: its answer to {prediction.task} is incomplete",
        hint=f"a prediction for {prediction.task} needs {needed}",
    )


def _unknown(metric: str, task: str) -> RecinjectError:
    return RecinjectError(
        f"the task {task} has no metric {metric!r}", hint=did_you_mean(metric, metric_names(task))
    )


def evaluate_prediction(
    prediction: Prediction,
    queries: Queries,
    cutoffs: Sequence[int] = (5, 10),
    resamples: int = 1000,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
) -> list[MetricResult]:
    """Measure a prediction by the metrics of its task, with 95 % bootstrap intervals.

    A metric that is not defined on these queries, as the AUC of one class, is left out.

    Args:
        prediction: the answers.
        queries: what was asked, row by row as in the prediction.
        cutoffs: the list lengths of ``hr@K`` and ``ndcg@K``.
        resamples: how many times the users are drawn anew.
        seed: what the draws derive from; give all recommenders the same.
        metrics: which metrics; None measures by all of them.
    """
    clusters = Clusters.of(queries.users)
    if not clusters.count:
        return []
    names = metric_names(queries.task, cutoffs) if metrics is None else metrics
    statistics = [statistic_of(prediction, queries, name, clusters) for name in names]
    values = observe(statistics, clusters)
    draws = bootstrap(statistics, clusters, resamples, seed)
    return [
        MetricResult(
            queries.task,
            prediction.recommender,
            name,
            float(value),
            *interval(draw),
            clusters.count,
        )
        for name, value, draw in zip(names, values, draws.T, strict=True)
        if np.isfinite(value)
    ]
