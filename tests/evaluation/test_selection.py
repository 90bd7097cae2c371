"""What is chosen on validation, by recommenders of whom it is known who should win."""

from dataclasses import replace

import numpy as np
import pytest

import recinject as ri
from recinject.data.simulator import simulate_shop
from recinject.evaluation.evaluate import EvaluationSettings, StoredQueries, fit_recommenders
from recinject.evaluation.selection import Blend, Validation, best_filters, choose_way, tune
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.baselines import EASE, ItemKNN, MarkovChain, Popularity, Random
from recinject.recommenders.language_model import LanguageModel, RankedByRetrieval
from recinject.recommenders.protocol import ItemScorer, Prediction, make_recommender

SHAPE = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
TASKS = {"retrieval": {"history_length": 5}, "ranking": {"negatives": 19}, "rating": {}}
SETTINGS = EvaluationSettings(list_length=10, resamples=100, validation_queries=200)


@pytest.fixture(scope="module")
def data():
    return ri.prepare(simulate_shop(users=250, items=60, events_per_user=10, seed=2), k_core=2)


@pytest.fixture(scope="module")
def samples(data):
    return ri.build_samples(data, TASKS)


@pytest.fixture(scope="module")
def stored(data, samples):
    return StoredQueries(data, samples, SETTINGS)


@pytest.fixture(scope="module")
def validation(stored, samples):
    return {task.name: stored.validation(task) for task in samples.bound_tasks()}


@pytest.fixture(scope="module")
def model(samples):
    return ri.fine_tune(SHAPE, samples, max_steps=2, use_cpu=True)


def fit(data, recommender):
    return fit_recommenders([recommender], data, seed=1)[0]


def test_validation_queries_know_training_events_alone(data, validation):
    own, log = validation["retrieval"], data.split.interactions
    assert len(own.queries) == 200 and own.metric == "ndcg@10"
    assert validation["rating"].metric == "rmse"
    for row, user in enumerate(own.queries.users):
        train = log.items[(log.users == user) & (data.split.parts == 0)]
        valid = log.items[(log.users == user) & (data.split.parts == 1)]
        assert own.queries.histories[row].tolist() == train.tolist()
        assert own.queries.targets[row] in valid


def test_a_model_ranks_by_the_prompt_that_wins(data, validation):
    good, bad = fit(data, MarkovChain()), fit(data, Random())
    bad.name, good.name = "model", "model_by_retrieval"
    ways = {"ranking": bad, "retrieval": good}
    named, (why,) = choose_way(ways, validation["ranking"], "auto")
    assert named == {"model": good, "model_by_ranking": bad} and list(named)[0] == "model"
    assert why.value == "retrieval" and "200 validation queries of ranking" in why.explanation
    assert choose_way(ways, validation["ranking"], "ranking")[1] == []
    assert list(choose_way(ways, None, "auto")[0].values())[0] is bad


def test_the_retrieval_prompt_does_not_know_the_slots(model, stored, samples):
    (task,) = [task for task in samples.bound_tasks() if task.name == "ranking"]
    queries = stored.of(task, "test")
    order = np.random.default_rng(0).permutation(20)
    mixed = replace(queries, candidates=queries.candidates[:, order])
    way = RankedByRetrieval(model)
    one, other = way.predict(queries, 10), way.predict(mixed, 10)
    assert (one.task, one.recommender) == ("ranking", "language_model_by_retrieval")
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    assert np.mean(one.ahead == other.ahead) > 0.95
    assert np.isin(one.items, queries.candidates).all()
    np.testing.assert_allclose(one.first, other.first, atol=1e-4)
    shuffled = way.otherwise("shuffled").predict(queries, 10)
    assert not np.allclose(shuffled.scores, one.scores)


def test_a_model_without_a_retrieval_task_has_one_way(data):
    alone = ri.build_samples(data, {"ranking": {"negatives": 5}})
    model = ri.fine_tune(SHAPE, alone, max_steps=1, use_cpu=True)
    assert not RankedByRetrieval.can_ask(model)
    result = ri.evaluate([model, "popularity"], data, alone, resamples=100, limit=20)
    assert "language_model_by_retrieval" not in set(result.metrics["recommender"])


