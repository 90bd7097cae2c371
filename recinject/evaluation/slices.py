"""How good answers are where the history is short, and where the item is rare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recinject.data.schema import Interactions
from recinject.evaluation.metrics import MetricResult, evaluate_prediction
from recinject.foundation.ragged import Array
from recinject.recommenders.protocol import Prediction, Queries

HISTORY, POPULARITY = "history length", "item popularity"
_LENGTHS = (5, 20, 50)
_THIRDS = ("tail", "middle", "head")


@dataclass(frozen=True)
class Slice:
    """Some queries that have something in common.

    Attributes:
        by: what they are sliced by: ``history length`` or ``item popularity``.
        name: which of its slices this is.
        rows: the queries' numbers, ascending.
    """

    by: str
    name: str
    rows: Array


@dataclass(frozen=True)
class SliceResult(MetricResult):
    """A figure on one slice of the queries.

    Attributes:
        by: what the queries are sliced by.
        slice: the name of the slice.
        queries: how many queries it has.
    """

    by: str
    slice: str
    queries: int


def slice_queries(queries: Queries, training: Interactions) -> list[Slice]:
    """Slice queries by the length of their history, and by how popular the target is.

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
    ]


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
