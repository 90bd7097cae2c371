"""The weights that are kept: those that rank validation items best, where items have tokens."""

import json
import math

import pytest

import recinject as ri
from recinject.data.simulator import simulate_shop

MODELS = {
    "sequence": {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2},
    "retrieval": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
}


@pytest.fixture(scope="module")
def data():
    log = simulate_shop(users=60, items=40, events_per_user=8, seed=1)
    return ri.prepare(log, k_core=2, identifiers="token")


@pytest.mark.parametrize("task", MODELS)
def test_the_best_weights_are_those_that_rank_validation_items_best(data, task, tmp_path):
    phrases = {"history": "{{ identifier }}"}
    samples = ri.build_samples(data, [task], causal=task == "sequence", phrases=phrases)
    settings = {"max_steps": 12, "eval_steps": 3, "learning_rate": 0.02, "use_cpu": True}
    model = ri.fine_tune(
        MODELS[task], samples, folder=tmp_path, per_device_train_batch_size=16, **settings
    )
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    measured = [line["eval_ndcg@10"] for line in lines if "eval_loss" in line]
    assert len(measured) == 4 and len(set(measured)) > 1
    # The oracle is the recommender itself, asked by items' ids.
    asked = samples[task]["validation"]
    users = [data.split.interactions.items_of(user) for user in asked["user"]]
    ids = data.catalog.item_ids
    histories = [
        [ids[item] for item in items[: list(items).index(target)]]
        for items, target in zip(users, asked["target"], strict=True)
    ]
    listed = model.recommend(histories, k=10)
    found = listed.merge(
        asked.to_pandas().rename_axis("query").reset_index()[["query", "target_item_id"]]
    )
    ranks = found.loc[found["item_id"] == found["target_item_id"], "rank"]
    expected = sum(1 / math.log2(rank + 1) for rank in ranks) / len(asked)
    assert max(measured) == pytest.approx(expected, abs=1e-5)
