"""Every registered metric as a module of the ``evaluate`` library, without a hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from recinject.evaluation.metrics import Clusters, observe, statistic_of
from recinject.recommenders.protocol import Prediction, Queries
from recinject.registry import find

_INPUTS = """
Args:
    predictions: for each question a list of items, best first, as texts or integers; or a rating.
    references: the relevant item of each question, or the true rating.
    k: the cutoffs, none beyond the longest list; for metrics that have one.
"""


class EvaluateMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped here
    """A metric of the registry, computed by the ``evaluate`` library.

    Its first argument is the metric's name in the registry. The file also loads by its path, with
    no network: ``evaluate.load(modules.__file__, "hr")``.

    Raises:
        RecinjectError: no metric has that name.

    Examples:
        >>> EvaluateMetric("hr").compute(predictions=[["a", "b"]], references=["b"], k=[1, 2])
        {'hr@1': 0.0, 'hr@2': 1.0}
        >>> EvaluateMetric("mae").compute(predictions=[3.0, 5.0], references=[4.0, 5.0])
        {'mae': 0.5}
    """

    @property
    def _metric(self) -> Any:
        return find("metric", self.config_name)

    @property
    def _lists(self) -> bool:
        return "rating" not in self._metric.kinds

    def _info(self) -> evaluate.MetricInfo:
        ids = (datasets.Value("string"), datasets.Value("int64"))
        lists = [{"predictions": datasets.Sequence(kind), "references": kind} for kind in ids]
        number = datasets.Value("float64")
        ratings = [{"predictions": number, "references": number}]
        return evaluate.MetricInfo(
            description=self._metric.__doc__ or self._metric.label,
            citation="",
            inputs_description=_INPUTS,
            features=[datasets.Features(each) for each in (lists if self._lists else ratings)],
        )

    def _compute(
        self, predictions: Sequence[Any], references: Sequence[Any], k: Sequence[int] = (5, 10)
    ) -> dict[str, float]:
        rows = np.arange(len(references), dtype=np.int32)
        ask = self._of_lists if self._lists else self._of_ratings
        prediction, labels = ask(predictions, references)
        kind, texts = self._metric.kinds[0], list(map(str, rows))
        queries = Queries(kind, texts, texts, rows, [rows[:0]] * len(rows), rows, labels=labels)
        name = self.config_name
        asked = [f"{name}@{each}" for each in k] if self._metric.by_cutoff else [name]
        clusters = Clusters.of(rows)
        values = observe([statistic_of(prediction, queries, m, clusters) for m in asked], clusters)
        return dict(zip(asked, map(float, values), strict=True))

    def _of_lists(
        self, predictions: Sequence[Any], references: Sequence[Any]
    ) -> tuple[Prediction, None]:
        lists = [list(items) for items in predictions]
        ranks = [
            items.index(target) if target in items else np.inf
            for items, target in zip(lists, references, strict=True)
        ]
        # Of the items themselves a metric asks the lists' length alone.
        items = np.zeros((len(lists), max(map(len, lists), default=0)), np.int32)
        ahead, tied = np.array(ranks, np.float64), np.ones(len(ranks))
        return Prediction("predictions", "retrieval", items, ahead=ahead, tied=tied), None

    def _of_ratings(
        self, predictions: Sequence[float], references: Sequence[float]
    ) -> tuple[Prediction, Any]:
        ratings, labels = np.array(predictions, np.float64), np.array(references, np.float64)
        return Prediction("predictions", "rating", ratings=ratings), labels