def test_both_ways_stand_in_the_result_with_the_slope_beside(model, data, samples):
    asked = [model, "popularity", "markov_chain", {"ease": {"history_length": 50}}]
    result = ri.evaluate(asked, data, samples, resamples=100, limit=60, validation_queries=60)
    audit = result.audit.set_index("check")
    chosen = audit.loc["ranking_by:language_model", "value"]
    other = {"ranking": "retrieval", "retrieval": "ranking"}[chosen]
    ranking = result.metrics.query("task == 'ranking'")["recommender"].unique()
    assert {"language_model", f"language_model_by_{other}"} <= set(ranking)
    slopes = result.lists.query("measure == 'slope@10'").set_index("recommender")
    assert {"language_model", f"language_model_by_{other}", "popularity"} <= set(slopes.index)
    assert (
        audit.loc["position_slope:language_model", "value"] == slopes.loc["language_model", "value"]
    )
    assert "slot of the target" in set(result.slices["by"])
    compared = result.comparisons
    pairs = set(zip(compared["task"], compared["recommender"], compared["reference"], strict=True))
    for task in ("retrieval", "ranking"):
        assert (task, "language_model_blend", "blend") in pairs
        assert (task, "language_model", "blend") in pairs
    assert not {name for _, name, _ in pairs} - {"language_model", "language_model_blend"}
    assert "settings of markov_chain, ease" in audit.loc["settings_not_tuned", "explanation"]


def test_one_way_is_asked_where_one_is_wanted(model, data, samples):
    found = {}
    for way in ("retrieval", "ranking"):
        result = ri.evaluate(
            [model, "popularity"], data, samples, tasks=["ranking"], resamples=100, limit=60,
            ranking_by=way, reworded=False, shuffled=False, blend=False,
        )  # fmt: skip
        rows = result.metrics.query("metric == 'mrr'").set_index("recommender")["value"]
        assert set(rows.index) == {"language_model", "popularity"}
        found[way] = rows["language_model"]
    assert found["retrieval"] != found["ranking"]


def test_settings_are_those_that_win_on_validation_and_edges_are_said(data, validation):
    own = validation["retrieval"]
    best, said = tune(EASE(), lambda one: fit(data, one), own, {"regularization": [1.0, 10.0]})
    scores = {}
    for value in (1.0, 10.0, 100.0):
        found = fit(data, EASE(regularization=value)).predict(own.queries, 10)
        scores[value] = own.value(found)
    assert best.regularization == max(scores, key=scores.get)
    assert said.check == "tuned:ease"
    assert all(f"{value} ({score:.3f})" in said.explanation for value, score in scores.items())
    edge = best.regularization in (1.0, 100.0)
    assert (said.verdict == "note") == edge == ("at the edge" in said.explanation)
    inner, said = tune(ItemKNN(), lambda one: fit(data, one), own, {"neighbours": [100]})
    assert inner.neighbours == 100 and said.verdict == "ok", "one value has no edge"
    with pytest.raises(RecinjectError, match="evaluation.tune.ease: unknown setting"):
        tune(EASE(), lambda one: fit(data, one), own, {"regularisation": [1.0]})


def test_settings_of_one_s_own_are_left_alone(data, validation):
    asked = make_recommender({"markov_chain": {"order": 4, "name": "mine", "history_length": 3}})
    best, _ = tune(asked, lambda one: fit(data, one), validation["retrieval"])
    assert (best.order, best.name, best.history_length) == (4, "mine", 3)


def test_tuned_baselines_are_said_in_the_audit(data, samples):
    tuned = {"ease": {"regularization": [30.0, 300.0]}}
    result = ri.evaluate(
        ["ease", "item_knn", "recent_biases"], data, samples, tasks=["retrieval", "rating"],
        resamples=100, limit=30, tune=tuned,
    )  # fmt: skip
    audit = result.audit.set_index("check")
    assert "regularization 30.0 (" in audit.loc["tuned:ease", "explanation"]
    assert "item_knn, recent_biases" in audit.loc["settings_not_tuned", "explanation"]
    everybody = ri.evaluate(
        ["recent_biases"], data, samples, tasks=["rating"], resamples=100, limit=30, tune=True
    )
    told = everybody.audit.set_index("check").loc["tuned:recent_biases", "explanation"]
    assert "ridge 0.5 (" in told and "item_ridge 1.0 (" in told and "rmse on 30" in told


def answers_of(lists, scores, targets):
    items, scores = np.array(lists, np.int32), np.array(scores, float)
    return Prediction("one", "retrieval", items, scores, np.zeros(1), np.ones(1)), np.array(targets)


