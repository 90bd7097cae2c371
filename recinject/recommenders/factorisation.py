"""Matrix factorisation of the training events, through the ``implicit`` library."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_matrix

from recinject.data.schema import Flags, Floats, Interactions
from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import derive_rng
from recinject.recommenders.baselines import history_matrix, item_counts, user_item_matrix
from recinject.recommenders.protocol import ItemScorer, Queries


class Factorisation(ItemScorer):
    """Scores an item by the product of the user's factors and its own.

    A user of whom nothing is known gets the scores of item popularity.

    Raises:
        RecinjectError: the ``implicit`` library is not installed.
    """

    def __init__(self, model: str, settings: Mapping[str, float]) -> None:
        module, _, kind = model.rpartition(".")
        self._make = partial(getattr(_optional(module), kind), **settings)

    def fit(self, training: Interactions, seed: int) -> None:
        """Learn the factors, on the CPU and one thread, so that the fit can be repeated."""
        state = int(derive_rng(seed, self.name).integers(2**31))
        # implicit runs its own threads over users: BLAS threads inside them only get in the way.
        with _optional("threadpoolctl").threadpool_limits(1, "blas"):
            self._model = self._make(random_state=state, num_threads=1, use_gpu=False)
            self._model.fit(csr_matrix(user_item_matrix(training)), show_progress=False)
        self._item_factors = self._model.item_factors.astype(np.float64)
        self._popularity = item_counts(training)
        self._trained = np.diff(training.offsets) > 0

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Multiply the factors of each query's user with those of all items."""
        factors, known = self._user_factors(queries, rows)
        # Single precision swallows what a matrix product owes to its shape, so that a score
        # depends on nothing but its own query.
        scores = (factors.astype(np.float64) @ self._item_factors.T).astype(np.float32)
        return np.where(known[:, None], scores, self._popularity)

    @abstractmethod
    def _user_factors(self, queries: Queries, rows: slice) -> tuple[Floats, Flags]:
        """Return the users' factors, and of which users anything is known."""


class ALS(Factorisation):
    """Weighted alternating least squares (Hu, Koren and Volinsky, ICDM 2008).

    A user's factors are solved for from the query's history, so they know the events between
    the training part and the query as item-kNN does. The defaults were chosen on the validation
    events of Amazon Beauty and MovieLens-100K; with this much regularisation, a catalogue smaller
    than the number of factors is not learned by heart.

    Args:
        factors: how many numbers describe a user or an item.
        regularization: weight of the factors' squared norm.
        alpha: weight of an event; what did not happen has weight 1.
        iterations: how often users and items are solved for.
    """

    name: ClassVar[str] = "als"

    def __init__(
        self,
        factors: int = 256,
        regularization: float = 10.0,
        alpha: float = 10.0,
        iterations: int = 15,
    ) -> None:
        settings = {
            "factors": factors,
            "regularization": regularization,
            "alpha": alpha,
            "iterations": iterations,
        }
        super().__init__("implicit.als.AlternatingLeastSquares", settings)

    def _user_factors(self, queries: Queries, rows: slice) -> tuple[Floats, Flags]:
        histories = csr_matrix(history_matrix(queries.histories[rows], len(self._item_factors)))
        factors: Floats = self._model.recalculate_user(np.arange(histories.shape[0]), histories)
        return factors, np.diff(histories.indptr) > 0


class BPR(Factorisation):
    """Matrix factorisation by Bayesian personalised ranking (Rendle et al., UAI 2009).

    The defaults were chosen on the validation events of Amazon Beauty and MovieLens-100K.

    Args:
        factors: how many numbers describe a user or an item.
        learning_rate: the step of the gradient descent.
        regularization: weight of the factors' squared norm.
        iterations: how many times the training events are gone through.
    """

    name: ClassVar[str] = "bpr"
    knows_strangers: ClassVar[bool] = False

    def __init__(
        self,
        factors: int = 64,
        learning_rate: float = 0.05,
        regularization: float = 0.03,
        iterations: int = 100,
    ) -> None:
        settings = {
            "factors": factors,
            "learning_rate": learning_rate,
            "regularization": regularization,
            "iterations": iterations,
        }
        super().__init__("implicit.bpr.BayesianPersonalizedRanking", settings)

    def _user_factors(self, queries: Queries, rows: slice) -> tuple[Floats, Flags]:
        users = queries.users[rows]
        factors: Floats = self._model.user_factors[users]
        return factors, self._trained[users]


def _optional(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RecinjectError(
            f"als and bpr need the package {module.partition('.')[0]!r}, which is not installed",
            hint="pip install 'recinject[cf]', or leave them out of evaluation.baselines",
        ) from error
