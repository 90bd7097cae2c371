"""What recommended lists are like, and how figures differ between slices of the queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Catalog, Flags, Floats, Integers, Interactions
from recinject.evaluation.metrics import (
    Clusters,
    MetricResult,
    Statistic,
    bootstrap,
    evaluate_prediction,
    hit_rate,
    interval,
    observe,
)
from recinject.foundation.ragged import Array
from recinject.recommenders.protocol import Prediction, Queries

HISTORY, POPULARITY, SLOT = "history length", "item popularity", "slot of the target"
_FIFTHS = 5
_LENGTHS = (5, 20, 50)
_THIRDS = ("tail", "middle", "head")


@dataclass(frozen=True)
class Slice:
    """Some queries, by their row numbers, that are alike in what they are sliced by."""

    by: str
    name: str
    rows: Array


@dataclass(frozen=True)
class SliceResult(MetricResult):
    """A figure on one slice of the queries, and how many queries the slice has."""

    by: str
    slice: str
    queries: int


def slice_queries(queries: Queries, training: Interactions) -> list[Slice]:
    """Slice queries by the length of their history, and by how popular the target is.

    Queries with slates are sliced by the fifth of the slate that the target stands in, too.

    Head, middle and tail are the most popular items, the next and the rarest, each with a third
    of the training events; ``unseen`` items have none. Slices without queries are left out.
    """
    lengths = np.array([len(history) for history in queries.histories])
    edges = [0, *_LENGTHS]
    names = [f"{low + 1} to {high}" for low, high in zip(edges, _LENGTHS, strict=False)]
    by_length = np.searchsorted(_LENGTHS, lengths)
    counts = np.bincount(training.items, minlength=training.n_items)
    by_popularity = np.where(counts > 0, 1 + popularity_thirds(counts), 0)[queries.targets]
    return [
        *_slices(HISTORY, [*names, f"above {_LENGTHS[-1]}"], by_length),
        *_slices(POPULARITY, ["unseen", *_THIRDS], by_popularity),
        *_slot_slices(queries),
    ]


def slots_of(queries: Queries) -> Array | None:
    """Return the place of each target in its slate, from 0; None without slates."""
    if queries.candidates is None:
        return None
    return np.asarray((queries.candidates == queries.targets[:, None]).argmax(1))


def _slot_slices(queries: Queries) -> Iterator[Slice]:
    if (slots := slots_of(queries)) is None or queries.candidates is None:
        return iter(())
    width = queries.candidates.shape[1]
    fifths = np.arange(width) * _FIFTHS // width
    ends = [np.flatnonzero(fifths == number)[[0, -1]] + 1 for number in np.unique(fifths)]
    names = [f"{first} to {last}" for first, last in ends]
    return _slices(SLOT, names, np.unique(fifths, return_inverse=True)[1][slots])


def popularity_thirds(counts: Array) -> Array:
    """Return 0 for the rarest items up to 2 for the most popular, each a third of the events."""
    order = np.argsort(counts, kind="stable")
    middles = 2 * np.cumsum(counts[order]) - counts[order]
    thirds = np.empty(len(counts), np.int64)
    thirds[order] = np.minimum(3 * middles // max(1, 2 * counts.sum()), 2)
    return thirds


def _slices(by: str, names: Sequence[str], numbers: Array) -> Iterator[Slice]:
    for number, name in enumerate(names):
        rows = np.flatnonzero(numbers == number)
        if len(rows):
            yield Slice(by, name, rows)


def measure_slices(
    prediction: Prediction,
    queries: Queries,
    slices: Sequence[Slice],
    metric: str,
    resamples: int,
    seed: int,
) -> Iterator[SliceResult]:
    """Measure answers by one metric on each slice, with intervals over its users."""
    for each in slices:
        own, asked = prediction.take(each.rows), queries.take(each.rows)
        for found in evaluate_prediction(own, asked, (), resamples, seed, [metric]):
            yield SliceResult(**vars(found), by=each.by, slice=each.name, queries=len(asked))


def position_slope(
    prediction: Prediction, queries: Queries, k: int, resamples: int, seed: int
) -> list[ListResult]:
    """Regress HR@k on the target's slot: how much it changes over ten slots of the slate.

    Nothing is returned of queries without slates, or where all targets stand in the same slot.
    """
    clusters, slots = Clusters.of(queries.users), slots_of(queries)
    if slots is None or len(np.unique(slots)) < 2:
        return []
    x = slots / 10 - slots.mean() / 10
    y = hit_rate(np.asarray(prediction.ahead), np.asarray(prediction.tied), k)
    y -= y.mean()  # so that equal hits have a slope of exactly 0
    sums = [np.bincount(clusters.of_row, each) for each in (np.ones(len(x)), x, y, x * x, x * y)]

    def slope(weights: Floats) -> Floats:
        n, sx, sy, sxx, sxy = (weights @ each for each in sums)
        return ratio(sxy - sx * sy / n, sxx - sx * sx / n)

    ends = interval(bootstrap([slope], clusters, resamples, seed)[:, 0])
    value = float(observe([slope], clusters)[0])
    return [ListResult(prediction.recommender, f"slope@{k}", value, *ends)]


_ROWS_AT_ONCE = 256
_SMOOTHING = 0.01


@dataclass(frozen=True)
class ListResult:
    """One measure of one recommender's lists."""

    recommender: str
    measure: str  # a key of :data:`MEASURES`, with the lists' length: ``coverage@10``
    value: float  # over all lists, or the mean of the lists that have it
    ci_low: float | None = None  # of the mean's 95 % interval over users; None if it is no mean
    ci_high: float | None = None


