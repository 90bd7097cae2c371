import numpy as np
import pytest

from recinject.data.schema import Interactions
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.baselines import GlobalMean, ItemMean, UserMean
from recinject.recommenders.protocol import Queries, Recommender


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
