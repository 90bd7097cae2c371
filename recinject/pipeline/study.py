"""What more training data buys: the same run on shares of its training events, and other heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from recinject.evaluation.metrics import MetricResult
from recinject.foundation.errors import RecinjectError
from recinject.foundation.storage import read_json
from recinject.pipeline.parts import part_of
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import Run
from recinject.reporting.inputs import LANGUAGE_MODEL, SharePoint


def parts(recipe: Recipe) -> list[Run]:
    """Return the runs that a recipe's study has beside its own: by share, then by head.

    Steps fall with the square root of the share, so that fewer samples are seen more often, but
    not as much more often as there are fewer of them.

    Raises:
        RecinjectError: the length of the training is not counted in steps.
    """
    if recipe.study is None:
        return []
    heads = list(dict.fromkeys([recipe.model.head, *recipe.study.heads]))
    pairs = [(share, head) for share in sorted({*recipe.study.shares, 1.0}) for head in heads]
    own = (1.0, recipe.model.head)
    return [_part(recipe, *pair) for pair in pairs if pair != own]


def _part(recipe: Recipe, share: float, head: str) -> Run:
    content = recipe.model_dump(mode="json")
    content["data"]["train_share"] = share * recipe.data.train_share
    content["model"]["head"] = head
    content["evaluation"] |= {"reworded": False, "shuffled": False}
    if head != recipe.model.head:
        content["evaluation"]["baselines"] = []
    if recipe.training is not None:
        content["training"] |= _shortened(recipe.training.arguments, share**0.5)
    return part_of(recipe, f"{head}-{share:g}", content | {"study": None})


def _shortened(arguments: dict[str, Any], factor: float) -> dict[str, int]:
    if not isinstance(arguments.get("max_steps"), int) or arguments["max_steps"] < 1:
        raise RecinjectError(
            "study: the length of each of its trainings is counted in steps",
            hint="set training.max_steps=STEPS, those of the training on all events",
        )
    counted = {key: arguments.get(key, 0) for key in ("max_steps", "warmup_steps")}
    return {k: max(1, round(n * factor)) for k, n in counted.items() if isinstance(n, int) and n}


def points(run: Run) -> list[SharePoint]:
    """Return what everybody scored on each share, in a study that is evaluated."""
    if run.recipe.study is None:
        return []
    runs = [*parts(run.recipe), run]
    return [point for part in runs for point in _points(part, run.recipe)]


def _points(part: Run, whole: Recipe) -> Iterator[SharePoint]:
    share = part.recipe.data.train_share / whole.data.train_share
    for row in read_json(part.folder("evaluation") / "metrics.json"):
        result, head = MetricResult(**row), part.recipe.model.head
        if result.recommender == LANGUAGE_MODEL and head != whole.model.head:
            result = replace(result, recommender=f"{LANGUAGE_MODEL}_{head}")
        if not result.recommender.endswith(("_reworded", "_shuffled")):
            yield SharePoint(share, result)