@dataclass(frozen=True, eq=False)
class ListMeasures:
    """Describes lists by what the training events and the catalogue tell of their items.

    After arXiv 2404.00579; ``miscalibration`` is that of Steck, Calibrated recommendations,
    RecSys 2018, whose smoothing keeps it finite.
    """

    training: Interactions  # they say how popular an item is
    catalog: Catalog  # its ``categories``, or else its ``category``, say what is alike
    length: int  # how many items of each list count
    resamples: int  # how often the users are drawn anew for an interval, by ``seed``
    seed: int

    @cached_property
    def events(self) -> NDArray[np.int64]:
        """How many training events each item has."""
        return np.bincount(self.training.items, minlength=len(self.catalog))

    @cached_property
    def genres(self) -> Floats:
        """What each item is like, its categories in equal shares: shape (items, categories)."""
        frame = self.catalog.frame
        column = next((name for name in ("categories", "category") if name in frame), None)
        told = [[]] * len(frame) if column is None else frame[column].tolist()
        lists = [[each] if isinstance(each, str) else list(each or ()) for each in told]
        names = sorted({name for own in lists for name in own})
        numbers = {name: number for number, name in enumerate(names)}
        shares = np.zeros((len(lists), len(numbers)))
        for row, own in enumerate(lists):
            shares[row, [numbers[name] for name in own]] = 1 / max(1, len(own))
        return shares

    def describe(self, prediction: Prediction, queries: Queries) -> list[ListResult]:
        """Measure one recommender's lists; what the log tells nothing of is left out."""
        if prediction.items is None or not (prediction.items >= 0).any():
            return []
        items = prediction.items[:, : self.length]
        found = dict(self.by_list(items, queries.histories))
        known = {name: values for name, values in found.items() if np.isfinite(values).any()}
        clusters = Clusters.of(queries.users)
        means = [mean_of_known(values, clusters) for values in known.values()]
        values = [*_exposure(items, len(self.catalog)), *observe(means, clusters)]
        draws = bootstrap(means, clusters, self.resamples, self.seed)
        bounds = [(None, None), (None, None), *map(interval, draws.T)]
        measured = zip(("coverage", "gini", *known), values, bounds, strict=True)
        return [
            ListResult(prediction.recommender, f"{name}@{self.length}", float(value), *ends)
            for name, value, ends in measured
        ]

    def by_list(
        self, items: Integers, histories: Sequence[Integers]
    ) -> Iterator[tuple[str, Floats]]:
        """Yield a value a list, NaN where it has none, by the measure's name."""
        listed = items >= 0
        rare = popularity_thirds(self.events) == 0
        surprise = -np.log2(np.maximum(self.events, 1) / max(1, self.events.sum()))
        usual = np.array([self.events[p].mean() if len(p) else np.nan for p in histories])
        yield "tail", _means(rare[items], listed)
        yield "lift", _means(self.events[items], listed) / np.where(usual > 0, usual, np.nan) - 1
        yield "novelty", _means(surprise[items], listed)
        if self.genres.shape[1]:
            starts = range(0, len(items), _ROWS_AT_ONCE)
            rows = [slice(start, start + _ROWS_AT_ONCE) for start in starts]
            yield "distance", np.concatenate([_distances(self.genres, items[r]) for r in rows])
            pairs = zip(items, listed, histories, strict=True)
            apart = [_divergence(self.genres, past, row[own]) for row, own, past in pairs]
            yield "miscalibration", np.array(apart)


