"""Recommenders that learn to rate: ridge biases, and the networks of the rating literature."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from recinject.data.schema import Catalog, Floats, Integers, Interactions
from recinject.foundation.ragged import Array, Ragged
from recinject.methods.rating_networks import networks
from recinject.methods.rating_networks.networks import RatingModule
from recinject.recommenders.baselines import GlobalMean
from recinject.recommenders.protocol import Queries
from recinject.training.networks import (
    Dropout,
    FitSettings,
    Fraction,
    Rate,
    TensorRows,
    Tensors,
    TrainingHistory,
    Weight,
    fit_network,
    global_chance,
)

_ATTRIBUTES = ("brand", "category", "categories")
_CELLS = 2**16  # about how many numbers of a column are rated at once
_CANDIDATES = 50  # the most ratings of a user that share a row of the transformer's batch


@dataclass(eq=False)
class Biases(GlobalMean):
    """Predicts the mean plus the user's and the item's offset from it.

    Ridge regression (Koren, KDD 2008, section 2.1), solved for users and items in turn.

    Args:
        user_ridge: weight of the users' squared offsets; a rating's squared error has weight 1.
        item_ridge: weight of the items' squared offsets.
        iterations: how often both are solved for at most.
    """

    name: ClassVar[str] = "biases"

    user_ridge: Rate = 5.0
    item_ridge: Rate = 3.0
    iterations: PositiveInt = 100

    def fit(self, training: Interactions, seed: int) -> None:
        """Solve for the offsets."""
        super().fit(training, seed)
        sizes, groups = (training.n_users, training.n_items), (training.users, training.items)
        ridges = (self.user_ridge, self.item_ridge)
        weights = [
            np.bincount(group, minlength=size) + ridge
            for group, size, ridge in zip(groups, sizes, ridges, strict=True)
        ]
        ratings = np.asarray(training.ratings)
        self._range = ratings.min(), ratings.max()
        ratings = ratings - self._mean
        self._offsets = [np.zeros(size) for size in sizes]
        for _ in range(self.iterations):
            before = self._offsets[1]
            for side, other in ((0, 1), (1, 0)):
                left = ratings - self._offsets[other][groups[other]]
                self._offsets[side] = np.bincount(groups[side], left, sizes[side]) / weights[side]
            if np.abs(self._offsets[1] - before).max(initial=0.0) < 1e-9:
                break

    def _ratings(self, queries: Queries) -> Floats:
        users, items = self._offsets
        predicted: Floats = self._mean + users[queries.users] + items[queries.targets]
        return np.clip(predicted, *self._range)


@dataclass(eq=False)
class RatingNetwork(GlobalMean):
    """A network that learns to rate, within the range of the training ratings.

    An unknown user or item has a zero embedding.

    Args:
        learning_rate: AdamW's first one; it falls linearly to 0 over the epochs.
        batch_size: ratings a step; of a small log a hundredth of its ratings.
        epochs: at most.
        patience: after how many epochs without gain training ends.
        held_out: the fraction of ratings whose RMSE chooses the epoch.
        weight_decay: AdamW's.
    """

    learning_rate: Rate = 1e-3
    batch_size: PositiveInt = 2048
    epochs: PositiveInt = 20
    patience: PositiveInt = 2
    held_out: Fraction = 0.05
    weight_decay: Weight = 0.0

    def __post_init__(self) -> None:
        self.training_history: TrainingHistory | None = None

    def fit(self, training: Interactions, seed: int) -> None:
        """Learn from the training ratings but those held out, and keep the best epoch."""
        super().fit(training, seed)
        ratings = np.asarray(training.ratings)
        self._range = float(ratings.min()), float(ratings.max())
        columns = self._columns(training)
        learned, held_out = _hold_out(columns, self.held_out, self._chance(seed, "held_out"))
        with global_chance(int(self._chance(seed).integers(2**31))):
            self._module = self._build(training)
        if len(learned):
            validate = partial(_negative_rmse, held_out=held_out) if len(held_out) else None
            batch_size = min(self.batch_size, max(32, len(training) // 100))
            per_row = int((~learned.columns["labels"].isnan()).sum()) / len(learned)
            rows = max(1, round(batch_size / per_row))
            how = FitSettings.of(self, batch_size=rows, schedule="linear")
            self.training_history = fit_network(self._module, learned, dict, how, seed, validate)
        # In double precision a query's rating does not depend on which queries share its batch.
        self._module.double().eval()

    @abstractmethod
    def _columns(self, training: Interactions) -> Tensors:
        """Return the module's inputs and ``labels``, NaN for none."""

    @abstractmethod
    def _build(self, training: Interactions) -> RatingModule:
        """Make the network."""

    @abstractmethod
    def _inputs(self, queries: Queries) -> Tensors:
        """Return the module's inputs, a row a query."""

    def _ratings(self, queries: Queries) -> Floats:
        predicted = rate(self._module, self._inputs(queries)).flatten().float()
        return predicted.clamp(*self._range).double().numpy()

    def _attributes(self, n_items: int) -> Tensor:
        if self._sources is None:
            return torch.zeros(n_items + 1, 1, dtype=torch.long)
        return torch.from_numpy(attribute_numbers(self._sources.catalog))


