"""Errors of predicted ratings, for the ``evaluate`` library."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from recinject.evaluation.metrics import Clusters, observe, statistic_of
from recinject.recommenders.protocol import Prediction, Queries

_DESCRIPTION = "How far predicted ratings are from the true ones: rmse and mae."
_INPUTS = """
Args:
    predictions: the predicted ratings.
    references: the true ones.
Examples:
    >>> RatingMetrics().compute(predictions=[3.0, 5.0], references=[4.0, 5.0])["mae"]
    0.5
"""


class RatingMetrics(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped here
    """Computes ``rmse`` and ``mae``; see :mod:`recinject.evaluation.metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(
        self, predictions: Sequence[float], references: Sequence[float]
    ) -> dict[str, float]:
        n = len(references)
        rows = np.arange(n, dtype=np.int32)
        labels = np.array(references, np.float64)
        prediction = Prediction("predictions", "rating", ratings=np.array(predictions, np.float64))
        queries = Queries(
            "rating", list(map(str, rows)), [""] * n, rows, [rows[:0]] * n, rows, labels=labels
        )
        clusters, names = Clusters.of(rows), ("rmse", "mae")
        values = observe([statistic_of(prediction, queries, m, clusters) for m in names], clusters)
        return dict(zip(names, map(float, values), strict=True))