MEASURES = {
    "coverage": "Coverage: share of the catalogue that stands in some list",
    "gini": "Gini: how unequal items share the places, from 0 (alike) to 1 (all to one item)",
    "tail": "Tail: share of places with the rarest items, which have a third of training events",
    "lift": "Lift: how much more popular the list is than the user's history, 0 for as popular",
    "novelty": "Novelty: mean of -log2 of an item's share of the training events, in bits",
    "distance": "Distance: mean over pairs in a list of 1 less the categories' overlap (Jaccard)",
    "miscalibration": "Miscalibration: divergence (KL, nats) of the list's categories from the "
    "history's, 0 for the same",
    "slope": "Slope: change of the hit rate on slates over ten slots of the target's place, 0 "
    "where the order of the slate does not matter",
}


def _exposure(items: Integers, n_items: int) -> tuple[float, float]:
    """Return the share of items that stand somewhere, and the Gini coefficient of their places."""
    places = np.sort(np.bincount(items[items >= 0], minlength=n_items))
    ranks = 2 * np.arange(1, n_items + 1) - n_items - 1
    unequal = (ranks * places).sum() / (n_items * max(1, places.sum()))
    return float((places > 0).mean()), float(unequal)


def mean_of_known(values: Floats, clusters: Clusters) -> Statistic:
    """Return the mean of the values that are numbers as a function of the users' weights."""
    known = np.isfinite(values)
    sums, counts = (
        np.bincount(clusters.of_row, each, clusters.count)
        for each in (np.where(known, values, 0.0), known.astype(np.float64))
    )

    return lambda weights: ratio(weights @ sums, weights @ counts)


def ratio(sums: NDArray[np.number], counts: NDArray[np.number]) -> Floats:
    """Divide, NaN where a count is 0."""
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))


def _means(values: NDArray[np.generic], listed: Flags) -> Floats:
    """Return each row's mean over its listed places, NaN where there are none."""
    return ratio(np.where(listed, values, 0).sum(1, dtype=np.float64), listed.sum(1))


def _distances(genres: Floats, items: Integers) -> Floats:
    """Return each row's mean distance over pairs of items with categories."""
    has = (genres > 0)[items] & (items >= 0)[:, :, None]
    sizes, shared = has.sum(2), np.einsum("rig,rjg->rij", has, has, dtype=np.float64)
    first, second = np.triu_indices(items.shape[1], 1)
    shared, known = shared[:, first, second], (sizes[:, first] > 0) & (sizes[:, second] > 0)
    union = np.maximum(1, sizes[:, first] + sizes[:, second] - shared)
    distances: Floats = 1 - shared / union
    return _means(distances, known)


def _divergence(genres: Floats, history: Integers, listed: Integers) -> float:
    wanted, found = (genres[items].sum(0) for items in (history, listed))
    if not wanted.any() or not found.any():
        return np.nan
    wanted, found = wanted / wanted.sum(), found / found.sum()
    smooth = (1 - _SMOOTHING) * found + _SMOOTHING * wanted
    own = wanted > 0
    return float((wanted[own] * np.log(wanted[own] / smooth[own])).sum())
