"""transformers' Trainer as all trainings here run it: cut off and resumed, it ends the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, Seq2SeqTrainingArguments, Trainer, TrainerCallback

from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.models.storing import explain_failed_writing
from recinject.training.arguments import count_in_steps
from recinject.training.checkpoints import MarkComplete, newest_complete, remove_torn
from recinject.training.optimizers import choose_optimizer
from recinject.training.watching import ShowProgress, StopDivergence, WriteLog


class ResumableTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """The Trainer, but for what it does at the end of a run that was resumed there."""

    def _run_epoch(self, **settings: Any) -> None:
        # Resumed at its very end, or after it ran out of patience, it would take one more step.
        self.control.should_training_stop |= self.state.global_step >= self.state.max_steps
        if not self.control.should_training_stop:
            super()._run_epoch(**settings)

    def present_epoch(self) -> int:
        """Return the number of whole epochs that are behind."""
        return int((self.state.epoch or 0.0) + 1e-6)


def run_training(
    kind: type[ResumableTrainer],
    arguments: Seq2SeqTrainingArguments,
    *,
    log_path: Path | None,
    optimizer: str | None,
    optimizer_settings: Mapping[str, Any] | None,
    callbacks: Sequence[TrainerCallback],
    **settings: Any,
) -> Trainer:
    """Train to the end, from the newest whole checkpoint in the arguments' folder if there is one.

    Args:
        kind: the Trainer's class.
        arguments: its ``args``; intervals that are shares of the run become steps in place.
        log_path: where loss and learning rate go, one JSON line a log entry; None for nowhere.
        optimizer: see :func:`~recinject.training.optimizers.choose_optimizer`.
        optimizer_settings: arguments of the optimizer's class.
        callbacks: they come before those that log, mark checkpoints and watch.
        settings: of ``kind``.

    Raises:
        RecinjectError: the loss diverges, or a checkpoint cannot be written; the last good one is
            left.
    """
    folder, progress = Path(arguments.output_dir), ShowProgress()
    log = [] if log_path is None else [WriteLog(log_path)]
    count_in_steps(arguments, len(settings["train_dataset"]))
    chosen = choose_optimizer(
        optimizer, arguments.learning_rate, optimizer_settings, arguments.weight_decay
    )
    # A diverged entry is written first, so that the log shows what stopped the run.
    callbacks = [*callbacks, MarkComplete(), *log, progress, StopDivergence()]
    with explain_failed_writing(folder):
        trainer = kind(
            args=arguments, optimizer_cls_and_kwargs=chosen, callbacks=callbacks, **settings
        )
    trainer.remove_callback(PrinterCallback)
    try:
        _train(trainer, folder)
    finally:
        progress.close()
    return trainer


def _train(trainer: Trainer, folder: Path) -> None:
    checkpoint, writes = newest_complete(folder), trainer.args.should_save
    with trainer.args.main_process_first(desc="removing torn checkpoints"):
        if writes:
            remove_torn(folder)
    if checkpoint is not None and writes:
        say(f"  going on from {checkpoint}")
    try:
        with explain_failed_writing(folder):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except RecinjectError:
        # What a full disk cut off takes room that the next start needs.
        if writes:
            remove_torn(folder)
        raise
