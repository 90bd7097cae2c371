"""Two thin factors in place of a matrix, chosen by what its layer computes (arXiv 2202.00834)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers.activations import ACT2FN

from recinject.foundation.errors import RecinjectError
from recinject.registry import pick

_LINEAR = (nn.Identity, type(ACT2FN["linear"]))
_SAMPLED = 4096  # rows of Gaussian inputs where there is no closed form
_ROUNDS, _STEPS, _GAIN = 10, 20, 1e-3
_NUDGE, _FLOOR = 1e-2, 1e-6


@dataclass(frozen=True)
class Factors:
    """A matrix as the product of two: ``up``, (outputs, rank), and ``down``, (rank, inputs)."""

    up: Tensor
    down: Tensor

    def product(self) -> Tensor:
        """Return the matrix, shape (outputs, inputs)."""
        return self.up @ self.down

    def balanced(self) -> Factors:
        """Return the same product of two factors that have the same singular values."""
        outer, left = torch.linalg.qr(self.up)
        inner, right = torch.linalg.qr(self.down.T)
        u, values, v = torch.linalg.svd(left @ right.T)
        return Factors(outer @ u * values.sqrt(), values.sqrt()[:, None] * (v @ inner.T))


Matrix: TypeAlias = Tensor | Factors


@dataclass(frozen=True)
class Block:
    """Linear layers that read the same input: one, or a gated pair.

    The activation applies to the first layer's outputs, which a second's are multiplied with.
    """

    weights: Sequence[Tensor]  # (outputs, inputs) each
    biases: Sequence[Tensor | None] = (None, None)  # (outputs,) each
    activation: nn.Module = field(default_factory=nn.Identity)

    @property
    def is_linear(self) -> bool:
        """Whether this is one layer without an activation."""
        return len(self.weights) == 1 and isinstance(self.activation, _LINEAR)

    @property
    def is_relu(self) -> bool:
        """Whether this is one layer with ReLU, for which there are closed forms."""
        return len(self.weights) == 1 and isinstance(self.activation, nn.ReLU)

    def outputs(self, inputs: Tensor, weights: Sequence[Matrix]) -> Tensor:
        """Return the block's outputs with other weights, shape (n, outputs)."""
        first, *second = (
            (inputs @ each.down.T @ each.up.T if isinstance(each, Factors) else inputs @ each.T)
            + (0 if bias is None else bias)
            for each, bias in zip(weights, self.biases, strict=False)
        )
        activated: Tensor = self.activation(first)
        return activated * second[0] if second else activated

    def double(self) -> Block:
        """Return the block in double precision, with no gradients."""
        biases = [None if bias is None else bias.detach().double() for bias in self.biases]
        return Block([w.detach().double() for w in self.weights], biases, self.activation)


def find_factors(
    block: Block, ranks: Sequence[int], method: str, inputs: Tensor | None = None, seed: int = 0
) -> list[Factors]:
    """Return two factors for each weight of a block.

    ``spectral`` is the truncated SVD of a weight. ``nkp`` keeps the directions in which the outputs
    of the layer vary most, and gives ReLU the best columns within them for Gaussian inputs of the
    given second moment. ``lfai`` descends the risk from the better of the two: without inputs and
    with ReLU over all subspaces, in closed form; else over both layers of a pair at once, on three
    quarters of the inputs, to where the risk on the last quarter is lowest. For a linear layer
    ``nkp`` and ``lfai`` are optimal; without inputs they equal the truncated SVD.

    Args:
        block: the layers.
        ranks: one for each weight, from 1 to the smaller of its sides.
        method: a name in ``METHODS``.
        inputs: of the layers, shape (n, inputs); None stands for x ~ N(0, I).
        seed: of sampled inputs and of the first nudge.

    Raises:
        RecinjectError: there is no such method or rank, or ``nkp`` has no form for the block.
    """
    check_method(block, method)
    for weight, rank in zip(block.weights, ranks, strict=True):
        check_rank("this layer", weight, rank)
    kind, block = block.weights[0], block.double()
    rows = None if inputs is None else inputs.detach().to(kind.device).double()
    found = METHODS[method](block, ranks, rows, seed)
    return [Factors(f.up.to(kind.dtype), f.down.to(kind.dtype)) for f in found]


