"""Evaluate: the model and the baselines answer stored queries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from recinject.evaluation.evaluate import Evaluation, EvaluationSettings
from recinject.evaluation.fitting import fit_baselines
from recinject.models.storing import load_trained
from recinject.pipeline.model import base_model
from recinject.pipeline.run import Facts, Run, hash_local, is_first_process
from recinject.pipeline.sections import MOST_EXAMPLES
from recinject.pipeline.train import train
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.oracle import Oracle
from recinject.recommenders.protocol import Recommender, make_recommender
from recinject.reporting.result import Result

_WHERE = {"workers", "gpus"}  # they change where prompts are read, and no answer


def evaluate(run: Run) -> None:
    """Make the folder ``evaluation``, and before it what it needs."""
    train(run)
    if not is_first_process():
        return
    recipe = run.recipe
    settings = {
        **recipe.evaluation.model_dump(exclude=_WHERE),
        "model": run.resolved.model.model_dump(),
        "generation": recipe.generation,
    }
    if recipe.training is None:
        inputs = {**run.fingerprints("samples"), **hash_local(run.resolved.model.name)}
    else:
        inputs = run.fingerprints("samples", "model")
    run.stage("evaluation", settings, inputs).run_here(partial(_evaluate, run))


def model_of(run: Run, batch_size: int | None = None) -> LanguageModel | None:
    """Return the model of a run, trained or as it is, as a recommender; None if it has none.

    ``batch_size`` is how many prompts are searched together; the recipe's if not given.
    """
    if not run.recipe.has_model:
        return None
    if run.recipe.training is None:
        model = base_model(run.recipe, run.samples.tokenizer).eval()
    else:
        model = load_trained(run.sealed("model"))[0]
    section = run.recipe.evaluation
    rows = (batch_size or section.batch_size) * section.beams
    return LanguageModel.of_samples(model, run.samples, beams=section.beams, rows_at_once=rows)


def _evaluate(run: Run, folder: Path) -> Facts:
    section, recipe = run.recipe.evaluation, run.recipe
    model = model_of(run)
    baselines = [make_recommender(asked) for asked in section.baselines]
    if recipe.data.path is None and run.log is None and baselines:
        baselines.append(Oracle(**recipe.data.simulator.model_dump(), seed=recipe.seed))
    own = section.model_dump(exclude={"baselines", "beams", "batch_size", *_WHERE})
    own |= {"list_length": section.beams, "seed": recipe.seed, "examples": MOST_EXAMPLES}
    settings = EvaluationSettings(**own, generation=recipe.generation)
    samples = run.samples
    models = [model] if model else []
    fitted, chosen = fit_baselines(baselines, run.data, samples, settings, models)
    recommenders: Sequence[Recommender] = [*models, *fitted]
    evaluation = Evaluation(
        recommenders,
        run.data,
        samples,
        settings,
        engine=run.engine(section.workers, section.gpus),
    )
    evaluation.rows["audit"] += chosen
    evaluation.run()
    Result.from_rows(evaluation.rows, evaluation.predictions).save(folder)
    return {"parameters": model.parameters} if model else {}
