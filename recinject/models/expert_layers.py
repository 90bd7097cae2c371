"""What experts there are, and the linear layers that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.models.gates import GATES, Routing


@dataclass(frozen=True)
class ExpertSettings:
    """What experts there are, and who decides between them.

    Attributes:
        number: of experts.
        k: how many a task or a sequence gets; a softmax gives it all of them.
        gate: a name in :data:`~recinject.models.gates.GATES`.
        decision: once a ``task``, or once a ``sequence`` from the mean of its embeddings.
        gamma: the width of DSelect-k's smooth step.
        rank: of each expert.
        alpha: an expert's output is scaled by ``alpha / rank``.
        dropout: of what the experts read.
        target_modules: names, or ends of names, of the layers that get experts.
        regulariser: the weight of the entropy of DSelect-k's selectors in the loss.
        warmup_steps: in how many steps that weight rises from 0. Experts start alike (B = 0), and
            until they differ the entropy alone would choose.
        gate_rate: the gate's learning rate as a multiple of the others'. Under Adam a selector is
            saturated after about ``gamma / (2 * rate * gate_rate)`` steps, and decides no more.

    Raises:
        RecinjectError: a value is out of its range.
    """

    number: int = 4
    k: int = 2
    gate: str = "dselect_k"
    decision: Literal["task", "sequence"] = "task"
    gamma: float = 1.0
    rank: int = 4
    alpha: float = 8.0
    dropout: float = 0.0
    target_modules: Sequence[str] = ("q", "v")
    regulariser: float = 1e-3
    warmup_steps: int = 0
    gate_rate: float = 1.0

    def __post_init__(self) -> None:
        for name, is_right, hint in (
            ("gate", self.gate in GATES, did_you_mean(self.gate, GATES)),
            ("decision", self.decision in ("task", "sequence"), "set it to task or sequence"),
            ("number", self.number >= 2, "set it to 2 or more; lora: is for one alone"),
            ("k", 1 <= self.k <= self.number, f"set it to 1 up to number, {self.number}"),
            ("gamma", self.gamma > 0, "set it above 0; 1 is usual"),
            ("rank", self.rank >= 1, "set it to 1 or more"),
            ("alpha", self.alpha > 0, "set it above 0; twice the rank is usual"),
            ("dropout", 0 <= self.dropout < 1, "set it to at least 0 and below 1"),
            ("target_modules", bool(self.target_modules), "name layers, such as [q, v]"),
            ("regulariser", self.regulariser >= 0, "set it to 0 or more"),
            ("warmup_steps", self.warmup_steps >= 0, "set it to 0 or more"),
            ("gate_rate", self.gate_rate > 0, "set it above 0; 1 is usual"),
        ):
            if not is_right:
                raise RecinjectError(f"experts.{name}: {getattr(self, name)!r}", hint=hint)


class Route:
    """What all layers with experts read."""

    factors: Tensor | None = None
    chosen: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> Route:
        return Route()  # tensors within a graph cannot be copied, and the next forward makes new

    def set(self, routing: Routing, scale: float, rank: int) -> None:
        """Take the picks alone where every row's gate is saturated, else all experts."""
        weights, self.chosen = routing.weights, None
        if bool(routing.is_saturated.all()):
            weights, picks = routing.shares, routing.chosen
            alike = bool((picks == picks[:1]).all())
            self.chosen = picks[0] if alike else picks
        # (rows, 1, width): beside each column of what the experts' A give.
        self.factors = (weights * scale).repeat_interleave(rank, 1)[:, None]


class ExpertsLinear(nn.Linear):
    """A linear layer whose output has ``sum_i q_i B_i A_i x`` added, as one pair of products.

    The weights of the layer beneath keep their names.
    """

    def __init__(self, base: nn.Linear, settings: ExpertSettings, route: Route) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self._route, self._dropout = route, settings.dropout
        shape, place = (settings.number, settings.rank), base.weight.device
        # Both with the rank in the middle: experts are then picked, or laid side by side, freely.
        self.expert_a = nn.Parameter(torch.empty(*shape, base.in_features, device=place))
        self.expert_b = nn.Parameter(torch.zeros(*shape, base.out_features, device=place))
        for matrix in self.expert_a:
            nn.init.kaiming_uniform_(matrix, a=5**0.5)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Linear names it so
        """Apply the layer and its experts to (n, tokens, in); a prompt's branches are adjacent."""
        output, factors, chosen = super().forward(input), self._route.factors, self._route.chosen
        if factors is None:
            raise RecinjectError("experts: no gate decided", hint="call the model's encoder first")
        picked = slice(None) if chosen is None else chosen
        a, b = (m[picked].flatten(-3, -2) for m in (self.expert_a, self.expert_b))
        by_row = input.to(a.dtype).reshape(len(factors), -1, self.in_features)
        hidden = torch.matmul(dropout(by_row, self._dropout, self.training), a.mT) * factors
        return output + torch.matmul(hidden, b).to(output.dtype).view_as(output)
