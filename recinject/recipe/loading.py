"""Recipes from files, with settings laid over them, checked key by key before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.storage import shipped_folder
from recinject.foundation.yaml_reader import load_yaml
from recinject.recipe.recipe import Recipe
from recinject.recipe.refusals import explain
from recinject.tasks.registry import TASKS, find_tasks


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that ship with the package, by name."""
    return {path.stem: path for path in sorted(shipped_folder("recipes").glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by path or by shipped name.

    Raises:
        RecinjectError: there is none.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise RecinjectError(
            f"{path}: no such recipe file",
            hint="check the path, or copy a shipped recipe to it with 'recinject cp'; shipped: "
            + ", ".join(shipped_recipes()),
        )
    if name not in shipped_recipes():
        raise RecinjectError(
            f"no recipe is called {name!r}",
            hint=f"give a .yaml file or a shipped name. {did_you_mean(name, shipped_recipes())}",
        )
    return shipped_recipes()[name]


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe, lay ``key=value`` overrides over it, and check every key.

    Args:
        name: a path of a YAML file, or a shipped recipe's name.
        overrides: such as ``data.path=log.csv`` or ``training.max_steps=100``; values are YAML.

    Raises:
        RecinjectError: no such recipe, an unknown key (the nearest legal one is named), or a
            value of the wrong kind.
    """
    path = find_recipe(name)
    content = _read(path)
    for override in overrides:
        _lay_over(content, override)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise explain(error, f"{path.name}: ", Recipe) from error
    _check_samples(recipe)
    return recipe


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise RecinjectError(f"{path}: not YAML: {error}", hint="mend the line it names") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecinjectError(
            f"{path}: cannot be read ({error})", hint="give a text file that you may read"
        ) from error
    if not isinstance(content, dict):
        raise RecinjectError(f"{path}: not a recipe", hint="a recipe is sections of keys: values")
    content.setdefault("name", path.stem)
    samples = content.setdefault("samples", {})
    if isinstance(samples, dict):
        # Written out, so that overriding one task leaves the others as they are.
        samples.setdefault("tasks", {task: {} for task in TASKS})
    return content


def _check_samples(recipe: Recipe) -> None:
    folder = recipe.samples.prompts
    if folder is not None and not folder.is_dir():
        raise RecinjectError(
            f"samples.prompts: {folder} is no folder",
            hint="give a folder with files named as the tasks, such as retrieval.yaml",
        )
    tasks = find_tasks(folder)
    if not recipe.tasks():
        raise RecinjectError("samples.tasks: every task is left out", hint=did_you_mean("", tasks))
    slots = {slot for task in tasks.values() for slot in task.slots}
    for slot in sorted(recipe.samples.phrases.keys() - slots):
        raise RecinjectError(
            f"samples.phrases: no task has a slot {slot!r}", hint=did_you_mean(slot, slots)
        )
    for file in sorted(folder.glob("*.yaml")) if folder else ():
        if file.stem not in tasks:
            raise RecinjectError(
                f"{file}: no task is called {file.stem!r}, and no {file.stem}.py is beside it",
                hint=did_you_mean(file.stem, tasks),
            )


def _lay_over(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecinjectError(
            f"{override!r} is no override", hint="write key=value, e.g. data.path=log.csv"
        )
    *sections, last = key.split(".")
    for section in sections:
        if content.get(section) is None:
            content[section] = {}
        content = content[section]
        if not isinstance(content, dict):
            raise RecinjectError(f"{key}: {section!r} has no keys below it", hint="shorten the key")
    try:
        content[last] = load_yaml(value)
    except yaml.YAMLError as error:
        if "{{" not in value:
            raise RecinjectError(
                f"{override!r}: the value is not YAML",
                hint="close its brackets; text with signs of YAML needs quotes inside the shell's",
            ) from error
        content[last] = value  # a phrase in Jinja, whose braces are a broken mapping to YAML
