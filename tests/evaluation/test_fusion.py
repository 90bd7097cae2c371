"""A blend as a recommender of its own, by members of whom it is known who should win."""

import numpy as np
import pytest

import recinject as ri
from recinject.data.simulator import simulate_shop
from recinject.evaluation.evaluate import EvaluationSettings, fit_recommenders
from recinject.evaluation.fitting import fit_baselines
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.protocol import make_recommender

SHAPE = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
SETTINGS = EvaluationSettings(list_length=10, resamples=100, validation_queries=200)


@pytest.fixture(scope="module")
def data():
    return ri.prepare(simulate_shop(users=150, items=40, events_per_user=9, seed=2), k_core=2)


@pytest.fixture(scope="module")
def samples(data):
    return ri.build_samples(data, {"retrieval": {"history_length": 5}, "rating": {}})


@pytest.fixture(scope="module")
def model(samples):
    return ri.fine_tune(SHAPE, samples, max_steps=2, use_cpu=True)


def fused(data, samples, members, models=()):
    made = [make_recommender(each) for each in ("random", {"blend": members})]
    fitted, found = fit_baselines(made, data, samples, SETTINGS, models)
    return fitted[-1], {each.check: each.value for each in found}


def test_the_better_member_has_the_weight_and_the_answers(data, samples):
    blend, found = fused(data, samples, ["random", "markov_chain"])
    assert blend.name == "random_with_markov_chain"
    weights = found["weights:random_with_markov_chain:retrieval"]
    shares = {name: float(share) for share, name in (w.split() for w in weights.split(" + "))}
    assert shares["markov_chain"] > shares["random"]
    [alone] = fit_recommenders([make_recommender("markov_chain")], data, 1)
    history = [data.catalog.titles[:3]]
    one, other = (each.recommend(history, k=3)["item_id"].tolist() for each in (blend, alone))
    assert set(one) & set(other) and len(one) == 3


def test_a_model_is_a_member_and_is_asked_with_its_prompts(data, samples, model):
    asked = [model, "ease", {"blend": ["language_model", "ease"]}]
    result = ri.evaluate(asked, data, samples, resamples=100, reworded=False, shuffled=False)
    name = "language_model_with_ease"
    rows = result.metrics[result.metrics["recommender"] == name]
    assert set(rows["task"]) == {"retrieval"}  # ease rates nothing
    value = result.metrics.set_index(["task", "metric", "recommender"])["value"]
    ease, own = (value["retrieval", "hr@10", each] for each in ("ease", name))
    assert own >= ease - 0.05
    told = result.comparisons
    pairs = set(zip(told["recommender"], told["reference"], strict=True))
    assert {("language_model", name), (name, "ease")} <= pairs
    assert result.language_models == ["language_model"] and result.headline


def test_it_recommends_what_its_members_would(data, samples, model):
    blend, _ = fused(data, samples, ["language_model", {"ease": {"regularization": 5.0}}], [model])
    assert blend.reads_prompts and blend.tasks == {"retrieval"}
    found = blend.recommend([data.catalog.titles[:2], data.catalog.titles[3:4]], k=12)
    assert found.groupby("query").size().tolist() == [12, 12]
    assert not found["title"].iloc[:12].isin(data.catalog.titles[:2]).any()


def test_ratings_are_blended_too(data, samples):
    blend, _ = fused(data, samples, ["item_mean", "user_mean"])
    assert blend.tasks == {"rating"} and not blend.reads_prompts
    result = ri.evaluate(["item_mean", "user_mean", {"blend": ["item_mean", "user_mean"]}], data)
    value = result.metrics.set_index(["metric", "recommender"])["value"]
    assert value["rmse", "item_mean_with_user_mean"] <= value["rmse", "user_mean"] + 1e-9


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (["ease"], "1 member"),
        (["language_model", "ease"], "there is no recommender 'language_model'"),
        (["eas", "random"], "did you mean 'ease'"),
    ],
)
def test_wrong_members_are_refused(data, samples, members, said):
    with pytest.raises(RecinjectError, match=said):
        fused(data, samples, members)


def test_it_is_not_fitted_alone(data):
    with pytest.raises(RecinjectError, match="chosen on validation"):
        ri.fit({"blend": ["ease", "random"]}, data)


def test_lists_hold_no_item_twice(data, samples, model):
    blend, _ = fused(data, samples, ["language_model", "markov_chain"], [model])
    found = blend.recommend(users=list(data.split.interactions.user_ids[:20]), k=10)
    assert np.all(found.groupby("user_id")["item_id"].nunique() == 10)
