"""What every baseline owes to the protocol, and a matrix whose right answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from recinject.data.schema import Interactions
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part, Split
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.protocol import (
    Prediction,
    Queries,
    Recommender,
    Sources,
    make_recommender,
)
from recinject.registry import find, names

LEARNED = ["item_knn", "ease", "als", "bpr"]
ITEMS_A_BLOCK = 10
FIELDS = ("items", "scores", "ahead", "tied", "ratings")


ASKED = [
    (name, task)
    for name in names("recommender")
    for task in sorted(find("recommender", name).tasks)
]
LISTED = [(name, task) for name, task in ASKED if task != "rating"]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    if request.param in ("als", "bpr"):
        pytest.importorskip("implicit", reason="needs the extra recinject[cf]")
    return request.param


@pytest.fixture
def queries(request: pytest.FixtureRequest) -> Queries:
    return request.getfixturevalue(request.param)


every_task = pytest.mark.parametrize(("name", "queries"), ASKED, indirect=True)
every_list = pytest.mark.parametrize(("name", "queries"), LISTED, indirect=True)


def make(name: str, training: Interactions) -> Recommender:
    """Make a baseline that has read what it cannot do without."""
    baseline = make_recommender(name)
    if name == "semantic_ranker":
        shop = simulate_shop(users=200, items=training.n_items, events_per_user=5, seed=0)
        alone = Split(training, np.zeros(len(training), np.int8))
        baseline.read(Sources(shop.catalog, alone.view(Part.TRAIN)))
    return baseline


FITTED: dict[str, Recommender] = {}


def fitted(name: str, training: Interactions) -> Recommender:
    """Fit a baseline once for all tests: some take a second, and all see the same events."""
    if name not in FITTED:
        made = make(name, training)
        made.fit(training, seed=3)
        FITTED[name] = made
    return FITTED[name]


def answer(name: str, training: Interactions, queries: Queries, k: int = 7) -> Prediction:
    return fitted(name, training).predict(queries, k)


def pick(queries: Queries, rows: list[int]) -> Queries:
    return replace(
        queries,
        sample_ids=[queries.sample_ids[row] for row in rows],
        prompts=[""] * len(rows),
        users=queries.users[rows],
        histories=[queries.histories[row] for row in rows],
        targets=queries.targets[rows],
        candidates=None if queries.candidates is None else queries.candidates[rows],
        labels=None if queries.labels is None else queries.labels[rows],
        history_ratings=[queries.history_ratings[row] for row in rows],
    )


@every_task
def test_answers_in_the_form_of_its_task(
    name: str, training: Interactions, queries: Queries
) -> None:
    got = answer(name, training, queries)
    assert (got.recommender, got.task) == (name, queries.task)
    if queries.task == "rating":
        assert got.items is None
        assert got.ratings is not None
        assert got.ratings.shape == (len(queries),)
        assert np.all((got.ratings >= 1) & (got.ratings <= 5))
        return
    assert got.items is not None and got.scores is not None
    assert got.items.shape == got.scores.shape == (len(queries), 7)
    assert np.all(np.diff(got.scores, axis=1) <= 0)
    for row, items in enumerate(got.items):
        assert len(set(items)) == 7
        legal = np.setdiff1d(np.arange(training.n_items), queries.histories[row])
        assert set(items) <= set(legal if queries.candidates is None else queries.candidates[row])


@every_list
@pytest.mark.parametrize("k", [3, 40])
def test_place_of_the_target_agrees_with_the_list(
    name: str, training: Interactions, queries: Queries, k: int
) -> None:
    got = answer(name, training, queries, k)
    assert got.items is not None and got.ahead is not None and got.tied is not None
    for items, target, ahead, tied in zip(
        got.items, queries.targets, got.ahead, got.tied, strict=True
    ):
        place = np.flatnonzero(items == target)
        if len(place):
            assert ahead <= place[0] < ahead + tied
        else:
            assert ahead + tied > k
        if k == 40:
            legal = 8 if queries.candidates is not None else training.n_items
            assert len(place) == 1
            assert np.all(items[legal:] == -1)


@every_task
def test_two_fits_agree(name: str, training: Interactions, queries: Queries) -> None:
    again = make(name, training)
    again.fit(training, seed=3)
    one, two = answer(name, training, queries), again.predict(queries, 7)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field), err_msg=field)


@every_task
def test_a_query_is_answered_alike_alone_and_in_company(
    name: str, training: Interactions, queries: Queries
) -> None:
    baseline = fitted(name, training)
    together = baseline.predict(queries, 7)
    for rows in ([20], [36, 4, 11]):
        alone = baseline.predict(pick(queries, rows), 7)
        for field in FIELDS:
            whole = getattr(together, field)
            expected = None if whole is None else whole[rows]
            np.testing.assert_array_equal(getattr(alone, field), expected, err_msg=field)


@every_task
def test_no_queries_are_no_error(name: str, training: Interactions, queries: Queries) -> None:
    got = answer(name, training, pick(queries, []))
    for field in FIELDS:
        assert getattr(got, field) is None or len(getattr(got, field)) == 0


@every_task
def test_a_user_without_events_is_answered(
    name: str, training: Interactions, queries: Queries
) -> None:
    newcomer = training.n_users - 1
    assert len(training.items_of(newcomer)) == 0
    got = answer(name, training, queries)
    if queries.task == "rating":
        assert got.ratings is not None and np.isfinite(got.ratings[newcomer])
    else:
        assert got.items is not None and np.all(got.items[newcomer] >= 0)


@pytest.mark.parametrize("name", LEARNED, indirect=True)
def test_learns_which_items_belong_to_whom(
    name: str, training: Interactions, retrieval: Queries
) -> None:
    got = answer(name, training, retrieval, k=4)
    assert got.items is not None
    for user in range(training.n_users - 1):
        own_block = training.items_of(user)[0] // ITEMS_A_BLOCK
        assert set(got.items[user] // ITEMS_A_BLOCK) == {own_block}


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecinjectError, match="did you mean 'item_knn'"):
        make_recommender("itemknn")
