"""What is seen and written while a model trains: progress, logs/train.jsonl, divergence."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TaskID
from transformers import TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments

from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import console, progress_bar, say
from recinject.models.experts import ExpertsModel, experts_of
from recinject.training.step_scales import clip_summary

_PLAIN_LINE_SECONDS = 15.0


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
        kept = [line for line in old if _is_entry(line) and _step(line) <= state.global_step]
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
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._started = self._said = 0.0
        self._first_step = 0
        self._loss = ""

    def on_train_begin(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Start the clock."""
        self._started = self._said = time.monotonic()
        self._first_step = state.global_step
        if console.is_terminal and state.is_world_process_zero:
            self._progress = progress_bar()
            self._progress.start()
            self._task = self._progress.add_task(
                "Training", total=state.max_steps, completed=state.global_step
            )

    def on_log(self, args: Arguments, state: State, control: Control, **given: Any) -> None:
        """Remember the loss."""
        if "loss" in given["logs"]:
            self._loss = f", loss {given['logs']['loss']:.3f}"

    def on_step_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Show how far it is."""
        step, now = state.global_step, time.monotonic()
        if self._progress:
            self._progress.update(self._task, completed=step, description=f"Training{self._loss}")
        elif state.is_world_process_zero and now - self._said > _PLAIN_LINE_SECONDS:
            self._said = now
            left = (now - self._started) / (step - self._first_step) * (state.max_steps - step)
            told = f"step {step} of {state.max_steps}{self._loss}, about {left:.0f} s left"
            say(f"  Training: {told}")

    def close(self) -> None:
        """Take the bar down, however training ended."""
        if self._progress:
            self._progress.stop()


def _is_entry(line: str) -> bool:
    """Whether a line is whole; the last one may have been cut off with the run."""
    return line.startswith('{"step"') and line.endswith("}")


def _step(line: str) -> int:
    return int(json.loads(line)["step"])
