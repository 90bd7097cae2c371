"""Recommend: what a finished run suggests to somebody who liked a few items."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recinject.evaluation.evaluate import fit_recommenders
from recinject.foundation.errors import RecinjectError
from recinject.pipeline.evaluate import model_of
from recinject.pipeline.run import Run
from recinject.recommenders.protocol import Recommender, make_recommender


def recommender_of(run: Run, name: str | None = None) -> Recommender:
    """Return a recommender of a finished run: its model, or a baseline that is fitted now.

    Args:
        run: a run with data, and a model where that is asked for.
        name: of a baseline; None takes the model.

    Raises:
        RecinjectError: the run has no trained model that knows what comes next.
    """
    if name is not None:
        return fit_recommenders([make_recommender(name)], run.data, run.recipe.seed)[0]
    if run.recipe.training is None or not (run.folder("model") / "manifest.json").is_file():
        raise RecinjectError(
            f"{run.recipe.folder}: no trained model in it",
            hint="finish the run with recinject run RECIPE, its training not null; or ask a "
            "baseline with --recommender ease",
        )
    if not any(task.answer == "retrieval" for task in run.samples.bound_tasks()):
        raise RecinjectError(
            f"{run.recipe.folder}: its model was never asked what comes next: it lacks the task "
            "retrieval",
            hint="run it again with samples.tasks.retrieval={}",
        )
    model = model_of(run)
    assert model is not None
    return model


def recommend(
    recommender: Recommender, histories: Sequence[Sequence[str]], k: int
) -> list[list[dict[str, Any]]]:
    """Return the recommended items of each history, best first, as plain rows."""
    frame = recommender.recommend(histories, k)
    rows = frame.drop(columns="query").to_dict("records")
    found: list[list[dict[str, Any]]] = [[] for _ in histories]
    for query, row in zip(frame["query"], rows, strict=True):
        found[query].append({str(name): value for name, value in row.items()})
    return found


def read_questions(source: Path | None, liked: Sequence[str] | None) -> list[dict[str, Any]]:
    """Read JSON lines, each with a list of titles or ids under ``liked``; other keys are kept.

    Args:
        source: the file; ``-`` is standard input.
        liked: the one list, in place of a file.

    Raises:
        RecinjectError: both or neither are given, no such file, or a line that is not of this form.
    """
    if source is None and liked:
        return [{"liked": list(liked)}]
    if source is None or liked:
        raise RecinjectError(
            f"recommend: {'both' if liked else 'neither'} of --liked and --input given",
            hint='name what was liked with --liked "Title", or a file of JSON lines with --input',
        )
    try:
        text = sys.stdin.read() if str(source) == "-" else source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecinjectError(
            f"{source}: cannot be read ({error})", hint="give a text file that you may read, or -"
        ) from error
    return [
        _question(line, f"{source}, line {number}")
        for number, line in enumerate(text.split("\n"), 1)  # a title may hold U+2028
        if line.strip()
    ]


def _question(line: str, place: str) -> dict[str, Any]:
    try:
        row: Any = json.loads(line)
        fact = "no list of titles or ids under 'liked'"
    except json.JSONDecodeError as error:
        row, fact = None, f"not JSON: {error}"
    if isinstance(row, dict):
        liked = row.get("liked")
        if isinstance(liked, list) and liked and all(isinstance(text, str) for text in liked):
            return row
    raise RecinjectError(
        f"{place}: {fact}", hint='write one object a line: {"liked": ["Title", "Other title"]}'
    )
