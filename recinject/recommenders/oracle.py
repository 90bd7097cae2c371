"""The ceiling of a simulated log: who knows what drew it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import ClassVar

import numpy as np
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from recinject.data.schema import Floats, Interactions
from recinject.data.simulator import Truth
from recinject.recommenders.protocol import ItemScorer, Prediction, Queries


@dataclass(eq=False)
class Oracle(ItemScorer):
    """Scores an item by the probability that the simulated shop draws it next: the ceiling.

    It knows the shop and each customer's taste, which no log tells, and reads whole histories. A
    user whom the shop does not have is a stranger without taste.

    Args:
        users: see :func:`~recinject.data.simulator.simulate_shop`, as for the others.
        items: of the shop.
        events_per_user: on average.
        seed: of the shop.
    """

    name: ClassVar[str] = "oracle"
    knows_truth: ClassVar[bool] = True

    users: PositiveInt
    items: PositiveInt
    events_per_user: PositiveInt
    seed: int

    def fit(self, training: Interactions, seed: int) -> None:
        """Simulate the shop again, and find its users and items in the log; learn nothing."""
        ids = self._sources.catalog.item_ids if self._sources is not None else []
        self._truth = Truth.of(asdict(self), training.user_ids, ids)

    def predict(self, queries: Queries, k: int) -> Prediction:
        """Rank by the true probabilities."""
        found = super().predict(queries, k)
        if found.scores is None or queries.candidates is not None:
            return found
        return replace(found, first=found.scores[:, 0])

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Return the probability of each item, given the whole history and the user's taste."""
        pairs = zip(queries.users[rows], queries.histories[rows], strict=True)
        chances = [self._truth.chances_of_next(int(user), past) for user, past in pairs]
        return np.array(chances).reshape(len(chances), -1)

    def _longest(self, kind: str, usual: int | None = None) -> int | None:
        return None
