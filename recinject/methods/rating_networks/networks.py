"""Networks that predict ratings from embeddings; ``forward`` returns the squared error.

Index 0 stands for an unknown user, item or attribute: its embedding is zero and never learned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from recinject.training.networks import Tensors


class ZeroPaddedEmbedding(nn.Embedding):
    """An embedding whose row 0 stays zero; ``deviation`` is that of the first values."""

    def __init__(self, rows: int, width: int, deviation: float = 0.0) -> None:
        super().__init__(rows + 1, width, padding_idx=0)
        with torch.no_grad():
            self.weight.normal_(std=deviation)
            self.weight[0] = 0.0


def _tables(*sizes: int, width: int = 1, deviation: float = 0.0) -> list[ZeroPaddedEmbedding]:
    return [ZeroPaddedEmbedding(size, width, deviation) for size in sizes]


class RatingModule(nn.Module, ABC):
    """Predicts ratings, starting from their mean."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean = mean

    @abstractmethod
    def rate(self, **inputs: Tensor) -> Tensor:
        """Predict the rating of each row of the inputs."""

    def forward(self, labels: Tensor, **inputs: Tensor) -> Tensors:
        """Return the mean squared error over the labels that are not NaN, plus the penalty."""
        errors = (self.rate(**inputs) - labels)[~labels.isnan()]
        return {"loss": (errors**2).mean() + self.penalty(**inputs)}

    def penalty(self, **inputs: Tensor) -> Tensor | float:
        """Return what joins the error in the loss."""
        return 0.0


class MatrixFactorisationModule(RatingModule):
    """Mean, offsets of user and item, and the product of their factors (Koren et al., 2009).

    ``regularization`` is the weight of the squares of a rating's offsets and factors.
    """

    def __init__(
        self, mean: float, n_users: int, n_items: int, width: int, regularization: float
    ) -> None:
        super().__init__(mean)
        self.users, self.items = _tables(n_users, n_items, width=width, deviation=0.05)
        self.user_offsets, self.item_offsets = _tables(n_users, n_items)
        self.regularization = regularization

    def rate(self, users: Tensor, items: Tensor) -> Tensor:  # type: ignore[override]
        """Predict the ratings of pairs: shape (n,)."""
        offsets = self.user_offsets(users) + self.item_offsets(items)
        predicted: Tensor = offsets[:, 0] + (self.users(users) * self.items(items)).sum(1)
        return self.mean + predicted

    def penalty(self, users: Tensor, items: Tensor) -> Tensor:  # type: ignore[override]
        """Return the weighted mean over the pairs of the squares of their parameters."""
        parts = (self.users(users), self.items(items))
        offsets = (self.user_offsets(users), self.item_offsets(items))
        squares: Tensor = (torch.cat([*parts, *offsets], 1) ** 2).sum(1)
        return self.regularization * squares.mean()


class MLPModule(RatingModule):
    """User and item embeddings, and ``more`` numbers beside them, through an MLP."""

    def __init__(
        self, mean: float, n_users: int, n_items: int, width: int, dropout: float, more: int = 0
    ) -> None:
        super().__init__(mean)
        self.users, self.items = _tables(n_users, n_items, width=width, deviation=0.05)
        self.deep = mlp(2 * width + more, 2 * width, dropout)

    def rate(self, users: Tensor, items: Tensor) -> Tensor:  # type: ignore[override]
        """Predict the ratings of pairs: shape (n,)."""
        predicted: Tensor = self.deep(torch.cat([self.users(users), self.items(items)], 1))
        return self.mean + predicted[:, 0]


class WideDeepModule(MLPModule):
    """A linear model of single and crossed features beside an MLP (Cheng et al., DLRS 2016).

    Wide are user, item, the item's attributes and each of these crossed with the user, which share
    at most ``buckets`` weights; deep are the embeddings of user, item and attributes. Row n of
    ``attributes`` has those of item n, from 1 and padded with 0; row 0 is an unknown item's.
    """

    attributes: Tensor

    def __init__(
        self,
        mean: float,
        n_users: int,
        attributes: Tensor,
        width: int,
        dropout: float,
        buckets: int = 2**20,
    ) -> None:
        n_items = len(attributes) - 1
        super().__init__(mean, n_users, n_items, width, dropout, more=width)
        self.register_buffer("attributes", attributes, persistent=False)
        self.n_attributes = int(attributes.max())
        self.kinds = ZeroPaddedEmbedding(self.n_attributes, width)
        self.user_offsets, self.item_offsets = _tables(n_users, n_items)
        self.kind_offsets = ZeroPaddedEmbedding(self.n_attributes, 1)
        self.crossed = ZeroPaddedEmbedding(min(n_users * self.n_attributes, buckets), 1)

    def cross(self, users: Tensor, kinds: Tensor) -> Tensor:
        """Index pairs of a user and an attribute, (n, most), from 1; 0 with either unknown."""
        numbers = (users[:, None] - 1) * self.n_attributes + kinds - 1
        numbers = 1 + numbers % (self.crossed.num_embeddings - 1) if self.n_attributes else kinds
        return torch.where((users[:, None] > 0) & (kinds > 0), numbers, 0)

    def rate(self, users: Tensor, items: Tensor) -> Tensor:  # type: ignore[override]
        """Predict the ratings of pairs: shape (n,)."""
        kinds = self.attributes[items]
        wide = self.user_offsets(users) + self.item_offsets(items)
        wide = wide + self.kind_offsets(kinds).sum(1)
        wide = wide + self.crossed(self.cross(users, kinds)).sum(1)
        deep = [self.users(users), self.items(items), mean_embedding(self.kinds, kinds)]
        predicted: Tensor = wide + self.deep(torch.cat(deep, 1))
        return self.mean + predicted[:, 0]


