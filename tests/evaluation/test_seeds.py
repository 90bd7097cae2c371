from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recinject.data.schema import Catalog
from recinject.evaluation.evaluate import prediction_frame
from recinject.evaluation.metrics import evaluate_prediction
from recinject.evaluation.statistics import is_paired, load_answers
from recinject.recommenders.protocol import Prediction, Queries, places

USERS = np.array([0, 0, 1, 2, 3], np.int32)
N_ITEMS, LENGTH = 12, 10


def answers(task, seed):
    """Make random answers to the queries of four users, one of whom asks twice."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(N_ITEMS, size=len(USERS)).astype(np.int32)
    asked = [f"{task}/test/a/b {user}/{place}" for place, user in enumerate(USERS)]
    labels = rng.integers(1, 6, size=len(USERS)) / 1.0
    kind = {"sequence": "retrieval"}.get(task, "")
    queries = Queries(task, asked, asked, USERS, [], targets, labels=labels, answer=kind)
    if task == "rating":
        ratings = rng.uniform(1, 5, len(USERS))
        return Prediction("language_model", task, ratings=ratings), queries
    scores = rng.integers(0, 4, (len(USERS), N_ITEMS)).astype(float)
    items = np.argsort(-scores, axis=1)[:, :LENGTH].astype(np.int32)
    items[0, 3:] = -1
    ahead, tied = places(scores, targets)
    found = np.take_along_axis(scores, items, axis=1)
    return Prediction("language_model", task, items, found, ahead, tied), queries


@pytest.fixture
def stored(tmp_path):
    """Store the answers of several seeds; return them and their files."""

    def store(task, seeds):
        names = [f"item {n}" for n in range(N_ITEMS)]
        catalog = Catalog(pd.DataFrame({"item_id": names, "title": names}))
        made, files = [answers(task, seed) for seed in seeds], []
        for seed, (prediction, queries) in zip(seeds, made, strict=True):
            folder = tmp_path / str(seed)
            folder.mkdir()
            file = folder / f"{task}.language_model.parquet"
            prediction_frame(prediction, queries, catalog).to_parquet(file, index=False)
            files.append(file)
        return made, files

    return store


@pytest.mark.parametrize("task", ["retrieval", "rating", "sequence"])
def test_the_answers_of_one_run_give_its_figures_again(stored, task):
    [(prediction, queries)], files = stored(task, [7])
    read, asked = load_answers(files, "language_model")
    assert evaluate_prediction(read, asked)
    assert evaluate_prediction(read, asked) == evaluate_prediction(prediction, queries)


def test_items_keep_their_identity(stored):
    [(prediction, queries)], files = stored("retrieval", [7])
    read, asked = load_answers(files, "language_model")
    assert np.array_equal(read.items == -1, prediction.items == -1)
    before = prediction.items == queries.targets[:, None]
    assert np.array_equal(read.items == asked.targets[:, None], before)


@pytest.mark.parametrize("task", ["retrieval", "rating"])
def test_several_runs_are_averaged_over_the_same_users(stored, task):
    made, files = stored(task, [1, 2, 3])
    together = {row.metric: row for row in evaluate_prediction(*load_answers(files, "base"))}
    apart = [{r.metric: r.value for r in evaluate_prediction(*each)} for each in made]
    assert {row.recommender for row in together.values()} == {"base"}
    assert {row.n for row in together.values()} == {4}
    for metric in together.keys() - {"rmse", "auc"}:
        mean = np.mean([values[metric] for values in apart])
        assert together[metric].value == pytest.approx(mean)
    if task == "rating":
        squares = np.mean([values["rmse"] ** 2 for values in apart])
        assert together["rmse"].value == pytest.approx(np.sqrt(squares))


def test_answers_are_paired_where_queries_and_list_lengths_agree(stored):
    _, files = stored("retrieval", [7, 8])
    one, other = (load_answers([file], "base") for file in files)
    assert is_paired(one, one) and not is_paired(one, other)
    shorter = replace(one[0], items=one[0].items[:, :5])
    assert not is_paired(one, (shorter, one[1]))
    assert not is_paired(load_answers(files, "base"), one)
