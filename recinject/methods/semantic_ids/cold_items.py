"""Items that nothing was learnt of, in the lists of a model that names items by their codes."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

import numpy as np

from recinject.data.schema import Flags, Integers
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.protocol import Prediction, Queries

Codes = tuple[int, ...]


def join_cold_items(
    listed: Prediction, queries: Queries, prefixes: Integers, cold: Flags, fraction: float, k: int
) -> Prediction:
    """Let cold items follow those that share their predicted codes, up to a fraction of each list.

    Source: TIGER, arXiv 2305.05065, section 4.3, whose epsilon is ``fraction``. It holds for the
    first r items of a list at every r, so one list serves every cutoff; a cold item that comes
    too early waits. Scores are minus the ranks, since a cold item need not have one.

    Args:
        listed: lists longer than ``k``, as cold items in them may have to go.
        queries: their histories' items do not join.
        prefixes: the codes of each item without the last, shape (items, levels).
        cold: the items without training events, shape (items,).
        fraction: from 0, which leaves out cold items, to 1.
        k: the length of the lists.

    Raises:
        RecinjectError: the prediction has no lists.
    """
    if listed.items is None:
        raise RecinjectError(
            f"{listed.recommender}: {listed.task} has no lists for cold items to join",
            hint="ask for retrieval",
        )
    joined = np.full((len(queries), k), -1, np.int32)
    siblings: defaultdict[Codes, list[int]] = defaultdict(list)
    for item in np.flatnonzero(cold).tolist():
        siblings[tuple(prefixes[item].tolist())].append(item)
    for row, (items, history) in enumerate(zip(listed.items, queries.histories, strict=True)):
        wanted = dict.fromkeys(  # each item, then the cold ones that share its codes, once
            each
            for item in items[items >= 0].tolist()
            for each in (item, *siblings.get(tuple(prefixes[item].tolist()), ()))
        )
        barred = set(history.tolist())
        chosen = _within_fraction([i for i in wanted if i not in barred], cold, fraction, k)
        joined[row, : len(chosen)] = chosen
    found, order = joined == queries.targets[:, None], np.arange(float(k))
    return Prediction(
        f"{listed.recommender}_cold_{fraction:g}",
        listed.task,
        joined,
        np.where(joined >= 0, -order, -np.inf),
        np.where(found.any(1), found.argmax(1), np.inf),
        np.ones(len(queries)),
    )


def _within_fraction(items: Sequence[int], cold: Flags, fraction: float, k: int) -> list[int]:
    """Take items in order; cold ones wait until those above them leave them room."""
    ranked = list(enumerate(items))
    known, waiting = (deque(p for p in ranked if cold[p[1]] == is_cold) for is_cold in (0, 1))
    chosen: list[int] = []
    joined = 0
    while len(chosen) < k and (known or waiting):
        # The least surplus keeps 0.1 of 10 items from being less than one.
        room = joined + 1 <= fraction * (len(chosen) + 1) + 1e-9
        if waiting and room and (not known or waiting[0] < known[0]):
            chosen.append(waiting.popleft()[1])
            joined += 1
        elif known:
            chosen.append(known.popleft()[1])
        else:
            break
    return chosen
