import numpy as np
import pandas as pd
import pytest

from recinject.data.schema import Catalog, Interactions
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part, Split, learn_from, leave_one_out
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.baselines import (
    GlobalMean,
    HistoryMean,
    ItemMean,
    RecentBiases,
    UserMean,
)
from recinject.recommenders.protocol import Queries, Recommender, Sources


def log(ratings: list[float] | None) -> Interactions:
    return Interactions(
        users=np.array([0, 0, 1], np.int32),
        items=np.array([0, 1, 1], np.int32),
        ratings=None if ratings is None else np.array(ratings),
        timestamps=None,
        user_ids=["a", "b", "c"],
        n_items=3,
    )


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (GlobalMean(), [3.0, 3.0, 3.0]),
        (ItemMean(), [5.0, 2.0, 3.0]),
        (UserMean(), [4.0, 1.0, 3.0]),
    ],
)
def test_predicts_the_mean_it_is_named_after(model: Recommender, expected: list[float]) -> None:
    model.fit(log([5.0, 3.0, 1.0]), seed=0)
    diagonal = np.arange(3, dtype=np.int32)
    nothing = [np.zeros(0, np.int32)] * 3
    queries = Queries("rating", ["1", "2", "3"], [""] * 3, diagonal, nothing, diagonal)
    ratings = model.predict(queries, 10).ratings
    assert ratings is not None and ratings.tolist() == expected


@pytest.mark.parametrize("model", [GlobalMean(), ItemMean(), UserMean()])
def test_a_log_without_ratings_is_refused(model: Recommender) -> None:
    with pytest.raises(RecinjectError, match="no ratings"):
        model.fit(log(None), seed=0)


def history_queries(
    items: list[int], ratings: list[float], target: int, **columns: object
) -> Queries:
    return Queries(
        *("rating", ["1"], [""], np.zeros(1, np.int32), [np.array(items, np.int32)]),
        np.array([target], np.int32),
        history_ratings=[np.array(ratings)],
        **columns,
    )


def test_the_history_s_mean_is_shrunk_to_the_mean_of_all() -> None:
    model = HistoryMean(ridge=2.0)
    model.fit(log([5.0, 3.0, 1.0]), seed=0)
    predicted = model.predict(history_queries([0, 1], [5.0, 5.0], 2), 10).ratings
    assert predicted is not None and predicted.tolist() == [3 + 4 / 4]
    nothing = model.predict(history_queries([], [], 2), 10).ratings
    assert nothing is not None and nothing.tolist() == [3]


def test_recent_biases_are_those_of_the_items_and_of_the_history() -> None:
    model = RecentBiases(ridge=2.0, item_ridge=1.0)
    model.fit(log([5.0, 3.0, 1.0]), seed=0)
    # Item 0 has one rating 2 above the mean, item 1 two that are 0 and 2 below it.
    offsets = [2 / 2, -2 / 3, 0.0]
    predicted = model.predict(history_queries([0, 1], [4.0, 2.0], 0), 10).ratings
    residuals = (4 - 3 - offsets[0]) + (2 - 3 - offsets[1])
    assert predicted == pytest.approx([3 + offsets[0] + residuals / 4])


def test_a_history_is_read_as_far_as_everybody_reads_it() -> None:
    model, events = HistoryMean(), log([5.0, 3.0, 1.0])
    view = Split(events, np.zeros(3, np.int8)).view(Part.TRAIN)
    model.read(Sources(Catalog(pd.DataFrame()), view, {"rating": 2}))
    model.fit(events, seed=0)
    long, short = (history_queries(*own, 2) for own in (([0, 1, 0], [1, 5, 4]), ([1, 0], [5, 4])))
    assert model.predict(long, 1).ratings == model.predict(short, 1).ratings
    model.history_length = 3
    assert model.predict(long, 1).ratings != model.predict(short, 1).ratings


def test_what_a_history_tells_without_learning_beats_means_on_few_ratings() -> None:
    """Of 3 % of the ratings the means know little; the history's ratings are there all the same."""
    shop = simulate_shop(users=500, items=80, events_per_user=14, seed=4)
    few = learn_from(leave_one_out(shop.interactions), 0.03, seed=1)
    queries = Queries.of_ratings(few.view(Part.TEST), 10)
    errors = {}
    for model in (GlobalMean(), ItemMean(), UserMean(), HistoryMean(), RecentBiases()):
        model.fit(few.train, seed=0)
        ratings = model.predict(queries, 1).ratings
        assert ratings is not None and queries.labels is not None
        errors[model.name] = float(np.sqrt(np.mean((ratings - queries.labels) ** 2)))
    best = min(errors[name] for name in ("global_mean", "item_mean", "user_mean"))
    assert errors["history_mean"] < best - 0.02
    assert errors["recent_biases"] < best - 0.02