def check_method(block: Block, method: str) -> None:
    """Refuse a method that does not exist, or that has no closed form for a block."""
    pick(method, METHODS, "low rank: no initialization")
    if method == "nkp" and not (block.is_linear or block.is_relu):
        raise RecinjectError(
            "low rank: nkp has a closed form for ReLU and for linear layers alone",
            hint="choose lfai, which takes any activation, or spectral",
        )


def check_rank(name: str, weight: Tensor, rank: int) -> None:
    """Refuse a layer's rank below one or above full rank."""
    full = min(weight.shape)
    if not 1 <= rank <= full:
        raise RecinjectError(
            f"low rank: rank {rank} for {name}, whose full rank is {full}",
            hint=f"choose one from 1 to {full}",
        )


def risk(
    block: Block, weights: Sequence[Matrix], inputs: Tensor | None = None, seed: int = 0
) -> float:
    """Return the mean squared distance between a block's outputs and those of other weights.

    Inputs have the shape (n, inputs); None stands for x ~ N(0, I), in closed form for one layer
    that is linear or has ReLU and no bias, else sampled by the seed.
    """
    block = block.double()
    given = [(w.product() if isinstance(w, Factors) else w).detach().double() for w in weights]
    if inputs is None and (block.is_linear or (block.is_relu and block.biases[0] is None)):
        return float(_gaussian_risk(block.weights[0], given[0], block.is_relu))
    rows = _sample(block, seed) if inputs is None else inputs.detach().to(block.weights[0])
    return float(_distance(block.outputs(rows, given), block.outputs(rows, block.weights)))


def relu_correlation(rho: Tensor) -> Tensor:
    """Return E[relu(a) relu(b)] / E[relu(a)^2] for unit Gaussians a, b of correlation ``rho``."""
    with torch.no_grad():
        slope = 1 - rho.clamp(-1, 1).arccos() / math.pi
        rest = (1 - rho.square()).clamp(min=0).sqrt() / math.pi
    # The gradient is the slope alone; autograd would find infinity minus infinity at one.
    found: Tensor = rest + slope * rho
    return found


def _gaussian_risk(weight: Tensor, other: Tensor, is_relu: bool) -> Tensor:
    if not is_relu:
        return (weight - other).square().sum()
    ours, theirs = weight.norm(dim=1), other.norm(dim=1)
    rho = (normalize(weight) * normalize(other)).sum(1)
    shared = 2 * ours * theirs * relu_correlation(rho)
    found: Tensor = (ours.square() + theirs.square() - shared).sum() / 2
    return found


def _distance(given: Tensor, wanted: Tensor) -> Tensor:
    return (given - wanted).square().sum(1).mean()


def _sample(block: Block, seed: int) -> Tensor:
    weight, chance = block.weights[0], torch.Generator().manual_seed(seed)
    rows = torch.randn(_SAMPLED, weight.shape[1], generator=chance, dtype=torch.float64)
    return rows.to(weight.device)


@dataclass(frozen=True)
class _Spectrum:
    """A weight as coordinates times a basis, the directions of largest variance first."""

    coordinates: Tensor  # (outputs, k)
    basis: Tensor  # (k, inputs)

    @classmethod
    def of(cls, weight: Tensor, inputs: Tensor | None = None) -> _Spectrum:
        seen = weight.T
        if inputs is not None:
            # Directions that no input has come last: full rank must give the layer itself.
            floor = _FLOOR * (float(inputs.square().mean()) ** 0.5 or 1.0)
            seen = torch.cat([inputs @ weight.T / len(inputs) ** 0.5, floor * weight.T])
        _, values, turned = torch.linalg.svd(seen, full_matrices=False)
        k = min(weight.shape)
        values, axes = values[:k].clamp(min=1e-300), turned[:k].T
        # An SVD leaves the signs open; the nudge must not depend on them.
        largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
        axes = axes * largest.sign()
        return cls(axes * values, axes.T @ weight / values[:, None])

    def linear(self, rank: int) -> Factors:
        return Factors(self.coordinates[:, :rank], self.basis[:rank]).balanced()

    def relu(self, chosen: Tensor) -> Factors:
        """Give each output its best column within chosen directions, (k, rank), orthonormal."""
        inside, norms = self.coordinates @ chosen, self.coordinates.norm(dim=1)
        fractions = inside.norm(dim=1) / norms.clamp(min=1e-300)
        directions = normalize(inside, eps=1e-300)
        # An output that is orthogonal to all of them may take any.
        directions[fractions == 0, 0] = 1.0
        up = directions * (norms * relu_correlation(fractions))[:, None]
        return Factors(up, chosen.T @ self.basis).balanced()


