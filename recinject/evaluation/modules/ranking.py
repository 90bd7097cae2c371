"""Hit rate, NDCG and reciprocal rank of recommended lists, for the ``evaluate`` library."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from recinject.evaluation.metrics import Clusters, metric_names, observe, statistic_of
from recinject.recommenders.protocol import Prediction, Queries

_DESCRIPTION = """
Is the one relevant item in a recommended list, and how far up? hr@k is the share of lists that
have it among their first k, ndcg@k the mean of 1 / log2(1 + rank), mrr the mean of 1 / rank up to
the end of the longest list.
"""
_INPUTS = """
Args:
    predictions: a list of items for each question, best first; ids are texts or integers.
    references: the relevant item of each question.
    k: the cutoffs, none beyond the longest list.
Examples:
    >>> RankingMetrics().compute(predictions=[["a", "b"]], references=["b"], k=[1, 2])["hr@2"]
    1.0
"""


class RankingMetrics(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped here
    """Computes ``hr@k``, ``ndcg@k`` and ``mrr``; see :mod:`recinject.evaluation.metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        ids = (datasets.Value("string"), datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"predictions": datasets.Sequence(kind), "references": kind})
                for kind in ids
            ],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[str | int]],
        references: Sequence[str | int],
        k: Sequence[int] = (5, 10),
    ) -> dict[str, float]:
        lists = [list(items) for items in predictions]
        ranks = [
            items.index(target) if target in items else np.inf
            for items, target in zip(lists, references, strict=True)
        ]
        n, longest = len(ranks), max(map(len, lists), default=0)
        rows = np.arange(n, dtype=np.int32)
        prediction = Prediction(
            "predictions",
            "ranking",
            # Of the items themselves only the length of their lists is asked.
            items=np.zeros((n, longest), np.int32),
            ahead=np.array(ranks, np.float64),
            tied=np.ones(n),
        )
        queries = Queries("ranking", list(map(str, rows)), [""] * n, rows, [rows[:0]] * n, rows)
        clusters, names = Clusters.of(rows), metric_names("ranking", list(k))
        values = observe([statistic_of(prediction, queries, m, clusters) for m in names], clusters)
        return dict(zip(names, map(float, values), strict=True))
