"""Items that a user never touched, drawn uniformly."""

from __future__ import annotations

import numpy as np

from recinject.data.schema import Integers
from recinject.foundation.errors import RecinjectError


def draw_negatives(
    rng: np.random.Generator, touched: Integers, n_items: int, count: int
) -> Integers:
    """Draw distinct items outside a user's own, uniformly and without replacement.

    Ranks among the untouched items are drawn, then shifted past the touched ones: the work
    depends on the user's own items only, never on the size of the catalogue.

    Args:
        rng: the sample's random stream.
        touched: the user's items, of any part of the split, in any order.
        n_items: the size of the catalogue.
        count: how many to draw.

    Raises:
        RecinjectError: the user has not left that many items untouched.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> sorted(draw_negatives(rng, np.array([0, 2, 4]), 6, 3).tolist())
        [1, 3, 5]
    """
    own = np.unique(touched)
    free = n_items - len(own)
    if count > free:
        raise RecinjectError(
            f"a user has {len(own)} of {n_items} items: no {count} negatives are left",
            hint="lower samples.tasks.ranking.negatives (and .train_negatives)",
        )
    ranks = rng.choice(free, size=count, replace=False, shuffle=True)
    untouched_before = own - np.arange(len(own))
    return (ranks + np.searchsorted(untouched_before, ranks, side="right")).astype(np.int32)
