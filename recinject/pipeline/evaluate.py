"""Evaluate: the model, if there is one, and the baselines answer the same stored queries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from recinject.evaluation.evaluate import Evaluation, EvaluationSettings, fit_recommenders
from recinject.models.storing import load_trained
from recinject.pipeline.model import base_model
from recinject.pipeline.run import Facts, Run, hash_local, is_first_process
from recinject.pipeline.sections import MOST_EXAMPLES
from recinject.pipeline.train import train
from recinject.recommenders.language_model import LanguageModel
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
        "model": recipe.model.model_dump(),
        "generation": recipe.generation,
    }
    if recipe.training is None:
        inputs = {**run.fingerprints("samples"), **hash_local(recipe.model.name)}
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
    fitted = fit_recommenders(baselines, run.data, recipe.seed)
    recommenders: Sequence[Recommender] = [*([model] if model else []), *fitted]
    settings = EvaluationSettings(
        list_length=section.beams,
        seed=recipe.seed,
        generation=recipe.generation,
        examples=MOST_EXAMPLES,
        **section.model_dump(exclude={"baselines", "beams", "batch_size"}),
    )
    evaluation = Evaluation(recommenders, run.data, run.samples, settings)
    evaluation.run()
    Result.from_rows(evaluation.rows, evaluation.predictions).save(folder)
    return {"parameters": model.parameters} if model else {}