class TransformerMLPModule(RatingModule):
    """A candidate attends to the rated items before it, and an MLP rates the result.

    An event's key is its item, its value the rating less the item's offset. Many candidates of one
    user are rated at once: candidate ``i`` attends to the ``history_length`` events from the
    ``i``-th on. Attributes are as in :class:`WideDeepModule`.
    """

    attributes: Tensor

    def __init__(
        self,
        mean: float,
        attributes: Tensor,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
        history_length: int,
    ) -> None:
        super().__init__(mean)
        n_items = len(attributes) - 1
        self.register_buffer("attributes", attributes, persistent=False)
        self.history_length = history_length
        self.items, self.liked = _tables(n_items, n_items, width=width, deviation=0.1)
        self.kinds = ZeroPaddedEmbedding(int(attributes.max()), width)
        self.item_offsets = ZeroPaddedEmbedding(n_items, 1)
        self.rating = nn.Linear(1, width)
        self.blocks = nn.ModuleList(
            HistoryAttention(width, heads, dropout, history_length) for _ in range(layers)
        )
        self.norm, self.deep = nn.LayerNorm(width), mlp(width, 2 * width, dropout)
        self.taste = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def rate(self, items: Tensor, ratings: Tensor, candidates: Tensor) -> Tensor:  # type: ignore[override]
        """Predict the ratings of candidates, shape (rows, c).

        Events have the shape (rows, history_length + c); the rating is NaN where there is none.
        """
        described = self.items.weight + mean_embedding(self.kinds, self.attributes)
        residuals = (ratings[..., None] - self.mean).nan_to_num() - self.item_offsets(items)
        events = self.dropout(embedding(items, described))
        values = self.dropout(residuals * self.liked(items) + self.rating(residuals))
        wanted = self.dropout(embedding(candidates, described))
        positions = torch.arange(items.shape[1], device=items.device)
        ages = self.history_length + positions[: candidates.shape[1], None] - positions
        seen = (ages > 0) & (ages <= self.history_length) & ~ratings.isnan()[:, None]
        states = wanted
        for block in self.blocks:
            states = block(states, events, values, ages, seen)
        predicted: Tensor = (self.taste(wanted) * states).sum(-1)
        deep: Tensor = self.deep(self.norm(states)) + self.item_offsets(candidates)
        return self.mean + predicted + deep[..., 0]


class HistoryAttention(nn.Module):
    """A block in which candidates attend to events, or to nothing, with a bias for each age."""

    def __init__(self, width: int, heads: int, dropout: float, longest: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_events = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.ages = ZeroPaddedEmbedding(longest, heads)
        self.nothing = nn.Parameter(torch.zeros(heads))
        self.feed = nn.Sequential(nn.LayerNorm(width), mlp(width, 2 * width, dropout, width))

    def forward(
        self, states: Tensor, events: Tensor, values: Tensor, ages: Tensor, seen: Tensor
    ) -> Tensor:
        """Return new states: shape (rows, c, width)."""
        wanted, keys = self.query(self.norm(states)), self.key(self.norm_events(events))
        whole = (wanted, keys, self.value(values))
        query, key, value = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in whole)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        scores = scores + self.ages(ages.clamp(0, self.ages.num_embeddings - 1)).permute(2, 0, 1)
        scores = scores.masked_fill(~seen[:, None], -torch.inf)
        # Without a history all weight goes to nothing, whose value is zero.
        nothing = self.nothing[:, None, None].expand(*scores.shape[:-1], 1)
        weights = torch.cat([scores, nothing], -1).softmax(-1)[..., :-1]
        states = states + self.out((weights @ value).transpose(1, 2).flatten(2))
        fed: Tensor = states + self.feed(states)
        return fed


def mlp(width: int, hidden: int, dropout: float, out: int = 1) -> nn.Sequential:
    """Make a network of one hidden layer."""
    first = (nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU())
    return nn.Sequential(*first, nn.Dropout(dropout), nn.Linear(hidden, out))


def mean_embedding(table: nn.Embedding, numbers: Tensor) -> Tensor:
    """Return the mean embedding of each row of indices, 0 left out: shape (n, width)."""
    return embedding_bag(numbers, table.weight, mode="mean", padding_idx=0)
