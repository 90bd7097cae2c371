"""Evaluate and recommend: the model and the baselines answer stored queries, or a person's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recinject.evaluation.evaluate import Evaluation, EvaluationSettings, fit_recommenders
from recinject.evaluation.fitting import fit_baselines
from recinject.evaluation.fusion import Fusion
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.models.storing import load_trained
from recinject.pipeline.model import base_model
from recinject.pipeline.run import Facts, Run, hash_local, is_first_process
from recinject.pipeline.sections import MOST_EXAMPLES
from recinject.pipeline.train import train
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.oracle import Oracle
from recinject.recommenders.protocol import Recommender, make_recommender
from recinject.reporting.result import Result


def evaluate(run: Run) -> None:
    """Make the folder ``evaluation``, and before it what it needs."""
    train(run)
    if not is_first_process():
        return
    recipe = run.recipe
    settings = {
        **recipe.evaluation.model_dump(),
        "model": run.resolved.model.model_dump(),
        "generation": recipe.generation,
    }
    if recipe.training is None:
        inputs = {**run.fingerprints("samples"), **hash_local(run.resolved.model.name)}
    else:
        inputs = run.fingerprints("samples", "model")
    run.stage("evaluation", settings, inputs).run_here(partial(_evaluate, run))


def model_of(run: Run) -> LanguageModel | None:
    """Return the model of a run, trained or as it is, as a recommender; None if it has none."""
    if not run.recipe.has_model:
        return None
    if run.recipe.training is None:
        model = base_model(run.recipe, run.samples.tokenizer).eval()
    else:
        model = load_trained(run.folder("model"))[0]
    section = run.recipe.evaluation
    rows = section.batch_size * section.beams
    return LanguageModel.of_samples(model, run.samples, beams=section.beams, rows_at_once=rows)


def _evaluate(run: Run, folder: Path) -> Facts:
    section, recipe = run.recipe.evaluation, run.recipe
    model = model_of(run)
    baselines = [make_recommender(asked) for asked in section.baselines]
    if recipe.data.path is None and run.log is None and baselines:
        baselines.append(Oracle(**recipe.data.simulator.model_dump(), seed=recipe.seed))
    own = section.model_dump(exclude={"baselines", "beams", "batch_size"})
    own |= {"list_length": section.beams, "seed": recipe.seed, "examples": MOST_EXAMPLES}
    settings = EvaluationSettings(**own, generation=recipe.generation)
    samples = run.samples
    models = [model] if model else []
    fitted, chosen = fit_baselines(baselines, run.data, samples, settings, models)
    recommenders: Sequence[Recommender] = [*models, *fitted]
    evaluation = Evaluation(recommenders, run.data, samples, settings)
    evaluation.rows["audit"] += chosen
    evaluation.run()
    Result.from_rows(evaluation.rows, evaluation.predictions).save(folder)
    return {"parameters": model.parameters} if model else {}


def recommender_of(run: Run, name: str | None = None) -> Recommender:
    """Return a finished run's model, or the baseline of a name, which is fitted now."""
    if name is not None:
        every = [make_recommender(asked) for asked in run.recipe.evaluation.baselines]
        made = next((each for each in every if each.name == name), None) or make_recommender(name)
        if not isinstance(made, Fusion):
            return fit_recommenders([made], run.data, run.recipe.seed)[0]
        model, settings = model_of(run), EvaluationSettings(seed=run.recipe.seed)
        return fit_baselines([made], run.data, run.samples, settings, [model] if model else [])[0][
            0
        ]
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
    """Return the recommended items of each history, best first, as plain rows.

    Where fewer than ``k`` items are left beside a history, that is said.
    """
    frame = recommender.recommend(histories, k)
    rows = frame.drop(columns="query").to_dict("records")
    found: list[list[dict[str, Any]]] = [[] for _ in histories]
    for query, row in zip(frame["query"], rows, strict=True):
        found[query].append({str(name): value for name, value in row.items()})
    for query, listed in enumerate(found):
        if len(listed) < k:
            say(f"list {query + 1}: {len(listed)} items, for no more are left beside the history")
    return found


def read_questions(source: Path | None, liked: Sequence[str] | None) -> list[dict[str, Any]]:
    """Read JSON lines, each with a list of titles or ids under ``liked``; other keys are kept.

    The ``source`` ``-`` is standard input; ``liked`` is the one list, in place of a file.
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
        hint = "give a text file that you may read, or -"
        raise RecinjectError(f"{source}: cannot be read ({error})", hint=hint) from error
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
    hint = 'write one object a line: {"liked": ["Title", "Other title"]}'
    raise RecinjectError(f"{place}: {fact}", hint=hint)
