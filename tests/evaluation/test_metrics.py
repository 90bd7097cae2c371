from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, ndcg_score, roc_auc_score, root_mean_squared_error

from recinject.data.schema import Floats
from recinject.evaluation.metrics import (
    Clusters,
    bootstrap,
    evaluate_prediction,
    hit_rate,
    interval,
    metric_names,
    ndcg,
    positive_rating,
    reciprocal_rank,
    statistic_of,
)
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.protocol import Prediction, Queries, places, top_k


def asked(
    task: str, users: list[int], labels: Floats | None = None, positive: float | None = 4.0
) -> Queries:
    n = len(users)
    nothing = np.zeros(0, np.int32)
    return Queries(
        task=task,
        sample_ids=[str(row) for row in range(n)],
        prompts=[""] * n,
        users=np.array(users, np.int32),
        histories=[nothing] * n,
        targets=np.zeros(n, np.int32),
        labels=labels,
        positive_rating=None if labels is None else positive,
    )


def listed(ahead: Floats, tied: Floats, k: int = 10) -> Prediction:
    items = np.zeros((len(ahead), k), np.int32)
    return Prediction("model", "retrieval", items, None, ahead, tied)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(1, 6), st.data())
def test_metrics_are_means_over_all_orders_of_equal_scores(
    scores: list[int], k: int, data: st.DataObject
) -> None:
    target = data.draw(st.integers(0, len(scores) - 1))
    ranks = [
        1 + order.index(target)
        for order in permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in zip(order, order[1:], strict=False))
    ]
    place = places(np.array([scores], float), np.array([target], np.int32))
    for metric, gain in (
        (hit_rate, lambda rank: 1.0),
        (ndcg, lambda rank: 1 / np.log2(1 + rank)),
        (reciprocal_rank, lambda rank: 1 / rank),
    ):
        expected = np.mean([gain(rank) if rank <= k else 0.0 for rank in ranks])
        assert metric(*place, k)[0] == pytest.approx(expected)


def test_ndcg_agrees_with_scikit_learn_ties_and_all() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 6, (40, 25)).astype(float)
    targets = rng.integers(0, 25, 40).astype(np.int32)
    relevant = np.eye(25)[targets]
    got = ndcg(*places(scores, targets), 10)
    expected = [
        ndcg_score(truth[None], row[None], k=10)
        for truth, row in zip(relevant, scores, strict=True)
    ]
    np.testing.assert_allclose(got, expected)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_one_score_for_everything_hits_as_chance_does(k: int) -> None:
    place = places(np.zeros((1, 100)), np.array([42], np.int32))
    assert hit_rate(*place, k)[0] == pytest.approx(k / 100)


def test_a_target_that_is_in_no_list_scores_nothing() -> None:
    nowhere = np.array([np.inf]), np.array([1.0])
    for metric in (hit_rate, ndcg, reciprocal_rank):
        assert metric(*nowhere, 10).tolist() == [0.0]


def test_a_full_ranking_and_a_list_that_ends_get_the_same_figures() -> None:
    rng = np.random.default_rng(2)
    scores, targets = rng.random((200, 50)), rng.integers(0, 50, 200).astype(np.int32)
    ahead, tied = places(scores, targets)
    items, _ = top_k(scores, 10)
    cut = np.where((items == targets[:, None]).any(1), ahead, np.inf)
    queries = asked("retrieval", list(range(200)))
    whole, ended = (
        evaluate_prediction(listed(each, tied), queries, resamples=20) for each in (ahead, cut)
    )
    assert whole == ended
    assert [result.metric for result in whole] == ["hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"]


def test_rating_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(1, 6, 300).astype(float)
    ratings = np.round(labels + rng.normal(0, 1.5, 300))
    queries = asked("rating", rng.integers(0, 40, 300).tolist(), labels)
    results = evaluate_prediction(
        Prediction("model", "rating", ratings=ratings), queries, resamples=200
    )
    expected = {
        "rmse": root_mean_squared_error(labels, ratings),
        "mae": mean_absolute_error(labels, ratings),
        "auc": roc_auc_score(labels >= 4, ratings),
    }
    assert {result.metric: result.value for result in results} == pytest.approx(expected)
    for result in results:
        assert result.ci_low < result.value < result.ci_high
        assert result.n == len(set(queries.users.tolist()))


def test_auc_of_one_class_is_left_out() -> None:
    queries = asked("rating", [0, 1], np.array([4.0, 5.0]))
    results = evaluate_prediction(
        Prediction("model", "rating", ratings=np.array([3.0, 4.0])), queries, resamples=10
    )
    assert [result.metric for result in results] == ["rmse", "mae"]


def test_nothing_asked_is_nothing_measured() -> None:
    assert evaluate_prediction(listed(np.zeros(0), np.zeros(0)), asked("retrieval", [])) == []


@pytest.mark.parametrize(
    ("prediction", "queries", "metric", "message"),
    [
        (listed(np.zeros(1), np.ones(1), k=5), asked("retrieval", [0]), "hr@10", "end after 5"),
        (
            listed(np.zeros(1), np.ones(1)),
            asked("retrieval", [0]),
            "ndgc@5",
            "metric 'ndgc'",
        ),
        (
            Prediction("model", "rating", ratings=np.ones(1)),
            asked("rating", [0], np.ones(1)),
            "rsme",
            "did you mean 'rmse'",
        ),
        (listed(np.zeros(1), np.zeros(1)), asked("retrieval", [0]), "mrr", "ties with itself"),
        (Prediction("model", "retrieval"), asked("retrieval", [0]), "hr@5", "incomplete"),
        (
            Prediction("model", "rating", ratings=np.array([np.nan])),
            asked("rating", [0], np.ones(1)),
            "rmse",
            "incomplete",
        ),
    ],
    ids=["short list", "misspelt", "misspelt rating", "NaN", "no list", "no number"],
)
def test_what_cannot_be_measured_is_refused(
    prediction: Prediction, queries: Queries, metric: str, message: str
) -> None:
    with pytest.raises(RecinjectError, match=message):
        statistic_of(prediction, queries, metric, Clusters.of(queries.users))


