from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from recinject.data.schema import Floats
from recinject.evaluation.metrics import MetricResult, evaluate_prediction
from recinject.evaluation.statistics import compare, holm
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.protocol import Prediction, Queries


def queries(n: int, task: str = "retrieval", labels: Floats | None = None) -> Queries:
    numbers = np.arange(n, dtype=np.int32)
    nothing = [np.zeros(0, np.int32)] * n
    return Queries(task, [""] * n, [""] * n, numbers, nothing, numbers, labels=labels)


def ranked(name: str, ranks: Floats) -> Prediction:
    items = np.zeros((len(ranks), 10), np.int32)
    return Prediction(name, "retrieval", items, None, ranks - 1.0, np.ones(len(ranks)))


def mean_error(errors: Floats, users: NDArray[np.integer], **settings: int) -> MetricResult:
    """Measure ratings that are as far off as the errors, whose mean is then ``mae``."""
    n = len(errors)
    asked = replace(queries(n, "rating", np.zeros(n)), users=users.astype(np.int32))
    given = Prediction("model", "rating", ratings=errors)
    results = evaluate_prediction(given, asked, **settings)
    return next(result for result in results if result.metric == "mae")


def test_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=300)
    got = mean_error(values, np.arange(300), resamples=4000)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert got.value == pytest.approx(values.mean())
    assert got.n == 300
    assert (got.ci_low, got.ci_high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_interval_covers_the_truth_when_rows_of_a_user_are_alike() -> None:
    rng = np.random.default_rng(2)
    trials, users = 200, np.repeat(np.arange(60), 5)
    covered = by_row = 0
    for trial in range(trials):
        errors = 10 + rng.normal(size=60)[users] + 0.1 * rng.normal(size=300)
        got = mean_error(errors, users, resamples=200, seed=trial)
        covered += got.ci_low <= 10 <= got.ci_high
        half_width = 1.96 * errors.std() / np.sqrt(300)
        by_row += abs(errors.mean() - 10) <= half_width
    assert 0.89 <= covered / trials <= 0.99
    assert by_row / trials < 0.8


def test_a_recommender_equals_itself() -> None:
    one = ranked("model", np.random.default_rng(3).integers(1, 30, 100).astype(float))
    (got,) = compare(one, [one], queries(100), ["ndcg@10"])
    assert (got.difference, got.ci_low, got.ci_high, got.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_a_clear_difference_is_found_and_its_sign_kept() -> None:
    ranks = np.random.default_rng(4).integers(2, 30, 400).astype(float)
    better, worse = ranked("better", ranks - 1), ranked("worse", ranks)
    (there,), (back,) = (
        compare(a, [b], queries(400), ["ndcg@10"], resamples=999)
        for a, b in ((better, worse), (worse, better))
    )
    assert (there.recommender, there.reference, there.n) == ("better", "worse", 400)
    assert 0 < there.ci_low < there.difference < there.ci_high
    # Rarer than draws can count: the normal's tail, as a test of the mean gain over users has it.
    gains = 1 / np.log2(1 + ranks - 1) * (ranks <= 11) - 1 / np.log2(1 + ranks) * (ranks <= 10)
    z = gains.mean() / (gains.std() / 20)
    assert np.log(there.p_value) == pytest.approx(np.log(2 * scipy.stats.norm.sf(z)), rel=0.15)
    assert 0 < there.p_value < 2 / 1000
    assert back.difference == -there.difference
    assert back.p_value == there.p_value


def test_chance_alone_is_seldom_called_a_difference() -> None:
    rng = np.random.default_rng(5)
    trials, found = 150, 0
    for trial in range(trials):
        pair = [ranked(name, rng.integers(1, 30, 80).astype(float)) for name in "ab"]
        (got,) = compare(pair[0], pair[1:], queries(80), ["mrr"], resamples=200, seed=trial)
        found += got.p_value < 0.05
    assert found / trials < 0.11


def test_an_undefined_metric_is_not_compared() -> None:
    asked = queries(2, "rating", np.array([4.0, 4.0]))
    guess = Prediction("model", "rating", ratings=np.array([3.0, 4.0]))
    found = compare(guess, [guess], asked, ["rmse", "auc", "mae"])
    assert [row.metric for row in found] == ["rmse", "mae"]


def test_each_comparison_is_what_it_would_be_alone() -> None:
    rng = np.random.default_rng(6)
    one, *others = (ranked(name, rng.integers(1, 30, 90).astype(float)) for name in "abc")
    names = ["hr@5", "mrr"]
    alone = [compare(one, [other], queries(90), [name]) for other in others for name in names]
    assert compare(one, others, queries(90), names) == [row for (row,) in alone]
    assert compare(one, others, queries(0), names) == []


def test_holm_keeps_what_luck_among_many_finds_below_five_in_a_hundred() -> None:
    rng, trials = np.random.default_rng(7), 400
    p = rng.random((trials, 20))
    assert (p.min(1) < 0.05).mean() > 0.5
    assert np.mean([min(holm(row)) < 0.05 for row in p]) < 0.08
    assert holm([0.02, 0.001]) == [0.02, 0.002]


def test_lists_of_different_lengths_are_not_compared() -> None:
    one = ranked("long", np.ones(2))
    other = replace(one, recommender="short", items=np.zeros((2, 5), np.int32))
    with pytest.raises(RecinjectError, match="long lists 10 items and short 5"):
        compare(one, [other], queries(2), ["mrr"])
