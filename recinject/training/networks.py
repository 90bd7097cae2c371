"""Training of every module that is no language model: its ``forward`` returns the loss."""

from __future__ import annotations

import math
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Seq2SeqTrainingArguments, Trainer, TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments

from recinject.foundation.errors import RecinjectError
from recinject.training.arguments import count_in_steps, training_arguments
from recinject.training.batches import Shuffle
from recinject.training.optimizers import choose_optimizer
from recinject.training.trainer import (
    MarkComplete,
    ShowProgress,
    StopDivergence,
    WriteLog,
    newest_complete,
)

Module = TypeVar("Module", bound=nn.Module)
Samples: TypeAlias = Sequence[Any] | Dataset[Any] | Tensor
_DEFAULTS = {
    "use_cpu": True,
    "bf16": False,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0,
    "train_sampling_strategy": "random",
}
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_BEST = "best.pt"


@dataclass(frozen=True)
class Fit:
    """How a training went."""

    epochs: int  # how many it took, those after the best one among them
    values: tuple[float, ...]  # what ``validate`` gave after each of them
    best_epoch: int  # whose weights were kept, from one; the last where nothing measured


def fit_module(
    module: Module,
    train_dataset: Samples,
    collate: Callable[[Any], Mapping[str, Tensor]],
    arguments: Mapping[str, Any],
    folder: Path | None,
    seed: int,
    *,
    validate: Callable[[Module], float] | None = None,
    patience: int | None = None,
    log_path: Path | None = None,
    optimizer: str | None = None,
    optimizer_settings: Mapping[str, Any] | None = None,
) -> Fit:
    """Train a module in place through the Trainer, in this process alone.

    The same call gives the same weights on a CPU, cut off and resumed or not, as long as chance
    is drawn from torch within ``forward``. No global random state is left changed.

    Args:
        module: ``forward(**batch)`` returns a mapping with ``loss``, a mean over the batch.
        train_dataset: the samples; one with ``__getitems__`` gives a whole batch by its numbers
            at once, which is faster.
        collate: turns a batch of samples into the arguments of ``forward``.
        arguments: see :func:`~recinject.training.arguments.training_arguments`. Unless told
            otherwise, training is on the CPU in single precision, at a constant rate, and
            gradients are not clipped.
        folder: where checkpoints go and training resumes from; None keeps none.
        seed: of dropout and of the batches' order.
        validate: measures the module after each epoch, the higher the better; the weights of
            the best epoch are put back at the end.
        patience: after how many epochs without gain training ends; None goes through all.
        log_path: see :func:`~recinject.training.trainer.run_training`; so are ``optimizer`` and
            ``optimizer_settings``.

    Raises:
        RecinjectError: the arguments are wrong, what is measured is not a number, or see
            :func:`~recinject.training.trainer.run_training`.
    """
    settings = {**_DEFAULTS, **({"save_strategy": "no"} if folder is None else {}), **arguments}
    best = KeepBest(module, validate, patience, folder)
    with global_chance(seed), _alone(), tempfile.TemporaryDirectory() as temporary:
        trainer = run_training(
            ModuleTrainer,
            training_arguments(settings, folder or Path(temporary), seed),
            log_path=log_path,
            optimizer=optimizer,
            optimizer_settings=optimizer_settings,
            callbacks=[best],
            model=module,
            train_dataset=train_dataset,
            data_collator=collate,
        )
    return best.put_back(round(trainer.state.epoch or 0.0))


@contextmanager
def global_chance(seed: int) -> Iterator[None]:
    """Seed torch within the block, and leave all global random states as they were.

    Torch's initialisation and dropout, and the Trainer, know no other chance than the global one.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def _alone() -> Iterator[None]:
    # Stages run in the first process of those launched; it must not wait for the others here,
    # nor share out or round what is as small as this.
    names = [name for name in os.environ if name in _LAUNCHED or name.startswith("ACCELERATE_")]
    launched = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(launched)


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
    trainer = kind(args=arguments, optimizer_cls_and_kwargs=chosen, callbacks=callbacks, **settings)
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=str(c) if (c := newest_complete(folder)) else None)
    finally:
        progress.close()
    return trainer


class ModuleTrainer(ResumableTrainer):
    """The Trainer, but for its order of batches."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Shuffle:
        return Shuffle(len(self.train_dataset), self.args.seed, self.present_epoch)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # Unasked, the Trainer would measure the norm for the log alone, in every step.
        return grad_norm


class KeepBest(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Measures the module after each epoch and remembers the best epoch's weights.

    The arguments are those of :func:`fit_module`; values and weights are kept in its folder.
    """

    def __init__(
        self,
        module: nn.Module,
        validate: Callable[[Any], float] | None,
        patience: int | None,
        folder: Path | None,
    ) -> None:
        self._module, self._validate, self._patience = module, validate, patience
        self._path = None if folder is None else folder / _BEST
        self._values: list[float] = []
        self._weights: dict[str, Tensor] = {}

    def on_train_begin(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Take up what was measured up to the epoch that training goes on from."""
        epochs = int((state.epoch or 0.0) + 1e-6)
        if self._validate is None or self._path is None or not epochs:
            return
        if self._path.is_file():
            kept = torch.load(self._path, weights_only=True)
            self._values, self._weights = kept["values"][:epochs], kept["weights"]
        if len(self._values) < epochs:
            # It was cut off between an epoch's last checkpoint and the measurement.
            self._measure()
        control.should_training_stop |= self._waited_enough()

    def on_epoch_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Measure, and end the training where it gains no more.

        Raises:
            RecinjectError: the value is not a number.
        """
        self._measure()
        control.should_training_stop |= self._waited_enough()

    def _measure(self) -> None:
        if self._validate is None:
            return
        self._module.eval()
        with torch.no_grad():
            value = self._validate(self._module)
        if not math.isfinite(value):
            raise RecinjectError(
                f"training: validation gave {value} after epoch {len(self._values) + 1}",
                hint="the weights diverged: lower the learning rate",
            )
        self._values.append(value)
        if self._best_epoch() == len(self._values):
            weights = self._module.state_dict().items()
            self._weights = {name: tensor.detach().clone() for name, tensor in weights}
        if self._path is not None:
            partial = self._path.with_suffix(".partial")
            torch.save({"values": self._values, "weights": self._weights}, partial)
            partial.replace(self._path)

    def _best_epoch(self) -> int:
        return 1 + self._values.index(max(self._values))

    def _waited_enough(self) -> bool:
        waited = len(self._values) - self._best_epoch() if self._values else 0
        return self._patience is not None and waited >= self._patience

    def put_back(self, epochs: int) -> Fit:
        """Give the module the weights of its best epoch, and say how training went."""
        if not self._values:
            return Fit(epochs, (), epochs)
        self._module.load_state_dict(self._weights)
        return Fit(epochs, tuple(self._values), self._best_epoch())
