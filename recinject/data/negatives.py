"""Items that a user never touched, drawn uniformly."""

from __future__ import annotations

import numpy as np

from recinject.data.schema import Integers
from recinject.data.splitting import View
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array
from recinject.foundation.randomness import Chance


def draw_negatives(view: View, users: Array, chance: Chance, count: int) -> Integers:
    """Draw distinct items outside each user's own, uniformly and without replacement.

    An item that a user touched in any part of the split is no negative; nor are cold items: a
    model that met an item as a negative alone would have learnt never to name it.

    Ranks among the untouched items are drawn, then shifted past the touched ones: the work
    depends on the users' own items only, never on the size of the catalogue.

    Args:
        view: the events in sight.
        users: the user of each row, shape (n,).
        chance: the rows' random numbers.
        count: how many to draw.

    Returns:
        Item numbers, shape (n, count). The order within a row is not random.

    Raises:
        RecinjectError: a user has not left that many items untouched.
    """
    distinct, row_users = np.unique(users, return_inverse=True)
    warm = np.setdiff1d(np.arange(view.touched.n_items), view.cold)
    own_users, own = _own_items(view, distinct, warm)
    starts = np.searchsorted(own_users, np.arange(len(distinct) + 1))
    free = len(warm) - np.diff(starts)[row_users]
    if len(free) and count > free.min():
        raise _too_many(view, warm, count)
    ranks = chance.distinct(free, count)
    # What stands before an item untouched is its number less the touched ones before it; with
    # the user on top, one sorted array answers for all users at once.
    untouched_before = own - (np.arange(len(own)) - starts[own_users])
    keys = own_users * (len(warm) + 1) + untouched_before
    wanted = row_users[:, None] * (len(warm) + 1) + ranks
    touched_before = np.searchsorted(keys, wanted, side="right") - starts[row_users][:, None]
    return warm[ranks + touched_before].astype(np.int32)


def _too_many(view: View, warm: Array, count: int) -> RecinjectError:
    """Name the user of all who leaves the fewest items, so that one correction is enough."""
    everyone = np.arange(view.touched.n_users)
    own_users, _ = _own_items(view, everyone, warm)
    free = len(warm) - np.bincount(own_users, minlength=len(everyone))
    user = int(np.argmin(free))
    return RecinjectError(
        f"user {view.touched.user_ids[user]} leaves {free[user]} of "
        f"{view.touched.n_items} items untouched: {count} negatives are too many",
        hint=f"set samples.tasks.ranking.negatives={free[user]} or fewer (and train_negatives)"
        if free[user]
        else "leave the tasks ranking and bpr out, or drop the user from the log",
    )


def _own_items(view: View, users: Array, warm: Array) -> tuple[Array, Array]:
    """Return the users' distinct items, as places in ``warm``, with the place of each one's user.

    Both come sorted by user, then by item.
    """
    touched = view.touched.by_user.take(users)
    is_warm = np.ones(len(touched.values), bool)
    if len(view.cold):
        is_warm = np.isin(touched.values, view.cold, invert=True)
    places = np.searchsorted(warm, touched.values[is_warm])
    keys = np.unique(touched.rows[is_warm] * max(1, len(warm)) + places)
    return np.divmod(keys, max(1, len(warm)))
