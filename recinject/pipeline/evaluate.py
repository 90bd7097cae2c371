"""Evaluate: the model, if there is one, and the baselines answer the same stored queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recinject.evaluation.evaluate import Evaluation, EvaluationSettings, fit_recommenders
from recinject.models.storing import load_trained
from recinject.pipeline.model import base_model
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import Facts, Run, hash_local, is_first_process
from recinject.pipeline.sections import MOST_EXAMPLES
from recinject.pipeline.train import train
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Recommender, make_recommender
from recinject.reporting.result import Result
from recinject.samples.samples import Samples


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
    run.stage("evaluation", settings, inputs).run_here(lambda folder: _evaluate(run, folder))


def language_model(
    recipe: Recipe, samples: Samples, folder: Path | None, name: str = "language_model"
) -> LanguageModel:
    """Return a recipe's model as a recommender.

    Args:
        recipe: says which model, and how many beams it searches by.
        samples: those that it was trained on, or is asked as they ask.
        folder: of the trained model; None takes the model as it is before training.
        name: what results call it.
    """
    if folder is None:
        model = base_model(recipe, samples.tokenizer).eval()
    else:
        model = load_trained(folder)[0]
    section = recipe.evaluation
    rows = section.batch_size * section.beams
    return LanguageModel.of_samples(
        model, samples, beams=section.beams, rows_at_once=rows, name=name
    )


def model_of(run: Run) -> LanguageModel | None:
    """Return the model of a run as a recommender; None where the run has none."""
    if not run.recipe.has_model:
        return None
    trained = None if run.recipe.training is None else run.folder("model")
    return language_model(run.recipe, run.samples, trained)


def _evaluate(run: Run, folder: Path) -> Facts:
    section, recipe = run.recipe.evaluation, run.recipe
    model = model_of(run)
    baselines = [make_recommender(asked) for asked in section.baselines]
    fitted = fit_recommenders(baselines, run.data, recipe.seed)
    recommenders: Sequence[Recommender] = [*([model] if model else []), *fitted]
    settings = EvaluationSettings(
        list_length=section.beams,
        cutoffs=section.cutoffs,
        resamples=section.resamples,
        seed=recipe.seed,
        limit=section.limit,
        reworded=section.reworded,
        shuffled=section.shuffled,
        generate=section.generate,
        generation=recipe.generation,
        cold_share=section.cold_share,
        examples=MOST_EXAMPLES,
    )
    evaluation = Evaluation(recommenders, run.data, run.samples, settings)
    evaluation.run()
    Result.from_rows(evaluation.rows, evaluation.predictions).save(folder)
    return {"parameters": model.parameters} if model else {}
