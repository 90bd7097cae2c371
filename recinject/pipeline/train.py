"""Train: the model, fine-tuned on the mixture of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.pipeline.build import build
from recinject.pipeline.run import Facts, Run, is_first_process
from recinject.recipe import Recipe, TrainingSection
from recinject.samples.mixture import mix_tasks, validation_samples

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel


def train(run: Run) -> None:
    """Make the folder ``model``; with ``training: null`` there is nothing to make."""
    build(run)
    recipe, training = run.recipe, run.recipe.training
    if training is None:
        say("training: null, the model is evaluated as it is")
        return
    settings = {**training.model_dump(), "model": recipe.model.model_dump(), "lora": recipe.lora}
    stage = run.stage("training", settings, run.fingerprints("samples"))
    # A changed setting must not resume from what another one trained.
    checkpoints = recipe.folder / "checkpoints" / stage.wanted.fingerprint
    if is_first_process():
        stage.run(lambda folder: _train_and_save(run, training, checkpoints, folder))
    elif not stage.is_done:
        _fit(run, training, checkpoints)


def _train_and_save(run: Run, training: TrainingSection, checkpoints: Path, folder: Path) -> Facts:
    from recinject.models.storing import save_trained

    model, facts = _fit(run, training, checkpoints)
    save_trained(model, run.factory.tokenizer, folder)
    return facts


def _fit(
    run: Run, training: TrainingSection, checkpoints: Path
) -> tuple[PreTrainedModel | PeftModel, Facts]:
    from recinject.models.building import count_parameters
    from recinject.models.lora import add_lora
    from recinject.training.fitting import fit

    recipe, tokenizer = run.recipe, run.factory.tokenizer
    train_set, validation_set, tokens = _datasets(run, training)
    model = base_model(recipe, tokenizer)
    trained = model
    if recipe.lora is not None:
        known = tokenizer.get_vocab()
        new_tokens = [known[token] for token in run.identifiers.tokens]
        trained = add_lora(model, recipe.lora, recipe.seed, new_tokens)
    trainable, total = count_parameters(trained)
    if is_first_process():
        say(f"  {trainable:,} of {total:,} parameters train on {len(train_set):,} samples an epoch")
    log_path = recipe.folder / "logs" / "train.jsonl"
    fit(
        trained,
        tokenizer,
        train_set,
        validation_set,
        training.arguments,
        checkpoints,
        log_path,
        recipe.seed,
        training.optimizer,
    )
    return trained, {"trainable": trainable, "parameters": total, "tokens": tokens}


def _datasets(
    run: Run, training: TrainingSection
) -> tuple[Dataset, Dataset | None, Mapping[str, Any]]:
    recipe, tokenizer, samples = run.recipe, run.factory.tokenizer, run.folder("samples")
    limits = (recipe.samples.max_prompt_tokens, recipe.samples.max_completion_tokens)
    tasks = recipe.tasks()
    names = [task.name for task in tasks]
    mixed, facts = mix_tasks(samples, names, training.mixture, tokenizer, limits, recipe.seed)
    if not len(mixed):
        raise RecinjectError(
            "training: none of its tasks has a training sample",
            hint="give a log whose users have more events than validation and test take, or "
            "set training=null to evaluate the model as it is",
        )
    validated = [t.name for t in tasks if t.name in facts and Part.VALIDATION in t.parts]
    count = training.validation_samples
    validation = (
        validation_samples(samples, validated, count, tokenizer, limits) if validated else None
    )
    # Where time or items decide the split, no sample may fall to validation.
    validation = validation if validation else None
    return mixed, validation, {task: asdict(fact) for task, fact in facts.items()}


def base_model(recipe: Recipe, tokenizer: Tokenizer) -> PreTrainedModel:
    """Load the named model, or build the small one that the config describes.

    Either has an embedding for every token of the tokenizer.
    """
    from recinject.models.building import build_t5, embed_all_tokens, load_model

    if recipe.model.name is not None:
        return embed_all_tokens(load_model(recipe.model.name), tokenizer, recipe.seed)
    return build_t5(recipe.model.config or {}, tokenizer, recipe.seed)
