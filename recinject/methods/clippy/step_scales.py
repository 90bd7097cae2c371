"""What optimizers that scale a tensor's step down share: groups, refusals and an account."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.optimizer import AcceleratedOptimizer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from transformers import TrainingArguments

from recinject.foundation.errors import RecinjectError

_TABLES = (nn.Embedding, nn.EmbeddingBag, TrainableTokensLayer)


class StepScales(Optimizer):
    """An optimizer that scales steps or gradients, tensor by tensor, and tells by how much."""

    # Of the last step, by the tensors' names, the smallest of a tensor that is scaled in parts.
    scales: Mapping[str, float] = MappingProxyType({})
    # Of the steps since clip_summary asked: the least, their sum, those below 1, how many.
    _seen: tuple[float, float, int, int] = (1.0, 0.0, 0, 0)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters.

        Raises:
            RecinjectError: a setting is out of its range, or the tensors are parts of some that
                processes share out.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if any(isinstance(tensor, DTensor) for tensor in group["params"]):
            raise _sharded("the parameters are")
        for key, value in group.items():
            if isinstance(value, (int, float)) and not value >= 0:
                raise RecinjectError(
                    f"training.optimizer_settings.{key}: {value} is below 0",
                    hint="set it to a number from 0 upwards",
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step.

        Raises:
            RecinjectError: a gradient is not finite. No weight was changed then.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        self._refuse_unfinite()
        self.scales = self.scaled_step()
        values, (least, total, below, count) = list(self.scales.values()), self._seen
        least, below = min(least, *values, 1.0), below + sum(value < 1.0 for value in values)
        self._seen = (least, total + sum(values), below, count + len(values))
        return loss

    def scaled_step(self) -> Mapping[str, float]:
        """Change the weights, and return the scales."""
        raise NotImplementedError

    def names(self, group: dict[str, Any]) -> list[str]:
        """Return the names of a group's tensors, or their numbers where it was given none."""
        if "param_names" in group:
            return list(group["param_names"])
        place = next(place for place, other in enumerate(self.param_groups) if other is group)
        return [f"parameter {number} of group {place}" for number in range(len(group["params"]))]

    def with_gradient(self, group: dict[str, Any]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield name, weights and gradient where there is one; a sparse one has each row once."""
        for name, weights in zip(self.names(group), group["params"], strict=True):
            if weights.grad is not None and weights.grad.is_sparse:
                weights.grad = weights.grad.coalesce()
            if weights.grad is not None and _numbers(weights.grad).numel():
                yield name, weights, weights.grad

    def _refuse_unfinite(self) -> None:
        found = [entry for group in self.param_groups for entry in self.with_gradient(group)]
        gradients = [_numbers(gradient) for _, _, gradient in found]
        if not gradients:
            return
        # One reading for all; a norm that overflows is looked into below.
        norms = torch._foreach_norm(gradients)
        whole = torch.stack([norm.to(norms[0].device, torch.float32) for norm in norms])
        if whole.isfinite().all():
            return
        for (name, _, _), gradient in zip(found, gradients, strict=True):
            if not gradient.isfinite().all():
                raise RecinjectError(
                    f"training: the gradient of {name} is not finite",
                    hint="lower training.learning_rate or add training.warmup_steps; "
                    "no clipping mends a gradient that is no number",
                )


def clip_summary(optimizer: Optimizer | None) -> dict[str, float]:
    """Read out the scales of all steps since the last time, for a line of the log.

    ``clip_share`` is the share of scales below 1. There is nothing where the optimizer, which may
    be wrapped by accelerate, keeps no scales, or took no step.
    """
    inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    if not isinstance(inner, StepScales) or not inner._seen[3]:
        return {}
    least, total, below, count = inner._seen
    inner._seen = StepScales._seen
    return {"clip_scale_min": least, "clip_scale_mean": total / count, "clip_share": below / count}


def clippy_groups(model: nn.Module, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Group a model's trained parameters, embeddings in groups of their own with ``clip: False``.

    A few rows of an embedding have a gradient in each step, and one of them would hold back all.
    Clippy's paper clips no embeddings either. An output layer that shares its weights with an
    embedding counts as one. Vectors, such as biases and norms, have no weight decay.
    """
    # Of what peft wraps around an embedding too, whose new rows lie one level down.
    tables = {p for m in model.modules() if isinstance(m, _TABLES) for p in m.parameters()}
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            clip, decay = parameter not in tables, weight_decay if parameter.ndim > 1 else 0.0
            new = {"params": [], "param_names": [], "clip": clip, "weight_decay": decay}
            group = groups.setdefault((clip, decay), new)
            group["params"].append(parameter)
            group["param_names"].append(name)
    return list(groups.values())


def refuse_sharding(arguments: TrainingArguments, *why: str) -> None:
    """Refuse what needs whole tensors, such as scaling steps, where processes share them out.

    ``why`` is what needs them, and the fix beside DDP; scales of steps if not given.

    Raises:
        RecinjectError: FSDP or DeepSpeed is at work.
    """
    # Elsewhere accelerate leaves each process the whole model, whatever was asked for.
    single = (DistributedType.NO, DistributedType.MULTI_CPU)
    launched = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    multiple = arguments.distributed_state.distributed_type not in single
    if arguments.fsdp or (launched and multiple):
        raise _sharded("training: FSDP has them", *why)
    if arguments.deepspeed_plugin is not None:
        raise _sharded("training: DeepSpeed has them", *why)


def _sharded(
    who: str,
    why: str = "a scale is of a whole tensor",
    fix: str = "choose another training.optimizer, such as adafactor",
) -> RecinjectError:
    return RecinjectError(
        f"{who} shared out among processes, and {why}",
        hint=f"launch it with recipes/accelerate's configuration for DDP, or {fix}",
    )


def _numbers(gradient: Tensor) -> Tensor:
    return gradient.values() if gradient.is_sparse else gradient