@dataclass(eq=False)
class PairNetwork(RatingNetwork):
    """A network that knows a user and an item by index."""

    def _columns(self, training: Interactions) -> Tensors:
        self._users = _encode_known(training.users, training.n_users)
        self._items = _encode_known(training.items, training.n_items)
        labels = torch.tensor(training.ratings, dtype=torch.float32)
        return {**self._pairs(training.users, training.items), "labels": labels}

    def _inputs(self, queries: Queries) -> Tensors:
        return self._pairs(queries.users, queries.targets)

    def _pairs(self, users: Integers, items: Integers) -> Tensors:
        return _tensors(users=self._users[users], items=self._items[items])


@dataclass(eq=False)
class MatrixFactorisation(PairNetwork):
    """Offsets and factors of users and items (Koren, Bell and Volinsky, Computer 2009)."""

    name: ClassVar[str] = "matrix_factorisation"

    learning_rate: Rate = 3e-3
    epochs: PositiveInt = 30
    width: PositiveInt = 64
    regularization: Weight = 0.08

    def _build(self, training: Interactions) -> RatingModule:
        sizes = (training.n_users, training.n_items, self.width)
        return networks.MatrixFactorisationModule(self._mean, *sizes, self.regularization)


@dataclass(eq=False)
class MLP(PairNetwork):
    """Embeddings of user and item through an MLP (He et al., WWW 2017)."""

    name: ClassVar[str] = "mlp"

    width: PositiveInt = 32
    dropout: Dropout = 0.2

    def _build(self, training: Interactions) -> RatingModule:
        sizes = (training.n_users, training.n_items, self.width)
        return networks.MLPModule(self._mean, *sizes, self.dropout)


@dataclass(eq=False)
class WideDeep(MLP):
    """Crossed features beside an MLP (Cheng et al., DLRS 2016)."""

    name: ClassVar[str] = "wide_deep"

    def _build(self, training: Interactions) -> RatingModule:
        sizes = (training.n_users, self._attributes(training.n_items), self.width)
        return networks.WideDeepModule(self._mean, *sizes, self.dropout)


