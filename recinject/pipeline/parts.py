"""Runs that are parts of another: in its folder, each with a recipe beside its stages."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from recinject.foundation.storage import RunManifest, atomic_folder
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import Run, is_first_process

_SHARED = ("data", "identifiers", "samples")


def part_of(recipe: Recipe, name: str, content: Mapping[str, Any]) -> Run:
    """Return the run in a recipe's folder that has this name and these sections."""
    own = Recipe.model_validate({**content, "name": name, "runs": str(recipe.folder)})
    return Run(own, shlex.join(["recinject", "run", str(_recipe_file(own))]))


def prepare_part(part: Run, source: Run | None) -> None:
    """Write a part's recipe, and give it the samples of another part and what they were made from.

    The same samples, tokenizer and thus first weights are what a comparison of the two rests on.
    """
    if not is_first_process():
        return
    part.recipe.folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(part.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    header = (
        f"# A part of the run in {part.recipe.runs}; recinject run on this file reports on it.\n"
    )
    _recipe_file(part.recipe).write_text(header + text, encoding="utf-8")
    if source is not None:
        for stage in _SHARED:
            _share(stage, source, part)


def _recipe_file(recipe: Recipe) -> Path:
    return recipe.folder / "recipe.yaml"


def _share(stage: str, source: Run, target: Run) -> None:
    made, found = source.manifest(stage), RunManifest.read(target.folder(stage))
    if found is None or found.fingerprint != made.fingerprint:
        with atomic_folder(target.folder(stage)) as folder:
            shutil.copytree(source.folder(stage), folder, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    with suppress(OSError):  # not every disk has hard links
        os.link(source, target)
        return
    shutil.copy2(source, target)
