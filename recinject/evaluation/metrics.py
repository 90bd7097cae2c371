"""Metrics that equal scores cannot flatter, with bootstrap intervals over users."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from recinject.data.schema import Flags, Floats
from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.randomness import derive_rng
from recinject.recommenders.protocol import Prediction, Queries
from recinject.registry import find, names, register

Statistic = Callable[[Floats], Floats]
"""A figure as a function of how often each cluster counts: (draws, clusters) -> (draws,)."""
_DRAWS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Clusters:
    """Which user each row belongs to, or which user under which seed: a number, shape (n,).

    With several ``seeds`` a cluster is a pair of a user and a seed, the pairs of a user adjacent.
    """

    of_row: NDArray[np.int64]
    count: int  # of clusters
    seeds: int = 1

    @classmethod
    def of(cls, users: NDArray[np.integer], seeds: NDArray[np.integer] | None = None) -> Clusters:
        """Number the users, or the pairs of users and seeds, in ascending order."""
        found, of_row = np.unique(users, return_inverse=True)
        if seeds is None:
            return cls(of_row, len(found))
        trained, of_seed = np.unique(seeds, return_inverse=True)
        return cls(of_row * len(trained) + of_seed, len(found) * len(trained), len(trained))

    @property
    def users(self) -> int:
        """How many users there are."""
        return self.count // self.seeds


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

    The figure is NaN where one of the two classes is not drawn. ``scores`` and ``positive`` have
    one value a row, shape (n,).
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

    Where rows are of several seeds, these are drawn too, and a pair of user and seed counts as
    often as both together (Owen, The pigeonhole bootstrap, 2007). One seed fewer is drawn than
    there are, which makes their variance unbiased (Rao and Wu, 1988), and what seeds add to a draw
    is widened as Student's t is against the normal: few seeds know their own spread badly.
    """
    few = clusters.seeds - 1
    widening = stdtrit(few, 0.975) / ndtri(0.975) if few else 0.0

    def measured(weights: Floats) -> Floats:
        return np.stack([of(weights) for of in statistics], 1)

    found = []
    of_users = _draws(clusters.users, clusters.users, resamples, (seed, "bootstrap"))
    of_seeds = _draws(clusters.seeds, few, resamples, (seed, "bootstrap", "seeds"))
    for users in of_users:
        figures = measured(np.repeat(users, clusters.seeds, axis=1) if few else users)
        if few:
            pairs = (users[:, :, None] * next(of_seeds)[:, None]).reshape(len(users), -1)
            figures = figures + widening * (measured(pairs) - figures)
        found.append(figures)
    return np.concatenate(found)


