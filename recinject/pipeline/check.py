"""Check and preview: what a run would do, without writing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from recinject.foundation.errors import RecinjectError, pick
from recinject.pipeline.prepare import factory_of, fresh_data, given_tokenizer
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import Run
from recinject.pipeline.sections import TrainingSection
from recinject.registry import names
from recinject.samples.builder import Sample
from recinject.samples.tokenizer import encode, train_tokenizer


def check_settings(recipe: Recipe) -> None:
    """Bind every setting to what it is for, so that no mistake waits for the last stage.

    Raises:
        RecinjectError: a setting is unknown, of the wrong kind, or cannot be met here.
    """
    # With these comes torch, which a preview can do without.
    from recinject.models.building import check_generation
    from recinject.pipeline.model import base_model, check_adapted
    from recinject.pipeline.sweep import plan
    from recinject.recommenders.protocol import make_recommender
    from recinject.training.arguments import check_training_settings
    from recinject.training.optimizers import check_optimizer, choose_optimizer

    if recipe.sweep is not None:
        for member in {each.arm: each for each in plan(recipe)}.values():
            check_settings(member.run.recipe)
    pick(recipe.data.split, names("split"), "data.split: unknown")
    for asked in recipe.evaluation.baselines:
        make_recommender(asked)
    _check_writable(recipe)
    check_generation(recipe.generation)
    if recipe.training is not None:
        check_training_settings(recipe.training.arguments)
        choose_optimizer(recipe.training.optimizer, 0.0, recipe.training.optimizer_settings)
        _check_mixture(recipe.training, [task.name for task in recipe.tasks()])
    source = recipe.model.tokenizer or recipe.model.name
    tokenizer = given_tokenizer(source) or train_tokenizer([], recipe.model.vocab_size)
    if not recipe.has_model:
        return
    model = check_adapted(recipe, base_model(recipe, tokenizer))
    if recipe.training is not None:
        check_optimizer(recipe.training.optimizer, recipe.training.optimizer_settings, model)


def _check_mixture(training: TrainingSection, tasks: Sequence[str]) -> None:
    named = {"training.mixture": list(training.mixture)}
    for number, phase in enumerate(training.curriculum, 1):
        named[f"training.curriculum, phase {number}"] = [*phase.tasks, *phase.mixture]
    for place, given in named.items():
        for task in given:
            pick(task, tasks, f"{place}: the run has no task")


def _check_writable(recipe: Recipe) -> None:
    nearest = next(
        folder for folder in (recipe.folder, *recipe.folder.absolute().parents) if folder.exists()
    )
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise RecinjectError(
            f"{recipe.folder}: {nearest} cannot be written to",
            hint="choose another place with runs=FOLDER, or mend the permissions",
        )


def check_run(run: Run) -> Iterator[str]:
    """Check the settings, read the log and render every template; say what was found.

    Raises:
        RecinjectError: see :func:`check_settings`; or the log or a template is at fault. Of a
            log's file everything that is wrong is said at once.
    """
    from recinject.models.building import count_parameters
    from recinject.pipeline.model import base_model

    check_settings(run.recipe)
    yield "settings: every key is bound"
    recipe = run.recipe
    data = fresh_data(run)
    for step in data.cleaning:
        counts = f"{step.users:,} users, {step.items:,} items, {step.events:,} events"
        yield f"log, {step.name}: {counts} ({step.detail})"
    log = data.split.interactions
    yield f"log: {log.n_users:,} users, {log.n_items:,} items, {len(log):,} events"
    factory = factory_of(recipe, data)
    for builder in factory.builders():
        if not len(builder):
            yield f"{builder.task.name} ({builder.split}): no sample"
            continue
        contexts = builder.batch(np.arange(1)).contexts
        for template in builder.wording.bound:
            template.write(contexts)
        yield f"{builder.task.name} ({builder.split}): {len(builder):,} samples"
    if not recipe.has_model:
        yield "model: none, the baselines are evaluated alone"
        return

    model = base_model(recipe, factory.tokenizer)
    size = factory.tokenizer.get_vocab_size()
    yield f"model: {count_parameters(model)[1]:,} parameters, {size:,} tokens"


def preview_samples(
    run: Run, task: str | None, count: int
) -> Iterator[tuple[Sample, tuple[int, int]]]:
    """Yield samples with the number of tokens of their prompts and of their completions.

    There are ``count`` of each split, evenly over its users, of one task, or of all where it is
    None.
    """
    factory = factory_of(run.recipe, fresh_data(run))
    if task is not None:
        pick(task, factory.wordings, "--task: not among the run's tasks")
    for builder in factory.builders():
        if task in (None, builder.task.name):
            step = max(1, len(builder) // count)
            for number in range(0, min(len(builder), step * count), step):
                sample = builder.sample(number)
                texts = [sample.prompt, sample.completion]
                prompt, completion = encode(factory.tokenizer, texts).lengths.tolist()
                yield sample, (prompt, completion)
