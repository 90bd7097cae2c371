"""Paired tests over users and seeds, their correction for many, and runs taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtr

from recinject.data.schema import Floats
from recinject.evaluation.metrics import (
    MAIN_METRICS,
    Clusters,
    bootstrap,
    interval,
    observe,
    statistic_of,
)
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.protocol import Prediction, Queries


@dataclass(frozen=True)
class Comparison:
    """How much more a recommender scores than a reference on the same queries.

    The difference has a 95 % interval over the ``n`` users, and over the seeds of pooled runs, and
    a two-sided p-value of the paired bootstrap: how often a difference of the opposite sign, or
    none, came up.
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


def compare(
    prediction: Prediction,
    references: Sequence[Prediction],
    queries: Queries,
    metrics: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> list[Comparison]:
    """Compare a prediction with others for the same queries by a paired bootstrap over users.

    All are measured on the same draws of users, and of seeds where the queries have some, so what
    makes a user easy or hard for everybody cancels out. One is added to each count, so no p-value
    is 0 (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 4.2). Where no
    draw has the opposite sign the p-value is the normal's, with the draws' mean and deviation: what
    draws can count ends at 2 / resamples, which a correction for many comparisons would multiply.

    Metrics that are not defined on these queries are left out.

    Raises:
        RecinjectError: the predictions' lists are of different lengths.
    """
    for reference in references:
        lengths = [_list_length(each) for each in (prediction, reference)]
        if lengths[0] != lengths[1]:
            raise RecinjectError(
                f"{prediction.recommender} lists {lengths[0]} items and {reference.recommender} "
                f"{lengths[1]}: they cannot be compared",
                hint="ask every recommender for lists of the same length k",
            )
    clusters, asked = Clusters.of(queries.users, queries.seeds), [prediction, *references]
    if not clusters.count:
        return []
    figures = [statistic_of(each, queries, name, clusters) for each in asked for name in metrics]
    values = observe(figures, clusters).reshape(len(asked), -1)
    draws = bootstrap(figures, clusters, resamples, seed).reshape(-1, *values.shape)
    found = []
    for row, reference in enumerate(references, 1):
        for column, metric in enumerate(metrics):
            gap = float(values[0, column] - values[row, column])
            if np.isfinite(gap):
                drawn = draws[:, 0, column] - draws[:, row, column]
                who = queries.task, metric, prediction.recommender, reference.recommender
                test = *interval(drawn), _two_sided(drawn), clusters.users
                found.append(Comparison(*who, gap, *test))
    return found


def _two_sided(differences: Floats) -> float:
    """Count the draws of the rarer sign; where there are none, take the normal's tail if rarer."""
    defined = differences[~np.isnan(differences)]
    rarer_side = int(min(np.sum(defined <= 0), np.sum(defined >= 0)))
    counted = min(1.0, 2 * (1 + rarer_side) / (1 + len(defined)))
    if rarer_side or len(defined) < _ENOUGH or not defined.std():
        return counted
    tail = float(2 * ndtr(-abs(defined.mean()) / defined.std()))
    return min(counted, max(tail, np.finfo(np.float64).tiny))


_ENOUGH = 200  # draws, whose deviation is known to 5 %


def holm(p_values: Sequence[float] | Floats) -> list[float]:
    """Correct the p-values of many comparisons by Holm's step-down rule (1979).

    Of those below .05 then, the chance that any is there by luck alone is at most 5 %.

    >>> holm([0.01, 0.04, 0.03, float("nan")])
    [0.03, 0.06, 0.06, nan]
    """
    p = np.array(p_values, np.float64)
    order = np.argsort(p)  # NaN, which was no test, comes last
    left = np.arange(np.isfinite(p).sum(), 0, -1)
    p[order[: len(left)]] = np.minimum(1, np.maximum.accumulate(p[order[: len(left)]] * left))
    return [float(value) for value in p]


def _list_length(prediction: Prediction) -> int | None:
    return None if prediction.items is None else prediction.items.shape[1]


def load_answers(
    files: Sequence[Path], recommender: str, seeds: Sequence[int] | None = None
) -> tuple[Prediction, Queries]:
    """Read what one recommender answered in several runs as answers to one list of queries.

    Each file is a stored frame of :func:`~recinject.evaluation.evaluate.prediction_frame`, of the
    run of one of the ``seeds``. The queries, without prompts and histories, have the same number of
    a user in all runs: a bootstrap draws a user's queries of all runs together, and the runs too. A
    mean over these queries is the mean over the runs, where each run asked as many.
    """
    task = files[0].name.partition(".")[0]
    frames = [pd.read_parquet(file) for file in files]
    frame, lengths = pd.concat(frames, ignore_index=True), list(map(len, frames))
    floats = {"ahead", "tied", "rating", "label"} & set(frame.columns)
    columns = {name: frame[name].to_numpy(np.float64) for name in floats}
    queries = Queries(
        task,
        sample_ids=frame["sample_id"].tolist(),
        prompts=[""] * len(frame),
        users=frame["user"].to_numpy(),
        histories=[np.empty(0, np.int32)] * len(frame),
        targets=frame["target"].to_numpy(),
        labels=columns.get("label"),
        # What a task of another name asks for can be told from what was answered.
        answer=task if task in MAIN_METRICS else "rating" if "rating" in frame else "retrieval",
        positive_rating=_only(frame, "positive_rating"),
        seeds=np.repeat(range(len(files)) if seeds is None else seeds, lengths),
    )
    items = np.stack(frame["items"].tolist()) if "items" in frame else None
    ahead, tied, ratings = (columns.get(name) for name in ("ahead", "tied", "rating"))
    answered = Prediction(recommender, task, items, ahead=ahead, tied=tied, ratings=ratings)
    return answered, queries


def _only(frame: pd.DataFrame, name: str) -> float | None:
    """Return the one value of a column that has one, None where there is no such column."""
    found = list[float]() if name not in frame else frame[name].unique().tolist()
    return found[0] if len(found) == 1 else None


def is_paired(one: tuple[Prediction, Queries], other: tuple[Prediction, Queries]) -> bool:
    """Whether two answer the same queries, with lists of the same length."""
    same_targets = np.array_equal(one[1].targets, other[1].targets)
    same_queries = one[1].sample_ids == other[1].sample_ids and same_targets
    return same_queries and _list_length(one[0]) == _list_length(other[0])
