from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recinject.data.schema import Catalog
from recinject.evaluation.evaluate import (
    Protocol,
    answer,
    compare_with_all,
    fit_baselines,
    save_prediction,
)
from recinject.evaluation.metrics import evaluate_prediction
from recinject.recommenders.baselines import GlobalMean, Popularity, Random, UserMean
from recinject.recommenders.protocol import Queries

PROTOCOL = Protocol(list_length=6, cutoffs=[1, 5], resamples=100, seed=3)
CATALOG = Catalog(pd.DataFrame({"item_id": [f"i{n}" for n in range(30)], "title": ""}))


@pytest.fixture(scope="module")
def split(split_of):
    return split_of([[(user * user + 7 * n) % 30 for n in range(9)] for user in range(12)])


@pytest.fixture
def queries(split):
    events = split.interactions
    n, last = events.n_users, events.offsets[1:] - 1
    return Queries(
        task="retrieval",
        sample_ids=[f"retrieval/test/{user}/0" for user in range(n)],
        prompts=[""] * n,
        users=np.arange(n, dtype=np.int32),
        histories=[events.items_of(user)[:-1] for user in range(n)],
        targets=events.items[last],
    )


@pytest.fixture
def rating(split, queries):
    last = split.interactions.offsets[1:] - 1
    return replace(queries, task="rating", labels=split.interactions.ratings[last])


def test_baselines_that_need_ratings_stay_out_where_there_are_none(split):
    baselines = [Popularity(), GlobalMean(), Random(), UserMean()]
    fitted = fit_baselines(baselines, split, CATALOG, seed=1)
    assert [each.name for each in fitted] == ["popularity", "global_mean", "random", "user_mean"]
    unrated = replace(split, interactions=replace(split.interactions, ratings=None))
    fitted = fit_baselines(baselines, unrated, CATALOG, seed=1)
    assert [each.name for each in fitted] == ["popularity", "random"]


def test_an_answer_is_measured_by_the_protocol(split, queries):
    (popularity,) = fit_baselines([Popularity()], split, CATALOG, seed=1)
    given = answer(popularity, queries, PROTOCOL)
    assert given.prediction.items.shape == (len(queries), 6)
    assert given.metrics == evaluate_prediction(given.prediction, queries, [1, 5], 100, 3)
    assert [result.metric for result in given.metrics] == [
        "hr@1",
        "hr@5",
        "ndcg@1",
        "ndcg@5",
        "mrr",
    ]


def test_one_is_compared_with_each_of_the_others_by_every_metric(split, queries):
    fitted = fit_baselines([Popularity(), Random()], split, CATALOG, seed=1)
    first, second = (answer(each, queries, PROTOCOL) for each in fitted)
    found = compare_with_all(first, [second, first], queries, PROTOCOL)
    assert [(row.reference, row.metric) for row in found] == [
        (name, result.metric) for name in ("random", "popularity") for result in first.metrics
    ]
    for row, own, other in zip(found[:5], first.metrics, second.metrics, strict=True):
        assert row.recommender == "popularity"
        assert row.difference == pytest.approx(own.value - other.value)
    assert all(row.difference == 0 and row.p_value == 1 for row in found[5:])


def test_lists_are_stored_with_the_logs_own_ids(split, queries, tmp_path):
    (popularity,) = fit_baselines([Popularity()], split, CATALOG, seed=1)
    prediction = answer(popularity, queries, replace(PROTOCOL, list_length=28)).prediction
    save_prediction(tmp_path, prediction, queries, CATALOG)
    stored = pd.read_parquet(tmp_path / "retrieval.popularity.parquet")
    keys = ["sample_id", "user", "target", "items", "target_item_id"]
    assert list(stored) == [*keys, "item_ids", "scores", "ahead", "tied"]
    np.testing.assert_array_equal(np.stack(stored["items"]), prediction.items)
    assert list(stored["user"]) == list(queries.users)
    for row, items in enumerate(prediction.items):
        names = [None if item < 0 else f"i{item}" for item in items]
        assert list(stored["item_ids"][row]) == names
    assert None in stored["item_ids"][0], "28 are asked for, and 30 - 8 can be had"
    np.testing.assert_array_equal(np.stack(stored["scores"]), prediction.scores)
    assert list(stored["target_item_id"]) == [f"i{item}" for item in queries.targets]


def test_ratings_are_stored_beside_the_truth(split, rating, tmp_path):
    (mean,) = fit_baselines([UserMean()], split, CATALOG, seed=1)
    prediction = answer(mean, rating, PROTOCOL).prediction
    save_prediction(tmp_path, prediction, rating, CATALOG)
    stored = pd.read_parquet(tmp_path / "rating.user_mean.parquet")
    assert list(stored) == ["sample_id", "user", "target", "target_item_id", "rating", "label"]
    assert list(stored["label"]) == list(rating.labels)
    assert list(stored["rating"]) == list(prediction.ratings)
