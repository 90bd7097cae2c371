"""The registry: named things of a kind, by :func:`register`, entry points and plug-ins' files."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from recinject.foundation.errors import RecinjectError
from recinject.foundation.errors import pick as pick  # asked for beside `find`

T = TypeVar("T")

# The module whose decorators register what ships with the core; it is imported at the first look.
HOMES = {
    "reader": "recinject.data.formats",
    "split": "recinject.data.splitting",
    "identifiers": "recinject.identifiers.table",
    "quantiser": "",
    "task": "recinject.tasks.task",
    "metric": "recinject.evaluation.metrics",
    "recommender": "recinject.recommenders.baselines",
    "optimizer": "recinject.training.optimizers",
    "initialization": "recinject.models.starts",
    "adapter": "recinject.models.adapters",
    "measure": "recinject.evaluation.harm",
}
_things: dict[str, dict[str, Any]] = {kind: {} for kind in HOMES}
_plugins: dict[Path, str] = {}
_trusted: set[Path] = set()


def register(kind: str, name: str | None = None) -> Callable[[T], T]:
    """Make a decorated thing known by a name; a later one of the same name replaces it.

    Args:
        kind: one of :data:`HOMES`, such as ``"metric"`` or ``"recommender"``.
        name: how recipes and functions ask for it; the thing's own ``name`` if not given.

    Raises:
        RecinjectError: there is no such kind.

    Examples:
        >>> @register("split", "everything_is_training")
        ... def everything_is_training(log, share, seed): ...
        >>> find("split", "everything_is_training") is everything_is_training
        True
    """
    table = _things[pick(kind, _things, "register: unknown kind")]

    def keep(thing: T) -> T:
        called = name or getattr(thing, "name", None)
        if not isinstance(called, str):
            hint = f'write @register("{kind}", NAME), or give it a name'
            raise RecinjectError(f"register: the {kind} {thing!r} has no name", hint=hint)
        table[called] = thing
        return thing

    return keep


def find(kind: str, name: str, place: str | None = None) -> Any:
    """Return the thing of a kind that goes by a name; ``place`` is the recipe's key, for errors.

    Raises:
        RecinjectError: there is none, or the package that offers it cannot be imported.
    """
    _open(kind)
    if name not in _things[kind]:
        pick(name, names(kind), f"{place or kind}: unknown {kind}")
        _things[kind][name] = _load(_offered(kind)[name])
    return _things[kind][name]


def names(kind: str) -> list[str]:
    """List the names of a kind: those registered, in that order, and those that packages offer."""
    _open(kind)
    return list(dict.fromkeys([*_things[kind], *_offered(kind)]))


def load_plugin(file: str | Path) -> None:
    """Run a Python file once, so that what it registers is known here and in worker processes.

    Raises:
        RecinjectError: the file cannot be read, or it raises an error.
    """
    path = Path(file).resolve()
    if path in _plugins:
        return
    name = f"recinject_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecinjectError(f"{file}: no Python file", hint="name a file that ends in .py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        del sys.modules[name]
        fact = f"{file}: cannot be loaded ({type(error).__name__}: {error})"
        raise RecinjectError(fact, hint=f"mend it; 'python {file}' shows where it fails") from error
    _plugins[path] = name


def trust(*places: str | Path) -> None:
    """Let :func:`load_named` run these Python files, and those in these folders."""
    _trusted.update(Path(place).resolve() for place in places)


def load_named(file: Path) -> None:
    """Run a Python file that a recipe or a stored run names, if the user named it as well.

    Raises:
        RecinjectError: nobody called :func:`trust` for it or its folder, so it is not run.
    """
    path = file.resolve()
    if path not in _plugins and _trusted.isdisjoint([path, *path.parents]):
        raise RecinjectError(
            f"{file}: this is Python that only a stored run names, and it is not run",
            hint="read it; if you trust it, add --trust, or trust_code=true beside a recipe",
        )
    load_plugin(path)


def plugins() -> list[Path]:
    """List the files that :func:`load_plugin` ran, for processes that must run them too."""
    return list(_plugins)


def _open(kind: str) -> None:
    if home := HOMES[pick(kind, HOMES, "unknown kind")]:
        importlib.import_module(home)


def _offered(kind: str) -> dict[str, EntryPoint]:
    return _installed(f"recinject.{kind}", tuple(sys.path))


@lru_cache
def _installed(group: str, _: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Read the entry points of all packages, anew only where the path has changed."""
    return {entry.name: entry for entry in entry_points(group=group)}


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except ImportError as error:
        raise RecinjectError(
            f"{entry.name}: {entry.value} cannot be imported ({error})",
            hint="install the package that offers it anew, with the extra that it needs",
        ) from error
