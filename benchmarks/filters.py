"""Lists for all users by EASE, item kNN and ALS, against implicit's own ``recommend``.

    python benchmarks/filters.py [--quick] [--users 1000000] [--items 30000]

Everybody used ten items, drawn by a popularity that falls as a power of its rank. The references
hold the very weights that ours were fitted to: implicit's item-item recommender those of EASE and
item kNN, and its ALS is the model that ours asks. Both list ten items a user, none of them used,
on one thread, in turns, in this process; they are checked to give the same scores at every rank.
``peak MB`` is the most memory that ours takes beside its model. With 30,000 items EASE needs
7 GB, and its reference 11 GB.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from implicit.nearest_neighbours import ItemItemRecommender, NearestNeighboursScorer
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from recinject.data.schema import Floats, Integers, Interactions
from recinject.recommenders.baselines import EASE, ItemKNN, user_item_matrix
from recinject.recommenders.factorisation import ALS
from recinject.recommenders.protocol import ItemScorer, Queries

K, EVENTS, AT_ONCE = 10, 10, 4096


def make_log(users: int, items: int) -> Interactions:
    """Draw who used what."""
    chances = np.arange(1.0, items + 1) ** -0.8
    drawn = np.random.default_rng(0).choice(items, (users, EVENTS), p=chances / chances.sum())
    everybody = np.repeat(np.arange(users, dtype=np.int32), EVENTS)
    names = [str(user) for user in range(users)]
    return Interactions(everybody, drawn.ravel().astype(np.int32), None, None, names, items)


def ask(log: Interactions, users: Integers) -> Queries:
    """Ask what comes next for some users."""
    nothing, past = [""] * len(users), [log.items_of(user) for user in users]
    return Queries("retrieval", nothing, nothing, users, past, np.full(len(users), -1, np.int32))


def reference_of(recommender: ItemScorer) -> Any:
    """Return implicit's model with the same weights."""
    if isinstance(recommender, ALS):
        return recommender._model
    held = recommender._weights if isinstance(recommender, EASE) else recommender._similarity
    model = ItemItemRecommender(num_threads=1)
    model.similarity = csr_matrix(held, dtype=np.float64)
    model.scorer = NearestNeighboursScorer(model.similarity)
    return model


def seconds(lists: Callable[[Integers], Floats], users: int) -> tuple[float, Floats]:
    """Return the processor's time of listing for everybody, and the scores, shape (users, K)."""
    started = time.process_time()
    blocks = np.array_split(np.arange(users, dtype=np.int32), -(-users // AT_ONCE))
    found = [lists(block) for block in blocks]
    return time.process_time() - started, np.concatenate(found)


def measure(recommender: ItemScorer, log: Interactions, rounds: int) -> dict[str, Any]:
    """Let both list for everybody in turns; return what belongs into the JSON object."""
    recommender.fit(log, 0)
    model, matrix = reference_of(recommender), csr_matrix(user_item_matrix(log))
    more = {"recalculate_user": True} if isinstance(recommender, ALS) else {}

    def own(users: Integers) -> Floats:
        return np.asarray(recommender.predict(ask(log, users), K).scores)

    def theirs(users: Integers) -> Floats:
        return np.asarray(model.recommend(users, matrix[users], N=K, **more)[1])

    pairs = [(seconds(own, log.n_users), seconds(theirs, log.n_users)) for _ in range(rounds)]
    (_, scores), (_, expected) = pairs[0]
    # A list of implicit's ends where no weight is left; ours goes on with scores of 0.
    same = np.isclose(scores, expected, rtol=1e-3, atol=1e-5) | (expected <= 0)
    tracemalloc.start()
    own(np.arange(min(AT_ONCE, log.n_users), dtype=np.int32))
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    ours, slow = (min(side[0] for side in sides) for sides in zip(*pairs, strict=True))
    result = {"benchmark": "filters", "case": recommender.name, "value": round(log.n_users / ours)}
    result |= {"unit": "users/s", "reference": round(log.n_users / slow)}
    result |= {"ratio": round(slow / ours, 2), "same_items": round(float(same.mean()), 4)}
    return {**result, "peak MB": round(peak)}


def measured(log: Interactions, rounds: int) -> Iterator[dict[str, Any]]:
    """Measure one after another, and print a row of each."""
    print(f"{'baseline':>9} {'users/s':>9} {'implicit/s':>10} {'ratio':>6} {'peak MB':>8}")
    for each in (EASE(), ItemKNN(), ALS(factors=64, iterations=3)):
        found = measure(each, log, rounds)
        values = (found[name] for name in ("value", "reference", "ratio", "peak MB"))
        print("{:>9} {:>9,} {:>10,} {:>6} {:>8,}".format(found["case"], *values), flush=True)
        yield found


def main() -> None:
    """Measure, and print a table and one JSON object a baseline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000 users and items, one round")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=5000)
    told = parser.parse_args()
    size = (1000, 1000) if told.quick else (told.users, told.items)
    with threadpool_limits(1, "blas"):
        results = list(measured(make_log(*size), 1 if told.quick else 3))
    print("\n".join(map(json.dumps, results)))


if __name__ == "__main__":
    main()
