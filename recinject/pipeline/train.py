"""Train: the model, fine-tuned on the mixture of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from recinject.data.schema import Integers
from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.foundation.seals import seal_file
from recinject.pipeline.model import adapter_folder, make_untrained, sample_batches
from recinject.pipeline.prepare import build
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import Facts, Run, hash_local, is_first_process
from recinject.pipeline.sections import TrainingSection
from recinject.samples.mixture import (
    Phase,
    mix_tasks,
    mixture_counts,
    task_rates,
    validation_samples,
)
from recinject.samples.samples import Samples

if TYPE_CHECKING:
    from datasets import Dataset

    from recinject.models.adapters import Model
    from recinject.training.trainer import ItemRanks


def train(run: Run) -> None:
    """Make the folder ``model``; with ``training: null`` there is nothing to make."""
    build(run)
    recipe, training = run.recipe, run.recipe.training
    if training is None:
        what = "the model is evaluated as it is" if recipe.has_model else "there is no model"
        say(f"training: null, {what}")
        return
    settings = {
        **training.model_dump(),
        "model": run.resolved.model.model_dump(),
        "lora": recipe.lora and recipe.lora.model_dump(),
        "experts": recipe.experts,
        "start": (start := run.resolved.identifiers.start),
    }
    vectors = hash_local(start) if isinstance(start, str) else {}
    inputs = {**run.fingerprints("samples"), **hash_local(run.resolved.model.name), **vectors}
    stage = run.stage("model", settings, inputs)
    # A changed setting must not resume from what another one trained.
    checkpoints = run.folder("training") / "checkpoints" / stage.wanted.fingerprint
    log = run.folder("training") / "log.jsonl"

    def make(folder: Path) -> Facts:
        from recinject.models.storing import save_trained

        model, facts = fine_tune(recipe, run.samples, checkpoints, log)
        save_trained(model, run.samples.tokenizer, folder, adapter_folder(recipe, checkpoints))
        return facts | {"log": seal_file(log)}

    if is_first_process():
        stage.run_here(make)
    elif not stage.is_done:
        fine_tune(recipe, run.samples, checkpoints, log)


def fine_tune(
    recipe: Recipe, samples: Samples, checkpoints: Path, log: Path
) -> tuple[Model, Facts]:
    """Train a recipe's model on samples, going on from the newest whole checkpoint.

    The folder ``checkpoints`` belongs to these settings alone; ``log`` holds losses in JSON lines.

    Returns:
        The trained model, with the number of its parameters and of those that were trained.
    """
    from recinject.models.adapters import adaptation_of
    from recinject.models.building import count_parameters
    from recinject.pipeline.distil import find_soft_labels
    from recinject.training.fitting import fit

    training, tokenizer = recipe.training or TrainingSection(), samples.tokenizer
    phases = curriculum(training, samples.sizes)
    soft, places = None, None
    if training.distil is not None:
        soft, places = find_soft_labels(training.distil, samples, recipe.seed)
    train_set, validation_set, names = _datasets(recipe, training, samples, phases, places)
    make = partial(make_untrained, recipe, samples, train_set, names, checkpoints)
    trained = make()
    trainable, total = count_parameters(trained)
    if is_first_process():
        say(f"  {trainable:,} of {total:,} parameters train on {len(train_set):,} samples an epoch")
    trained = fit(
        *(trained, tokenizer, train_set, validation_set, training.arguments, checkpoints, log),
        *(recipe.seed, training.optimizer),
        task_names=names,
        phases=phases,
        rebuild=make,
        optimizer_settings=training.optimizer_settings,
        soft_labels=soft,
        ranks=_ranks(samples, names) if recipe.model.head == "text" else None,
    )
    facts = {"trainable": trainable, "parameters": total}
    show = partial(sample_batches, trained, tokenizer, train_set, recipe.seed)
    return trained, facts | adaptation_of(trained).facts(names, show)


def _ranks(samples: Samples, names: Sequence[str]) -> ItemRanks | None:
    from recinject.training.trainer import ItemRanks

    asking = [names.index(task) for task in samples.open_tasks if task in names]
    return ItemRanks(samples.item_tokens, asking) if asking else None


def rates(training: TrainingSection, sizes: Mapping[str, int]) -> dict[str, float]:
    """Return the relative rates of the tasks in an epoch; none where each sample comes once."""
    if training.temperature == 1 and training.cap is None:
        return dict(training.mixture)
    return task_rates(sizes, training.temperature, training.cap)


def curriculum(training: TrainingSection, sizes: Mapping[str, int]) -> list[Phase]:
    """Return the phases of a training with the rates of their tasks."""
    usual = rates(training, sizes) or {task: float(size) for task, size in sizes.items()}
    phases = []
    for number, phase in enumerate(training.curriculum, 1):
        chosen = phase.mixture or {task: usual.get(task, 0.0) for task in phase.tasks or usual}
        found = {task: rate for task, rate in chosen.items() if rate and task in sizes}
        if not found:
            raise RecinjectError(
                f"training.curriculum: phase {number} has no task with training samples and a rate",
                hint=f"name some of {', '.join(sizes)} in its tasks or its mixture",
            )
        phases.append(Phase(phase.share, found))
    return phases


def _datasets(
    recipe: Recipe,
    training: TrainingSection,
    samples: Samples,
    phases: Sequence[Phase],
    places: Mapping[str, Integers] | None = None,
) -> tuple[Dataset, Dataset | None, list[str]]:
    """Return the samples to train on and to validate on, and the tasks by their numbers."""
    folder, tasks, sizes = samples.folder, samples.bound_tasks(), samples.sizes
    named = {task for phase in phases for task in phase.rates}
    names = [task.name for task in tasks if not named or task.name in named]
    # Phases draw from all samples of their tasks, so each is needed once.
    mixture = {} if phases else rates(training, sizes)
    if not any(sizes.get(name) for name in names):
        raise RecinjectError(
            "training: none of its tasks has a training sample",
            hint="give a log whose users have more events than validation and test take, or "
            "set training=null to evaluate the model as it is",
        )
    mixed = mix_tasks(folder, names, mixture, recipe.seed, places)
    wanted = mixture_counts({name: sizes.get(name, 0) for name in names}, mixture)
    if len(mixed) != sum(wanted.values()):
        raise RecinjectError(
            f"{folder}: {len(mixed):,} training samples, and {sum(wanted.values()):,} were built",
            hint="build them again: recinject build RECIPE, or build_samples",
        )
    validated = {
        task.name: names.index(task.name)
        for task in tasks
        if task.name in (mixture or names) and task.name in names and Part.VALIDATION in task.parts
    }
    if not validated:
        return mixed, None, names
    # Where time or items decide the split, no sample may fall to validation.
    return mixed, validation_samples(folder, validated, training.validation_samples) or None, names
