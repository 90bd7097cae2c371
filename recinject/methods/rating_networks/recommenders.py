"""Rating networks as baselines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recinject.data.schema import Catalog, Floats, Integers, Interactions
from recinject.data.splitting import Part, Split
from recinject.foundation.ragged import Array, Ragged
from recinject.foundation.randomness import derive_rng
from recinject.methods.rating_networks.networks import (
    MatrixFactorisationModule,
    MLPModule,
    RatingModule,
    TransformerMLPModule,
    WideDeepModule,
)
from recinject.recommenders.baselines import GlobalMean
from recinject.recommenders.protocol import Queries, Sources
from recinject.training.networks import Fit, fit_module, global_chance

Batch = dict[str, Tensor]
_ATTRIBUTES = ("brand", "category", "categories")
_CELLS = 2**16
"""How many places of a column are rated at once, about."""


class Rows(Dataset[Batch]):
    """Columns of equal length, ``labels`` among them; a batch is some of their rows."""

    def __init__(self, columns: Batch, labels: Tensor) -> None:
        kept = ~labels.isnan().flatten(1).all(1) if labels.dim() > 1 else ~labels.isnan()
        self.columns = {name: part[kept] for name, part in (columns | {"labels": labels}).items()}
        self.count = int((~labels.isnan()).sum())

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, number: int) -> Batch:
        return self.__getitems__([number])

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        return {name: column[torch.as_tensor(numbers)] for name, column in self.columns.items()}


def hold_out(columns: Batch, share: float, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Part what has a label into what is learned and what is held out.

    A row of several labels may be in both, each time without the other's labels.
    """
    labels = columns["labels"]
    places = (~labels.isnan()).nonzero()
    chosen = places[torch.from_numpy(rng.permutation(len(places))[: round(share * len(places))])]
    held_out = torch.zeros_like(labels, dtype=torch.bool)
    held_out[tuple(chosen.T)] = True
    parts = (labels.masked_fill(flags, torch.nan) for flags in (held_out, ~held_out))
    learned, measured = (Rows(columns, part) for part in parts)
    return learned, measured


