import numpy as np
import pytest

import recinject as ri
from recinject.data.simulator import simulate_shop
from recinject.recommenders.asking import rank, rate

TINY = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def data():
    return ri.prepare(simulate_shop(users=30, items=30, events_per_user=8, seed=1), k_core=2)


@pytest.fixture(scope="module")
def model(data):
    samples = ri.build_samples(data, ["retrieval", "rating"])
    return ri.fine_tune(TINY, samples, max_steps=2, use_cpu=True)


@pytest.mark.parametrize("name", ["language_model", "ease"])
def test_a_slate_is_ordered_as_the_list_is(data, model, name):
    asked = model if name == "language_model" else ri.fit(name, data)
    liked = data.catalog.item_ids[:3]
    listed = asked.recommend([liked], k=8)
    slate = sorted(listed["item_id"])
    frame = rank(asked, [liked], [slate])
    assert frame["item_id"].tolist() == listed["item_id"].tolist()
    assert frame["score"].to_numpy() == pytest.approx(listed["score"].to_numpy(), abs=1e-4)


def test_a_stranger_s_rating_is_the_answer_to_the_stored_prompt(data, model):
    log = data.split.interactions
    event = int(np.flatnonzero(data.split.parts == 2)[0])
    user = log.users[event]
    past = np.flatnonzero((log.users == user) & (data.split.parts < 2))
    ids = data.catalog.item_ids
    liked, ratings = [ids[log.items[e]] for e in past], [log.ratings[past].tolist()]
    found = rate(model, [liked], [ids[log.items[event]]], ratings)
    stored = ri.evaluate([model], data, ri.build_samples(data, ["rating"]), resamples=10)
    own = stored.predictions["rating", "language_model"]
    assert found[0] == pytest.approx(own.set_index("user")["rating"][user], abs=1e-4)


def test_baselines_rate_strangers_where_they_can(data):
    titles = data.catalog.titles
    assert rate(ri.fit("global_mean", data), [titles[:1]], titles[1:2]).shape == (1,)
    low, high = [[1.0, 2.0], [5.0, 4.0]]
    given = rate(ri.fit("history_mean", data), [titles[:2]] * 2, titles[3:5], [low, high])
    assert given[0] < given[1]


def test_what_cannot_be_asked_is_refused(data, model):
    titles, ease = data.catalog.titles, ri.fit("ease", data)
    with pytest.raises(ri.RecinjectError, match="rates nothing"):
        rate(ease, [titles[:1]], titles[1:2])
    with pytest.raises(ri.RecinjectError, match="twice"):
        rank(ease, [titles[:1]], [[titles[3], titles[3]]])
    with pytest.raises(ri.RecinjectError, match="ranks nothing"):
        rank(ri.fit("item_mean", data), [titles[:1]], [titles[1:3]])
    with pytest.raises(ri.RecinjectError, match="shows a history with ratings"):
        rate(model, [titles[:1]], titles[1:2])
    with pytest.raises(ri.RecinjectError, match="more or fewer ratings"):
        rate(model, [titles[:1]], titles[1:2], [[1.0, 2.0]])
    with pytest.raises(ri.RecinjectError, match="the log has no rating 3.3"):
        rate(model, [titles[:1]], titles[1:2], [[3.3]])


def test_the_other_wording_is_the_model_s_own(data, model):
    other, liked = model.worded("reworded"), [data.find_items(data.catalog.titles[:2])]
    assert other is not None
    one, two = (each.ask(liked).prompts[0] for each in (model, other))
    assert one != two and model.tokens(one)[-1] == "</s>"
