"""Matrix factorisation of the training events, through the ``implicit`` library."""

from __future__ import annotations

import dataclasses
import importlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass
from scipy.sparse import csr_matrix

from recinject.data.schema import Flags, Floats, Interactions
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.baselines import history_matrix, item_counts, user_item_matrix
from recinject.recommenders.protocol import ItemScorer, Queries

_NotNegative = Annotated[float, Field(ge=0)]
_MOST_SCORES = 2**20


@dataclass(eq=False)
class Factorisation(ItemScorer):
    """Scores an item by the product of the user's factors and its own.

    An unknown user gets the scores of item popularity. The fields of a subclass are the arguments
    of its ``model`` in ``implicit``, which must be installed.
    """

    model: ClassVar[str]

    def __post_init__(self) -> None:
        module, _, kind = self.model.rpartition(".")
        self._kind = getattr(_optional(module), kind)

    def fit(self, training: Interactions, seed: int) -> None:
        """Learn the factors, on the CPU and one thread, so that the fit can be repeated."""
        state = int(self._chance(seed).integers(2**31))
        # BLAS threads inside implicit's own threads over users slow both down.
        with _optional("threadpoolctl").threadpool_limits(1, "blas"):
            settings = {"random_state": state, "num_threads": 1, "use_gpu": False}
            self._model = self._kind(**dataclasses.asdict(self), **settings)
            self._model.fit(csr_matrix(user_item_matrix(training)), show_progress=False)
        self._item_factors = self._model.item_factors.astype(np.float64)
        self._popularity = item_counts(training)
        self._trained = np.diff(training.offsets) > 0
        # So that the scores of many items stay in the processor's cache.
        few = max(16, _MOST_SCORES // training.n_items)
        self._rows_at_once = min(ItemScorer._rows_at_once, few)

    def score(self, queries: Queries, rows: slice) -> NDArray[np.float32]:
        """Multiply the factors of each query's user with those of all items."""
        factors, known = self._user_factors(queries, rows)
        # The last digits depend on the product's shape: rounding makes a score its query's own.
        exact: Floats = factors.astype(np.float64) @ self._item_factors.T
        scores = exact.astype(np.float32)
        scores[~known] = self._popularity
        return scores

    @abstractmethod
    def _user_factors(self, queries: Queries, rows: slice) -> tuple[Floats, Flags]:
        """Return the users' factors, and which users are known."""


@dataclass(eq=False)
class ALS(Factorisation):
    """Weighted alternating least squares (Hu, Koren and Volinsky, ICDM 2008).

    A user's factors come from the query's whole history. The defaults were chosen on the validation
    events of Amazon Beauty and MovieLens-100K; this much regularisation keeps the factors from
    memorising a small catalogue.

    Args:
        factors: how many numbers describe a user or an item.
        regularization: weight of the factors' squared norm.
        alpha: weight of an event; what did not happen has weight 1.
        iterations: how often users and items are solved for.
    """

    name: ClassVar[str] = "als"
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "regularization": (1.0, 3.0, 10.0, 30.0, 100.0),
        "factors": (64, 128, 256),
    }
    model: ClassVar[str] = "implicit.als.AlternatingLeastSquares"

    factors: PositiveInt = 256
    regularization: _NotNegative = 10.0
    alpha: _NotNegative = 10.0
    iterations: PositiveInt = 15

    def _user_factors(self, queries: Queries, rows: slice) -> tuple[Floats, Flags]:
        histories = csr_matrix(history_matrix(queries.histories[rows], len(self._item_factors)))
        factors: Floats = self._model.recalculate_user(np.arange(histories.shape[0]), histories)
        return factors, np.diff(histories.indptr) > 0


@dataclass(eq=False)
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
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "regularization": (0.003, 0.01, 0.03, 0.1),
        "learning_rate": (0.02, 0.05, 0.1),
    }
    knows_strangers: ClassVar[bool] = False
    model: ClassVar[str] = "implicit.bpr.BayesianPersonalizedRanking"

    factors: PositiveInt = 64
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    regularization: _NotNegative = 0.03
    iterations: PositiveInt = 100

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
