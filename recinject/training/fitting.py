"""Fine-tuning through transformers' Trainer: one call trains, or resumes what was cut off."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PrinterCallback, Trainer
from transformers.modeling_outputs import Seq2SeqLMOutput

from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.models.building import wrap_tokenizer
from recinject.training.arguments import count_in_steps, training_arguments
from recinject.training.batches import LengthBuckets, make_collator
from recinject.training.checkpoints import MarkComplete, newest_complete, remove_torn
from recinject.training.optimizers import choose_optimizer
from recinject.training.watching import ShowProgress, StopDivergence, WriteLog


def fit(
    model: PreTrainedModel | PeftModel,
    tokenizer: Tokenizer,
    train_dataset: Dataset,
    validation_dataset: Dataset | None,
    arguments: Mapping[str, Any],
    folder: Path,
    log_path: Path,
    seed: int,
    optimizer: str | None = None,
) -> PreTrainedModel | PeftModel:
    """Train a model, going on from the newest whole checkpoint when there is one.

    The same call gives the same model, cut off and resumed or not. Started by ``accelerate
    launch`` it uses all processes.

    Args:
        model: an encoder-decoder model; it is trained in place.
        tokenizer: the tokenizer that made the datasets.
        train_dataset: columns ``input_ids``, ``labels`` (token lists) and ``length`` (tokens of
            the prompt), one row a sample.
        validation_dataset: the same columns, to measure a loss on while training; or None.
        arguments: see :func:`~recinject.training.arguments.training_arguments`.
        folder: where checkpoints go.
        log_path: where loss and learning rate go, one JSON line a log entry.
        seed: of dropout and of the batches' order.
        optimizer: see :func:`~recinject.training.optimizers.choose_optimizer`.

    Raises:
        RecinjectError: the arguments are wrong, the loss diverges, or the device's memory is full.
    """
    settings = training_arguments(arguments, folder, seed, validates=validation_dataset is not None)
    count_in_steps(settings, len(train_dataset))
    wrapped = wrap_tokenizer(tokenizer)
    progress = ShowProgress()
    trainer = TokenTrainer(
        model=model,
        args=settings,
        train_dataset=train_dataset,
        eval_dataset=validation_dataset,
        data_collator=make_collator(model, wrapped),
        processing_class=wrapped,
        optimizer_cls_and_kwargs=choose_optimizer(optimizer, settings.learning_rate),
        compute_loss_func=partial(token_loss, smoothing=settings.label_smoothing_factor),
        # A diverged entry is written first, so that the log shows what stopped the run.
        callbacks=[MarkComplete(), WriteLog(log_path), progress, StopDivergence()],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = newest_complete(folder)
    with settings.main_process_first(desc="removing torn checkpoints"):
        if settings.should_save:
            remove_torn(folder)
    try:
        _train(trainer, checkpoint)
    finally:
        progress.close()
    return model


def _train(trainer: Trainer, checkpoint: Path | None) -> None:
    if checkpoint is not None and trainer.is_world_process_zero():
        say(f"  going on from {checkpoint}")
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except torch.OutOfMemoryError as error:
        raise RecinjectError(
            f"training: the device's memory is full with per_device_train_batch_size="
            f"{trainer.args.per_device_train_batch_size}",
            hint="halve training.per_device_train_batch_size and double "
            "training.gradient_accumulation_steps, which trains the same; or set "
            "training.gradient_checkpointing: true",
        ) from error


def token_loss(
    outputs: Seq2SeqLMOutput,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the cross-entropy of a part of a batch as its share of the whole batch's mean.

    Dividing by the whole batch's tokens makes the loss and its gradient independent of how the
    batch is cut into accumulation steps and devices. (T5's own loss is a mean over the part,
    which the Trainer mistakes for such a share.)

    Args:
        outputs: the model's outputs, logits of shape (n, tokens, vocabulary).
        labels: the tokens to predict, -100 where there are none, shape (n, tokens).
        num_items_in_batch: how many tokens there are to predict in the whole batch.
        smoothing: label smoothing.
    """
    total = cross_entropy(
        outputs.logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=-100,
        reduction="sum",
        label_smoothing=smoothing,
    )
    return total / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)


class TokenTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """The Trainer, but for its order of batches and what it hands to the model."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # T5's forward takes any keyword, and would pass the token count on to its layers.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = list(self.train_dataset[self.args.length_column_name])
        accumulated = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthBuckets(
            lengths, accumulated * self.args.world_size, self.args.seed, self._present_epoch
        )

    def _run_epoch(self, **settings: Any) -> None:
        # Resumed at its very end, within an epoch, the Trainer would take one more step.
        self.control.should_training_stop |= self.state.global_step >= self.state.max_steps
        if not self.control.should_training_stop:
            super()._run_epoch(**settings)

    def _present_epoch(self) -> int:
        return int((self.state.epoch or 0.0) + 1e-6)
