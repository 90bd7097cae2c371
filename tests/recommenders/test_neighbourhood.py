from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from recinject.data.schema import Interactions
from recinject.evaluation.metrics import hit_rate, ndcg
from recinject.recommenders.baselines import (
    EASE,
    ItemKNN,
    Popularity,
    history_matrix,
    user_item_matrix,
)
from recinject.recommenders.protocol import ItemScorer, Queries, Recommender


@pytest.mark.parametrize("neighbours", [3, 100])
def test_scores_are_sums_of_the_nearest_cosines(
    training: Interactions, retrieval: Queries, neighbours: int
) -> None:
    model = ItemKNN(neighbours)
    model.fit(training, seed=0)
    similarity = cosine_similarity(user_item_matrix(training).toarray().T)
    np.fill_diagonal(similarity, 0)
    for row in similarity:
        # Rounding keeps equal cosines equal, whichever way they were summed.
        order = np.argsort(-row.round(9), kind="stable")
        row[order[neighbours:]] = 0
    histories = history_matrix(retrieval.histories, training.n_items).toarray()
    scores = model.score(retrieval, slice(0, len(retrieval)))
    np.testing.assert_allclose(scores, histories @ similarity, atol=1e-12)


@pytest.mark.parametrize("keeps_seen", [False, True])
@pytest.mark.parametrize("k", [2, 12])
def test_lists_of_near_items_are_those_of_all_items(
    training: Interactions, retrieval: Queries, k: int, keeps_seen: bool
) -> None:
    model = ItemKNN(4)
    model.fit(training, seed=0)
    asked = replace(retrieval, keeps_seen=keeps_seen)
    nowhere = replace(asked, targets=np.full(len(asked), -1, np.int32))
    in_history = replace(asked, targets=np.roll(asked.targets, 1))
    unknown = asked.take(np.array([len(asked) - 1]))  # nothing was used
    for queries in (asked, nowhere, in_history, unknown):
        found, expected = model.predict(queries, k), ItemScorer.predict(model, queries, k)
        for name in ("items", "scores", "ahead", "tied"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_an_item_used_twice_counts_once() -> None:
    matrix = history_matrix([np.array([2, 0, 2], np.int32), np.zeros(0, np.int32)], 3)
    assert matrix.toarray().tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Popularity(), [0.0077, 0.0042, 0.0137, 0.0061]),
        (ItemKNN(20), [0.0419, 0.0292, 0.0610, 0.0354]),
        (ItemKNN(100), [0.0426, 0.0301, 0.0620, 0.0364]),
        (EASE(100.0), [0.0528, 0.0352, 0.0781, 0.0434]),
        # The known figures; the form of the paper, above, is a little better.
        (EASE(100.0, transposed=True), [0.0522, 0.0353, 0.0757, 0.0429]),
    ],
    ids=["popularity", "item_knn-20", "item_knn-100", "ease", "ease-transposed"],
)
def test_reaches_the_known_figures_on_amazon_beauty(
    shared_data: Path, model: Recommender, expected: list[float]
) -> None:
    training, queries = everything_but_the_last_event(shared_data / "amazon-2014-beauty")
    model.fit(training, seed=0)
    got = model.predict(queries, 10)
    assert got.ahead is not None and got.tied is not None
    # The known figures leave equal scores in some order of the items: the best and the worst
    # order for the target enclose them, but for their rounding.
    alone = np.ones_like(got.tied)
    best, worst = (
        np.array([metric(ahead, alone, k).mean() for k in (5, 10) for metric in (hit_rate, ndcg)])
        for ahead in (got.ahead, got.ahead + got.tied - 1)
    )
    assert np.all(worst - 0.00005 <= expected)
    assert np.all(expected <= best + 0.00005)
    assert np.all(best - worst < 0.0012)


def everything_but_the_last_event(folder: Path) -> tuple[Interactions, Queries]:
    table = pd.read_csv(folder / "interactions.tsv.gz", sep="\t")
    users, user_ids = pd.factorize(table["user_id"])
    items, item_ids = pd.factorize(table["item_id"])
    order = np.lexsort((table["position"], users))
    users, items = users[order].astype(np.int32), items[order].astype(np.int32)
    log = Interactions(users, items, None, None, list(user_ids), len(item_ids))
    last = log.offsets[1:] - 1
    training = log.select(~np.isin(np.arange(len(log)), last))
    return training, Queries(
        task="retrieval",
        sample_ids=list(user_ids),
        prompts=[""] * log.n_users,
        users=np.arange(log.n_users, dtype=np.int32),
        histories=[training.items_of(user) for user in range(log.n_users)],
        targets=items[last],
    )