def test_metric_names_are_known_by_task() -> None:
    assert metric_names("ranking", (1,)) == ["hr@1", "ndcg@1", "mrr", "ece_first"]
    assert metric_names("rating") == ["rmse", "mae", "auc", "ece"]


def test_calibration_error_agrees_with_counting() -> None:
    rng = np.random.default_rng(4)
    chances = rng.dirichlet(np.ones(5), 400)
    labels = rng.integers(1, 6, 400).astype(float)
    queries = asked("rating", rng.integers(0, 50, 400).tolist(), labels)
    prediction = Prediction(
        "model",
        "rating",
        ratings=chances @ np.arange(1.0, 6),
        probabilities=chances,
        values=np.arange(1.0, 6),
    )
    positive, likely = labels >= 4, chances[:, 3:].sum(1)
    bins = np.minimum((likely * 10).astype(int), 9)
    gaps = [
        (bins == b).mean() * abs(likely[bins == b].mean() - positive[bins == b].mean())
        for b in set(bins.tolist())
    ]
    found = {row.metric: row for row in evaluate_prediction(prediction, queries, resamples=50)}
    assert found["ece"].value == pytest.approx(sum(gaps))


def test_a_distribution_that_is_always_right_is_calibrated() -> None:
    labels = np.array([1.0, 5.0, 3.0, 4.0])
    chances = (labels[:, None] == np.arange(1.0, 6)).astype(float)
    prediction = Prediction(
        "model", "rating", ratings=labels, probabilities=chances, values=np.arange(1.0, 6)
    )
    queries = asked("rating", [0, 1, 2, 3], labels)
    assert {r.metric: r.value for r in evaluate_prediction(prediction, queries, resamples=5)} == {
        "rmse": 0,
        "mae": 0,
        "auc": 1,
        "ece": 0,
    }


@pytest.mark.parametrize("scale", [1.0, 2.0, 20.0])
def test_what_is_positive_follows_the_scale_of_the_ratings(scale: float) -> None:
    rng = np.random.default_rng(9)
    stars = rng.choice(5, 300, p=[0.1, 0.1, 0.3, 0.3, 0.2]) + 1.0
    guesses = stars + rng.normal(0, 2, 300)
    queries = asked("rating", list(range(300)), scale * stars, positive=None)
    found = evaluate_prediction(
        Prediction("model", "rating", ratings=scale * guesses), queries, resamples=20
    )
    wanted = roc_auc_score(stars >= np.median(stars), guesses)
    assert {row.metric: row.value for row in found}["auc"] == pytest.approx(wanted)
    assert positive_rating(scale * stars) == scale * np.median(stars)


@pytest.mark.parametrize(
    ("ratings", "expected"), [([0, 0, 0, 1], 1), ([5, 5, 5], 5), ([np.nan, 3, 4, 4], 4)]
)
def test_a_positive_rating_is_above_the_lowest_where_one_is(
    ratings: list[float], expected: float
) -> None:
    assert positive_rating(np.array(ratings, float)) == expected
    assert np.isnan(positive_rating(np.array([])))


def test_a_calibration_error_has_no_interval_since_draws_lie_above_the_figure() -> None:
    """Chances that are right have an error of 0, and percentiles of draws never hold it."""
    rng = np.random.default_rng(2)
    for _ in range(10):
        chances = rng.uniform(size=(200, 2))
        chances[:, 0] = 1 - chances[:, 1]
        labels = (rng.uniform(size=200) < chances[:, 1]).astype(float)
        queries = asked("rating", list(range(200)), labels, positive=1.0)
        prediction = Prediction(
            "model", "rating", ratings=chances[:, 1], probabilities=chances, values=np.arange(2.0)
        )
        found = {row.metric: row for row in evaluate_prediction(prediction, queries, resamples=50)}
        assert found["ece"].ci_low is found["ece"].ci_high is None
        assert found["auc"].ci_low < found["auc"].value < found["auc"].ci_high
        clusters = Clusters.of(queries.users)
        draws = bootstrap([statistic_of(prediction, queries, "ece", clusters)], clusters, 100, 0)
        assert interval(draws[:, 0])[0] > 0.01 and draws.mean() > found["ece"].value


def test_the_chance_of_the_first_item_is_held_against_its_hits() -> None:
    rng = np.random.default_rng(3)
    chances = rng.uniform(size=500)
    hits = rng.uniform(size=500) < chances / 2
    prediction = replace(listed(np.where(hits, 0.0, 5.0), np.ones(500)), first=chances)
    queries = asked("retrieval", list(range(500)))
    found = evaluate_prediction(prediction, queries, resamples=20, metrics=["ece_first"])[0]
    bins = np.minimum((chances * 10).astype(int), 9)
    gaps = [(bins == b).mean() * abs((chances - hits)[bins == b].mean()) for b in range(10)]
    assert found.value == pytest.approx(sum(gaps)) and 0.15 < found.value < 0.35
    without = evaluate_prediction(replace(prediction, first=None), queries, resamples=20)
    assert "ece_first" not in {row.metric for row in without}