def rate(module: RatingModule, inputs: Batch) -> Tensor:
    """Rate all rows, some thousands at a time."""
    widest = max(column[0].numel() if len(column) else 1 for column in inputs.values())
    parts = (torch.split(column, max(1, _CELLS // widest)) for column in inputs.values())
    blocks = zip(*parts, strict=True)
    with torch.inference_mode():
        return torch.cat([module.rate(**dict(zip(inputs, block, strict=True))) for block in blocks])


def closeness(module: RatingModule, held_out: Rows) -> float:
    """Return the negative RMSE on what was held out."""
    inputs = {name: part for name, part in held_out.columns.items() if name != "labels"}
    return -float(((rate(module, inputs) - held_out.columns["labels"]) ** 2).nanmean().sqrt())


def number_known(seen: Integers, count: int) -> Array:
    """Number what was seen, from 1; all else has number 0.

    Examples:
        >>> number_known(np.array([3, 1, 1], np.int32), 4).tolist()
        [0, 2, 0, 4]
    """
    return np.where(np.bincount(seen, minlength=count) > 0, np.arange(1, count + 1), 0)


def attribute_numbers(catalog: Catalog) -> Array:
    """Number the items' brand, category and categories, as far as the log has them.

    Returns:
        Each item's attributes, numbered from 1 and filled up with 0, shape (items + 1, most):
        row 0 is an unknown item's, and item ``n``'s is row ``n + 1``.
    """
    columns = [name for name in _ATTRIBUTES if name in catalog.frame]
    numbers: dict[tuple[str, str], int] = {}
    rows: list[list[int]] = [[] for _ in range(len(catalog) + 1)]
    for name in columns:
        for row, values in enumerate(catalog.frame[name], 1):
            told = values if isinstance(values, list | tuple | np.ndarray) else [values]
            names = dict.fromkeys((name, text) for text in told if isinstance(text, str))
            rows[row] += [numbers.setdefault(key, len(numbers) + 1) for key in names]
    table = Ragged.from_rows(rows, np.int64)
    grid = np.zeros((len(rows), max(1, int(table.lengths.max()))), np.int64)
    grid[table.rows, table.places] = table.values
    return grid


class Biases(GlobalMean):
    """Predicts the mean plus the user's and the item's offset from it.

    The offsets are those of ridge regression (Koren, KDD 2008, section 2.1), found by solving for
    users and items in turn.

    Args:
        user_ridge: weight of the users' squared offsets; a rating's squared error has weight 1.
        item_ridge: weight of the items' squared offsets.
        iterations: how often both are solved for at most.
    """

    name: ClassVar[str] = "biases"

    def __init__(
        self, user_ridge: float = 5.0, item_ridge: float = 3.0, iterations: int = 100
    ) -> None:
        self._ridges, self._iterations = (user_ridge, item_ridge), iterations

    def fit(self, training: Interactions, seed: int) -> None:
        """Solve for the offsets."""
        super().fit(training, seed)
        sizes, groups = (training.n_users, training.n_items), (training.users, training.items)
        weights = [
            np.bincount(group, minlength=size) + ridge
            for group, size, ridge in zip(groups, sizes, self._ridges, strict=True)
        ]
        self._range, ratings = _range(training), np.asarray(training.ratings) - self._mean
        self._offsets = [np.zeros(size) for size in sizes]
        for _ in range(self._iterations):
            before = self._offsets[1]
            for own, other in ((0, 1), (1, 0)):
                left = ratings - self._offsets[other][groups[other]]
                self._offsets[own] = np.bincount(groups[own], left, sizes[own]) / weights[own]
            if np.abs(self._offsets[1] - before).max(initial=0.0) < 1e-9:
                break

    def _ratings(self, queries: Queries) -> Floats:
        users, items = self._offsets
        found: Floats = self._mean + users[queries.users] + items[queries.targets]
        return np.clip(found, *self._range)


class RatingModel(GlobalMean):
    """A network that learns to rate.

    The epoch is chosen by the RMSE on a seeded share of the training ratings, which are not
    learned from. Predictions keep to the range of the training ratings. An unknown user or item
    adds nothing of its own.

    Args:
        learning_rate: AdamW's first step; the steps fall to nothing over the epochs.
        batch_size: how many ratings a step learns from; of a small log a hundredth.
        epochs: how often the ratings are gone through at most.
        patience: after how many epochs without gain it ends.
        held_out: the share of ratings that chooses the epoch.
        weight_decay: AdamW's.
        shape: sizes of the network; see its module.
    """

    def __init__(
        self,
        learning_rate: float,
        batch_size: int = 2048,
        epochs: int = 20,
        patience: int = 2,
        held_out: float = 0.05,
        weight_decay: float = 0.0,
        **shape: float,
    ) -> None:
        self._settings = {
            "learning_rate": learning_rate,
            "num_train_epochs": epochs,
            "weight_decay": weight_decay,
        }
        self._batch_size, self._patience, self._held_out = batch_size, patience, held_out
        self._shape: dict[str, Any] = shape
        self._sources: Sources | None = None
        self.course: Fit | None = None

    def read(self, sources: Sources) -> None:
        """Note the items' attributes and the training events' histories."""
        self._sources = sources

    def fit(self, training: Interactions, seed: int) -> None:
        """Learn from the training ratings but those held out, and keep the best epoch."""
        super().fit(training, seed)
        self._range = _range(training)
        columns = self._columns(training)
        rng = derive_rng(seed, self.name, "held_out")
        learned, held_out = hold_out(columns, self._held_out, rng)
        with global_chance(int(derive_rng(seed, self.name).integers(2**31))):
            self._module = self._build(training)
        size = min(self._batch_size, max(32, len(training) // 100))
        rows = max(1, round(size * len(learned) / max(1, learned.count)))
        settings = {"lr_scheduler_type": "linear", "per_device_train_batch_size": rows}
        validate = partial(closeness, held_out=held_out) if held_out.count else None
        if learned.count:
            self.course = fit_module(
                self._module,
                learned,
                dict,
                settings | self._settings,
                None,
                seed,
                validate=validate,
                patience=self._patience,
            )
        # Double precision swallows what an answer owes to the company of its query.
        self._module.double().eval()

    @abstractmethod
    def _columns(self, training: Interactions) -> Batch:
        """Return the module's inputs and ``labels``, NaN where there is nothing to learn."""

    @abstractmethod
    def _build(self, training: Interactions) -> RatingModule:
        """Make the network."""

    @abstractmethod
    def _inputs(self, queries: Queries) -> Batch:
        """Return the module's inputs, a row a query."""

    def _ratings(self, queries: Queries) -> Floats:
        found = rate(self._module, self._inputs(queries)).flatten().float()
        return found.clamp(*self._range).double().numpy()

    def _attributes(self, n_items: int) -> Tensor:
        if self._sources is None:
            return torch.zeros(n_items + 1, 1, dtype=torch.long)
        return torch.from_numpy(attribute_numbers(self._sources.catalog))


class PairModel(RatingModel):
    """A network that knows a user and an item by number."""

    def _columns(self, training: Interactions) -> Batch:
        self._users = number_known(training.users, training.n_users)
        self._items = number_known(training.items, training.n_items)
        labels = torch.tensor(training.ratings, dtype=torch.float32)
        return {**self._pairs(training.users, training.items), "labels": labels}

    def _inputs(self, queries: Queries) -> Batch:
        return self._pairs(queries.users, queries.targets)

    def _pairs(self, users: Integers, items: Integers) -> Batch:
        columns = {"users": self._users[users], "items": self._items[items]}
        return {name: torch.from_numpy(column) for name, column in columns.items()}


class MatrixFactorisation(PairModel):
    """Offsets and factors of users and items (Koren, Bell and Volinsky, Computer 2009)."""

    name: ClassVar[str] = "matrix_factorisation"

    def __init__(
        self,
        learning_rate: float = 3e-3,
        width: int = 64,
        regularisation: float = 0.08,
        **settings: Any,
    ) -> None:
        shape = {"width": width, "regularisation": regularisation, "epochs": 30}
        super().__init__(learning_rate, **(shape | settings))

    def _build(self, training: Interactions) -> RatingModule:
        sizes = training.n_users, training.n_items
        return MatrixFactorisationModule(self._mean, *sizes, **self._shape)


class MLP(PairModel):
    """Embeddings of user and item through an MLP (He et al., WWW 2017)."""

    name: ClassVar[str] = "mlp"

    def __init__(
        self, learning_rate: float = 1e-3, width: int = 32, dropout: float = 0.2, **settings: Any
    ) -> None:
        super().__init__(learning_rate, width=width, dropout=dropout, **settings)

    def _build(self, training: Interactions) -> RatingModule:
        return MLPModule(self._mean, training.n_users, training.n_items, **self._shape)


class WideDeep(MLP):
    """Crossed features beside an MLP (Cheng et al., DLRS 2016)."""

    name: ClassVar[str] = "wide_deep"

    def _build(self, training: Interactions) -> RatingModule:
        kinds = self._attributes(training.n_items)
        return WideDeepModule(self._mean, training.n_users, kinds, **self._shape)


def _range(training: Interactions) -> tuple[float, float]:
    ratings = np.asarray(training.ratings)
    return float(np.min(ratings)), float(np.max(ratings))


_CANDIDATES = 50
"""How many ratings of a user are learned at once, at most."""


class TransformerMLP(RatingModel):
    """A transformer over what the language model reads, then an MLP (Kang et al., 2023).

    It knows the history's latest items with their ratings and attributes, and the candidate with
    its attributes, but no user (arXiv 2305.06474). A query whose history has no ratings is
    answered as one without a history.

    Args:
        learning_rate: AdamW's first step.
        history_length: how many of the latest items are read.
        settings: see :class:`RatingModel`; its shape is that of the module.
    """

    name: ClassVar[str] = "transformer_mlp"

    def __init__(
        self, learning_rate: float = 2e-3, history_length: int = 200, **settings: Any
    ) -> None:
        shape = {"width": 128, "heads": 4, "layers": 1, "dropout": 0.1, "weight_decay": 0.3}
        shape |= {"history_length": history_length, "epochs": 6, "batch_size": 1024}
        super().__init__(learning_rate, **(shape | settings))
        self._longest = history_length

    def _columns(self, training: Interactions) -> Batch:
        alone = Split(training, np.zeros(len(training), np.int8))
        view = alone.view(Part.TRAIN) if self._sources is None else self._sources.view
        log = view.interactions
        length = int(np.diff(log.offsets).max(initial=1))
        length = self._length = self._shape["history_length"] = min(self._longest, length)
        self._items = number_known(log.items, log.n_items)
        # Each user's events are cut into rows of candidates; their history stands before them.
        pieces = -(-np.diff(log.offsets) // _CANDIDATES)
        places = Ragged.from_lengths(np.empty(pieces.sum()), pieces)
        first = log.offsets[places.rows] + places.places * _CANDIDATES
        events = first[:, None] + np.arange(-length, _CANDIDATES)
        own = (events >= log.offsets[places.rows, None]) & (
            events < log.offsets[places.rows + 1, None]
        )
        events[~own] = 0
        targets = np.zeros(len(log), bool)
        targets[view.targets.values] = True
        ratings = np.where(own, np.asarray(log.ratings)[events], np.nan).astype(np.float32)
        items = np.where(own, self._items[log.items[events]], 0)
        labels = np.where(targets[events], ratings, np.float32("nan"))
        return _rows(items, ratings, items[:, length:]) | {
            "labels": torch.from_numpy(labels[:, length:])
        }

    def _build(self, training: Interactions) -> RatingModule:
        kinds = self._attributes(training.n_items)
        return TransformerMLPModule(self._mean, kinds, **self._shape)

    def _inputs(self, queries: Queries) -> Batch:
        # The last place is the candidate's own, as in training.
        items = np.zeros((len(queries), self._length + 1), np.int64)
        ratings = np.full(items.shape, np.nan, np.float32)
        for row, known in enumerate(queries.history_ratings or []):
            place = slice(self._length - min(len(known), self._length), self._length)
            items[row, place] = self._items[queries.histories[row][-self._length :]]
            ratings[row, place] = known[-self._length :]
        return _rows(items, ratings, self._items[queries.targets][:, None])


def _rows(items: Array, ratings: Array, candidates: Array) -> Batch:
    columns = {"items": items, "ratings": ratings, "candidates": candidates}
    return {name: torch.from_numpy(column) for name, column in columns.items()}
