from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recinject.data.schema import Catalog
from recinject.evaluation.evaluate import (
    EvaluationSettings,
    fit_recommenders,
    prediction_frame,
)
from recinject.evaluation.metrics import evaluate_prediction
from recinject.identifiers.data import Data
from recinject.identifiers.table import name_items
from recinject.recommenders.baselines import GlobalMean, Popularity, Random, UserMean
from recinject.recommenders.protocol import Queries

SETTINGS = EvaluationSettings(list_length=6, cutoffs=[1, 5], resamples=100, seed=3)
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


@pytest.fixture
def data(split):
    return Data(split, CATALOG, name_items("number", CATALOG, 1))


@pytest.fixture
def predicted(data, queries):
    def predict(kind, asked=queries, length=6):
        (fitted,) = fit_recommenders([kind], data, seed=1)
        return fitted.predict(asked, length)

    return predict


def test_baselines_that_need_ratings_stay_out_where_there_are_none(split, data):
    baselines = [Popularity(), GlobalMean(), Random(), UserMean()]
    fitted = fit_recommenders(baselines, data, seed=1)
    assert [each.name for each in fitted] == ["popularity", "global_mean", "random", "user_mean"]
    assert all(each.data is data for each in fitted)
    unrated = replace(split, interactions=replace(split.interactions, ratings=None))
    fitted = fit_recommenders(baselines, replace(data, split=unrated), seed=1)
    assert [each.name for each in fitted] == ["popularity", "random"]


def test_an_answer_is_measured_at_its_cutoffs_or_by_the_metrics_asked_for(predicted, queries):
    prediction = predicted(Popularity())
    assert prediction.items.shape == (len(queries), 6)
    found = evaluate_prediction(prediction, queries, [1, 5], 100, 3)
    assert [result.metric for result in found] == ["hr@1", "hr@5", "ndcg@1", "ndcg@5", "mrr"]
    assert evaluate_prediction(prediction, queries, [1, 5], 100, 3, ["mrr"]) == found[-1:]


def test_lists_are_kept_with_the_logs_own_ids(predicted, queries):
    prediction = predicted(Popularity(), length=28)
    frame = prediction_frame(prediction, queries, CATALOG)
    keys = ["sample_id", "user", "target", "items", "target_item_id"]
    assert list(frame) == [*keys, "item_ids", "scores", "ahead", "tied"]
    np.testing.assert_array_equal(np.stack(frame["items"]), prediction.items)
    assert list(frame["user"]) == list(queries.users)
    for row, items in enumerate(prediction.items):
        names = [None if item < 0 else f"i{item}" for item in items]
        assert list(frame["item_ids"][row]) == names
    assert None in frame["item_ids"][0], "28 are asked for, and 30 - 8 can be had"
    np.testing.assert_array_equal(np.stack(frame["scores"]), prediction.scores)
    assert list(frame["target_item_id"]) == [f"i{item}" for item in queries.targets]


def test_ratings_are_kept_beside_the_truth(predicted, rating):
    prediction = predicted(UserMean(), rating)
    frame = prediction_frame(prediction, rating, CATALOG)
    assert list(frame) == ["sample_id", "user", "target", "target_item_id", "rating", "label"]
    assert list(frame["label"]) == list(rating.labels)
    assert list(frame["rating"]) == list(prediction.ratings)
