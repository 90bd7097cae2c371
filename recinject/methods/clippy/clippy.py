"""Clippy, and adaptive gradient clipping as its control."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeAlias

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import Tensor, nn

from recinject.foundation.errors import RecinjectError
from recinject.training.optimizers import BoundedOptimizer

Group: TypeAlias = dict[str, Any]
TensorList: TypeAlias = list[Tensor]
_TABLES = (nn.Embedding, nn.EmbeddingBag, TrainableTokensLayer)
# Below this a step leaves a matrix of zeros, such as LoRA's B, where it is.
_LEAST_FOR_ZEROS = 1e-4


def clippy_groups(model: nn.Module, weight_decay: float = 0.0) -> list[Group]:
    """Group a model's trained parameters, embeddings in groups of their own with ``clip: False``.

    Few rows of an embedding have a gradient in a step, and one would hold back all; the paper clips
    none either. An output layer that shares an embedding's weights counts as one. Vectors, such as
    biases and norms, have no weight decay.
    """
    # peft's wrapper of an embedding has its new rows one level down.
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


class ScalingOptimizer(BoundedOptimizer):
    """An optimizer that scales steps or gradients down, tensor by tensor, and logs by how much.

    Attributes:
        scales: of the last step, by tensor; the smallest of one that is scaled in parts.
    """

    scales: dict[str, float]
    needs_whole_weights = (
        "a scale is of a whole tensor",
        "choose another training.optimizer, such as adafactor",
    )
    _seen: tuple[float, float, int, int] = (1.0, 0.0, 0, 0)  # least, sum, how many below 1, of all

    group_parameters = staticmethod(clippy_groups)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step, or refuse a gradient that is not finite before any weight changes."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        self._refuse_infinite()
        self.scales = self.scaled_step()
        values, (least, total, below, count) = list(self.scales.values()), self._seen
        below += sum(value < 1.0 for value in values)
        self._seen = (min(least, *values, 1.0), total + sum(values), below, count + len(values))
        return loss

    def scaled_step(self) -> dict[str, float]:
        """Change the weights, and return the scales."""
        raise NotImplementedError

    def log_entries(self) -> dict[str, float]:
        """Return the least and the mean scale since the last call, and the fraction below 1."""
        (least, total, below, count), self._seen = self._seen, ScalingOptimizer._seen
        names = ("clip_scale_min", "clip_scale_mean", "clip_share")
        return dict(zip(names, (least, total / count, below / count), strict=True)) if count else {}

    def with_gradient(self, group: Group) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield name, weights and gradient of a group's tensors that have one."""
        for name, weights in zip(self.names(group), group["params"], strict=True):
            if weights.grad is not None and weights.grad.numel():
                yield name, weights, weights.grad

    def names(self, group: Group) -> list[str]:
        """Return the names of a group's tensors, or their indices where it has none."""
        if "param_names" in group:
            return list(group["param_names"])
        number = next(n for n, other in enumerate(self.param_groups) if other is group)
        return [f"parameter {n} of group {number}" for n in range(len(group["params"]))]

    def _refuse_infinite(self) -> None:
        found = [entry for group in self.param_groups for entry in self.with_gradient(group)]
        if not found:
            return
        # One synchronisation for all; a norm can also overflow.
        norms = torch._foreach_norm([gradient for _, _, gradient in found])
        whole = torch.stack([norm.to(norms[0].device, torch.float32) for norm in norms])
        if whole.isfinite().all():
            return
        for name, _, gradient in found:
            if not gradient.isfinite().all():
                raise RecinjectError(
                    f"training: the gradient of {name} is not finite",
                    hint="lower training.learning_rate or add training.warmup_steps; "
                    "no clipping mends a gradient that is no number",
                )


