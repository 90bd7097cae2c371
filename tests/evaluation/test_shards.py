"""Queries cut into shards that workers answer."""

import numpy as np
import pytest

from recinject.engines import Engine
from recinject.evaluation import evaluate
from recinject.models.building import build_model
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Queries
from recinject.samples.tokenizer import train_tokenizer

TITLES = [f"{color} {thing}" for color in ("red", "blue", "pink") for thing in ("car", "doll")]
TOKENIZER = train_tokenizer([*TITLES, "1 2 3"], 300)


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(evaluate, "QUERIES_PER_SHARD", 2)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    labels = {"1": 1.0, "2": 2.0, "3": 3.0}
    return LanguageModel(build_model(sizes, TOKENIZER, seed=0), TOKENIZER, TITLES, labels, beams=4)


def queries(task):
    histories = [[0], [0, 3], [4, 5, 1], [2], [1, 2, 3]]
    slates = np.array([[n, (n + 2) % 6, (n + 3) % 6] for n in (1, 2, 3, 4, 5)], np.int32)
    return Queries(
        task=task,
        sample_ids=[f"{task}/{row}" for row in range(5)],
        prompts=[" ".join(TITLES[item] for item in history) for history in histories],
        users=np.arange(5, dtype=np.int32),
        histories=[np.array(history, np.int32) for history in histories],
        targets=slates[:, 0],
        candidates=slates if task == "ranking" else None,
        labels=np.ones(5) if task == "rating" else None,
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_answers_on_ray_are_those_of_one_process_to_the_bit(ray, model, workers):
    for task in ("retrieval", "ranking", "rating"):
        asked = queries(task)
        here = evaluate.ask(model, asked, 3, Engine())
        there = evaluate.ask(model, asked, 3, Engine("ray", workers))
        assert type(here) is type(there)
        for name, value in vars(here).items():
            if isinstance(value, np.ndarray):
                assert np.array_equal(value, getattr(there, name)), (task, name)
            else:
                assert value == getattr(there, name)


def test_shards_come_back_in_the_order_of_the_queries(model):
    asked = queries("ranking")
    whole, cut = model.predict(asked, 3), evaluate.ask(model, asked, 3, Engine())
    assert len(cut.items) == 5
    np.testing.assert_array_equal(cut.items, whole.items)
    np.testing.assert_allclose(cut.scores, whole.scores, rtol=1e-5)
