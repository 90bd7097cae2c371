"""How much of each task a training reads: the samples of an epoch, and phases with other rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray

from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.randomness import derive_rng
from recinject.samples.store import shards


@dataclass(frozen=True)
class Phase:
    """A part of a training that has a mixture of its own."""

    share: float  # of the run's steps, relative to the other phases
    rates: Mapping[str, float]  # of its tasks, above 0, relative; tasks that are not named rest


def task_rates(
    sizes: Mapping[str, int], temperature: float = 1.0, cap: int | None = None
) -> dict[str, float]:
    """Return rates in proportion to ``min(size, cap) ** (1 / temperature)``.

    This is examples-proportional and temperature-scaled mixing (Raffel et al., Exploring the
    Limits of Transfer Learning, 2020, section 3.5.2): a temperature of 1 mixes by size, more
    evens tasks out. Tasks without samples get no rate.

    >>> task_rates({"retrieval": 900, "bpr": 100}, temperature=2)
    {'retrieval': 30.0, 'bpr': 10.0}
    """
    counted = {task: min(size, cap or size) for task, size in sizes.items() if size}
    return {task: float(size ** (1 / temperature)) for task, size in counted.items()}


def mixture_counts(sizes: Mapping[str, int], rates: Mapping[str, float]) -> dict[str, int]:
    """Return how many samples of each task an epoch holds.

    An epoch has as many samples as the mixed tasks have together. Without rates each task
    gives every sample once; with rates, the tasks named share the epoch in their proportion.

    >>> mixture_counts({"retrieval": 600, "bpr": 400}, {"retrieval": 3, "bpr": 1})
    {'retrieval': 750, 'bpr': 250}
    """
    for task, rate in rates.items():
        if not sizes.get(task) or rate <= 0:
            fact = f"training.mixture: {task}: {rate} is no rate of a task with samples"
            raise RecinjectError(fact, hint="rates are above 0. " + did_you_mean(task, sizes))
    if not rates:
        return dict(sizes)
    total, whole = sum(sizes[task] for task in rates), sum(rates.values())
    return {task: round(total * rate / whole) for task, rate in rates.items()}


def share_out(total: int, shares: Sequence[float]) -> list[int]:
    """Divide a whole number in proportion to shares; the largest remainders are rounded up.

    >>> share_out(10, [1, 1, 1])
    [4, 3, 3]
    """
    exact = total * np.asarray(shares, float) / np.sum(shares)
    whole = np.floor(exact).astype(np.int64)
    missing = total - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    return [int(count) for count in whole]


def draw_passes(seed: int, *key: int | str, size: int, count: int) -> NDArray[np.int64]:
    """Choose ``count`` of ``size`` samples: whole passes first, then a part of one more.

    No sample is taken twice more often than another; each pass has its own order, by seed and key.
    """
    numbers = range(-(-count // max(1, size)))
    passes = [derive_rng(seed, *key, number).permutation(size) for number in numbers]
    return np.concatenate([np.empty(0, np.int64), *passes])[:count]


def mix_tasks(
    folder: Path,
    tasks: Iterable[str],
    rates: Mapping[str, float],
    seed: int,
    places: Mapping[str, NDArray[np.int32]] | None = None,
) -> Dataset:
    """Gather one epoch of training samples, each task as often as :func:`mixture_counts` says.

    Returns:
        The columns that the Trainer reads, mapped from the files and not loaded, with ``task``:
        the number of each sample's task among ``tasks``; and with ``place`` where ``places`` has
        numbers for the samples of some tasks, -1 for those of others.
    """
    sets = {task: _numbered(folder, task, Part.TRAIN, number) for number, task in enumerate(tasks)}
    if places is not None:
        for task, own in sets.items():
            numbers = places.get(task, np.full(len(own), -1, np.int32))
            sets[task] = own.add_column("place", numbers)
    sizes = {task: len(found) for task, found in sets.items()}
    drawn = {
        task: draw_passes(seed, "mixture", task, size=sizes[task], count=count)
        for task, count in mixture_counts(sizes, rates).items()
    }
    return concatenate_datasets([sets[task].select(rows) for task, rows in drawn.items()])


def draw_phases(
    tasks: NDArray[np.int64],
    names: Sequence[str],
    phases: Sequence[Phase],
    steps: int,
    batch_size: int,
    seed: int,
) -> list[NDArray[np.int64]]:
    """Choose the samples that each phase of a training reads.

    A task that comes in several phases goes on where it stopped: none of its samples is taken
    again before all have been. ``tasks`` are the numbers of the samples' tasks, shape (n,), whose
    ``names`` they index; one step reads ``batch_size`` samples, over all devices.

    Returns:
        Numbers of samples, one array a phase, task after task; together ``steps * batch_size``.
    """
    rows = {name: np.flatnonzero(tasks == number) for number, name in enumerate(names)}
    phase_steps = share_out(steps, [phase.share for phase in phases])
    counts = [
        dict(zip(phase.rates, share_out(n * batch_size, list(phase.rates.values())), strict=True))
        for phase, n in zip(phases, phase_steps, strict=True)
    ]
    queues = {}
    for name, own in rows.items():
        # The first row's number, and not the name, tells the tasks' orders apart.
        first = int(own[0]) if len(own) else 0
        total = sum(count.get(name, 0) for count in counts)
        queues[name] = own[draw_passes(seed, "curriculum", first, size=len(own), count=total)]
    chosen, taken = [], dict.fromkeys(names, 0)
    for count in counts:
        parts = [queues[task][taken[task] : taken[task] + n] for task, n in count.items()]
        taken = {task: taken[task] + count.get(task, 0) for task in names}
        chosen.append(np.concatenate(parts))
    return chosen


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
    """Map what :func:`~recinject.samples.encoding.token_table` made of one task and split."""
    files = shards(folder, task, split, ".arrow")
    return concatenate_datasets([Dataset.from_file(str(file)) for file in files])