def test_a_blend_of_lists_is_a_sum_of_distances_to_their_ends(validation):
    first, targets = answers_of([[4, 7, 9]], [[3.0, 2.0, 1.0]], [7])
    second, _ = answers_of([[7, 2, -1]], [[0.5, 0.25, -np.inf]], [7])
    queries = replace(
        validation["retrieval"].queries.take(np.array([0])), targets=targets.astype(np.int32)
    )
    blend = Blend("both", ["a", "b"], np.array([0.5, 0.5]), np.array([2.0, 0.25]))
    found = blend.predict([first, second], queries)
    # 4 has 2 of 2, 7 has 1 of 2 and all of the other list, 9 and 2 stand at an end.
    assert found.items.tolist() == [[7, 4, 9]]
    assert found.scores.tolist() == [[0.75, 0.5, 0.0]]
    assert (found.ahead.tolist(), found.tied.tolist()) == ([0], [1])


def test_weights_are_chosen_on_validation_and_a_useless_member_gets_none(data, validation):
    own = validation["retrieval"]
    members = [fit(data, each) for each in (MarkovChain(), Random(), Popularity())]
    assert best_filters(members, own)[0].name == "markov_chain"
    blend = Blend.chosen("blend", members, own)
    assert blend.weights[0] >= 0.7 and blend.weights.sum() == pytest.approx(1)
    answers = [own.answer(each) for each in members]
    best = own.score(blend.predict(answers, own.queries))
    assert best >= max(own.score(each) for each in answers) - 1e-9
    words = blend.describe(own).value
    assert words.startswith(f"{blend.weights[0]:g} markov_chain + ")


def test_ratings_are_blended_as_they_are(data, validation):
    own = validation["rating"]
    members = [fit(data, make_recommender(name)) for name in ("recent_biases", "item_mean")]
    blend = Blend.chosen("blend", members, own)
    answers = [own.answer(each) for each in members]
    found = blend.predict(answers, own.queries)
    expected = blend.weights @ np.stack([each.ratings for each in answers])
    np.testing.assert_allclose(found.ratings, expected)
    assert own.value(found) <= min(map(own.value, answers)) + 1e-12


class Reader(ItemScorer):
    """Notes how much of the histories it is shown."""

    name = "reader"

    def fit(self, training, seed):
        self.n_items, self.longest = training.n_items, 0

    def score(self, queries, rows):
        lengths = map(len, queries.histories[rows])
        self.longest = max(self.longest, *lengths)
        return np.zeros((len(queries.users[rows]), self.n_items))


def test_everybody_reads_as_much_as_the_prompts_show(model, data, samples):
    class Long(Reader):
        name = "long"
        history_length = 9

    asked = {"tasks": ["retrieval"], "resamples": 100, "reworded": False, "shuffled": False}
    equal, own, alone = Reader(), Long(), Reader()
    ri.evaluate([model, equal, own], data, samples, blend=False, limit=80, **asked)
    ri.evaluate([alone, "popularity"], data, samples, limit=80, **asked)
    whole = alone.longest
    assert (equal.longest, own.longest) == (5, 9) and whole > 9
    lists = ri.fit("popularity", data)
    assert lists.history_length is None
    with pytest.raises(RecinjectError, match="evaluation.baselines.ease.history_length"):
        make_recommender({"ease": {"history_length": 0}})


def test_all_of_the_history_is_left_out_however_much_is_read(data, stored, samples):
    (task,) = [task for task in samples.bound_tasks() if task.name == "retrieval"]
    queries = stored.of(task, "test")
    short = make_recommender({"item_knn": {"history_length": 1}})
    fitted = fit(data, short)
    found = fitted.predict(queries, 10)
    for items, history in zip(found.items, queries.histories, strict=True):
        assert not set(items.tolist()) & set(history.tolist())
    scores = fitted.score(queries.latest(1), slice(0, 1))[0]
    scores[queries.histories[0]] = -np.inf
    assert found.scores[0, 0] == scores.max()


def test_validation_asks_once(data, validation):
    class Counted(Popularity):
        asked = 0

        def predict(self, queries, k):
            self.asked += 1
            return super().predict(queries, k)

    counted, own = fit(data, Counted()), validation["retrieval"]
    fresh = Validation(own.queries, own.metric, own.length)
    assert fresh.answer(counted) is fresh.answer(counted) and counted.asked == 1
    assert isinstance(LanguageModel.tasks, frozenset)