def interval(draws: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval of one figure's draws, undefined ones left out."""
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


_Counts = NDArray[np.uint8]  # no user is drawn 256 times: the chance is below 1e-500
_KEPT: dict[tuple[Any, ...], _Counts] = {}
_MOST_KEPT = 2**27  # bytes


def _draws(size: int, drawn: int, resamples: int, key: tuple[int | str, ...]) -> Iterator[Floats]:
    """Yield how often each of some users or seeds counts, (draws, size).

    Everything that has as many users counts them alike, so what was drawn is kept for the next.
    """
    blocks = _drawn_blocks(size, drawn, resamples, key)
    if size * resamples <= _MOST_KEPT:
        asked = (size, drawn, resamples, *key)
        if asked not in _KEPT:
            made = np.concatenate([*blocks])
            if made.nbytes + sum(kept.nbytes for kept in _KEPT.values()) > _MOST_KEPT:
                _KEPT.clear()
            _KEPT[asked] = made
        starts = range(_DRAWS_AT_ONCE, resamples, _DRAWS_AT_ONCE)
        blocks = iter(np.split(_KEPT[asked], starts))
    for block in blocks:
        yield block.astype(np.float64)


def _drawn_blocks(
    size: int, drawn: int, resamples: int, key: tuple[int | str, ...]
) -> Iterator[_Counts]:
    for start in range(0, resamples, _DRAWS_AT_ONCE):
        numbers = range(start, min(start + _DRAWS_AT_ONCE, resamples))
        rows = (derive_rng(*key, number).integers(size, size=drawn) for number in numbers)
        yield np.array([np.bincount(row, minlength=size) for row in rows], np.uint8)


@dataclass(frozen=True)
class MetricResult:
    """One figure on all queries of a task, with its 95 % interval over ``n`` users (and seeds)."""

    task: str
    recommender: str
    metric: str
    value: float
    ci_low: float | None
    ci_high: float | None
    n: int


_BINS = 10


def positive_rating(ratings: Floats) -> float:
    """Return the lowest rating that counts as positive: the median of some ratings.

    Where the median is the lowest of them, nothing would be negative: the next rating is returned.

    >>> positive_rating(np.array([1.0, 4.0, 4.0, 5.0])), positive_rating(np.array([0.0, 0.0, 1.0]))
    (4.0, 1.0)
    """
    known = ratings[~np.isnan(ratings)]
    above = np.unique(known)[1:2]
    return float(max([np.median(known), *above])) if len(known) else np.nan


class Metric:
    """A figure that says what predictions are worth; subclasses are registered by their names.

    A metric gives one value a query, whose mean over the queries is the figure, or overrides
    :meth:`statistic` where the figure is no such mean.

    Attributes:
        label: how reports write it, without the cutoff.
        better: whether ``higher`` or ``lower`` figures are better.
        kinds: the ways of answering that it measures: ``retrieval``, ``ranking``, ``rating``.
        by_cutoff: whether it is taken at each of ``evaluation.cutoffs``, as ``hr@10`` is.
        biased: whether chance alone raises it, so that it is higher still on users drawn again,
            and their percentiles are no interval: it has none.

    Examples:
        >>> from recinject.registry import find
        >>> find("metric", "ndcg").label, find("metric", "rmse").better
        ('NDCG', 'lower')
    """

    label: ClassVar[str]
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    kinds: ClassVar[tuple[str, ...]] = ("retrieval", "ranking")
    by_cutoff: ClassVar[bool] = False
    biased: ClassVar[bool] = False

    def values(self, prediction: Prediction, queries: Queries, k: int) -> Floats:
        """Return one value a query, shape (n,); ``k`` is the cutoff, or the lists' length."""
        raise NotImplementedError

    def statistic(
        self, prediction: Prediction, queries: Queries, k: int, clusters: Clusters
    ) -> Statistic:
        """Return the figure as a function of how often each user counts."""
        values = np.asarray(self.values(prediction, queries, k), np.float64)
        if values.shape != (len(queries),):
            raise RecinjectError(
                f"the metric {type(self).__name__}: values of the shape {values.shape}",
                hint=f"return one number a query, an array of the shape ({len(queries)},)",
            )
        return mean_of(values, clusters)


def hit_rate(ahead: Floats, tied: Floats, k: int) -> Floats:
    """Return the chance that the target is among the first ``k``: shape (n,).

    Here and below, items with equal scores stand in random order: the target's rank is uniform
    on ``ahead + 1 .. ahead + tied``, and the metric is its expected value over those ranks.

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


class _OfRanks(Metric):
    gain: ClassVar[staticmethod[[Floats, Floats, int], Floats]]

    def values(self, prediction: Prediction, queries: Queries, k: int) -> Floats:
        return self.gain(*_ranks(prediction), k)


@register("metric", "hr")
class HitRate(_OfRanks):
    """How often the target is among the first ``k``."""

    label, by_cutoff, gain = "HR", True, staticmethod(hit_rate)


@register("metric", "ndcg")
class NDCG(_OfRanks):
    """Normalised discounted cumulative gain of the one relevant item."""

    label, by_cutoff, gain = "NDCG", True, staticmethod(ndcg)


@register("metric", "mrr")
class MRR(_OfRanks):
    """Mean reciprocal rank up to the end of the list.

    Beyond it a recommender that searches rather than scores knows nothing.
    """

    label, gain = "MRR", staticmethod(reciprocal_rank)


class _OfRatings(Metric):
    kinds: ClassVar[tuple[str, ...]] = ("rating",)
    of: ClassVar[Callable[..., Statistic]]  # of ratings, labels and clusters

    def statistic(
        self, prediction: Prediction, queries: Queries, k: int, clusters: Clusters
    ) -> Statistic:
        return type(self).of(*_ratings(prediction, queries), clusters)


@register("metric", "rmse")
class RMSE(_OfRatings):
    """Root of the mean squared error."""

    label, better = "RMSE", "lower"
    of = staticmethod(lambda ratings, labels, own: root_mean_of((ratings - labels) ** 2, own))


@register("metric", "mae")
class MAE(_OfRatings):
    """Mean absolute error."""

    label, better = "MAE", "lower"
    of = staticmethod(lambda ratings, labels, own: mean_of(np.abs(ratings - labels), own))


@register("metric", "auc")
class AUC(Metric):
    """The chance that an item with a positive rating is predicted above one with a negative.

    Positive is a rating from ``queries.positive_rating`` on.
    """

    label, kinds = "AUC", ("rating",)

    def statistic(
        self, prediction: Prediction, queries: Queries, k: int, clusters: Clusters
    ) -> Statistic:
        """Return the chance as a function of how often each user counts."""
        ratings, labels = _ratings(prediction, queries)
        return auc_of(ratings, labels >= _positive_from(queries), clusters)


class _Calibration(Metric):
    better, biased = "lower", True

    def statistic(
        self, prediction: Prediction, queries: Queries, k: int, clusters: Clusters
    ) -> Statistic:
        """Return the error as a function of how often each user counts."""
        found = self.chances(prediction, queries)
        if found is None:
            return lambda weights: np.full(len(weights), np.nan)
        chances, right = found
        bins = np.minimum((chances * _BINS).astype(np.int64), _BINS - 1)
        cells = clusters.of_row * _BINS + bins
        surplus, rows = (
            np.bincount(cells, each, clusters.count * _BINS).reshape(-1, _BINS)
            for each in (chances - right, np.ones(len(cells)))
        )
        return lambda weights: np.abs(weights @ surplus).sum(1) / (weights @ rows).sum(1)

    def chances(self, prediction: Prediction, queries: Queries) -> tuple[Floats, Floats] | None:
        """Return the chance of an event and how far it came true, both (n,); None without one."""
        raise NotImplementedError


@register("metric", "ece")
class CalibrationError(_Calibration):
    """The expected calibration error of the chance of a positive rating, in ten bins.

    The mean over the bins, weighted by their rows, of the distance between mean chance and
    fraction of positives (Naeini et al., AAAI 2015); NaN where no distribution was predicted.
    """

    label, kinds = "ECE", ("rating",)

    def chances(self, prediction: Prediction, queries: Queries) -> tuple[Floats, Floats] | None:
        """Sum the chances of the positive ratings."""
        labels, least = _ratings(prediction, queries)[1], _positive_from(queries)
        if prediction.probabilities is None or prediction.values is None:
            return None
        positive = (labels >= least).astype(np.float64)
        return prediction.probabilities[:, prediction.values >= least].sum(1), positive


@register("metric", "ece_first")
class FirstCalibrationError(_Calibration):
    """The expected calibration error of the chance that the first item is the target.

    As :class:`CalibrationError`; NaN where no such chance was predicted.
    """

    label, kinds = "ECE of the first", ("retrieval", "ranking")

    def chances(self, prediction: Prediction, queries: Queries) -> tuple[Floats, Floats] | None:
        """Hold the chance of each list's first item against whether it was the target."""
        if prediction.first is None:
            return None
        return np.clip(prediction.first, 0, 1), hit_rate(*_ranks(prediction), 1)


def _positive_from(queries: Queries) -> float:
    least = queries.positive_rating
    return positive_rating(np.asarray(queries.labels)) if least is None else least


def metric_names(kind: str, cutoffs: Sequence[int] = (5, 10)) -> list[str]:
    """List the metrics of a way of answering.

    >>> metric_names("retrieval", [10])[:3]
    ['hr@10', 'ndcg@10', 'mrr']
    """
    known = {name: find("metric", name) for name in names("metric")}
    return [
        f"{name}@{k}" if metric.by_cutoff else name
        for name, metric in known.items()
        if kind in metric.kinds
        for k in (cutoffs if metric.by_cutoff else [0])
    ]


MAIN_METRICS = {"retrieval": "hr@10", "ranking": "hr@10", "rating": "rmse"}


def main_metric(kind: str, measured: Sequence[str]) -> str:
    """Return the metric that speaks for a way of answering: the usual one, or the first measured.

    >>> main_metric("retrieval", ["hr@5", "hr@10"]), main_metric("retrieval", ["hr@5", "mrr"])
    ('hr@10', 'hr@5')
    """
    usual = MAIN_METRICS.get(kind, "")
    return usual if usual in measured else measured[0]


def parse_metric(text: str) -> tuple[Metric, int | None]:
    """Return a metric and its cutoff, None without one.

    Raises:
        RecinjectError: no metric has that name.

    Examples:
        >>> parse_metric("hr@10")[1], parse_metric("rmse")[1]
        (10, None)
    """
    name, _, cutoff = text.partition("@")
    metric: Metric = find("metric", name)()
    if metric.by_cutoff != cutoff.isdecimal():
        fact = f"metric {text!r}: {'no cutoff' if metric.by_cutoff else 'it has no cutoff'}"
        raise RecinjectError(fact, hint=f"write {name}@10" if metric.by_cutoff else f"write {name}")
    return metric, int(cutoff) if cutoff else None


def statistic_of(
    prediction: Prediction, queries: Queries, metric: str, clusters: Clusters
) -> Statistic:
    """Return one metric of a prediction as a function of how often each user counts."""
    found, k = parse_metric(metric)
    if queries.kind not in found.kinds:
        fact = f"the task {queries.task} has no metric {metric!r}"
        raise RecinjectError(fact, hint=did_you_mean(metric, metric_names(queries.kind)))
    length = 0 if prediction.items is None else prediction.items.shape[1]
    if queries.kind != "rating" and k is not None and k > length > 0:
        fact = f"{metric} of {prediction.recommender}: its lists end after {length} items"
        raise RecinjectError(fact, hint="recommend longer lists, or lower evaluation.cutoffs")
    return found.statistic(prediction, queries, k or length, clusters)


def _ranks(prediction: Prediction) -> tuple[Floats, Floats]:
    if prediction.items is None or prediction.ahead is None or prediction.tied is None:
        raise _incomplete(prediction, "a list of items, `ahead` and `tied`")
    if not np.all(prediction.tied >= 1):
        raise _incomplete(prediction, "scores that are numbers: a target ties with itself at least")
    return prediction.ahead, prediction.tied


def _ratings(prediction: Prediction, queries: Queries) -> tuple[Floats, Floats]:
    ratings, labels = prediction.ratings, queries.labels
    if ratings is None or labels is None or not np.isfinite(ratings).all():
        raise _incomplete(prediction, "a number for each rating")
    return ratings, labels


def _incomplete(prediction: Prediction, needed: str) -> RecinjectError:
    fact = f"{prediction.recommender}: its answer to {prediction.task} is incomplete"
    return RecinjectError(fact, hint=f"a prediction for {prediction.task} needs {needed}")


def evaluate_prediction(
    prediction: Prediction,
    queries: Queries,
    cutoffs: Sequence[int] = (5, 10),
    resamples: int = 1000,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
) -> list[MetricResult]:
    """Measure a prediction by the metrics of its task, with 95 % bootstrap intervals.

    The users, and the seeds of pooled runs, are drawn anew ``resamples`` times; give all
    recommenders the same seed. ``metrics`` are all of the task if not given. One that is not
    defined on these queries, as the AUC of one class, is left out.
    """
    clusters = Clusters.of(queries.users, queries.seeds)
    if not clusters.count:
        return []
    asked = metric_names(queries.kind, cutoffs) if metrics is None else metrics
    statistics = [statistic_of(prediction, queries, name, clusters) for name in asked]
    values = observe(statistics, clusters)
    draws = bootstrap(statistics, clusters, resamples, seed)
    who = queries.task, prediction.recommender
    return [
        MetricResult(*who, name, float(value), *_ends(name, draw), clusters.users)
        for name, value, draw in zip(asked, values, draws.T, strict=True)
        if np.isfinite(value)
    ]


def _ends(metric: str, draws: Floats) -> tuple[float | None, float | None]:
    return (None, None) if parse_metric(metric)[0].biased else interval(draws)
