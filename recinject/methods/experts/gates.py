"""Gates: how much of each expert a row gets, as DSelect-k (arXiv 2106.03760), softmax or top-k."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_TINY = 1e-6
_BY_PARAMETER = {"params", "param_names"}


@dataclass(frozen=True)
class Routing:
    """What a gate decides for some rows."""

    weights: Tensor  # (rows, experts)
    chosen: Tensor  # the experts that the gate picks, (rows, k); one may come twice
    shares: Tensor  # the weights of the picks, (rows, k)
    is_saturated: Tensor  # whether a row's weights are its picks' and no others', (rows,)
    entropy: Tensor  # what a regulariser lowers until the gate is saturated, (rows,)
    excess: Tensor  # what keeps a selector off codes that no expert has, (rows,)

    def support(self) -> Tensor:
        """Say which experts have a weight, shape (rows, experts)."""
        return self.weights > _TINY

    def of(self, rows: Tensor) -> Routing:
        """Return the decisions of some of the rows, in their order."""
        return Routing(**{name: value[rows] for name, value in vars(self).items()})


class Gate(nn.Module):
    """A gate whose logits are a table with a row a task, or linear in a representation.
    Of the experts a row gets ``k``; ``gamma`` is the width of DSelect-k's smooth step. ``tasks``
    counts the decisions; None for one a sequence, whose representation has ``size`` numbers.
    """

    def __init__(
        self, experts: int, k: int, gamma: float = 1.0, tasks: int | None = None, size: int = 0
    ) -> None:
        super().__init__()
        self.experts, self.k, self.gamma = experts, k, gamma
        width = self.count_logits()
        self.logits = nn.Linear(size, width) if tasks is None else nn.Embedding(tasks, width)
        for weights in self.logits.parameters():
            nn.init.uniform_(weights, -gamma / 100, gamma / 100)

    def count_logits(self) -> int:
        """Return how many logits a row has."""
        return self.experts

    def decide(self, logits: Tensor) -> Routing:
        """Turn logits, shape (rows, :meth:`count_logits`), into decisions."""
        raise NotImplementedError

    def forward(self, source: Tensor) -> Routing:
        """Decide by the rows' tasks, shape (rows,), or representations, shape (rows, size)."""
        return self.decide(self.logits(source).float())


class DSelectK(Gate):
    """k selectors, each a binary code of an expert whose bits are smooth and end at 0 and 1.

    A selector whose bits are all beyond ``gamma / 2`` picks one expert exactly, and has no
    gradient. Where the number of experts is no power of two, some codes select none.
    """

    def count_logits(self) -> int:
        """Return how many bits and weights the selectors have."""
        return self.k * ((self.experts - 1).bit_length() + 1)

    def decide(self, logits: Tensor) -> Routing:
        """Read the codes, the most significant bit first, and mix what they select."""
        codes = logits[:, self.k :].reshape(len(logits), self.k, -1)
        shares = logits[:, : self.k].softmax(1)
        selected = select(smooth_step(codes, self.gamma))[..., : self.experts]
        inside = selected.sum(2)
        places = 2 ** torch.arange(codes.shape[2] - 1, -1, -1, device=codes.device)
        chosen = ((codes > 0) * places).sum(2)
        return Routing(
            weights=(shares[..., None] * selected).sum(1),
            chosen=chosen.clamp(max=self.experts - 1),
            shares=shares * (chosen < self.experts),
            is_saturated=(codes.abs() >= self.gamma / 2).flatten(1).all(1),
            # log(r + tiny): the entropy's own slope at 0 is infinite, and 0 times it no number.
            entropy=-(selected * (selected + _TINY).log()).sum((1, 2)),
            excess=(1 / inside.clamp_min(_TINY) - 1).sum(1)
            if self.experts & (self.experts - 1)
            else torch.zeros_like(inside[:, 0]),
        )


class Softmax(Gate):
    """Every expert has a part in every row."""

    def decide(self, logits: Tensor) -> Routing:
        """Take the softmax; ``k`` is not used."""
        weights = logits.softmax(1)
        every = torch.arange(self.experts, device=logits.device).expand_as(weights)
        return _unpenalised(weights, every, weights, is_saturated=False)


class TopK(Gate):
    """The softmax over the k largest logits; it jumps where their order changes. No noise."""

    def decide(self, logits: Tensor) -> Routing:
        """Take the largest."""
        largest, chosen = logits.topk(self.k, 1)
        shares = largest.softmax(1)
        weights = torch.zeros_like(logits).scatter(1, chosen, shares)
        return _unpenalised(weights, chosen, shares, is_saturated=True)


GATES: dict[str, type[Gate]] = {"dselect_k": DSelectK, "softmax": Softmax, "top_k": TopK}


def _unpenalised(weights: Tensor, chosen: Tensor, shares: Tensor, is_saturated: bool) -> Routing:
    none = weights.new_zeros(len(weights))
    saturated = torch.full_like(none, is_saturated, dtype=torch.bool)
    return Routing(weights, chosen, shares, saturated, none, none)


def smooth_step(values: Tensor, gamma: float) -> Tensor:
    """Return ``-2 t^3 / gamma^3 + 3 t / (2 gamma) + 1/2``, 0 and 1 beyond ``+-gamma/2``."""
    # In this form the ends and the slopes there are exact.
    scaled = (values / gamma).clamp(-0.5, 0.5)
    return scaled * (1.5 - 2 * scaled * scaled) + 0.5


def select(bits: Tensor) -> Tensor:
    """Return the weight of each code, shape (..., 2^m), from bits in [0, 1], shape (..., m)."""
    weights = torch.ones_like(bits[..., :1])
    for bit in bits.unbind(-1):
        weights = (weights[..., None] * torch.stack([1 - bit, bit], -1)[..., None, :]).flatten(-2)
    return weights


def part_gate(optimizer: Optimizer, gate: nn.Module, multiple: float) -> None:
    """Give a gate's parameters a group of their own, at a multiple of their present rate.

    They do not decay, and Adafactor's steps are not in proportion to their size, which is nearly 0
    at first. A schedule must be made later than this.
    """
    own = set(gate.parameters())
    for group in list(optimizer.param_groups):
        parted = [parameter in own for parameter in group["params"]]
        if not any(parted):
            continue
        settings = {name: value for name, value in group.items() if name not in _BY_PARAMETER}
        settings |= {"lr": group["lr"] * multiple, "weight_decay": 0.0}
        settings |= {"scale_parameter": False} if "scale_parameter" in group else {}
        for name in _BY_PARAMETER & group.keys():
            column = list(zip(group[name], parted, strict=True))
            group[name] = [value for value, is_own in column if not is_own]
            settings[name] = [value for value, is_own in column if is_own]
        optimizer.add_param_group(settings)
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
