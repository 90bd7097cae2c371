"""The semantic-ID ranker's network and its trunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding

from recinject.foundation.ragged import Array, Ragged
from recinject.foundation.settings import MOST
from recinject.methods.experts.gates import GATES, Gate, Routing
from recinject.training.networks import Rate, Tensors, Weight

TASKS = ("rating", "click")
Floats32: TypeAlias = NDArray[np.float32]


class Trunk(nn.Module):
    """Turns features, shape (..., inputs), into those of each task, shape (..., width)."""

    def penalty(self) -> Tensor:
        """Return what is added to the loss in training."""
        return torch.zeros(())


class SharedTrunk(Trunk):
    """One network for all tasks."""

    def __init__(self, tasks: Sequence[str], inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self._tasks = tasks
        self.layers = _network(inputs, width, dropout)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """See :class:`Trunk`."""
        return dict.fromkeys(self._tasks, self.layers(features))


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ExpertTrunkSettings:
    """The experts of a trunk.

    Attributes:
        experts: how many networks there are.
        k: how many of them a task gets.
        gate: chooses them.
        gamma: the width of DSelect-k's smooth step.
        regularization: weight of the selectors' entropy.
    """

    experts: Annotated[int, Field(ge=2, le=MOST)] = 4
    k: PositiveInt = 2
    gate: Literal["dselect_k", "softmax", "top_k"] = "dselect_k"
    gamma: Rate = 1.0
    regularization: Weight = 1e-3

    def __post_init__(self) -> None:
        if self.k > self.experts:
            raise ValueError(f"k is {self.k}, and there are {self.experts} experts")


class ExpertTrunk(Trunk):
    """Several networks, whose outputs a gate mixes for each task (arXiv 2106.03760).

    A network on which no task has a weight does not run.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        inputs: int,
        width: int,
        dropout: float,
        settings: ExpertTrunkSettings | None = None,
    ) -> None:
        super().__init__()
        own = self._settings = settings or ExpertTrunkSettings()
        self._tasks = tasks
        self.experts = nn.ModuleList(_network(inputs, width, dropout) for _ in range(own.experts))
        self.gate: Gate = GATES[own.gate](own.experts, own.k, own.gamma, tasks=len(tasks))

    def routing(self) -> Routing:
        """Return the decision for each task, in their order."""
        device = self.gate.logits.weight.device
        routing: Routing = self.gate(torch.arange(len(self._tasks), device=device))
        return routing

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """See :class:`Trunk`."""
        weights = self.routing().weights.to(features.dtype)
        used = (weights > 0).any(0).nonzero()[:, 0]
        outputs = torch.stack([self.experts[int(number)](features) for number in used])
        mixed = torch.tensordot(weights[:, used], outputs, dims=1)
        return dict(zip(self._tasks, mixed, strict=True))

    def penalty(self) -> Tensor:
        """See :class:`Trunk`."""
        routing = self.routing()
        return (self._settings.regularization * routing.entropy + routing.excess).sum()


