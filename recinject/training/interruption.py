"""What ends a training before its time: a signal, and a device without memory."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments

from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say

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
