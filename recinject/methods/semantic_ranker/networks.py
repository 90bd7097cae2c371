"""The semantic-ID ranker's network and its trunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.ragged import Array, Ragged
from recinject.methods.experts.gates import GATES, Gate, Routing


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
            :class:`~recinject.methods.experts.experts.ExpertSettings`.

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


TASKS = ("rating", "click")
Scores = dict[str, Tensor]


class Ranker(nn.Module):
    """Says how a user would rate an item, and whether he would take it at all.

    An item is the sum of its rows; a user is the latest items of a history with their ratings,
    pooled by attention from the candidate. A candidate may attend to nothing as well, as all do
    where the history is empty.

    Args:
        pieces: each item's rows of the table; the number after the last item's is a blank.
        rows: of the table.
        drawn: the items that negatives are drawn from, one each time it stands here.
        mean: of the training ratings; so is ``deviation``, the unit of the rating task's loss.
        width: of an embedding.
        hidden: how many numbers go into a head, after dropout.
        negatives: how many items an observed one is told from by a click.
        weights: of each task's loss, in the order of :data:`TASKS`.
        trunk: makes what stands between features and heads, of the tasks, the numbers that come
            in (``3 * width``), those that come out (``hidden``) and ``dropout``: a class of
            :mod:`recinject.methods.semantic_ranker.networks`, the rest of its arguments given.
    """

    pieces: Tensor
    drawn: Tensor

    def __init__(
        self,
        pieces: Ragged,
        rows: int,
        drawn: Array,
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
        self.blank = len(pieces)
        self._weights = dict(zip(TASKS, weights, strict=True))
        grid = np.full((len(pieces) + 1, int(pieces.lengths.max())), rows)
        grid[pieces.rows, pieces.places] = pieces.values
        self.register_buffer("pieces", torch.from_numpy(grid))
        self.register_buffer("drawn", torch.from_numpy(drawn.astype(np.int64)))
        self.table = nn.Embedding(rows + 1, width, padding_idx=rows)
        nn.init.normal_(self.table.weight[:rows].detach(), std=0.01)
        self.events = nn.Linear(2 * width + 1, width)
        self.questions = nn.Linear(width, width)
        self.trunk = trunk(TASKS, 3 * width, hidden, dropout)
        self.heads = nn.ModuleDict({task: nn.Linear(hidden, 1) for task in TASKS})

    def score(self, candidates: Tensor, history: Tensor, history_ratings: Tensor) -> Scores:
        """Answer both tasks.

        Args:
            candidates: item numbers, shape (n, c).
            history: item numbers, filled up with the blank, shape (n, h).
            history_ratings: their ratings, NaN where unknown, shape (n, h).

        Returns:
            ``rating`` in standard deviations from the mean and ``click`` as a logit, shape (n, c).
        """
        wanted, past = self._vectors(candidates), self._vectors(history)
        given = self._units(history_ratings).nan_to_num(0.0)[..., None].to(past)
        events = self.events(torch.cat([past, past * given, given], dim=2))
        fit = self.questions(wanted) @ events.mT / events.shape[2] ** 0.5
        fit = fit.masked_fill(history[:, None] == self.blank, -torch.inf)
        shares = torch.cat([fit, torch.zeros_like(fit[..., :1])], dim=2).softmax(2)[..., :-1]
        user = shares @ events
        features = self.trunk(torch.cat([wanted, user, wanted * user], dim=2))
        return {task: head(features[task])[..., 0] for task, head in self.heads.items()}

    def rate(self, candidates: Tensor, history: Tensor, history_ratings: Tensor) -> Tensor:
        """Return ratings in the log's own units, shape (n, c)."""
        found = self.score(candidates, history, history_ratings)["rating"]
        return found * self._deviation + self._mean

    def rank(self, candidates: Tensor, history: Tensor, history_ratings: Tensor) -> Tensor:
        """Return logits that an item is taken, shape (n, c)."""
        return self.score(candidates, history, history_ratings)["click"]

    def forward(
        self, candidates: Tensor, history: Tensor, history_ratings: Tensor, ratings: Tensor
    ) -> Scores:
        """Return the loss of observed events, against negatives drawn anew.

        Candidates and their ratings, NaN where unknown, have the shape (n,); histories are as in
        :meth:`score`. ``loss`` is the weighted sum of ``rating_loss`` and ``click_loss``, and in
        training what the trunk adds.
        """
        shape = (len(candidates), self._negatives)
        drawn = self.drawn[torch.randint(len(self.drawn), shape, device=candidates.device)]
        used = torch.cat([candidates[:, None], history], dim=1)
        counts = (drawn[:, :, None] != used[:, None]).all(2)
        asked = torch.cat([candidates[:, None], drawn], dim=1)
        scores = self.score(asked, history, history_ratings)
        errors = scores["rating"][:, 0] - self._units(ratings)
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
        # An item is added up once, however often a batch has it.
        some, places = torch.unique(items, return_inverse=True)
        return embedding(places, self.table(self.pieces[some]).sum(1))

    def _units(self, ratings: Tensor) -> Tensor:
        return (ratings - self._mean) / self._deviation
