"""The Trainer, its loss, its whole checkpoints, and what watches it."""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import torch
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, Seq2SeqTrainingArguments, Trainer, TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments
from transformers.utils import ModelOutput

from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import Bar, say
from recinject.foundation.storage import write_json
from recinject.methods.clippy.step_scales import clip_summary
from recinject.methods.experts.experts import ExpertsModel, experts_of
from recinject.models.storing import explain_failed_writing
from recinject.training.arguments import count_in_steps
from recinject.training.optimizers import choose_optimizer

Measure: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def token_losses(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the cross-entropy of each token, 0 where the label is -100: shape (n, tokens)."""
    losses = cross_entropy(
        logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=-100,
        reduction="none",
        label_smoothing=smoothing,
    )
    return losses.view_as(labels)


class BatchLoss:
    """The loss of a part of a batch as its share of the whole batch's mean.

    Dividing by the whole batch's tokens, or ratings, makes the loss and its gradient independent
    of how the batch is cut into accumulation steps and devices. (T5's own loss is a mean over
    the part, which the Trainer mistakes for such a share.)

    Args:
        measure: gives the loss of each label from logits and labels, in the labels' shape, and 0
            where a label is -100; see :func:`token_losses`.
        task_names: what the numbers in ``tasks`` stand for.

    Attributes:
        tasks: of each sample in the part that comes next, shape (n,); None for no account.
        auxiliary: gives what the model adds to the loss for each sample in the part, shape () or
            (n,); None for nothing. It counts by the sample's labels.
    """

    def __init__(self, measure: Measure, task_names: Sequence[str] = ()) -> None:
        self._measure = measure
        self._names = task_names
        self._sums: torch.Tensor | None = None
        self.tasks: torch.Tensor | None = None
        self.auxiliary: Callable[[], torch.Tensor] | None = None

    def __call__(
        self,
        outputs: ModelOutput,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the loss of a part.

        Args:
            outputs: with logits, for tokens of shape (n, tokens, vocabulary).
            labels: the tokens to predict, each where the model predicts it and -100 where there
                are none, shape (n, tokens); or the ratings, shape (n,).
            num_items_in_batch: how many of them there are in the whole batch.
        """
        losses = self._measure(outputs.logits, labels).reshape(len(labels), -1)
        total, counts = losses.sum(), (labels != -100).reshape(len(labels), -1).sum(1)
        if self.tasks is not None:
            # Kept on the device in one tensor: a training step must not wait for it.
            if self._sums is None:
                self._sums = losses.new_zeros(2, len(self._names))
            by_sample = torch.stack([losses.detach().sum(1), counts.to(losses.dtype)])
            self._sums.index_add_(1, self.tasks, by_sample)
        if self.auxiliary is not None:
            total = total + (counts * self.auxiliary()).sum()
        return total / (counts.sum() if num_items_in_batch is None else num_items_in_batch)

    def read_out(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Return the mean loss a token of each task since the last call, as ``loss/TASK``.

        ``reduce`` adds a tensor up over all processes, which call this together.
        """
        if self._sums is None:
            return {}
        losses, tokens = reduce(self._sums).tolist()
        self._sums = None
        rows = zip(self._names, losses, tokens, strict=True)
        return {f"loss/{name}": loss / count for name, loss, count in rows if count}


MARKER = "complete.json"
_PREFIX = "checkpoint-"


class MarkComplete(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Writes a marker into each checkpoint, after all else."""

    def on_step_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Log before each save, so that diverged weights are found out and never marked."""
        control.should_log |= control.should_save

    def on_save(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Mark the checkpoint that was just written, by all processes."""
        if args.world_size > 1:
            torch.distributed.barrier()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"{_PREFIX}{state.global_step}"
            write_json(folder / MARKER, {"step": state.global_step})


def newest_complete(folder: Path) -> Path | None:
    """Return the latest whole checkpoint of a folder, or None."""
    whole = [path for path in _checkpoints(folder) if (path / MARKER).is_file()]
    return max(whole, key=_step, default=None)


def remove_torn(folder: Path) -> None:
    """Remove checkpoints that were cut off: the Trainer would count them among those it keeps."""
    for path in _checkpoints(folder):
        if not (path / MARKER).is_file():
            shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{_PREFIX}*") if path.name[len(_PREFIX) :].isdigit()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name[len(_PREFIX) :])


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STEPS_BETWEEN_TALKS = 10


class SaveOnTermination(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Answers Ctrl-C, and SIGTERM, which batch systems send before they kill, with a checkpoint."""

    def __init__(self) -> None:
        self._asked: int = 0
        self._stopped_at: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Wait for a signal while the block runs; end the process if one came.

        A second signal ends the process at once, as it would elsewhere.

        Raises:
            KeyboardInterrupt: when a checkpoint has been saved for Ctrl-C.
            SystemExit: with 143, when one has been saved for SIGTERM.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hands signals to the main thread alone
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def note(number: int, frame: FrameType | None) -> None:
            self._asked = number
            restore()

        for number in _SIGNALS:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()
        if self._stopped_at is not None:
            say(f"step {self._stopped_at} is saved, and the same command goes on from there")
            # Of several processes some may have heard of the signal from the others alone.
            if self._asked == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + signal.SIGTERM)

    def on_step_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Save and stop, all processes after the same step."""
        if self._all_stop(args, state.global_step):
            self._stopped_at = state.global_step
            control.should_save = control.should_training_stop = True

    def _all_stop(self, args: Arguments, step: int) -> bool:
        if args.world_size == 1:
            return bool(self._asked)
        if step % _STEPS_BETWEEN_TALKS:
            return False
        asked = torch.tensor(self._asked, device=args.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return bool(asked.item())


@contextmanager
def explain_full_device(args: Arguments) -> Iterator[None]:
    """Tell which settings need less memory, by values that train the same.

    Raises:
        RecinjectError: the device's memory is full.
    """
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


class WriteLog(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Writes one JSON line a log entry, for the report's loss curve.

    Args:
        path: the file; on resuming, lines later than the resumed step are dropped from it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._experts: ExpertsModel | None = None
        self._chosen = torch.empty(0)

    def on_train_begin(self, args: Arguments, state: State, control: Control, **given: Any) -> None:
        """Keep the lines up to the step that training goes on from."""
        experts = experts_of(given["model"])
        if experts is not None and experts.settings.decision == "task":
            self._experts, self._chosen = experts, experts.routing().support()
        if not state.is_world_process_zero:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        old = self._path.read_text("utf-8").splitlines() if self._path.is_file() else []
        kept = [
            line for line in old if _is_entry(line) and _step_watching(line) <= state.global_step
        ]
        # Killed in the middle of this, a run must not have lost its log.
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in kept), "utf-8")
        partial.replace(self._path)

    def on_log(self, args: Arguments, state: State, control: Control, **given: Any) -> None:
        """Append a line: step, epoch, and loss or eval_loss with what goes with it.

        Beside a loss stands by how much steps were scaled down since the one before, and how many
        tasks have got other experts since then, or since training went on.
        """
        logs = given["logs"]
        if not state.is_world_process_zero or not {"loss", "eval_loss"} & logs.keys():
            return
        entry = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4), **logs}
        if "loss" in logs:
            entry |= clip_summary(given["optimizer"]) | self._flips()
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def _flips(self) -> dict[str, int]:
        if self._experts is None:
            return {}
        before, self._chosen = self._chosen, self._experts.routing().support()
        return {"expert_flips": int((before != self._chosen).any(1).sum())}


class StopDivergence(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Ends a training whose loss or gradient is no longer a number."""

    def on_log(self, args: Arguments, state: State, control: Control, **given: Any) -> None:
        """Look at what the Trainer logs.

        Raises:
            RecinjectError: loss or gradient is infinite or NaN.
        """
        for name in ("loss", "grad_norm", "eval_loss"):
            value = given["logs"].get(name, 0.0)
            if not math.isfinite(value):
                raise RecinjectError(
                    f"training: {name} is {value} at step {state.global_step}",
                    hint="lower training.learning_rate, or add training.warmup_steps; "
                    "the next start resumes from the last good checkpoint",
                )


class ShowProgress(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Shows a bar on a terminal, and a plain line every fifteen seconds elsewhere."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._loss = ""

    def on_train_begin(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Start the clock."""
        if state.is_world_process_zero:
            self._bar = Bar("Training", state.max_steps, state.global_step)

    def on_log(self, args: Arguments, state: State, control: Control, **given: Any) -> None:
        """Remember the loss."""
        if "loss" in given["logs"]:
            self._loss = f", loss {given['logs']['loss']:.3f}"

    def on_step_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Show how far it is."""
        if self._bar:
            self._bar.update(state.global_step, self._loss)

    def close(self) -> None:
        """Take the bar down, however training ended."""
        if self._bar:
            self._bar.close()


def _is_entry(line: str) -> bool:
    """Whether a line is whole; the last one may have been cut off with the run."""
    return line.startswith('{"step"') and line.endswith("}")


def _step_watching(line: str) -> int:
    return int(json.loads(line)["step"])


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
