import numpy as np
import pytest

from recinject.data.simulator import Truth, simulate_shop
from recinject.data.splitting import Part, leave_one_out
from recinject.evaluation.metrics import evaluate_prediction
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.baselines import EASE, MarkovChain
from recinject.recommenders.oracle import Oracle
from recinject.recommenders.protocol import Queries, Sources

SHOP = {"users": 1100, "items": 120, "events_per_user": 12, "seed": 7}


@pytest.fixture(scope="module")
def log():
    return simulate_shop(**SHOP)


@pytest.fixture(scope="module")
def figures(log):
    split = leave_one_out(log.interactions)
    view = split.view(Part.TEST)
    events = view.targets.values
    past = view.histories(events)
    items = view.interactions.items
    queries = Queries(
        *("retrieval", [str(event) for event in events], [""] * len(events)),
        *(view.interactions.users[events], [items[past[row]] for row in range(len(events))]),
        items[events],
    )
    found = {}
    for model in (Oracle(**SHOP), EASE(), MarkovChain(order=2)):
        model.read(Sources(log.catalog, split.view(Part.TRAIN), {"retrieval": 1}))
        model.history_length = None if model.name == "oracle" else 1000
        model.fit(split.train, seed=1)
        rows = evaluate_prediction(model.predict(queries, 20), queries, resamples=50)
        found[model.name] = {row.metric: row.value for row in rows}
    return found


def test_nobody_is_ahead_of_who_knows_the_shop(figures):
    best = max(figures[name]["ndcg@10"] for name in ("ease", "markov_chain"))
    assert figures["oracle"]["ndcg@10"] > best + 0.03


def test_its_probabilities_come_true(figures):
    assert figures["oracle"]["ece_first"] < 0.05


def test_the_chances_of_an_event_are_those_of_the_simulation(log):
    truth = Truth.of(SHOP, log.interactions.user_ids, log.catalog.item_ids)
    history = log.interactions.items_of(3)[:5]
    chances = truth.chances_of_next(3, history)
    assert chances.sum() == pytest.approx(1, abs=0.01)  # but for items that nobody used
    assert (chances[history] == 0).all() and (chances >= 0).all()
    assert truth.chances_of_next(3, history[:0]).max() < chances.max()
    stranger = truth.chances_of_next(len(log.interactions.user_ids), history)
    assert stranger.sum() == pytest.approx(1, abs=0.01) and not np.allclose(stranger, chances)


def test_a_log_of_another_shop_is_refused(log):
    with pytest.raises(RecinjectError, match="no item 'X1'"):
        Truth.of(SHOP, log.interactions.user_ids, ["X1"])
