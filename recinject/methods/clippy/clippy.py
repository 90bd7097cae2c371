"""Clippy: no step moves a weight by more than a share of its own size (arXiv 2302.09178)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from recinject.foundation.errors import RecinjectError
from recinject.methods.clippy.step_entries import Batch, Entry, in_batches, rows_of, works_in_pieces
from recinject.methods.clippy.step_scales import StepScales

# Below this a step leaves a matrix of zeros, such as LoRA's B, where it is.
_LEAST_FOR_ZEROS = 1e-4


class Clippy(StepScales):
    """The steps of an optimizer, each tensor's scaled down until every weight is in its bound.

    A step is ``rate * scale * direction``, one scale a tensor: the largest in [0, 1] for which
    no weight w moves by more than ``lam_rel * |w| + lam_abs + lam_acc / denominator``, where the
    direction is a quotient with this denominator, such as Adagrad's ``sqrt(G) + eps``. Groups
    with ``clip: False`` are not scaled. Of an embedding with sparse gradients only the rows with
    a gradient are read and written, weight decay included.

    Raises:
        RecinjectError: a threshold is negative, or would keep a matrix that starts at 0 there.
    """

    memory: ClassVar[tuple[str, ...]]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, after a look at its thresholds."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if not group["clip"] or group["lam_abs"] >= _LEAST_FOR_ZEROS:
            return
        for name, tensor in zip(self.names(group), group["params"], strict=True):
            if tensor.ndim > 1 and not tensor.any():
                raise RecinjectError(
                    f"training.optimizer_settings.lam_abs: {group['lam_abs']:g} would freeze "
                    f"{name}, which starts at 0 (as LoRA's B does)",
                    hint=f"set it to {_LEAST_FOR_ZEROS:g} or more; 0.01 is usual",
                )

    def scaled_step(self) -> Mapping[str, float]:
        """Take a step, each tensor's by the scale that is returned."""
        scales: dict[str, float] = {}
        for group in self.param_groups:
            for entries, batches in in_batches(self._entries(group)):
                found = self._update(group, entries, batches)
                if group["clip"]:
                    scales |= dict(zip((e.name for e in entries), found, strict=True))
        return scales

    def _entries(self, group: dict[str, Any]) -> Iterator[Entry]:
        for name, weights, gradient in self.with_gradient(group):
            state = self.state[weights]
            if not state:
                state["step"] = torch.tensor(0.0)
                for key in self.memory:
                    start = group.get("initial_accumulator_value", 0.0)
                    state[key] = torch.full_like(weights, start)
            state["step"] += 1
            memory, steps = [state[key] for key in self.memory], int(state["step"])
            if gradient.is_sparse:
                yield rows_of(name, weights, gradient, memory, steps)
            else:
                yield Entry(name, weights, gradient, memory, steps)

    def _update(
        self, group: dict[str, Any], entries: list[Entry], batches: list[Batch]
    ) -> list[float]:
        first, directions, excess = group.get("update_first", True), None, []
        for batch in batches:
            if first:
                self._accumulate(group, batch)
            if group["clip"]:
                directions, denominators = self._directions(group, entries, batch)
                bounds = _bounds(group, batch[0], denominators)
                excess.append(_largest(directions, bounds, group))
        rates = [self._rate(group, entry) for entry in entries]
        scales = [1.0] * len(entries)
        if excess:
            largest = torch.stack(excess).amax(0).tolist()
            scales = [1.0 / max(1.0, r * most) for r, most in zip(rates, largest, strict=True)]
        factors = [-rate * scale for rate, scale in zip(rates, scales, strict=True)]
        for batch in batches:
            # A tensor in pieces is walked through twice: to keep all its directions costs more.
            if directions is None or len(batches) > 1:
                directions, _ = self._directions(group, entries, batch)
            if not first:
                self._accumulate(group, batch)
            torch._foreach_mul_(directions, factors)
            torch._foreach_add_(batch[0], directions)
        for entry in entries:
            if entry.put_back is not None:
                entry.put_back()
        return scales

    def _directions(
        self, group: dict[str, Any], entries: list[Entry], batch: Batch
    ) -> tuple[list[Tensor], list[Tensor]]:
        numerators, denominators = self._quotient(group, entries, batch)
        return list(torch._foreach_div(numerators, denominators)), denominators

    def _accumulate(self, group: dict[str, Any], batch: Batch) -> None:
        """Bring what is remembered up to date."""
        raise NotImplementedError

    def _quotient(
        self, group: dict[str, Any], entries: list[Entry], batch: Batch
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return numerators, which are left as they are, and denominators of the directions."""
        raise NotImplementedError

    def _rate(self, group: dict[str, Any], entry: Entry) -> float:
        """Return what a direction is multiplied with."""
        return float(group["lr"])


class ClippyAdagrad(Clippy):
    """Clippy on Adagrad, as in the paper; with huge thresholds it is ``torch.optim.Adagrad``.

    Args:
        params: tensors, named or not, or groups of them; see :func:`clippy_groups`.
        lr: the learning rate, read anew at each step.
        lam_rel: the share of its own size by which a weight may move.
        lam_abs: by how much it may move beside that, which is what a weight of 0 needs.
        lam_acc: times ``1 / sqrt(G)``, added to the bound.
        update_first: whether the squared gradient joins G before the step, as in the paper and in
            Adagrad, or after it, as TensorFlow Recommenders does unless told.
        initial_accumulator_value: what G starts from; above 0 where it is updated after the step.
        eps: added to the square root of G.
        weight_decay: times the weight, added to the gradient.

    Raises:
        RecinjectError: a value is out of its range, or a threshold would freeze a tensor.
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
        thresholds = {"lam_rel": lam_rel, "lam_abs": lam_abs, "lam_acc": lam_acc}
        rest = {"eps": eps, "weight_decay": weight_decay}
        rest["initial_accumulator_value"] = initial_accumulator_value
        if not update_first and initial_accumulator_value <= 0:
            raise RecinjectError(
                "training.optimizer_settings: update_first=false divides by an accumulator of 0",
                hint="set initial_accumulator_value above 0, such as 0.1",
            )
        defaults = {"lr": lr, "clip": True, **thresholds, **rest, "update_first": update_first}
        super().__init__(params, defaults)

    def _accumulate(self, group: dict[str, Any], batch: Batch) -> None:
        gradients = _decayed(group, batch)
        torch._foreach_addcmul_(batch[2], gradients, gradients, value=1)

    def _quotient(
        self, group: dict[str, Any], entries: list[Entry], batch: Batch
    ) -> tuple[list[Tensor], list[Tensor]]:
        denominators = list(torch._foreach_sqrt(batch[2]))
        torch._foreach_add_(denominators, group["eps"])
        return _decayed(group, batch), denominators


class ClippyAdam(Clippy):
    """Clippy on Adam; with huge thresholds it is ``torch.optim.Adam``.

    ``lr`` and the thresholds are as in :class:`ClippyAdagrad`, with Adam's second moment, bias
    corrected, in place of G; the rest are torch's arguments.

    Raises:
        RecinjectError: a value is out of its range, or a threshold would freeze a tensor.
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
            raise RecinjectError(
                f"training.optimizer_settings.betas: {betas} keep nothing or all",
                hint="set both to at least 0 and below 1, such as [0.9, 0.999]",
            )
        thresholds = {"lam_rel": lam_rel, "lam_abs": lam_abs, "lam_acc": lam_acc}
        rest = {"eps": eps, "weight_decay": weight_decay, "betas": betas}
        super().__init__(params, {"lr": lr, "clip": True, **thresholds, **rest})

    def _accumulate(self, group: dict[str, Any], batch: Batch) -> None:
        (keep, keep_squares), gradients = group["betas"], _decayed(group, batch)
        torch._foreach_lerp_(batch[2], gradients, 1 - keep)
        torch._foreach_mul_(batch[3], keep_squares)
        torch._foreach_addcmul_(batch[3], gradients, gradients, 1 - keep_squares)

    def _quotient(
        self, group: dict[str, Any], entries: list[Entry], batch: Batch
    ) -> tuple[list[Tensor], list[Tensor]]:
        denominators = list(torch._foreach_sqrt(batch[3]))
        corrections = [math.sqrt(1 - group["betas"][1] ** entry.steps) for entry in entries]
        torch._foreach_div_(denominators, corrections)
        torch._foreach_add_(denominators, group["eps"])
        return batch[2], denominators

    def _rate(self, group: dict[str, Any], entry: Entry) -> float:
        return float(group["lr"]) / (1 - float(group["betas"][0]) ** entry.steps)


def _decayed(group: dict[str, Any], batch: Batch) -> list[Tensor]:
    if not group["weight_decay"]:
        return batch[1]
    return list(torch._foreach_add(batch[1], batch[0], alpha=group["weight_decay"]))


def _bounds(
    group: dict[str, Any], weights: list[Tensor], denominators: list[Tensor]
) -> list[Tensor]:
    bounds = list(torch._foreach_abs(weights))
    torch._foreach_mul_(bounds, group["lam_rel"])
    torch._foreach_add_(bounds, group["lam_abs"])
    if group["lam_acc"]:
        inverse = torch._foreach_reciprocal(denominators)
        torch._foreach_add_(bounds, inverse, alpha=group["lam_acc"])
    return bounds


def _largest(directions: list[Tensor], bounds: list[Tensor], group: dict[str, Any]) -> Tensor:
    """Return by how much the worst coordinate of each tensor exceeds its bound, at rate 1."""
    excess = torch._foreach_div(directions, bounds)
    if not group["lam_abs"]:  # 0 / 0: what does not move is within any bound
        for tensor in excess:
            tensor.nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf)
    if works_in_pieces(excess[0]):  # there the norm is slow
        return torch.stack([tensor.abs_().amax() for tensor in excess])
    return torch.stack([norm.float() for norm in torch._foreach_norm(excess, math.inf)])
