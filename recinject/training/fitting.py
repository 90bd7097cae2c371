"""Fine-tuning of a language model on a mixture of tasks, from start or checkpoint to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from datasets import Dataset
from tokenizers import Tokenizer
from transformers import PrinterCallback, Seq2SeqTrainingArguments, Trainer
from transformers import TrainingArguments as Arguments

from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.models.adapters import Model, adaptation_of, without_wrapper
from recinject.models.building import no_progress_bars, wrap_tokenizer
from recinject.models.storing import explain_failed_writing
from recinject.samples.mixture import Phase
from recinject.training.arguments import count_in_steps, describe_device, training_arguments
from recinject.training.batches import make_collator
from recinject.training.optimizers import bounding_class, choose_optimizer
from recinject.training.trainer import (
    ItemRanks,
    MarkComplete,
    SaveOnTermination,
    ShowProgress,
    SoftLabels,
    TokenTrainer,
    WriteLog,
    asked_for_fsdp,
    newest_complete,
    remove_torn,
)


def refuse_sharding(arguments: Seq2SeqTrainingArguments, why: str, fix: str) -> None:
    """Refuse FSDP and DeepSpeed for the reason ``why``, unless it is empty."""
    # Elsewhere accelerate leaves each process the whole model, whatever was asked for.
    single = (DistributedType.NO, DistributedType.MULTI_CPU)
    multiple = arguments.distributed_state.distributed_type not in single
    sharder = "DeepSpeed" if arguments.deepspeed_plugin is not None else "FSDP"
    if why and (
        arguments.fsdp or (asked_for_fsdp() and multiple) or arguments.deepspeed_plugin is not None
    ):
        raise RecinjectError(
            f"training: {sharder} shares weights out among processes, and {why}",
            hint=f"launch it with recipes/accelerate's configuration for DDP, or {fix}",
        )


def whole_model(trainer: Trainer, rebuild: Callable[[], Model] | None) -> Model:
    """Return the trained model, its weights brought together where processes share them out."""
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if rebuild is None or not sharded:
        model: Model = trainer.model
        return model
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    model = rebuild()
    if trainer.is_world_process_zero():
        model.load_state_dict(weights)
    return model


@no_progress_bars()
def fit(
    model: Model,
    tokenizer: Tokenizer,
    train_dataset: Dataset,
    validation_dataset: Dataset | None,
    arguments: Mapping[str, Any],
    folder: Path,
    log_path: Path,
    seed: int,
    optimizer: str | None = None,
    *,
    task_names: Sequence[str] = (),
    phases: Sequence[Phase] = (),
    rebuild: Callable[[], Model] | None = None,
    optimizer_settings: Mapping[str, Any] | None = None,
    soft_labels: SoftLabels | None = None,
    ranks: ItemRanks | None = None,
) -> Model:
    """Train a model, or resume from the newest whole checkpoint, to the same result.

    ``accelerate launch`` makes it use several processes. SIGTERM saves a checkpoint and ends the
    process.

    Args:
        model: an encoder-decoder or a causal model, or one with a head; it is trained in place.
        tokenizer: made the datasets.
        train_dataset: one row a sample, with columns ``input_ids``, ``labels`` (token lists),
            ``length`` (in tokens), ``task`` (a number) and, for a head, ``rating``.
        validation_dataset: the same columns, to measure a loss on while training.
        arguments: see :func:`~recinject.training.arguments.training_arguments`.
        folder: where checkpoints go.
        log_path: where losses and learning rates go, one JSON line a log entry.
        seed: of dropout and of the batches' order.
        optimizer: see :func:`~recinject.training.optimizers.choose_optimizer`; so are its settings.
        task_names: what the numbers in the column ``task`` stand for.
        phases: see :func:`~recinject.training.batches.order_by_phase`; empty for one mixture.
        soft_labels: what a teacher expects at each ``place``, a column of the dataset.
        ranks: chooses the best weights, if validation samples ask for items' own tokens; the
            validation loss does otherwise.
        rebuild: makes the model anew, to bring the weights of sharded training together in.

    Returns:
        The trained model; in sharded training a new one, which only the first process fills.

    Raises:
        RecinjectError: a setting is wrong, the device's memory or the disk is full, or the loss
            diverges; the last good checkpoint is left.
    """
    validates = validation_dataset is not None
    measured = {"metric_for_best_model": ranks.name} if ranks is not None and validates else {}
    settings = training_arguments({**measured, **arguments}, folder, seed, validates=validates)
    _complete(settings, arguments, model, optimizer)
    if soft_labels is not None and settings.label_smoothing_factor:
        hint = "leave one of the two out: a teacher's labels are soft already"
        raise RecinjectError("training: label_smoothing_factor beside distil", hint=hint)
    count_in_steps(settings, len(train_dataset), in_one_epoch=bool(phases))
    wrapped = wrap_tokenizer(tokenizer, without_wrapper(model).config)
    rate, decay = settings.learning_rate, settings.weight_decay
    chosen = choose_optimizer(optimizer, rate, optimizer_settings, decay)
    make = partial(
        TokenTrainer,
        model=model,
        args=settings,
        data_collator=make_collator(model, wrapped),
        train_dataset=train_dataset,
        eval_dataset=validation_dataset,
        processing_class=wrapped,
        optimizer_cls_and_kwargs=chosen,
        phases=phases,
        task_names=task_names,
        soft_labels=soft_labels,
        ranks=ranks,
    )
    return whole_model(_train(make, settings, folder, log_path), rebuild)


def _complete(
    arguments: Seq2SeqTrainingArguments,
    given: Mapping[str, Any],
    model: Model,
    optimizer: str | None,
) -> None:
    """Set the optimizer's own defaults; refuse what it or the adapted model cannot do."""
    bounding = bounding_class(optimizer)
    if bounding is not None:
        refuse_sharding(arguments, *bounding.needs_whole_weights)
        if "max_grad_norm" not in given:
            arguments.max_grad_norm = 0.0
    refuse_sharding(arguments, *adaptation_of(model).needs_whole_weights)
    if arguments.should_save:
        say(f"  {describe_device(arguments, given)}")