class Clippy(ScalingOptimizer):
    """The steps of an optimizer, each tensor's scaled down until every weight is in its bound.

    A step is ``rate * scale * direction``, one scale a tensor: the largest in [0, 1] for which
    no weight w moves by more than ``lam_rel * |w| + lam_abs + lam_acc / denominator``, where the
    direction is a quotient with this denominator, such as Adagrad's ``sqrt(G) + eps``. Groups
    with ``clip: False`` are not scaled.

    Raises:
        ValueError: a setting is out of its range.
        RecinjectError: a threshold would keep a matrix that starts at 0 there.
    """

    memory: ClassVar[tuple[str, ...]]  # names of the moments of each weight

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, and check its thresholds."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for key, value in group.items():
            if isinstance(value, (int, float)) and not value >= 0:
                raise ValueError(f"{key}: {value} is below 0")
        if not group["clip"] or group["lam_abs"] >= _LEAST_FOR_ZEROS:
            return
        for name, tensor in zip(self.names(group), group["params"], strict=True):
            if tensor.ndim > 1 and not tensor.any():
                raise RecinjectError(
                    f"training.optimizer_settings.lam_abs: {group['lam_abs']:g} would freeze "
                    f"{name}, which starts at 0 (as LoRA's B does)",
                    hint=f"set it to {_LEAST_FOR_ZEROS:g} or more; 0.01 is usual",
                )

    def scaled_step(self) -> dict[str, float]:
        """Take a step, and return its scales."""
        scales: dict[str, float] = {}
        for group in self.param_groups:
            if found := list(self.with_gradient(group)):
                names, weights, gradients = map(list, zip(*found, strict=True))
                values = self._step_together(group, weights, gradients)
                scales |= dict(zip(names, values, strict=True)) if group["clip"] else {}
        return scales

    def _step_together(
        self, group: Group, weights: TensorList, gradients: TensorList
    ) -> list[float]:
        """Change tensors of a group, and return their scales."""
        states, scales = [self._state(group, tensor) for tensor in weights], [1.0] * len(weights)
        memory = [[state[key] for state in states] for key in self.memory]
        steps = [int(state["step"]) for state in states]
        if decay := group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, weights, alpha=decay))
        numerators, denominators, rates = self._quotient(group, memory, gradients, steps)
        directions = list(torch._foreach_div(numerators, denominators))
        if group["clip"]:
            bounds = _bounds(group, weights, denominators)
            scales = _largest_scales(directions, bounds, rates)
        taken = [-rate * scale for rate, scale in zip(rates, scales, strict=True)]
        torch._foreach_mul_(directions, taken)
        torch._foreach_add_(weights, directions)
        return scales

    def _state(self, group: Group, weights: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[weights]
        if not state:
            start = group.get("initial_accumulator_value", 0.0)
            state["step"] = torch.tensor(0.0)
            state |= {key: torch.full_like(weights, start) for key in self.memory}
        state["step"] += 1
        return state

    def _quotient(
        self, group: Group, memory: list[TensorList], gradients: TensorList, steps: list[int]
    ) -> tuple[TensorList, TensorList, list[float]]:
        """Update the moments; return the directions' numerators and denominators, and the rates."""
        raise NotImplementedError


class ClippyAdagrad(Clippy):
    """Clippy on Adagrad, as in the paper; with huge thresholds it is ``torch.optim.Adagrad``.

    Args:
        params: tensors, named or not, or groups of them; see :func:`clippy_groups`.
        lr: the learning rate.
        lam_rel: the fraction of its own size by which a weight may move.
        lam_abs: how far it may move beside that, which a weight of 0 needs.
        lam_acc: times ``1 / sqrt(G)``, added to the bound.
        update_first: whether the squared gradient joins G before the step, as in the paper and in
            Adagrad, or after it, as TensorFlow Recommenders does by default.
        initial_accumulator_value: G's first value; above 0 where it is updated after the step.
        eps: added to the square root of G.
        weight_decay: times the weight, added to the gradient.
    """

    memory = ("sum",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lam_rel: float = 0.5,
        lam_abs: float = 1e-2,
        lam_acc: float = 0.0,
        *,
        update_first: bool = True,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ) -> None:
        if not update_first and initial_accumulator_value <= 0:
            raise ValueError(
                "update_first=false divides by an accumulator of 0: set "
                "initial_accumulator_value above 0, such as 0.1"
            )
        thresholds = {"lam_rel": lam_rel, "lam_abs": lam_abs, "lam_acc": lam_acc}
        rest = {"eps": eps, "weight_decay": weight_decay, "update_first": update_first}
        rest["initial_accumulator_value"] = initial_accumulator_value
        super().__init__(params, {"lr": lr, "clip": True, **thresholds, **rest})

    def _quotient(
        self, group: Group, memory: list[TensorList], gradients: TensorList, steps: list[int]
    ) -> tuple[TensorList, TensorList, list[float]]:
        if group["update_first"]:
            torch._foreach_addcmul_(memory[0], gradients, gradients, value=1)
        denominators = list(torch._foreach_sqrt(memory[0]))
        torch._foreach_add_(denominators, group["eps"])
        if not group["update_first"]:
            torch._foreach_addcmul_(memory[0], gradients, gradients, value=1)
        return gradients, denominators, [float(group["lr"])] * len(steps)


class ClippyAdam(Clippy):
    """Clippy on Adam; with huge thresholds it is ``torch.optim.Adam``.

    ``lr`` and the thresholds are as in :class:`ClippyAdagrad`, with Adam's second moment, bias
    corrected, in place of G; the rest are torch's arguments.
    """

    memory = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        lam_rel: float = 0.5,
        lam_abs: float = 1e-2,
        lam_acc: float = 0.0,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas: {betas} are not at least 0 and below 1")
        thresholds = {"lam_rel": lam_rel, "lam_abs": lam_abs, "lam_acc": lam_acc}
        rest = {"eps": eps, "weight_decay": weight_decay, "betas": betas}
        super().__init__(params, {"lr": lr, "clip": True, **thresholds, **rest})

    def _quotient(
        self, group: Group, memory: list[TensorList], gradients: TensorList, steps: list[int]
    ) -> tuple[TensorList, TensorList, list[float]]:
        (means, squares), (keep, keep_squares) = memory, group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - keep)
        torch._foreach_mul_(squares, keep_squares)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - keep_squares)
        denominators = list(torch._foreach_sqrt(squares))
        torch._foreach_div_(denominators, [math.sqrt(1 - keep_squares**step) for step in steps])
        torch._foreach_add_(denominators, group["eps"])
        return means, denominators, [group["lr"] / (1 - keep**step) for step in steps]


