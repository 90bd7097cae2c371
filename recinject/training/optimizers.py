"""Optimizers beside those that transformers names, for ``training.optimizer``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import Adafactor

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.methods.clippy.adaptive_clipping import AgcAdagrad, AgcAdam
from recinject.methods.clippy.clippy import ClippyAdagrad, ClippyAdam
from recinject.methods.clippy.step_scales import StepScales, clippy_groups

# The Trainer takes a class, or a function that returns one from model to optimizer.
Factory = Callable[[], Callable[..., Optimizer]]

# T5 was trained with steps in proportion to each parameter's own size. The Trainer's
# `optim: adafactor` turns that off, and a small T5 then learns far less from scratch
# (docs/results.md).
OPTIMIZERS: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "adafactor": (Adafactor, {"scale_parameter": True, "relative_step": False}),
    "clippy_adagrad": (ClippyAdagrad, {}),
    "clippy_adam": (ClippyAdam, {}),
    "agc_adagrad": (AgcAdagrad, {}),
    "agc_adam": (AgcAdam, {}),
}
_OF_THE_TRAINER = {"self", "params", "lr", "weight_decay"}


def choose_optimizer(
    name: str | None,
    learning_rate: float,
    settings: Mapping[str, Any] | None = None,
    weight_decay: float = 0.0,
) -> tuple[type[Optimizer] | Factory, dict[str, Any]] | None:
    """Return the optimizer's class, or what builds it for a model, as the Trainer takes it.

    Args:
        name: a name in :data:`OPTIMIZERS`; None leaves the choice to transformers' ``optim``.
        learning_rate: the rate that the schedule starts from.
        settings: arguments of the optimizer's class, such as Clippy's ``lam_rel``.
        weight_decay: for the classes that have :func:`clippy_groups`.

    Raises:
        RecinjectError: the name or a setting is unknown, or the optimizer refuses a value.
    """
    settings = dict(settings or {})
    if name is None and not settings:
        return None
    if name not in OPTIMIZERS:
        raise RecinjectError(
            f"training.optimizer: unknown {name!r}"
            if name
            else "training.optimizer_settings: there is no training.optimizer to take them",
            hint=f"{did_you_mean(name or '', OPTIMIZERS)}; transformers' own go by training.optim",
        )
    kind, defaults = OPTIMIZERS[name]
    chosen = {**defaults, **settings, "lr": learning_rate}
    _check_settings(name, kind, settings, chosen)
    if issubclass(kind, StepScales):
        return _builder(kind), {**chosen, "weight_decay": weight_decay}
    return kind, chosen


def clips_itself(name: str | None) -> bool:
    """Whether an optimizer bounds its own steps, so that the Trainer should clip no norm."""
    return name in OPTIMIZERS and issubclass(OPTIMIZERS[name][0], StepScales)


def check_optimizer(name: str | None, settings: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse settings, legal as such, under which a model could not train.

    Raises:
        RecinjectError: a threshold would freeze a tensor.
    """
    if name is not None and clips_itself(name):
        OPTIMIZERS[name][0](clippy_groups(model), **settings)


def _builder(kind: Callable[..., Optimizer]) -> Factory:
    def build(model: nn.Module, *, weight_decay: float, **settings: Any) -> Optimizer:
        return kind(clippy_groups(model, weight_decay), **settings)

    return lambda: build


def _check_settings(
    name: str, kind: Callable[..., Optimizer], given: Mapping[str, Any], chosen: Mapping[str, Any]
) -> None:
    legal = set(inspect.signature(kind).parameters) - _OF_THE_TRAINER
    for key in given:
        if key not in legal:
            raise RecinjectError(
                f"training.optimizer_settings: {name} takes no {key!r}",
                hint=did_you_mean(key, legal),
            )
    trial = nn.Parameter(torch.ones(1))
    trial.grad = torch.ones(1)
    try:
        kind([trial], **chosen).step()
    except (TypeError, ValueError) as error:
        raise RecinjectError(
            f"training.optimizer_settings: {name} refuses {dict(given)} ({error})",
            hint="write a number as 0.5 or 1e-3, a pair as [0.9, 0.999]",
        ) from error
