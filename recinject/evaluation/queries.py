"""The stored test samples as the queries that every recommender answers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recinject.data.schema import Catalog, Floats, Integers
from recinject.data.splitting import Part, Split
from recinject.foundation.ragged import Array, Ragged
from recinject.foundation.randomness import derive_rng
from recinject.recommenders.protocol import Queries


def make_queries(
    samples: pa.Table, split: Split, catalog: Catalog, limit: int | None, seed: int
) -> Queries:
    """Turn stored test samples into queries: raw ids become numbers again, once.

    Args:
        samples: the samples of one task.
        split: the split they were made from. The history of a query is what the sampler could
            see: the events before the query's own target that belong to earlier parts.
        catalog: the items.
        limit: how many queries to keep, drawn by the seed; None keeps all. The draw depends
            on the number of samples only, so two wordings keep the same queries.
        seed: the run's seed.
    """
    if limit is not None and limit < len(samples):
        chosen = derive_rng(seed, "queries").choice(len(samples), size=limit, replace=False)
        samples = samples.take(np.sort(chosen))
    user_numbers = {name: n for n, name in enumerate(split.interactions.user_ids)}
    item_numbers = {name: n for n, name in enumerate(catalog.item_ids)}
    view = split.view(Part.TEST)
    users = [user_numbers[name] for name in samples["user_id"].to_pylist()]
    sample_ids = samples["sample_id"].to_pylist()
    # A sample id ends with the place of its target among the user's.
    places = np.array([int(name.rpartition("/")[2]) for name in sample_ids], np.int64)
    events = view.targets.values[view.targets.offsets[users] + places]
    histories = view.histories(events)
    ratings = view.interactions.ratings
    slates = samples["candidate_item_ids"].to_pylist()
    return Queries(
        task=samples["task"][0].as_py(),
        sample_ids=sample_ids,
        prompts=samples["prompt"].to_pylist(),
        users=np.array(users, np.int32),
        histories=_rows(histories, view.interactions.items),
        targets=_numbers(samples["target_item_id"].to_pylist(), item_numbers),
        candidates=np.stack([_numbers(slate, item_numbers) for slate in slates])
        if slates[0] is not None
        else None,
        labels=_labels(samples),
        history_ratings=None if ratings is None else _rows(histories, ratings),
    )


def _rows(events: Ragged, column: Array) -> list[Array]:
    return [column[events[row]] for row in range(len(events))]


def _numbers(ids: list[str], numbers: dict[str, int]) -> Integers:
    return np.array([numbers[name] for name in ids], np.int32)


def _labels(samples: pa.Table) -> Floats | None:
    labels = samples["label"]
    return None if labels.null_count else labels.to_numpy().astype(np.float64)
