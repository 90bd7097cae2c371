from __future__ import annotations

import numpy as np
import pytest

from recinject.data.schema import Log
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import leave_one_out
from recinject.foundation.errors import RecinjectError


@pytest.fixture(scope="module")
def shop() -> Log:
    return simulate_shop(users=1200, items=300, events_per_user=12, seed=7)


def follow_counts(users: np.ndarray, items: np.ndarray, n_items: int, lag: int) -> np.ndarray:
    """Count how often each item (row) is followed by each (column), ``lag`` events later."""
    same = users[lag:] == users[:-lag]
    counts = np.zeros((n_items, n_items))
    np.add.at(counts, (items[:-lag][same], items[lag:][same]), 1)
    return counts


def hit_rate(scores: np.ndarray, log: Log) -> float:
    hits = 0
    for user, row in enumerate(scores):
        *history, target = log.interactions.items_of(user)
        row[history] = -np.inf
        hits += (row > row[target]).sum() < 10
    return hits / len(scores)


def test_the_seed_alone_decides() -> None:
    first, again, other = (
        simulate_shop(users=40, items=60, events_per_user=8, seed=seed) for seed in (3, 3, 4)
    )
    assert np.array_equal(first.interactions.items, again.interactions.items)
    assert np.array_equal(first.interactions.ratings, again.interactions.ratings)
    assert np.array_equal(first.interactions.timestamps, again.interactions.timestamps)
    assert first.catalog.frame.equals(again.catalog.frame)
    assert first.catalog.titles != other.catalog.titles
    assert "seed 3" in first.source


def test_the_log_has_the_asked_form(shop: Log) -> None:
    events = shop.interactions
    lengths = np.diff(events.offsets)
    assert (events.n_users, events.n_items, len(shop.catalog)) == (1200, 300, 300)
    assert lengths.min() >= 5 and abs(lengths.mean() - 12) < 1
    pairs = np.stack([events.users, events.items])
    assert np.unique(pairs, axis=1).shape == pairs.shape


def test_times_are_whole_seconds_that_ascend_within_two_years(shop: Log) -> None:
    times, users = shop.interactions.timestamps, shop.interactions.users
    assert times is not None and (times == np.floor(times)).all()
    assert (np.diff(times)[users[1:] == users[:-1]] > 0).all()
    assert times.max() - times.min() <= 2 * 365 * 86_400


def test_ratings_look_like_a_shops(shop: Log) -> None:
    ratings = shop.interactions.ratings
    assert ratings is not None and set(ratings) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert abs(ratings.mean() - 3.9) < 0.15 and abs(ratings.std() - 1.1) < 0.15


def test_titles_are_believable_and_mostly_unique(shop: Log) -> None:
    frame = shop.catalog.frame
    assert all(str(row.title).startswith(str(row.brand)) for row in frame.itertuples())
    assert frame["category"].nunique() == 10
    assert frame["title"].duplicated().mean() < 0.03


def test_half_of_the_events_follow_their_predecessors(shop: Log) -> None:
    events = shop.interactions
    seen, unseen = events.users < 600, events.users >= 600
    counts = follow_counts(events.users[seen], events.items[seen], events.n_items, 1)
    successors = np.argsort(-counts, axis=1)[:, :3]

    def successor_rate(items: np.ndarray) -> float:
        counts = follow_counts(events.users[unseen], items, events.n_items, 1)
        return float(np.take_along_axis(counts, successors, axis=1).sum() / counts.sum())

    rate = successor_rate(events.items[unseen])
    chance = successor_rate(np.random.default_rng(0).permutation(events.items[unseen]))
    # About half of the events follow one of the last two items: most of them the very last.
    assert 0.3 < rate < 0.5
    assert rate > 10 * chance


def test_order_beats_co_occurrence_beats_popularity_beats_chance(shop: Log) -> None:
    training, n_items = leave_one_out(shop.interactions).train, len(shop.catalog)
    users, items = training.users, training.items
    used = np.zeros((training.n_users, n_items))
    used[users, items] = 1
    popularity = used.sum(axis=0)
    together = used.T @ used / np.sqrt(np.outer(popularity, popularity) + 1)
    follows = follow_counts(users, items, n_items, 1) + follow_counts(users, items, n_items, 2) / 2
    last_two = np.array([shop.interactions.items_of(user)[[-2, -3]] for user in range(len(used))])
    by_order = follows[last_two[:, 0]] + follows[last_two[:, 1]] / 2
    popular = hit_rate(np.tile(popularity, (len(used), 1)), shop)
    co_occurring = hit_rate(used @ together, shop)
    ordered = hit_rate(by_order + 1e-6 * popularity, shop)
    assert 10 / n_items < popular < 0.6 * co_occurring < 0.6 * ordered
    assert ordered < 0.7


@pytest.mark.parametrize(
    ("users", "items", "events", "fragment"),
    [(0, 60, 8, "at least one user"), (5, 60, 4, "at least 5"), (5, 20, 8, "at least 24 items")],
)
def test_impossible_shops_are_refused(users: int, items: int, events: int, fragment: str) -> None:
    with pytest.raises(RecinjectError, match=fragment):
        simulate_shop(users=users, items=items, events_per_user=events, seed=0)


@pytest.mark.parametrize("items", [15, 33])
def test_a_tiny_shop_works(items: int) -> None:
    log = simulate_shop(users=1, items=items, events_per_user=5, seed=0)
    assert len(log.interactions) == log.interactions.n_items == len(log.catalog) >= 5
