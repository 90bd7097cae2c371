"""Networks that predict ratings from embeddings; their forward is the squared error.

Row 0 of every table stands for what is not known, and adds nothing: it is zero and never learned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag


class Table(nn.Embedding):
    """An embedding of things numbered from 1, whose row 0 stays zero.

    ``deviation`` is the standard deviation of the first values.
    """

    def __init__(self, rows: int, width: int, deviation: float = 0.0) -> None:
        super().__init__(rows + 1, width, padding_idx=0)
        with torch.no_grad():
            self.weight.normal_(std=deviation)
            self.weight[0] = 0.0


class RatingModule(nn.Module, ABC):
    """Predicts ratings, starting from their mean, and learns from the squared error."""

    # The Trainer would hand whatever takes keywords its count of tokens.
    accepts_loss_kwargs = False

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean = mean

    @abstractmethod
    def rate(self, **inputs: Tensor) -> Tensor:
        """Predict a rating for each row of the inputs."""

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the mean squared error where there is a label; elsewhere it is NaN."""
        errors = (self.rate(**inputs) - labels)[~labels.isnan()]
        return {"loss": (errors**2).mean() + self.penalty(**inputs)}

    def penalty(self, **inputs: Tensor) -> Tensor | float:
        """Return what the loss has beside the error."""
        return 0.0


class MatrixFactorisationModule(RatingModule):
    """Mean, offsets of user and item, and the product of their factors (Koren et al., 2009).

    ``regularisation`` is the weight of the squares of a rating's offsets and factors.
    """

    def __init__(
        self, mean: float, n_users: int, n_items: int, width: int, regularisation: float
    ) -> None:
        super().__init__(mean)
        self.users, self.items = Table(n_users, width, 0.05), Table(n_items, width, 0.05)
        self.user_offsets, self.item_offsets = Table(n_users, 1), Table(n_items, 1)
        self.regularisation = regularisation

    def rate(self, users: Tensor, items: Tensor) -> Tensor:  # type: ignore[override]
        """Predict the ratings of pairs: shape (n,)."""
        offsets = self.user_offsets(users) + self.item_offsets(items)
        found: Tensor = offsets[:, 0] + (self.users(users) * self.items(items)).sum(1)
        return self.mean + found

    def penalty(self, users: Tensor, items: Tensor) -> Tensor:  # type: ignore[override]
        """Return the weighted squares of the rows that were read, the more often the more."""
        rows = (self.users(users), self.items(items))
        offsets = (self.user_offsets(users), self.item_offsets(items))
        squares: Tensor = (torch.cat([*rows, *offsets], 1) ** 2).sum(1)
        return self.regularisation * squares.mean()


class MLPModule(RatingModule):
    """User and item embeddings, and ``more`` numbers beside them, through an MLP."""

    def __init__(
        self, mean: float, n_users: int, n_items: int, width: int, dropout: float, more: int = 0
    ) -> None:
        super().__init__(mean)
        self.users, self.items = Table(n_users, width, 0.05), Table(n_items, width, 0.05)
        self.deep = mlp(2 * width + more, 2 * width, dropout)

    def rate(self, users: Tensor, items: Tensor) -> Tensor:  # type: ignore[override]
        """Predict the ratings of pairs: shape (n,)."""
        found: Tensor = self.deep(torch.cat([self.users(users), self.items(items)], 1))
        return self.mean + found[:, 0]