def _train(
    make: Callable[..., TokenTrainer], arguments: Arguments, folder: Path, log_path: Path
) -> TokenTrainer:
    termination, progress = SaveOnTermination(), ShowProgress()
    callbacks = [termination, MarkComplete(), WriteLog(log_path), progress]
    if arguments.should_save:
        with explain_failed_writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    with termination.listening(), closing(progress), explain_full_device(arguments):
        trainer = make(callbacks=callbacks)
        trainer.remove_callback(PrinterCallback)
        checkpoint, writes = newest_complete(folder), arguments.should_save
        with arguments.main_process_first(desc="removing torn checkpoints"):
            if writes:
                remove_torn(folder)
        if checkpoint is not None and writes:
            say(f"  going on from {checkpoint}")
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except Exception:
            # What a full disk cut off takes room that the next start needs.
            if writes:
                remove_torn(folder)
            raise
    return trainer


@contextmanager
def explain_full_device(args: Arguments) -> Iterator[None]:
    """Explain a full memory by settings that need less and train the same."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        batch, parts = args.per_device_train_batch_size, args.gradient_accumulation_steps
        raise RecinjectError(
            f"training: the device's memory is full with per_device_train_batch_size={batch}",
            hint=_less_memory(batch, parts, args.gradient_checkpointing),
        ) from error


def _less_memory(batch: int, parts: int, recomputes: bool) -> str:
    more = "training.gradient_checkpointing=true trains the same, a third slower"
    if recomputes:
        more = "samples.max_prompt_tokens set lower cuts long prompts"
    if batch == 1:
        return more
    factor = next(n for n in range(2, batch + 1) if batch % n == 0)
    return (
        f"training.per_device_train_batch_size={batch // factor} "
        f"training.gradient_accumulation_steps={parts * factor} trains the same; {more}"
    )
