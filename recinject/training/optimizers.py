"""Optimizers beside those that transformers names, for ``training.optimizer``."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Adafactor

from recinject.foundation.errors import RecinjectError, did_you_mean

OptimizerChoice = tuple[type[torch.optim.Optimizer], dict[str, Any]]

# T5 was trained with steps in proportion to each parameter's own size. The Trainer's
# `optim: adafactor` turns that off, and a small T5 then learns far less from scratch
# (docs/results.md).
OPTIMIZERS: dict[str, OptimizerChoice] = {
    "adafactor": (Adafactor, {"scale_parameter": True, "relative_step": False}),
}


def choose_optimizer(name: str | None, learning_rate: float) -> OptimizerChoice | None:
    """Return the optimizer's class with its arguments, as the Trainer takes them.

    Args:
        name: a name in :data:`OPTIMIZERS`; None leaves the choice to transformers' ``optim``.
        learning_rate: the rate that the schedule starts from.

    Raises:
        RecinjectError: the name is unknown.
    """
    if name is None:
        return None
    if name not in OPTIMIZERS:
        raise RecinjectError(
            f"training.optimizer: unknown {name!r}",
            hint=f"{did_you_mean(name, OPTIMIZERS)}; transformers' own go by training.optim",
        )
    kind, settings = OPTIMIZERS[name]
    return kind, {**settings, "lr": learning_rate}
