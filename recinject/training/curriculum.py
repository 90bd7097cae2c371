"""Which task is trained on when: shares of an epoch, and phases of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recinject.foundation.randomness import derive_rng
from recinject.training.batches import order_by_length

Rows = NDArray[np.int64]


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

    Examples:
        >>> task_rates({"retrieval": 900, "bpr": 100}, temperature=2)
        {'retrieval': 30.0, 'bpr': 10.0}
    """
    counted = {task: min(size, cap or size) for task, size in sizes.items() if size}
    return {task: float(size ** (1 / temperature)) for task, size in counted.items()}


def share_out(total: int, shares: Sequence[float]) -> list[int]:
    """Divide a whole number in proportion to shares; the largest remainders are rounded up.

    Examples:
        >>> share_out(10, [1, 1, 1])
        [4, 3, 3]
    """
    exact = total * np.asarray(shares, float) / np.sum(shares)
    whole = np.floor(exact).astype(np.int64)
    missing = total - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    return [int(count) for count in whole]


def order_by_phase(
    tasks: Rows,
    names: Sequence[str],
    lengths: Rows,
    phases: Sequence[Phase],
    steps: int,
    batch_size: int,
    seed: int,
) -> Rows:
    """Choose and order the rows of a whole training, phase after phase.

    A task that comes in several phases goes on where it stopped: none of its rows is taken
    again before all have been. Within a phase, the rows of a batch are of like length.

    Args:
        tasks: the number of each row's task, shape (n,).
        names: the name of each task's number.
        lengths: tokens of each row's prompt, shape (n,).
        phases: in their order; each names tasks that have rows.
        steps: optimizer steps of the run.
        batch_size: rows that one step reads, over all devices.
        seed: of the order.

    Returns:
        Row numbers, shape (steps * batch_size,).
    """
    phase_steps = share_out(steps, [phase.share for phase in phases])
    counts = [
        dict(zip(phase.rates, share_out(n * batch_size, list(phase.rates.values())), strict=True))
        for phase, n in zip(phases, phase_steps, strict=True)
    ]
    queues = {
        name: _passes(np.flatnonzero(tasks == number), sum(c.get(name, 0) for c in counts), seed)
        for number, name in enumerate(names)
    }
    taken = dict.fromkeys(names, 0)
    parts = []
    for number, wanted in enumerate(counts):
        rows = [queues[task][taken[task] : taken[task] + n] for task, n in wanted.items()]
        taken = {task: taken[task] + wanted.get(task, 0) for task in names}
        mixed, chance = np.concatenate(rows), derive_rng(seed, "phase", number)
        if len(mixed):
            parts.append(mixed[order_by_length(lengths[mixed].tolist(), batch_size, chance)])
    return np.concatenate(parts)


def _passes(rows: Rows, count: int, seed: int) -> Rows:
    first = int(rows[0]) if len(rows) else 0
    passes = [
        derive_rng(seed, "curriculum", first, number).permutation(rows)
        for number in range(-(-count // max(1, len(rows))))
    ]
    return np.concatenate([rows[:0], *passes])[:count]
