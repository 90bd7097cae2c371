"""Ratings predicted by networks that know a user by number, or by a history alone."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recinject.data.schema import Floats, Integers, Interactions
from recinject.foundation.randomness import derive_rng
from recinject.models.rating_modules import (
    MatrixFactorisationModule,
    MLPModule,
    RatingModule,
    WideDeepModule,
)
from recinject.recommenders.averages import GlobalMean
from recinject.recommenders.protocol import Queries, Sources
from recinject.recommenders.rating_columns import (
    Batch,
    attribute_numbers,
    closeness,
    hold_out,
    number_known,
    rate,
)
from recinject.training.modules import Fit, fit_module, global_chance


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
