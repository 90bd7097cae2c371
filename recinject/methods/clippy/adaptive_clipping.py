"""Adaptive gradient clipping (AGC) before Adagrad and Adam, to compare Clippy with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from recinject.methods.clippy.clippy import ScalingOptimizer


@torch.no_grad()
def clip_units(weights: Tensor, gradient: Tensor, clip_factor: float, clip_eps: float) -> Tensor:
    """Scale each unit of a gradient down, in place, to a fraction of its weights' own norm.

    A unit is a row of a matrix, or a whole vector (Brock et al. 2021, High-performance large-scale
    image recognition without normalization, section 4).

    Args:
        weights: of shape (units, ...).
        gradient: of the same shape.
        clip_factor: the largest ratio of both norms.
        clip_eps: the least norm of weights, without which zeros could not move.

    Returns:
        The scale of each unit, in [0, 1].
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
    """Clips gradients before the step of the class behind it, except where ``clip: False``."""

    def start_clipping(self, clip_factor: float, clip_eps: float) -> None:
        """Put the thresholds into all groups, present and later ones."""
        if not (clip_factor > 0 and clip_eps > 0):
            raise ValueError(
                f"clip_factor {clip_factor}, clip_eps {clip_eps}: both must be above 0, such as "
                "0.01 and 0.001"
            )
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
        super(ScalingOptimizer, self).step()
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
        super().__init__(params, lr, 0.0, weight_decay, initial_accumulator_value, eps)
        self.start_clipping(clip_factor, clip_eps)


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
        super().__init__(params, lr, betas, eps, weight_decay)
        self.start_clipping(clip_factor, clip_eps)