def _network(inputs: int, width: int, dropout: float) -> nn.Sequential:
    layers = (nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    return nn.Sequential(*layers, nn.Dropout(dropout))


class Ranker(nn.Module):
    """Predicts how a user would rate an item, and whether they would click it.

    An item's embedding is the sum of its rows, or a linear map of its content; a user is the latest
    items of a history with their ratings, pooled by attention from the candidate, which may also
    attend to nothing.

    Args:
        item_rows: each item's rows of the table, which has ``rows``; or its content, shape (items,
            numbers), and no table. The index after the last item is padding.
        negatives_from: the items that negatives are drawn from, as many an event as ``negatives``.
        mean: of the training ratings; ``deviation`` is the unit of the rating task's loss.
        weights: of each task's loss, in the order of :data:`TASKS`.
        trunk: makes the layers between features and heads from the tasks, the width of its input
            (``3 * width``) and of its output (``hidden``), and ``dropout``.
    """

    item_rows: Tensor
    negatives_from: Tensor

    def __init__(
        self,
        item_rows: Ragged | Floats32,
        rows: int,
        negatives_from: Array,
        mean: float = 0.0,
        deviation: float = 1.0,
        width: int = 32,
        hidden: int = 64,
        dropout: float = 0.1,
        negatives: int = 4,
        weights: Sequence[float] = (1.0, 1.0),
        trunk: Callable[[Sequence[str], int, int, float], Trunk] = SharedTrunk,
    ) -> None:
        super().__init__()
        self._mean, self._deviation, self._negatives = mean, deviation, negatives
        self.padding = len(item_rows)
        self._weights = dict(zip(TASKS, weights, strict=True))
        by_row = isinstance(item_rows, Ragged)
        grid = item_rows.to_grid(rows) if isinstance(item_rows, Ragged) else item_rows
        grid = np.pad(grid, ((0, 1), (0, 0)), constant_values=rows if by_row else 0)
        self.register_buffer("item_rows", torch.from_numpy(grid))
        self.register_buffer("negatives_from", torch.from_numpy(negatives_from.astype(np.int64)))
        if by_row:
            self.table: nn.Module = nn.Embedding(rows + 1, width, padding_idx=rows)
            nn.init.normal_(self.table.weight[:rows].detach(), std=0.01)
        else:
            self.table = nn.Linear(grid.shape[1], width, bias=False)
        self.events = nn.Linear(2 * width + 1, width)
        self.questions = nn.Linear(width, width)
        self.trunk = trunk(TASKS, 3 * width, hidden, dropout)
        self.heads = nn.ModuleDict({task: nn.Linear(hidden, 1) for task in TASKS})

    def score(self, candidates: Tensor, history: Tensor, history_ratings: Tensor) -> Tensors:
        """Return ``rating`` in standard deviations and ``click`` as a logit, shape (n, c).

        Candidates are items, shape (n, c); histories are items, padded with ``self.padding``, and
        ratings, NaN where unknown, shape (n, h).
        """
        wanted, past = self._vectors(candidates), self._vectors(history)
        rated = self._standardise(history_ratings).nan_to_num(0.0)[..., None].to(past)
        events = self.events(torch.cat([past, past * rated, rated], dim=2))
        fit = self.questions(wanted) @ events.mT / events.shape[2] ** 0.5
        fit = fit.masked_fill(history[:, None] == self.padding, -torch.inf)
        attention = torch.cat([fit, torch.zeros_like(fit[..., :1])], dim=2).softmax(2)[..., :-1]
        user = attention @ events
        features = self.trunk(torch.cat([wanted, user, wanted * user], dim=2))
        return {task: head(features[task])[..., 0] for task, head in self.heads.items()}

    def rate(self, candidates: Tensor, history: Tensor, history_ratings: Tensor) -> Tensor:
        """Predict ratings on the log's own scale, shape (n, c)."""
        ratings = self.score(candidates, history, history_ratings)["rating"]
        return ratings * self._deviation + self._mean

    def rank(self, candidates: Tensor, history: Tensor, history_ratings: Tensor) -> Tensor:
        """Return the logit of a click on each candidate, shape (n, c)."""
        return self.score(candidates, history, history_ratings)["click"]

    def forward(
        self, candidates: Tensor, history: Tensor, history_ratings: Tensor, ratings: Tensor
    ) -> Tensors:
        """Return the loss of observed events, shape (n,), against negatives drawn anew.

        ``loss`` is the weighted sum of ``rating_loss`` and ``click_loss``, and in training the
        trunk's penalty.
        """
        shape = (len(candidates), self._negatives)
        draws = torch.randint(len(self.negatives_from), shape, device=candidates.device)
        drawn = self.negatives_from[draws]
        used = torch.cat([candidates[:, None], history], dim=1)
        counts = (drawn[:, :, None] != used[:, None]).all(2)
        asked = torch.cat([candidates[:, None], drawn], dim=1)
        scores = self.score(asked, history, history_ratings)
        errors = scores["rating"][:, 0] - self._standardise(ratings)
        known = ~errors.isnan()
        counts = torch.cat([torch.ones_like(counts[:, :1]), counts], dim=1)
        truth = torch.zeros_like(scores["click"])
        truth[:, 0] = 1.0
        losses = {
            "rating": (errors[known] ** 2).sum() / known.sum().clamp(min=1),
            "click": binary_cross_entropy_with_logits(scores["click"][counts], truth[counts]),
        }
        total = torch.stack([self._weights[task] * loss for task, loss in losses.items()]).sum()
        if self.training:
            total = total + self.trunk.penalty()
        return {"loss": total, **{f"{task}_loss": loss for task, loss in losses.items()}}

    def _vectors(self, items: Tensor) -> Tensor:
        # The rows of an item are summed once, however often a batch has it.
        some, inverse = torch.unique(items, return_inverse=True)
        found = self.table(self.item_rows[some])
        return embedding(inverse, found.sum(1) if found.dim() == 3 else found)

    def _standardise(self, ratings: Tensor) -> Tensor:
        return (ratings - self._mean) / self._deviation