def _bounds(group: Group, weights: TensorList, denominators: TensorList) -> TensorList:
    """Return how far each weight may move."""
    bounds = list(torch._foreach_abs(weights))
    torch._foreach_mul_(bounds, group["lam_rel"])
    torch._foreach_add_(bounds, group["lam_abs"])
    if group["lam_acc"]:
        inverse = torch._foreach_reciprocal(denominators)
        torch._foreach_add_(bounds, inverse, alpha=group["lam_acc"])
    return bounds


def _largest_scales(directions: TensorList, bounds: TensorList, rates: list[float]) -> list[float]:
    """Return for each tensor the largest scale in [0, 1] at which no weight leaves its bound."""
    excess = torch._foreach_div(directions, bounds)
    torch._foreach_abs_(excess)
    # A norm gives the same, and takes four times as long on the CPU.
    largest = torch.stack([t.amax().to(excess[0].device, torch.float64) for t in excess])
    if largest.isnan().any():  # 0 / 0: what does not move is within any bound
        largest = torch.stack(
            [t.nan_to_num_(0.0, posinf=math.inf).amax().to(largest) for t in excess]
        )
    return [1.0 / max(1.0, r * most) for r, most in zip(rates, largest.tolist(), strict=True)]


@torch.no_grad()
def clip_units(weights: Tensor, gradient: Tensor, clip_factor: float, clip_eps: float) -> Tensor:
    """Scale each unit of a gradient down, in place, to a fraction of its weights' own norm.

    A unit is a row of a matrix, or a whole vector (Brock et al. 2021, High-performance large-scale
    image recognition without normalization, section 4). ``clip_eps`` is the least norm of weights,
    without which zeros could not move. Returns the scale of each unit, in [0, 1].
    """
    others = tuple(range(1, weights.ndim)) or None
    norms = [
        torch.linalg.vector_norm(tensor, dim=others, keepdim=others is not None)
        for tensor in (weights, gradient)
    ]
    scales: Tensor = (norms[0].clamp_min(clip_eps) * clip_factor / norms[1]).clamp_max(1.0)
    gradient.mul_(scales)
    return scales


class AdaptiveClipping(ScalingOptimizer):
    """Clips gradients before the step of another class, except where ``clip: False``."""

    def __init__(
        self, params: Iterable[Any], clip_factor: float, clip_eps: float, **settings: Any
    ) -> None:
        if not (clip_factor > 0 and clip_eps > 0):
            raise ValueError(
                f"clip_factor {clip_factor}, clip_eps {clip_eps}: both must be above 0, such as "
                "0.01 and 0.001"
            )
        super().__init__(params, **settings)
        self.defaults |= {"clip": True, "clip_factor": clip_factor, "clip_eps": clip_eps}
        for group in self.param_groups:
            group |= {**self.defaults, **group}

    def scaled_step(self) -> dict[str, float]:
        """Clip, and take a step; return the smallest scale of each tensor's units."""
        scales: dict[str, Tensor] = {}
        for group in self.param_groups:
            for name, weights, gradient in self.with_gradient(group) if group["clip"] else ():
                units = clip_units(weights, gradient, group["clip_factor"], group["clip_eps"])
                scales[name] = units.amin().float()
        super(BoundedOptimizer, self).step()
        values = torch.stack(list(scales.values())).tolist() if scales else []
        return dict(zip(scales, values, strict=True))


class AgcAdagrad(AdaptiveClipping, torch.optim.Adagrad):
    """Adagrad on gradients clipped by :func:`clip_units`; the other arguments are torch's."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        clip_factor: float = 0.01,
        clip_eps: float = 1e-3,
        *,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
    ) -> None:
        rest = {"weight_decay": weight_decay, "eps": eps}
        rest["initial_accumulator_value"] = initial_accumulator_value
        super().__init__(params, clip_factor, clip_eps, lr=lr, **rest)


class AgcAdam(AdaptiveClipping, torch.optim.Adam):
    """Adam on gradients clipped by :func:`clip_units`; the other arguments are torch's."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        clip_factor: float = 0.01,
        clip_eps: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        rest = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, clip_factor, clip_eps, lr=lr, **rest)
