"""One recipe trained with several seeds: its stored answers, taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recinject.data.schema import Integers
from recinject.evaluation.statistics import Comparison
from recinject.recommenders.protocol import Prediction, Queries

_FLOATS = {"ahead", "tied", "rating", "label"}


@dataclass(frozen=True)
class SeedComparison(Comparison):
    """A comparison over several seeds, users paired within each of them.

    Attributes:
        by_seed: the difference of each seed alone, in the seeds' order.
    """

    by_seed: Sequence[float]

    @property
    def seeds_agree(self) -> bool:
        """Whether every seed alone differs in the same direction."""
        return min(self.by_seed) > 0 or max(self.by_seed) < 0


def load_answers(files: Sequence[Path], recommender: str) -> tuple[Prediction, Queries]:
    """Read what one recommender answered in several runs as answers to one list of queries.

    A user's queries of all runs stand under one number. What is drawn over users thus draws the
    runs together, and a mean over these queries is the mean over the runs, where each run asked
    as many.

    Args:
        files: what :func:`~recinject.evaluation.evaluate.save_prediction` wrote of one task, one
            file a run.
        recommender: what to call who answered.

    Returns:
        The prediction, and the queries as far as metrics need them: prompts and histories are
        empty.
    """
    task = files[0].name.partition(".")[0]
    frame = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    sample_ids = frame["sample_id"].tolist()
    # The last part of a sample's id is the place of its target among the user's.
    _, users = np.unique([name.rpartition("/")[0] for name in sample_ids], return_inverse=True)
    targets, items = _numbers(frame)
    columns = {name: frame[name].to_numpy(np.float64) for name in _FLOATS & set(frame.columns)}
    queries = Queries(
        task,
        sample_ids,
        prompts=[""] * len(frame),
        users=users.astype(np.int32),
        histories=[np.empty(0, np.int32)] * len(frame),
        targets=targets,
        labels=columns.get("label"),
    )
    ahead, tied, ratings = (columns.get(name) for name in ("ahead", "tied", "rating"))
    answered = Prediction(recommender, task, items, ahead=ahead, tied=tied, ratings=ratings)
    return answered, queries


def _numbers(frame: pd.DataFrame) -> tuple[Integers, Integers | None]:
    """Number the targets and the lists' items anew; where a list ends early stands -1."""
    lists = list(frame["item_ids"]) if "item_ids" in frame else []
    named = np.concatenate([frame["target_item_id"].to_numpy(object), *lists])
    numbers = pd.factorize(named)[0].astype(np.int32)
    rows = len(frame)
    return numbers[:rows], numbers[rows:].reshape(rows, -1) if lists else None
