import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from recinject.data.schema import Floats
from recinject.evaluation import metrics
from recinject.evaluation.metrics import (
    Clusters,
    auc_of,
    bootstrap,
    interval,
    mean_of,
    observe,
    root_mean_of,
)

USERS = np.array([7, 7, 3, 9, 3, 3])
VALUES = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
CLUSTERS = Clusters.of(USERS)


def test_a_weight_counts_all_rows_of_its_user() -> None:
    weights = np.array([[2.0, 0.0, 1.0]])  # user 3 twice, user 7 not at all, user 9 once
    rows = np.array([3, 5, 6, 3, 5, 6, 4.0])
    assert mean_of(VALUES, CLUSTERS)(weights)[0] == pytest.approx(rows.mean())
    assert root_mean_of(VALUES, CLUSTERS)(weights)[0] == pytest.approx(np.sqrt(rows.mean()))


def test_weighted_auc_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    users = rng.integers(0, 30, 200)
    scores, positive = rng.integers(0, 8, 200).astype(float), rng.random(200) < 0.4
    clusters = Clusters.of(users)
    weights = rng.integers(0, 4, (5, clusters.count)).astype(float)
    expected = [
        roc_auc_score(positive, scores, sample_weight=row[clusters.of_row]) for row in weights
    ]
    np.testing.assert_allclose(auc_of(scores, positive, clusters)(weights), expected)


def test_auc_without_one_class_is_undefined() -> None:
    statistic = auc_of(VALUES, USERS == 9, CLUSTERS)
    assert np.isnan(statistic(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))).all()
    assert observe([statistic], CLUSTERS)[0] == pytest.approx(3 / 5)


def test_every_draw_has_as_many_users_as_there_are() -> None:
    totals = bootstrap([lambda weights: weights.sum(1)], CLUSTERS, 70, seed=1)
    assert totals.shape == (70, 1)
    assert np.all(totals == 3)


def test_a_draw_is_the_same_for_every_figure_and_however_many_are_drawn() -> None:
    mean = mean_of(VALUES, CLUSTERS)
    few, many = (bootstrap([mean, mean], CLUSTERS, count, seed=1) for count in (33, 70))
    np.testing.assert_array_equal(few, many[:33])
    np.testing.assert_array_equal(many[:, 0], many[:, 1])
    assert not np.array_equal(few, bootstrap([mean, mean], CLUSTERS, 33, seed=2))


@pytest.mark.parametrize("seeds", [None, np.array([1, 2, 1, 1, 2, 1])])
def test_draws_are_the_same_whether_they_are_kept_or_not(
    seeds: NDArray[np.int64] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters = Clusters.of(USERS, seeds)
    statistics = [mean_of(VALUES, clusters)]
    made, kept = (bootstrap(statistics, clusters, 70, seed=3) for _ in range(2))
    monkeypatch.setattr(metrics, "_MOST_KEPT", 0)
    np.testing.assert_array_equal(kept, bootstrap(statistics, clusters, 70, seed=3))
    np.testing.assert_array_equal(kept, made)


def test_pairs_of_users_and_seeds_count_as_often_as_both_together() -> None:
    users, seeds = np.array([5, 5, 8, 8]), np.array([1, 2, 1, 2])
    clusters = Clusters.of(users, seeds)
    assert (clusters.of_row.tolist(), clusters.users, clusters.seeds) == ([0, 1, 2, 3], 2, 2)
    seen: list[Floats] = []
    bootstrap([lambda weights: seen.append(weights) or weights.sum(1)], clusters, 40, seed=1)
    alone, pairs = (np.concatenate(seen[start::2]).reshape(-1, 2, 2) for start in (0, 1))
    np.testing.assert_array_equal(alone[..., 0], alone[..., 1])
    assert (pairs.sum(1) > 0).any(0).all() and np.all((pairs > 0).any(1).sum(1) == 1)


def test_one_seed_is_drawn_as_no_seed_is() -> None:
    none, one = (Clusters.of(USERS, seeds) for seeds in (None, np.ones(len(USERS), int)))
    found = [bootstrap([mean_of(VALUES, each)], each, 50, seed=1) for each in (none, one)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_an_interval_over_seeds_and_users_covers_what_one_over_users_misses(n_seeds: int) -> None:
    rng, n_users, trials = np.random.default_rng(n_seeds), 100, 120
    users, seeds = np.repeat(np.arange(n_users), n_seeds), np.tile(np.arange(n_seeds), n_users)
    covered = {"users": 0, "both": 0}
    for trial in range(trials):
        effects = rng.normal(size=n_users), 0.2 * rng.normal(size=n_seeds)
        values = effects[0][users] + effects[1][seeds] + rng.normal(size=len(users))
        for name, known in (("users", None), ("both", seeds)):
            clusters = Clusters.of(users, known)
            draws = bootstrap([mean_of(values, clusters)], clusters, 100, seed=trial)
            low, high = interval(draws[:, 0])
            covered[name] += low <= 0 <= high
    assert covered["users"] / trials < 0.88 and covered["both"] / trials > 0.92
