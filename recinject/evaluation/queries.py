"""The stored test samples as the queries that every recommender answers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recinject.data.splitting import Part, Split
from recinject.foundation.ragged import Array, Ragged
from recinject.foundation.randomness import derive_rng
from recinject.recommenders.protocol import Queries


def make_queries(
    samples: pa.Table,
    split: Split,
    limit: int | None = None,
    seed: int = 0,
    answer: str = "",
) -> Queries:
    """Turn stored test samples into queries, by their integer columns.

    Args:
        samples: the samples of one task, as :data:`~recinject.samples.builder.SCHEMA` has them.
        split: the split they were made from. The history of a query is what the sampler could
            see: the events before the query's own that belong to earlier parts.
        limit: how many queries to keep, drawn by the seed; None keeps all. The draw depends
            on the number of samples only, so two wordings keep the same queries.
        seed: the run's seed.
        answer: how the task is answered; see :class:`~recinject.recommenders.protocol.Queries`.
    """
    if limit is not None and limit < len(samples):
        chosen = derive_rng(seed, "queries").choice(len(samples), size=limit, replace=False)
        samples = samples.take(np.sort(chosen))
    view = split.view(Part.TEST)  # which has every event of the log in sight
    histories = view.histories(samples["event"].to_numpy())
    items, ratings = view.interactions.items, view.interactions.ratings
    candidates, labels = samples["candidates"].combine_chunks(), samples["label"]
    return Queries(
        task=samples["task"][0].as_py(),
        sample_ids=samples["sample_id"].to_pylist(),
        prompts=samples["prompt"].to_pylist(),
        users=samples["user"].to_numpy(),
        histories=_rows(histories, items),
        targets=samples["target"].to_numpy(),
        candidates=None
        if candidates.null_count
        else candidates.flatten().to_numpy().reshape(len(samples), -1),
        labels=None if labels.null_count else labels.to_numpy().astype(np.float64),
        history_ratings=None if ratings is None else _rows(histories, ratings),
        answer=answer,
    )


def _rows(events: Ragged, column: Array) -> list[Array]:
    return np.split(column[events.values], events.offsets[1:-1])[: len(events)]