def _spectral(block: Block, ranks: Sequence[int], _: Tensor | None, __: int) -> list[Factors]:
    return [_Spectrum.of(w).linear(rank) for w, rank in zip(block.weights, ranks, strict=True)]


def _nkp(block: Block, ranks: Sequence[int], inputs: Tensor | None, _: int) -> list[Factors]:
    spectrum, rank = _Spectrum.of(block.weights[0], inputs), ranks[0]
    if block.is_linear:
        return [spectrum.linear(rank)]
    return [spectrum.relu(torch.eye(len(spectrum.basis), rank).to(spectrum.basis))]


def _lfai(block: Block, ranks: Sequence[int], inputs: Tensor | None, seed: int) -> list[Factors]:
    if block.is_linear:
        return _nkp(block, ranks, inputs, seed)
    if block.is_relu and inputs is None and block.biases[0] is None:
        return [_over_subspaces(_Spectrum.of(block.weights[0]), ranks[0], seed)]
    return _on_rows(block, ranks, inputs, seed)


def _over_subspaces(spectrum: _Spectrum, rank: int, seed: int) -> Factors:
    rows = spectrum.coordinates / spectrum.coordinates.norm()
    k, norms = rows.shape[1], rows.norm(dim=1)
    start = torch.eye(k, rank).to(rows)
    chance = torch.Generator().manual_seed(seed)
    nudge = torch.randn(k, rank, generator=chance, dtype=torch.float64).to(rows)
    # Where an output is orthogonal to the subspace the risk has a kink, and descent stands still.
    free = (start + _NUDGE * nudge).requires_grad_()

    def loss(frame: Tensor = free) -> Tensor:
        inside = (rows @ torch.linalg.qr(frame)[0]).norm(dim=1)
        gains = norms * relu_correlation(inside / norms.clamp(min=1e-300))
        lost: Tensor = (norms.square() - gains.square()).sum() / 2
        return lost

    if _go_down([free], loss, lambda: float(loss().detach())) < float(loss(start)):
        start = torch.linalg.qr(free.detach())[0]
    return spectrum.relu(start)


def _on_rows(block: Block, ranks: Sequence[int], inputs: Tensor | None, seed: int) -> list[Factors]:
    rows = _sample(block, seed) if inputs is None else inputs
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    held, used = (rows[part.to(rows.device)] for part in order.tensor_split([len(order) // 4]))
    held = held if len(held) else used
    goal, held_goal = (block.outputs(part, block.weights) for part in (used, held))

    def held_risk(weights: Sequence[Matrix]) -> float:
        return float(_distance(block.outputs(held, weights).detach(), held_goal))

    pairs = list(zip(block.weights, ranks, strict=True))
    starts = [_spectral(block, ranks, None, 0)]
    starts += [[_Spectrum.of(weight, used).linear(rank) for weight, rank in pairs]]
    starts += [_nkp(block, ranks, used, 0)] if block.is_relu else []
    start = min(starts, key=held_risk)
    parameters = [part.clone().requires_grad_() for f in start for part in (f.up, f.down)]
    found = [Factors(*pair) for pair in zip(parameters[::2], parameters[1::2], strict=True)]
    scale = goal.square().sum(1).mean().clamp(min=1e-300)

    def loss() -> Tensor:
        return _distance(block.outputs(used, found), goal) / scale

    _go_down(parameters, loss, lambda: held_risk(found))
    return [Factors(f.up.detach(), f.down.detach()).balanced() for f in found]


def _go_down(
    parameters: list[Tensor], loss: Callable[[], Tensor], measure: Callable[[], float]
) -> float:
    """Descend a loss by L-BFGS to where the measure is lowest, and return it there."""
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=_STEPS, history_size=_STEPS, line_search_fn="strong_wolfe"
    )

    def evaluate() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    best, kept = measure(), [each.detach().clone() for each in parameters]
    for _ in range(_ROUNDS):
        with torch.enable_grad():
            optimizer.step(evaluate)  # type: ignore[no-untyped-call]
        before, value = best, measure()
        if value < best:
            best, kept = value, [each.detach().clone() for each in parameters]
        if not value <= before * (1 - _GAIN):
            break
    for parameter, weights in zip(parameters, kept, strict=True):
        parameter.data.copy_(weights)
    return best


METHODS = {"spectral": _spectral, "nkp": _nkp, "lfai": _lfai}