@dataclass(eq=False)
class TransformerMLP(RatingNetwork):
    """A transformer over rated histories, then an MLP (Kang et al., 2023, arXiv 2305.06474).

    It reads the history's latest items and the candidate, with ratings and attributes, but no user.
    A history without ratings counts as none.

    Args:
        history_length: the most items of a history that are read, the latest.
        width: of an embedding, a multiple of ``heads``.
        heads: of a block.
        layers: how many blocks.
        dropout: of embeddings and blocks.
        learning_rate: see :class:`RatingNetwork`, as for the others.
    """

    name: ClassVar[str] = "transformer_mlp"

    learning_rate: Rate = 2e-3
    batch_size: PositiveInt = 1024
    epochs: PositiveInt = 6
    weight_decay: Weight = 0.3
    history_length: PositiveInt = 200
    width: PositiveInt = 128
    heads: PositiveInt = 4
    layers: PositiveInt = 1
    dropout: Dropout = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")

    def _columns(self, training: Interactions) -> Tensors:
        view = self._training_view(training)
        log = view.interactions
        lengths = np.diff(log.offsets)
        length = self._length = min(self.history_length, int(lengths.max(initial=1)))
        self._items = _encode_known(log.items, log.n_items)
        # Each user's events are cut into rows of candidates, with their history before them.
        rows = -(-lengths // _CANDIDATES)
        cuts = Ragged.from_lengths(np.empty(rows.sum()), rows)
        first = log.offsets[cuts.rows] + cuts.places * _CANDIDATES
        events = first[:, None] + np.arange(-length, _CANDIDATES)
        starts, ends = log.offsets[cuts.rows, None], log.offsets[cuts.rows + 1, None]
        inside = (events >= starts) & (events < ends)
        events[~inside] = 0
        is_target = np.zeros(len(log), bool)
        is_target[view.targets.values] = True
        ratings = np.where(inside, np.asarray(log.ratings)[events], np.nan).astype(np.float32)
        items = np.where(inside, self._items[log.items[events]], 0)
        labels = np.where(is_target[events], ratings, np.float32("nan"))[:, length:]
        return _tensors(items=items, ratings=ratings, candidates=items[:, length:], labels=labels)

    def _build(self, training: Interactions) -> RatingModule:
        sizes = (self.width, self.heads, self.layers, self.dropout, self._length)
        attributes = self._attributes(training.n_items)
        return networks.TransformerMLPModule(self._mean, attributes, *sizes)

    def _inputs(self, queries: Queries) -> Tensors:
        # The last column is the candidate's own, as in training.
        items = np.zeros((len(queries), self._length + 1), np.int64)
        ratings = np.full(items.shape, np.nan, np.float32)
        for row, known in enumerate(queries.history_ratings or []):
            columns = slice(self._length - min(len(known), self._length), self._length)
            items[row, columns] = self._items[queries.histories[row][-self._length :]]
            ratings[row, columns] = known[-self._length :]
        candidates = self._items[queries.targets][:, None]
        return _tensors(items=items, ratings=ratings, candidates=candidates)


def _hold_out(
    columns: Tensors, fraction: float, rng: np.random.Generator
) -> tuple[TensorRows, TensorRows]:
    """Split labels into those to learn and a fraction held out; a row may be in both."""
    entries = (~columns["labels"].isnan()).nonzero()
    count = round(fraction * len(entries))
    chosen = entries[torch.from_numpy(rng.permutation(len(entries))[:count])]
    flags = torch.zeros_like(columns["labels"], dtype=torch.bool)
    flags[tuple(chosen.T)] = True
    parts = []
    for hidden in (flags, ~flags):
        labels = columns["labels"].masked_fill(hidden, torch.nan)
        kept = ~labels.isnan().reshape(len(labels), -1).all(1)
        whole = {**columns, "labels": labels}
        parts.append(TensorRows({name: each[kept] for name, each in whole.items()}))
    return parts[0], parts[1]


def rate(module: RatingModule, inputs: Tensors) -> Tensor:
    """Predict the ratings of all rows, some thousands at a time."""
    widest = max(column[0].numel() if len(column) else 1 for column in inputs.values())
    parts = (torch.split(column, max(1, _CELLS // widest)) for column in inputs.values())
    batches = (dict(zip(inputs, blocks, strict=True)) for blocks in zip(*parts, strict=True))
    with torch.inference_mode():
        return torch.cat([module.rate(**batch) for batch in batches])


def _negative_rmse(module: RatingModule, held_out: TensorRows) -> float:
    inputs = {name: each for name, each in held_out.columns.items() if name != "labels"}
    return -float(((rate(module, inputs) - held_out.columns["labels"]) ** 2).nanmean().sqrt())


def _encode_known(seen: Integers, count: int) -> Array:
    """Return each index plus 1 where it was seen, else 0: shape (count,)."""
    return np.where(np.bincount(seen, minlength=count) > 0, np.arange(1, count + 1), 0)


def attribute_numbers(catalog: Catalog) -> Array:
    """Index the items' brands and categories from 1.

    Returns:
        Each item's attributes, padded with 0, shape (items + 1, most): item ``n``'s are row
        ``n + 1``, and row 0 is an unknown item's.
    """
    numbers: dict[tuple[str, str], int] = {}
    rows: list[list[int]] = [[0], *([] for _ in range(len(catalog)))]
    for name in [name for name in _ATTRIBUTES if name in catalog.frame]:
        for row, values in enumerate(catalog.frame[name], 1):
            several = values if isinstance(values, list | tuple | np.ndarray) else [values]
            keys = dict.fromkeys((name, text) for text in several if isinstance(text, str))
            rows[row] += [numbers.setdefault(key, len(numbers) + 1) for key in keys]
    return Ragged.from_rows(rows, np.int64).to_grid(0)


def _tensors(**columns: Array) -> Tensors:
    return {name: torch.from_numpy(column) for name, column in columns.items()}
