"""A ranker of two tasks, rating and click, over items that are sums of rows of one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding

from recinject.foundation.ragged import Array, Ragged
from recinject.models.trunks import SharedTrunk, Trunk

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
            :mod:`recinject.models.trunks`, the rest of its arguments given.
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
