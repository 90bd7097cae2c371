"""Every task over small logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from recinject.data.splitting import View
from recinject.foundation.ragged import Ragged
from recinject.foundation.randomness import Chance, combine, derive_bits
from recinject.tasks.task import Keys, Task
from recinject.templating.writers import Contexts


class Sample(NamedTuple):
    """One sample of a batch, in lists."""

    user: int
    slots: dict[str, list[int]]
    ratings: list[float] | None
    hidden: list[bool] | None
    target: int | None
    label: float | None

    @property
    def items(self) -> set[int]:
        """Every item that the sample names."""
        return {item for items in self.slots.values() for item in items}


def _batch(
    task: Task, view: View, users: Any = None, indices: Any = 0, seeds: Any = 0, words: Any = 2
) -> Contexts:
    if users is None:
        counts = task.count(view)
        users = np.repeat(np.arange(len(counts)), counts)
        indices = Ragged.from_lengths(users, counts).places
    columns = (np.asarray(column, np.int64) for column in (users, indices, seeds))
    users, indices, seeds = np.broadcast_arrays(*columns)
    ids = view.interactions.user_ids
    bits = [
        derive_bits(seed, task.name, view.part.label, ids[user])
        for seed, user in zip(seeds.tolist(), users.tolist(), strict=True)
    ]
    chance = Chance(combine(np.array(bits, np.uint64), indices))
    lengths = np.broadcast_to(np.asarray(words, np.int32), view.interactions.n_items)
    return task.sample(view, Keys(users, indices, chance), lengths)


def _contexts(*arguments: Any, **options: Any) -> list[Sample]:
    batch = _batch(*arguments, **options)
    n = len(batch)
    columns = {name: items.to_list() for name, items in batch.slots.items()}
    assert all(len(column) == n for column in columns.values())
    rows = [{name: column[row] for name, column in columns.items()} for row in range(n)]
    others = [
        [None] * n if column is None else column
        for column in (
            batch.ratings and batch.ratings.to_list(),
            batch.hidden and batch.hidden.to_list(),
            None if batch.targets is None else batch.targets.tolist(),
            None if batch.labels is None else batch.labels.tolist(),
        )
    ]
    return [Sample(*row) for row in zip(batch.users.tolist(), rows, *others, strict=True)]


@pytest.fixture(scope="session")
def batch() -> Callable[..., Contexts]:
    """Draw samples of a task in a view at once, by default every one.

    Users, indices and seeds are numbers or lists of them; so are ``words``, how many words each
    item's phrase has.
    """
    return _batch


@pytest.fixture(scope="session")
def contexts() -> Callable[..., list[Sample]]:
    """Draw the same samples as ``batch``, and return them one by one."""
    return _contexts
