"""Every task over small logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from recinject.data.splitting import Part, View
from recinject.foundation.randomness import derive_rng
from recinject.tasks.task import Task
from recinject.templating.context import Context


@pytest.fixture(scope="session")
def contexts() -> Callable[..., Iterator[Context]]:
    """Give every sample of a task in a view; each item's phrase has two words."""

    def all_contexts(task: Task, view: View, seed: int = 0) -> Iterator[Context]:
        words = np.full(view.interactions.n_items, 2, np.int32)
        for user, count in enumerate(task.count(view)):
            for index in range(count):
                rng = derive_rng(seed, task.name, Part(view.part).label, user, index)
                yield task.sample(view, user, index, rng, words)

    return all_contexts
