"""The contract of every registered recommender, and a matrix whose right answer is known."""

import inspect

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


# A blend is made beside its members, see tests/evaluation/test_fusion.py.
NAMES = [name for name in names("recommender") if name != "blend"]
ASKED = [(name, task) for name in NAMES for task in sorted(find("recommender", name).tasks)]
LISTED = [(name, task) for name, task in ASKED if task != "rating"]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    if request.param in ("als", "bpr"):
        pytest.importorskip("implicit", reason="needs the extra recinject[cf]")
    return request.param


def settings_of(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(find("recommender", name)).parameters)


SETTINGS = [(name, key) for name in NAMES for key in settings_of(name)]
NUMBERS = [
    (name, key)
    for name, key in SETTINGS
    if isinstance(settings_of(name)[key].default, int | float)
    and not isinstance(settings_of(name)[key].default, bool)
]


@pytest.fixture
def queries(request: pytest.FixtureRequest) -> Queries:
    return request.getfixturevalue(request.param)


every_name = pytest.mark.parametrize("name", NAMES, indirect=True)
every_task = pytest.mark.parametrize(("name", "queries"), ASKED, indirect=True)
every_list = pytest.mark.parametrize(("name", "queries"), LISTED, indirect=True)


def make(name: str, training: Interactions) -> Recommender:
    """Make a recommender that has read a catalogue."""
    made = make_recommender(name)
    shop = simulate_shop(users=200, items=training.n_items, events_per_user=5, seed=0)
    alone = Split(training, np.zeros(len(training), np.int8))
    made.read(Sources(shop.catalog, alone.view(Part.TRAIN)))
    return made


FITTED: dict[str, Recommender] = {}


def fitted(name: str, training: Interactions) -> Recommender:
    """Fit a recommender once for all tests: some take a second, and all see the same events."""
    if name not in FITTED:
        made = make(name, training)
        made.fit(training, seed=3)
        FITTED[name] = made
    return FITTED[name]


def answer(name: str, training: Interactions, queries: Queries, k: int = 7) -> Prediction:
    return fitted(name, training).predict(queries, k)


def some(queries: Queries, rows: list[int]) -> Queries:
    return queries.take(np.array(rows, np.int64))


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
def test_equal_scores_are_tied_and_listed_in_the_same_order_again(
    name: str, training: Interactions, queries: Queries
) -> None:
    got = answer(name, training, queries, 40)
    for items, scores, target, tied in zip(
        got.items, got.scores, queries.targets, got.tied, strict=True
    ):
        own = scores[items == target]
        assert tied == (scores == own).sum()
    again = answer(name, training, queries, 40)
    np.testing.assert_array_equal(again.items, got.items)


@every_list
@pytest.mark.parametrize("k", [3, 40])
def test_the_rank_of_the_target_agrees_with_the_list(
    name: str, training: Interactions, queries: Queries, k: int
) -> None:
    got = answer(name, training, queries, k)
    assert got.items is not None and got.ahead is not None and got.tied is not None
    for items, target, ahead, tied in zip(
        got.items, queries.targets, got.ahead, got.tied, strict=True
    ):
        rank = np.flatnonzero(items == target)
        assert tied >= 1
        if len(rank):
            assert ahead <= rank[0] < ahead + tied
        else:
            assert ahead + tied > k
        if k == 40:
            legal = 8 if queries.candidates is not None else training.n_items
            assert len(rank) == 1
            assert np.all(items[legal:] == -1)


@every_task
def test_two_fits_agree(name: str, training: Interactions, queries: Queries) -> None:
    again = make(name, training)
    again.fit(training, seed=3)
    one, two = answer(name, training, queries), again.predict(queries, 7)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field), err_msg=field)


@every_task
def test_an_answer_depends_on_no_other_query(
    name: str, training: Interactions, queries: Queries
) -> None:
    recommender = fitted(name, training)
    together = recommender.predict(queries, 7)
    for rows in ([20], [36, 4, 11]):
        alone = recommender.predict(some(queries, rows), 7)
        for field in FIELDS:
            whole = getattr(together, field)
            expected = None if whole is None else whole[rows]
            np.testing.assert_array_equal(getattr(alone, field), expected, err_msg=field)


@every_task
def test_no_queries_are_no_error(name: str, training: Interactions, queries: Queries) -> None:
    got = answer(name, training, some(queries, []))
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


@every_name
def test_every_setting_is_named_in_the_signature_and_a_recipe_may_give_it(name: str) -> None:
    legal = settings_of(name)
    named = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    assert {each.kind for each in legal.values()} <= named
    given = {key: each.default for key, each in legal.items()}
    made = make_recommender({name: {**given, "name": "mine"}})
    assert (made.name, find("recommender", name).name) == ("mine", name)
    for key, value in given.items():
        assert getattr(made, key) == value


@pytest.mark.parametrize(("name", "key"), SETTINGS, indirect=["name"])
def test_an_unknown_setting_is_refused_with_the_nearest(name: str, key: str) -> None:
    said = rf"^evaluation\.baselines\.{name}\.{key}x: unknown key\n  fix: did you mean '{key}'"
    with pytest.raises(RecinjectError, match=said):
        make_recommender({name: {f"{key}x": 1}})


@pytest.mark.parametrize(("name", "key"), NUMBERS, indirect=["name"])
@pytest.mark.parametrize("wrong", [-1, "many"])
def test_a_wrong_value_is_refused_with_its_setting(name: str, key: str, wrong: object) -> None:
    with pytest.raises(RecinjectError, match=rf"^evaluation\.baselines\.{name}\.{key}: Input"):
        make_recommender({name: {key: wrong}})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sasrec": {"width": 30, "heads": 4}}, "width 30 is no multiple of heads 4"),
        ({"transformer_mlp": {"width": 30}}, "width 30 is no multiple of heads 4"),
        ({"semantic_ranker": {"representation": "unigrams"}}, "did you mean 'unigram'"),
        ({"semantic_ranker": {"quantiser": "rq_means"}}, "did you mean 'rq_kmeans'"),
        ({"semantic_ranker": {"experts": {"experts": 1}}}, r"experts\.experts: Input"),
        ({"semantic_ranker": {"experts": {"k": 9}}}, "k is 9, and there are 4 experts"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(RecinjectError, match=said):
        make_recommender(wrong)


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecinjectError, match="did you mean 'item_knn'"):
        make_recommender("itemknn")


@every_list
def test_another_name_in_the_results_changes_no_answer(
    name: str, training: Interactions, queries: Queries
) -> None:
    if name not in ("random", "bpr", "sasrec", "semantic_ranker"):  # one for each way to draw
        pytest.skip("draws nothing, or as one of these does")
    renamed = make(name, training)
    renamed.name = "mine"  # as make_recommender({name: {"name": "mine"}}) sets it
    renamed.fit(training, seed=3)
    got, expected = renamed.predict(queries, 7), answer(name, training, queries)
    assert got.recommender == "mine"
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(got, field), getattr(expected, field))
