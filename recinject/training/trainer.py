"""The Trainer of language models: its loss, its checkpoints, and what watches it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import numpy as np
import torch
from datasets import Dataset
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments
from transformers.utils import ModelOutput

from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import Bar, say
from recinject.foundation.seals import find_damage, seal_folder, sync_folder
from recinject.foundation.storage import read_json, write_json
from recinject.models.adapters import (
    Adaptation,
    RatingModel,
    Wrapper,
    adaptation_of,
    without_wrapper,
)
from recinject.models.storing import explain_failed_writing
from recinject.samples.mixture import Phase
from recinject.training.arguments import samples_a_step
from recinject.training.batches import LengthBuckets, order_by_phase
from recinject.training.blockwise import BlockwiseSoftmax
from recinject.training.optimizers import log_entries

_IGNORED, _CUTOFF = -100, 10
Measure: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def token_losses(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the cross-entropy of each token, 0 where the label is -100: shape (n, tokens)."""
    flat, wanted = logits.flatten(0, 1).float(), labels.flatten()
    losses = cross_entropy(flat, wanted, reduction="none", label_smoothing=smoothing)
    return losses.view_as(labels)


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """What a teacher expects next, beside what came: the tokens of some items with their shares.

    Attributes:
        tokens: those of the teacher's first items at each place, shape (places, top).
        shares: how much of the label each is, 0 where there is none; a row sums to 1.
        weight: of the teacher's labels, from 0 to 1; the item that came has the rest.
    """

    tokens: torch.Tensor
    shares: torch.Tensor
    weight: float

    def blended(
        self, losses: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        """Return cross-entropies, (n, tokens), with the soft labels of taught samples weighed in.

        A sample's first label is that of its place, shape (n,), and each further one of the place
        after; a place below 0 is of a sample that nobody teaches.
        """
        known = labels != _IGNORED
        taught = known & (places >= 0)[:, None]
        rows = torch.where(taught, places[:, None] + known.cumsum(1) - 1, 0).to(self.tokens.device)
        tokens, shares = (each[rows].to(logits.device) for each in (self.tokens, self.shares))
        # The sum over all tokens is in the losses already.
        expected = (logits.gather(2, tokens.long()).float() * shares).sum(2)
        came = logits.gather(2, labels.clamp(min=0)[..., None]).float()[..., 0]
        return torch.where(taught, losses + self.weight * (came - expected), losses)


class BatchLoss:
    """The loss of a part of a batch, divided by the whole batch's number of labels.

    It does not depend on how the batch is cut into accumulation steps and devices. (T5's own loss
    is a mean over the part, which the Trainer mistakes for this.) ``measure`` gives the loss of
    each label, in the labels' shape, and 0 where a label is -100; see :func:`token_losses`.

    Attributes:
        tasks: of the next part's samples, shape (n,), to account for; or None.
        extra: returns the model's own loss of the part's samples, weighted by their labels, shape
            () or (n,); or None.
        places: of the next part's samples among soft labels, shape (n,); or None.
    """

    def __init__(
        self, measure: Measure, task_names: Sequence[str] = (), soft: SoftLabels | None = None
    ) -> None:
        self._measure, self._names, self._soft = measure, task_names, soft
        self.places: torch.Tensor | None = None
        self._sums: torch.Tensor | None = None
        self.tasks: torch.Tensor | None = None
        self.extra: Callable[[], torch.Tensor | None] = lambda: None

    def __call__(
        self,
        outputs: ModelOutput,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the loss of a part of a batch with so many labels.

        Logits are of tokens, (n, tokens, vocabulary), and labels tokens, (n, tokens), -100 for
        none; or labels are ratings, (n,).
        """
        losses = self._measure(outputs.logits, labels)
        if self._soft is not None and self.places is not None:
            losses = self._soft.blended(losses, outputs.logits, labels, self.places)
        losses = losses.reshape(len(labels), -1)
        total, counts = losses.sum(), (labels != -100).reshape(len(labels), -1).sum(1)
        if self.tasks is not None:
            if self._sums is None:  # on the device: a training step must not wait for it
                self._sums = losses.new_zeros(2, len(self._names))
            sums = torch.stack([losses.detach().sum(1), counts.to(losses.dtype)])
            self._sums.index_add_(1, self.tasks, sums)
        extra = self.extra()
        if extra is not None:
            total = total + (counts * extra).sum()
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


class ItemRanks:
    """NDCG@10 of validation samples that ask for an item by a token of its own.

    The item asked for is ranked among all others but those of its prompt. Cross-entropy begins to
    rise while this still does, so it is what the best weights are chosen by.

    Args:
        tokens: those of the items, shape (items,).
        tasks: the numbers of the tasks that ask so.
    """

    name = "ndcg@10"

    def __init__(self, tokens: Sequence[int], tasks: Sequence[int]) -> None:
        self._tokens, self._tasks = torch.as_tensor(tokens), torch.as_tensor(tasks)
        self._sums = torch.zeros(2)  # of gains, and of samples

    def add(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        inputs: Mapping[str, Any],
        head: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Account for a batch: the first label of a sample is what it asks for.

        In the place of logits, states may be given with the ``head`` that makes logits of them.
        """
        prompts, device = inputs["input_ids"], logits.device
        asking = torch.isin(inputs["task"], self._tasks.to(device))
        first = (labels != _IGNORED).int().argmax(1, keepdim=True)
        wanted = labels.gather(1, first)
        asked = logits.take_along_dim(first[..., None], 1)
        scores = (asked if head is None else head(asked))[:, 0]
        others = torch.zeros_like(scores, dtype=torch.bool)
        others[:, self._tokens.to(device)] = True
        others.scatter_(1, prompts, False)
        ahead = ((scores > scores.gather(1, wanted)) & others).sum(1)[asking]
        gains = 1 / torch.log2(ahead[ahead < _CUTOFF] + 2.0)
        self._sums += torch.stack([gains.sum(), asking.sum()]).cpu()

    def read_out(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Return the mean since the last call, if a sample asked; ``reduce`` is as above."""
        gains, samples = reduce(self._sums).tolist()
        self._sums = torch.zeros(2)
        return {self.name: gains / samples} if samples else {}


MARKER = "complete.json"
_PREFIX = "checkpoint-"


class MarkComplete(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Writes a marker into each checkpoint, after all else."""

    def on_step_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Log before each save, so that diverged weights are found out and never marked.

        Where the best weights are kept, the last ones are measured too.
        """
        control.should_log |= control.should_save
        if args.load_best_model_at_end and args.eval_strategy == "steps":
            control.should_evaluate |= state.global_step >= state.max_steps

    def on_save(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Mark the checkpoint that was just written, by all processes."""
        if args.world_size > 1:
            torch.distributed.barrier()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"{_PREFIX}{state.global_step}"
            files = seal_folder(folder, MARKER)
            write_json(folder / MARKER, {"step": state.global_step, "files": files})
            sync_folder(folder)


def newest_complete(folder: Path) -> Path | None:
    """Return the latest whole checkpoint of a folder, or None."""
    newest = sorted(_checkpoints(folder), key=lambda path: -int(path.name[len(_PREFIX) :]))
    marked = (path for path in newest if (path / MARKER).is_file())
    return next((path for path in marked if not _damage(path)), None)


def _damage(checkpoint: Path) -> str:
    """Say what of a marked checkpoint is not as it was written, or return ``""``."""
    try:
        return find_damage(checkpoint, read_json(checkpoint / MARKER)["files"], whole=True)
    except (RecinjectError, KeyError, TypeError, ValueError, AttributeError):
        return f"{checkpoint / MARKER} is damaged"


def remove_torn(folder: Path) -> None:
    """Remove checkpoints that were cut off: the Trainer would count them among those it keeps.

    Those that were whole and are damaged are set aside under another name.
    """
    for path in _checkpoints(folder):
        if not (path / MARKER).is_file():
            shutil.rmtree(path)
        elif damage := _damage(path):
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            say(f"  {damage}: set aside as {aside.name}, and the next older checkpoint is taken")


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{_PREFIX}*") if path.name[len(_PREFIX) :].isdigit()]


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STEPS_BETWEEN_TALKS = 10


class SaveOnTermination(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Answers Ctrl-C, and SIGTERM, which batch systems send before they kill, with a checkpoint."""

    _asked: int = 0
    _stopped_at: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Wait for a signal while the block runs; a second one ends the process at once.

        Raises:
            KeyboardInterrupt: a checkpoint was saved for Ctrl-C.
            SystemExit: with 143, one was saved for SIGTERM.
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


_FAR, _PATIENCE = 5.0, 3


def count_diverged(losses: Sequence[float], guessing: float) -> int:
    """Count how many of the last losses in a row are far above all that a learner starts from.

    Far is five times the first loss, and what ``guessing`` costs, such as the logarithm of the
    vocabulary's size: a sound training, whatever its noise, phases and warm-up, is not there.

    >>> count_diverged([9.0, 8.0, 90.0, 7.0], guessing=9.2)
    0
    >>> count_diverged([9.0, 8.0, 30.0, 400.0, 900.0], guessing=9.2)
    2
    """
    most = _FAR * max([guessing, *losses[:1]])
    return next((n for n, loss in enumerate(reversed(losses)) if loss <= most), len(losses))


class WriteLog(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Writes one JSON line a log entry, without those after the step of a resumption.

    A loss or gradient that is no longer a number ends the training, after its line is written, and
    so does a loss that stays far above the first ones; meanwhile no checkpoint is written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._adaptation, self._guessing = path, Adaptation(), 3.0

    def on_train_begin(self, args: Arguments, state: State, control: Control, **given: Any) -> None:
        """Keep the lines up to the step that training goes on from."""
        self._adaptation = adaptation_of(given["model"])
        if not isinstance(model := given["model"], RatingModel):
            self._guessing = math.log(max(3, getattr(model.config, "vocab_size", 3)))
        self._adaptation.log_entries()  # what it says later counts from here
        if not state.is_world_process_zero:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        old = self._path.read_text("utf-8").splitlines() if self._path.is_file() else []
        # The last line may have been cut off with the run.
        whole = [line for line in old if line.startswith('{"step"') and line.endswith("}")]
        kept = [line for line in whole if json.loads(line)["step"] <= state.global_step]
        # Killed in the middle of this, a run must not have lost its log.
        unfinished = self._path.with_suffix(".partial")
        unfinished.write_text("".join(f"{line}\n" for line in kept), "utf-8")
        unfinished.replace(self._path)

    def on_log(self, args: Arguments, state: State, control: Control, **given: Any) -> None:
        """Append a line: step, epoch, and entries of Trainer, optimizer and adapted model."""
        logs = given["logs"]
        if state.is_world_process_zero and {"loss", "eval_loss"} & logs.keys():
            entry = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4), **logs}
            if "loss" in logs:
                entry |= log_entries(given["optimizer"]) | self._adaptation.log_entries()
            with explain_failed_writing(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        for name in ("loss", "grad_norm", "eval_loss"):
            if not math.isfinite(value := logs.get(name, 0.0)):
                raise _diverged(f"{name} is {value} at step {state.global_step}")
        self._refuse_divergence(state, control)

    def on_train_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Refuse a model whose last loss is far too high."""
        self._refuse_divergence(state, control, patience=1)

    def _refuse_divergence(self, state: State, control: Control, patience: int = _PATIENCE) -> None:
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        if count := count_diverged(losses, self._guessing):
            control.should_save = False
            if count >= patience:
                first, last = losses[0], losses[-1]
                raise _diverged(
                    f"loss began at {first:.3g} and is {last:.3g} at step {state.global_step}"
                )


def _diverged(fact: str) -> RecinjectError:
    return RecinjectError(
        f"training: {fact}",
        hint="lower training.learning_rate, or add training.warmup_steps; the next start resumes "
        "from the last good checkpoint",
    )


class ShowProgress(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Shows a bar on a terminal, and a plain line every fifteen seconds elsewhere."""

    _bar: Bar | None = None
    _loss = ""

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


class TokenTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """The Trainer, but for its order of batches and what it hands to the model.

    Args:
        phases: as in :func:`~recinject.training.fitting.fit`; so are the next two.
        settings: of ``transformers.Trainer``.
    """

    def __init__(
        self,
        *,
        phases: Sequence[Phase] = (),
        task_names: Sequence[str] = (),
        soft_labels: SoftLabels | None = None,
        ranks: ItemRanks | None = None,
        **settings: Any,
    ) -> None:
        self._phases, self._task_names, self._ranks = phases, task_names, ranks
        model, smoothing = settings["model"], settings["args"].label_smoothing_factor
        self._softmax: BlockwiseSoftmax | None = None
        self._smoothing = smoothing
        measure = model.losses if isinstance(model, RatingModel) else self._token_losses
        self._loss = BatchLoss(measure, task_names, soft_labels)
        self._adaptation = adaptation_of(model)
        super().__init__(compute_loss_func=self._loss, **settings)
        # T5's forward takes any keyword, and would pass the token count on to its layers.
        self.model_accepts_loss_kwargs = False
        # A causal model's labels come shifted from the collator; the Trainer would not count the
        # first of each sample.
        self._loss_shifts_labels = False
        # The Trainer reads their names off a signature, and a wrapper's has none.
        self.label_names = ["labels"]
        # Of shares of a head no block can be computed, and a teacher's labels need all logits.
        whole = not (self.is_fsdp_enabled or self.is_deepspeed_enabled or soft_labels)
        inner = without_wrapper(model)
        if whole and not isinstance(model, RatingModel) and BlockwiseSoftmax.suits(inner):
            self._softmax = BlockwiseSoftmax(inner, smoothing, self.accelerator.autocast)
        _share_out_weights(self)  # before the Trainer has accelerate do it

    def _run_epoch(self, **settings: Any) -> None:
        # Resumed at its very end, or after it ran out of patience, it would take one more step.
        self.control.should_training_stop |= self.state.global_step >= self.state.max_steps
        if not self.control.should_training_stop:
            super()._run_epoch(**settings)

    def _present_epoch(self) -> int:
        return int((self.state.epoch or 0.0) + 1e-6)

    def _token_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self._softmax is not None:
            return self._softmax.losses(logits, labels)  # they are states, no logits
        return token_losses(logits, labels, self._smoothing)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **settings: Any) -> Any:
        """Return the loss; note whose samples it is of while training."""
        whole, step = dict(inputs), self.state.global_step
        tasks, places = inputs.pop("task", None), inputs.pop("place", None)
        self._loss.tasks, self._loss.extra, self._loss.places = None, lambda: None, None
        if model.training:
            self._loss.places = places
            self._loss.tasks, self._loss.extra = tasks, partial(self._adaptation.extra_loss, step)
        deferred = self._softmax.deferred() if self._softmax else nullcontext()
        with self._adaptation.answering(tasks), deferred:
            found = super().compute_loss(model, inputs, *given, **settings)
        if self._ranks is not None and not model.training:
            head = self._softmax.logits if self._softmax else None
            self._ranks.add(found[1]["logits"], whole["labels"], whole, head)
        return found

    def evaluation_loop(self, *given: Any, **settings: Any) -> Any:
        """Measure the loss and, where items have tokens of their own, how well they are ranked."""
        output = super().evaluation_loop(*given, **settings)
        if self._ranks is not None and output.metrics is not None:
            prefix = settings.get("metric_key_prefix", "eval")
            reduce = partial(self.accelerator.reduce, reduction="sum")
            found = self._ranks.read_out(lambda sums: reduce(sums.to(self.args.device)))
            output.metrics.update({f"{prefix}_{name}": value for name, value in found.items()})
        return output

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.is_world_process_zero():
            step, steps = self.state.best_global_step, self.state.max_steps
            best = f"{self.args.metric_for_best_model} is {self.state.best_metric:.4f}, the best"
            say(f"  kept the weights of step {step:,} of {steps:,}: their validation {best}")

    def _issue_warnings_after_load(self, result: Any) -> None:
        """Say nothing: what trains is stored, and a weight of several names under one of them."""

    def create_optimizer(self, *given: Any) -> Optimizer:
        """Make the optimizer, with the groups that the adapted model asks for."""
        optimizer: Optimizer = super().create_optimizer(*given)
        self._adaptation.group_parameters(optimizer)
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the loss of each task beside the whole one."""
        if "loss" in logs:
            logs |= self._loss.read_out(partial(self.accelerator.reduce, reduction="sum"))
        super().log(logs, start_time)

    def _save_checkpoint(self, *given: Any) -> None:
        with explain_failed_writing(Path(self.args.output_dir)):
            super()._save_checkpoint(*given)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if isinstance(self.model, Wrapper):
            # Of weights that have two names, safetensors refuses to write both.
            state_dict = self.model.trained_weights()
        super()._save(output_dir, state_dict)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        if not self._phases and self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = list(self.train_dataset[self.args.length_column_name])
        batch_size, seed = samples_a_step(self.args), self.args.seed
        if not self._phases:
            return LengthBuckets(lengths, batch_size, seed, self._present_epoch)
        tasks, names = np.asarray(self.train_dataset["task"], np.int64), self._task_names
        steps, phases = self.args.max_steps, self._phases
        order = order_by_phase(
            tasks, names, np.asarray(lengths, np.int64), phases, steps, batch_size, seed
        )
        return order.tolist()


def _share_out_weights(trainer: Trainer) -> None:
    """Shard a model block by block where FSDP 2 is asked for.

    accelerate would shard embeddings as blocks, and torch refuses those that T5's encoder and
    decoder share; here they stay with the root.
    """
    if not trainer.is_fsdp_enabled:
        if asked_for_fsdp() and trainer.is_world_process_zero():
            say("  FSDP is for GPUs: here each process holds the whole model")
        return
    plugin = trainer.accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        return
    settings = {
        "reshard_after_forward": plugin.reshard_after_forward,
        "offload_policy": plugin.cpu_offload,
        "mp_policy": plugin.mixed_precision_policy or MixedPrecisionPolicy(),
    }
    blocks = set(without_wrapper(trainer.model)._no_split_modules or ())
    for module in trainer.model.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, **settings)
    fully_shard(trainer.model, **settings)


def asked_for_fsdp() -> bool:
    """Whether accelerate was told to use FSDP, be there GPUs for it or not."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
