"""Bootstrap over users, paired tests, and several seeds taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recinject.data.schema import Floats
from recinject.evaluation.metrics import Clusters, bootstrap, interval, observe, statistic_of
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.protocol import Prediction, Queries


@dataclass(frozen=True)
class Comparison:
    """How much more a recommender scores than a reference on the same queries.

    The difference has a 95 % interval over the ``n`` users, and a two-sided p-value of the paired
    bootstrap: how often a difference of the opposite sign, or none, came up.
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

    All are measured on the same draws of users, so what makes a user easy or hard for everybody
    cancels out. One is added to each count, so no p-value is 0 (Davison and Hinkley, Bootstrap
    Methods and their Application, 1997, section 4.2).

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
    clusters, asked = Clusters.of(queries.users), [prediction, *references]
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
                test = *interval(drawn), _two_sided(drawn), clusters.count
                found.append(Comparison(*who, gap, *test))
    return found


def _two_sided(differences: Floats) -> float:
    defined = differences[~np.isnan(differences)]
    rarer_side = min(np.sum(defined <= 0), np.sum(defined >= 0))
    return min(1.0, 2 * (1 + int(rarer_side)) / (1 + len(defined)))


def _list_length(prediction: Prediction) -> int | None:
    return None if prediction.items is None else prediction.items.shape[1]


def load_answers(files: Sequence[Path], recommender: str) -> tuple[Prediction, Queries]:
    """Read what one recommender answered in several runs as answers to one list of queries.

    Each file is a stored frame of :func:`~recinject.evaluation.evaluate.prediction_frame`. The
    queries, without prompts and histories, have the same number of a user in all runs: a bootstrap
    over users thus draws a user's queries of all runs together, and a mean over these queries is
    the mean over the runs, where each run asked as many.
    """
    task = files[0].name.partition(".")[0]
    frame = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
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
    )
    items = np.stack(frame["items"].tolist()) if "items" in frame else None
    ahead, tied, ratings = (columns.get(name) for name in ("ahead", "tied", "rating"))
    answered = Prediction(recommender, task, items, ahead=ahead, tied=tied, ratings=ratings)
    return answered, queries


def is_paired(one: tuple[Prediction, Queries], other: tuple[Prediction, Queries]) -> bool:
    """Whether two answer the same queries, with lists of the same length."""
    same_targets = np.array_equal(one[1].targets, other[1].targets)
    same_queries = one[1].sample_ids == other[1].sample_ids and same_targets
    return same_queries and _list_length(one[0]) == _list_length(other[0])
