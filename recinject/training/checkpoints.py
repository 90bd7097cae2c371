"""Checkpoints that are known to be whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments

from recinject.foundation.storage import write_json

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