class WideDeepModule(MLPModule):
    """A linear model of single and crossed features beside an MLP (Cheng et al., DLRS 2016).

    Wide are user, item, the item's attributes and each of these crossed with the user; deep are
    the embeddings of user, item and attributes.

    Args:
        mean: the mean rating.
        n_users: how many users there are.
        attributes: each item's attributes, numbered from 1 and filled up with 0, shape
            (items + 1, most); row 0 is an unknown item's.
        width: of an embedding.
        dropout: of the embeddings and the hidden layer.
        buckets: how many weights the crossed features share at most.
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
        super().__init__(mean, n_users, len(attributes) - 1, width, dropout, more=width)
        self.register_buffer("attributes", attributes, persistent=False)
        self.n_attributes = int(attributes.max())
        self.kinds = Table(self.n_attributes, width)
        self.user_offsets, self.item_offsets = Table(n_users, 1), Table(len(attributes) - 1, 1)
        self.kind_offsets = Table(self.n_attributes, 1)
        self.crossed = Table(min(n_users * self.n_attributes, buckets), 1)

    def cross(self, users: Tensor, kinds: Tensor) -> Tensor:
        """Number the pairs of a user and an attribute, from 1: shape of ``kinds``, (n, most).

        A pair with what is unknown has number 0. Beyond the number of weights, pairs share them.
        """
        numbers = (users[:, None] - 1) * self.n_attributes + kinds - 1
        numbers = 1 + numbers % (self.crossed.num_embeddings - 1) if self.n_attributes else kinds
        return torch.where((users[:, None] > 0) & (kinds > 0), numbers, 0)

    def rate(self, users: Tensor, items: Tensor) -> Tensor:  # type: ignore[override]
        """Predict the ratings of pairs: shape (n,)."""
        kinds = self.attributes[items]
        wide = self.user_offsets(users) + self.item_offsets(items)
        wide = wide + self.kind_offsets(kinds).sum(1)
        wide = wide + self.crossed(self.cross(users, kinds)).sum(1)
        deep = [self.users(users), self.items(items), mean_rows(self.kinds, kinds)]
        found: Tensor = wide + self.deep(torch.cat(deep, 1))
        return self.mean + found[:, 0]


class TransformerMLPModule(RatingModule):
    """A candidate attends to the rated items before it, and an MLP rates what it has gathered.

    No user is known by number. An event's key is its item, its value what the rating says beyond
    the item's offset. Many candidates of one user are rated at once: events lie in a row, and
    candidate ``i`` attends to the ``history_length`` events from the ``i``-th on.

    Args:
        mean: the mean rating.
        attributes: as in :class:`WideDeepModule`.
        width: of an embedding.
        heads: of a block.
        layers: how many blocks.
        dropout: of embeddings and blocks.
        history_length: how many events a candidate attends to.
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
        self.register_buffer("attributes", attributes, persistent=False)
        self.history_length = history_length
        self.items, self.liked = (Table(len(attributes) - 1, width, 0.1) for _ in range(2))
        self.kinds = Table(int(attributes.max()), width)
        self.item_offsets = Table(len(attributes) - 1, 1)
        self.rating = nn.Linear(1, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout, history_length) for _ in range(layers)
        )
        self.norm, self.deep = nn.LayerNorm(width), mlp(width, 2 * width, dropout)
        self.taste = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def rate(self, items: Tensor, ratings: Tensor, candidates: Tensor) -> Tensor:  # type: ignore[override]
        """Predict the ratings of candidates, shape (rows, c), from the events in a row.

        Those have the shape (rows, history_length + c), their ratings NaN where there is no event.
        """
        described = self.items.weight + mean_rows(self.kinds, self.attributes)
        residuals = (ratings[..., None] - self.mean).nan_to_num() - self.item_offsets(items)
        events = self.dropout(embedding(items, described))
        values = self.dropout(residuals * self.liked(items) + self.rating(residuals))
        wanted = self.dropout(embedding(candidates, described))
        places = torch.arange(items.shape[1], device=items.device)
        ages = self.history_length + places[: candidates.shape[1], None] - places
        seen = (ages > 0) & (ages <= self.history_length) & ~ratings.isnan()[:, None]
        states = wanted
        for block in self.blocks:
            states = block(states, events, values, ages, seen)
        found: Tensor = (self.taste(wanted) * states).sum(-1)
        deep: Tensor = self.deep(self.norm(states)) + self.item_offsets(candidates)
        return self.mean + found + deep[..., 0]


class Block(nn.Module):
    """Candidates attend to events, or to nothing, with a weight for each age."""

    def __init__(self, width: int, heads: int, dropout: float, longest: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_events = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.ages = Table(longest, heads)
        self.nothing = nn.Parameter(torch.zeros(heads))
        self.feed = nn.Sequential(nn.LayerNorm(width), mlp(width, 2 * width, dropout, width))

    def forward(
        self, states: Tensor, events: Tensor, values: Tensor, ages: Tensor, seen: Tensor
    ) -> Tensor:
        """Return new states: shape (rows, c, width)."""
        made = self.query(self.norm(states)), self.key(self.norm_events(events)), self.value(values)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in made)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        scores = scores + self.ages(ages.clamp(0, self.ages.num_embeddings - 1)).permute(2, 0, 1)
        scores = scores.masked_fill(~seen[:, None], -torch.inf)
        # Without a history all weight goes to nothing, whose value is zero.
        nothing = self.nothing[:, None, None].expand(*scores.shape[:-1], 1)
        weights = torch.cat([scores, nothing], -1).softmax(-1)[..., :-1]
        gathered = (weights @ value).transpose(1, 2).flatten(2)
        states = states + self.out(gathered)
        fed: Tensor = states + self.feed(states)
        return fed


def mlp(width: int, hidden: int, dropout: float, out: int = 1) -> nn.Sequential:
    """Make a network of one hidden layer."""
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(width, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, out),
    )


def mean_rows(table: Table, numbers: Tensor) -> Tensor:
    """Return the mean of the rows of each row of numbers but 0: shape (n, width)."""
    return embedding_bag(numbers, table.weight, mode="mean", padding_idx=0)
