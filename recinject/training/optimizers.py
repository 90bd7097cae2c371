"""Optimizers by name: the registry's own, beside those that transformers' ``optim`` names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial, partialmethod
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import Adafactor

from recinject.foundation.errors import RecinjectError
from recinject.registry import find, pick, register

# The Trainer takes a class, or a function that returns one from model to optimizer.
Factory = Callable[[], Callable[..., Optimizer]]
_SET_ELSEWHERE = {"self", "params", "lr", "weight_decay"}


class BoundedOptimizer(Optimizer):
    """An optimizer that bounds its own steps, so that the Trainer clips no gradients for it.

    Attributes:
        needs_whole_weights: why processes cannot shard the weights, and a remedy; else both empty.
    """

    needs_whole_weights: ClassVar[tuple[str, str]] = ("", "")

    @classmethod
    def group_parameters(cls, model: nn.Module, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Return the groups of a model's trained parameters that the optimizer is made of."""
        trained = [p for p in model.parameters() if p.requires_grad]
        return [{"params": trained, "weight_decay": weight_decay}]

    def log_entries(self) -> dict[str, float]:
        """Return what the log says of the steps since the last call."""
        return {}


@register("optimizer", "adafactor")
class ScaledAdafactor(Adafactor):  # type: ignore[misc]  # transformers is untyped here
    """Adafactor with steps in proportion to each parameter's own size, as T5 was trained.

    The Trainer's ``optim: adafactor`` turns that off, and a small T5 then learns far less from
    scratch (docs/results.md). The arguments are those of ``transformers.Adafactor``.
    """

    __init__ = partialmethod(Adafactor.__init__, relative_step=False)


def choose_optimizer(
    name: str | None,
    learning_rate: float,
    settings: Mapping[str, Any] | None = None,
    weight_decay: float = 0.0,
) -> tuple[type[Optimizer] | Factory, dict[str, Any]] | None:
    """Return an optimizer's class, or a function that builds it, as the Trainer takes it.

    None leaves the choice to transformers' ``optim``; a name is in the registry, kind
    ``optimizer``, whose class takes the settings, such as Clippy's ``lam_rel``. The weight decay is
    for :class:`BoundedOptimizer` classes; the Trainer hands it to others. An unknown name or
    setting, or a value that the optimizer refuses, is an error.
    """
    settings = dict(settings or {})
    if name is None:
        if settings:
            raise RecinjectError(
                "training.optimizer_settings: there is no training.optimizer to take them",
                hint="name one, such as adafactor; transformers' own go by training.optim",
            )
        return None
    kind = find("optimizer", name, "training.optimizer")
    chosen = {**settings, "lr": learning_rate}
    _check_settings(name, kind, settings, chosen)
    if not issubclass(kind, BoundedOptimizer):
        return kind, chosen
    return (lambda: partial(_built, kind)), {**chosen, "weight_decay": weight_decay}


def build_optimizer(
    model: nn.Module,
    name: str,
    learning_rate: float,
    settings: Mapping[str, Any] | None = None,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Return an optimizer over a model's trained parameters; see :func:`choose_optimizer`."""
    choose_optimizer(name, learning_rate, settings)
    kind, chosen = find("optimizer", name), {**(settings or {}), "lr": learning_rate}
    return _built(kind, model, weight_decay=weight_decay, **chosen)


def bounding_class(name: str | None) -> type[BoundedOptimizer] | None:
    """Return the class of an optimizer that bounds its own steps; None for any other."""
    kind = None if name is None else find("optimizer", name, "training.optimizer")
    return kind if kind is not None and issubclass(kind, BoundedOptimizer) else None


def check_optimizer(name: str | None, settings: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse legal settings under which a model could not train."""
    if kind := bounding_class(name):
        _built(kind, model, weight_decay=0.0, **settings)


def log_entries(optimizer: Optimizer | None) -> dict[str, float]:
    """Return what an optimizer, wrapped by accelerate or not, says of its steps in the log."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner.log_entries() if isinstance(inner, BoundedOptimizer) else {}


def _built(
    kind: type[Optimizer], model: nn.Module, /, *, weight_decay: float, **settings: Any
) -> Optimizer:
    grouped = kind if issubclass(kind, BoundedOptimizer) else BoundedOptimizer
    return kind(grouped.group_parameters(model, weight_decay), **settings)


def _check_settings(
    name: str, kind: Callable[..., Optimizer], given: Mapping[str, Any], chosen: Mapping[str, Any]
) -> None:
    legal = inspect.signature(kind).parameters.keys() - _SET_ELSEWHERE
    for key in given:
        pick(key, legal, f"training.optimizer_settings: {name} takes no")
    trial = nn.Parameter(torch.ones(1))
    trial.grad = torch.ones(1)
    try:
        kind([trial], **chosen).step()
    except (TypeError, ValueError) as error:
        raise RecinjectError(
            f"training.optimizer_settings: {name} refuses {dict(given)} ({error})",
            hint="write a number as 0.5 or 1e-3, a pair as [0.9, 0.999]",
        ) from error
