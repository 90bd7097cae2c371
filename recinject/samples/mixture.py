"""How much of each task one epoch of training holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray
from tokenizers import Tokenizer

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.randomness import derive_rng
from recinject.samples.store import read_samples
from recinject.samples.tokenisation import TokenFacts, tokenise


def mixture_counts(sizes: Mapping[str, int], rates: Mapping[str, float]) -> dict[str, int]:
    """Return how many samples of each task an epoch holds.

    An epoch has as many samples as the mixed tasks have together. Without rates each task
    gives every sample once; with rates, tasks share the epoch in their proportion.

    Args:
        sizes: samples of each task.
        rates: relative rates; tasks that are not named are left out. Empty: all, by size.

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
    return np.concatenate([np.empty(0, np.int64), *passes])[:count].astype(np.int64)


def mix_tasks(
    folder: Path,
    tasks: Iterable[str],
    rates: Mapping[str, float],
    tokenizer: Tokenizer,
    limits: tuple[int, int],
    seed: int,
) -> tuple[Dataset, dict[str, TokenFacts]]:
    """Tokenise one epoch of training samples, every task in its measure.

    Args:
        folder: the samples' folder.
        tasks: the tasks that were built.
        rates: see :func:`mixture_counts`.
        tokenizer: what the model reads with.
        limits: the most tokens of a prompt and of a completion.
        seed: the run's seed.

    Returns:
        The columns that the Trainer reads, and what tokenisation did to each task.
    """
    tables = {task: read_samples(folder, task, "train") for task in tasks}
    counts = mixture_counts({task: len(table) for task, table in tables.items()}, rates)
    parts, facts = [], {}
    for task, count in counts.items():
        rows = draw_passes(seed, task, len(tables[task]), count)
        dataset, facts[task] = tokenise(tables[task].take(rows), tokenizer, *limits)
        parts.append(dataset)
    return concatenate_datasets(parts), facts


def validation_samples(
    folder: Path, tasks: Iterable[str], count: int, tokenizer: Tokenizer, limits: tuple[int, int]
) -> Dataset:
    """Tokenise validation samples of several tasks: the first ``count``, dealt out in turn."""
    tables = [read_samples(folder, task, "validation") for task in tasks]
    shares = [len(range(turn, count, len(tables))) for turn in range(len(tables))]
    mixed = pa.concat_tables(
        [table.slice(0, share) for table, share in zip(tables, shares, strict=True)]
    )
    return tokenise(mixed, tokenizer, *limits)[0]
