"""The tasks by name: the project's own, those of installed packages, and a folder's."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.tasks.bpr import BPR
from recinject.tasks.masked_item_modelling import MaskedItemModelling
from recinject.tasks.masked_language_modelling import MaskedLanguageModelling
from recinject.tasks.ranking import Ranking
from recinject.tasks.rating import Rating
from recinject.tasks.retrieval import Retrieval
from recinject.tasks.task import Task

_HISTORY = "history"
TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (MaskedItemModelling, MaskedLanguageModelling, BPR, Retrieval, Ranking, Rating)
}


def find_tasks(folder: Path | None = None) -> dict[str, type[Task]]:
    """Return every task that a recipe may name.

    Args:
        folder: where a user keeps tasks of their own: ``NAME.py`` with the sampler beside
            ``NAME.yaml`` with its templates. A package offers its tasks by the entry point
            group ``recinject.tasks``.

    Raises:
        RecinjectError: a file cannot be imported, or holds no task of its name.
    """
    files = sorted(folder.glob("*.py")) if folder else []
    own = {file.stem: _load(file) for file in files if file.with_suffix(".yaml").is_file()}
    return {**TASKS, **_installed(), **own}


@cache
def _installed() -> dict[str, type[Task]]:
    return {entry.name: entry.load() for entry in entry_points(group="recinject.tasks")}


def _load(file: Path) -> type[Task]:
    # On the path, and not only loaded, so that the processes of a build find it too.
    if str(file.parent.resolve()) not in sys.path:
        sys.path.append(str(file.parent.resolve()))
    try:
        module = importlib.import_module(file.stem)
    except Exception as error:  # a user's file may raise anything
        raise RecinjectError(
            f"{file}: cannot be imported ({type(error).__name__}: {error})",
            hint=f"mend it; 'python {file}' shows where it fails",
        ) from error
    origin = module.__spec__.origin if module.__spec__ else None
    if origin is None or Path(origin).resolve() != file.resolve():
        raise RecinjectError(
            f"{file}: another module is called {file.stem!r}: {origin}",
            hint="rename the task and its two files",
        )
    for kind in vars(module).values():
        if (
            isinstance(kind, type)
            and issubclass(kind, Task)
            and vars(kind).get("name") == file.stem
        ):
            return kind
    raise RecinjectError(
        f"{file}: holds no task called {file.stem!r}",
        hint=f'give a subclass of recinject.tasks.task.Task with name = "{file.stem}"',
    )


def task_type(name: str, folder: Path | None = None) -> type[Task]:
    """Return the task of a name, an error where there is none; see :func:`find_tasks`.

    Every task has a slot ``history``, since prompts that are too long lose the oldest items.
    """
    known = find_tasks(folder)
    if name not in known:
        message = f"samples.tasks: unknown task {name!r}"
        raise RecinjectError(message, hint=did_you_mean(name, known))
    if _HISTORY not in known[name].slots:
        raise RecinjectError(
            f"samples.tasks: the task {name!r} has no slot {_HISTORY!r}",
            hint=f"show in a slot {_HISTORY!r} what the user took: it is what gets cut where a "
            "prompt is too long",
        )
    return known[name]
