"""What stands between a ranker's features and its tasks' heads: one network, or gated experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.models.gates import GATES, Gate, Routing


class Trunk(nn.Module):
    """Turns features, shape (..., inputs), into those of each task, shape (..., width)."""

    def penalty(self) -> Tensor:
        """Return what is added to the loss in training."""
        return torch.zeros(())


class SharedTrunk(Trunk):
    """One network for all tasks; the arguments are the first of :class:`ExpertTrunk`."""

    def __init__(self, tasks: Sequence[str], inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self._tasks = tasks
        self.layers = _network(inputs, width, dropout)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """See :class:`Trunk`."""
        return dict.fromkeys(self._tasks, self.layers(features))


class ExpertTrunk(Trunk):
    """Several networks, and for each task a gate that mixes what they give (arXiv 2106.03760).

    Networks that no task has a weight on are not run: none of them gets a gradient then, nor does
    a DSelect-k or top-k gate through them.

    Args:
        tasks: their names.
        inputs: how many numbers come in.
        width: how many come out for each task.
        dropout: of what each network gives.
        experts: how many networks there are; for the rest see
            :class:`~recinject.models.expert_layers.ExpertSettings`.

    Raises:
        RecinjectError: a setting is out of its range.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        inputs: int,
        width: int,
        dropout: float,
        experts: int = 4,
        k: int = 2,
        gate: str = "dselect_k",
        gamma: float = 1.0,
        regulariser: float = 1e-3,
    ) -> None:
        super().__init__()
        if gate not in GATES:
            raise RecinjectError(f"trunk: unknown gate {gate!r}", hint=did_you_mean(gate, GATES))
        if experts < 2 or not 1 <= k <= experts or gamma <= 0 or regulariser < 0:
            raise RecinjectError(
                f"trunk: {experts} experts, k {k}, gamma {gamma}, regulariser {regulariser}",
                hint="take 2 experts or more, k from 1 to their number, gamma above 0 and a "
                "regulariser of 0 or more",
            )
        self._tasks, self._regulariser = tasks, regulariser
        self.experts = nn.ModuleList(_network(inputs, width, dropout) for _ in range(experts))
        self.gate: Gate = GATES[gate](experts, k, gamma, tasks=len(tasks))

    def routing(self) -> Routing:
        """Return the decision for each task, in their order."""
        place = self.gate.logits.weight.device
        found: Routing = self.gate(torch.arange(len(self._tasks), device=place))
        return found

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """See :class:`Trunk`."""
        weights = self.routing().weights.to(features.dtype)
        used = (weights > 0).any(0).nonzero()[:, 0]
        given = torch.stack([self.experts[int(number)](features) for number in used])
        mixed = torch.tensordot(weights[:, used], given, dims=1)
        return dict(zip(self._tasks, mixed, strict=True))

    def penalty(self) -> Tensor:
        """See :class:`Trunk`."""
        routing = self.routing()
        return (self._regulariser * routing.entropy + routing.excess).sum()


def _network(inputs: int, width: int, dropout: float) -> nn.Sequential:
    layers = (nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    return nn.Sequential(*layers, nn.Dropout(dropout))
