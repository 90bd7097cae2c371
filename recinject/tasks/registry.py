"""The tasks by name."""

from __future__ import annotations

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.tasks.bpr import BPR
from recinject.tasks.masked_item_modelling import MaskedItemModelling
from recinject.tasks.masked_language_modelling import MaskedLanguageModelling
from recinject.tasks.ranking import Ranking
from recinject.tasks.rating import Rating
from recinject.tasks.retrieval import Retrieval
from recinject.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (MaskedItemModelling, MaskedLanguageModelling, BPR, Retrieval, Ranking, Rating)
}


def task_type(name: str) -> type[Task]:
    """Return the task of a name.

    Raises:
        RecinjectError: there is none.
    """
    if name not in TASKS:
        message = f"samples.tasks: unknown task {name!r}"
        raise RecinjectError(message, hint=did_you_mean(name, TASKS))
    return TASKS[name]
