"""How much of each task one epoch of training holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray

from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.randomness import derive_rng
from recinject.samples.store import shards


def mixture_counts(sizes: Mapping[str, int], rates: Mapping[str, float]) -> dict[str, int]:
    """Return how many samples of each task an epoch holds.

    An epoch has as many samples as the mixed tasks have together. Without rates each task
    gives every sample once; with rates, the tasks named share the epoch in their proportion.

    Raises:
        RecinjectError: a rate for a task without samples, or one that is not positive.

    Examples:
        >>> mixture_counts({"retrieval": 600, "bpr": 400}, {"retrieval": 3, "bpr": 1})
        {'retrieval': 750, 'bpr': 250}
    """
    for task, rate in rates.items():
        if not sizes.get(task) or rate <= 0:
            raise RecinjectError(
                f"training.mixture: {task}: {rate} is no rate of a task with samples",
                hint="rates are above 0. " + did_you_mean(task, sizes),
            )
    if not rates:
        return dict(sizes)
    total, whole = sum(sizes[task] for task in rates), sum(rates.values())
    return {task: round(total * rate / whole) for task, rate in rates.items()}


def draw_passes(seed: int, task: str, size: int, count: int) -> NDArray[np.int64]:
    """Choose ``count`` of ``size`` samples: whole passes first, then a part of one more.

    No sample is taken twice more often than another; each pass has its own seeded order.
    """
    passes = [
        derive_rng(seed, "mixture", task, number).permutation(size)
        for number in range(-(-count // max(1, size)))
    ]
    return np.concatenate([np.empty(0, np.int64), *passes])[:count]


def mix_tasks(folder: Path, tasks: Iterable[str], rates: Mapping[str, float], seed: int) -> Dataset:
    """Gather one epoch of training samples, each task as often as :func:`mixture_counts` says.

    Returns:
        The columns that the Trainer reads, mapped from the files and not loaded, with ``task``:
        the number of each sample's task among ``tasks``.
    """
    sets = {task: _numbered(folder, task, Part.TRAIN, number) for number, task in enumerate(tasks)}
    counts = mixture_counts({task: len(found) for task, found in sets.items()}, rates)
    return concatenate_datasets(
        [
            sets[task].select(draw_passes(seed, task, len(sets[task]), count))
            for task, count in counts.items()
        ]
    )


def _numbered(folder: Path, task: str, part: Part, number: int) -> Dataset:
    samples = token_columns(folder, task, part.label)
    # Before any rows are drawn: afterwards a new column would have them copied.
    return samples.add_column("task", np.full(len(samples), number, np.int8))


def validation_samples(folder: Path, tasks: Mapping[str, int], count: int) -> Dataset:
    """Gather validation samples of several tasks: the first ``count``, dealt out in turn.

    ``tasks`` gives each its number in the column ``task``.
    """
    sets = [_numbered(folder, task, Part.VALIDATION, number) for task, number in tasks.items()]
    shares = [len(range(turn, count, len(sets))) for turn in range(len(sets))]
    firsts = zip(sets, shares, strict=True)
    return concatenate_datasets([own.select(range(min(n, len(own)))) for own, n in firsts])


def token_columns(folder: Path, task: str, split: str) -> Dataset:
    """Map the token files of one task and split.

    See :func:`~recinject.samples.encoding.token_table` for their columns.
    """
    return concatenate_datasets(
        [Dataset.from_file(str(file)) for file in shards(folder, task, split, ".arrow")]
    )
