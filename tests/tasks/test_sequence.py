import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

import recinject as ri
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part, learn_from
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.language_model import LanguageModel
from recinject.samples.mixture import token_columns
from recinject.tasks.task import SequenceModelling

GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
SETTINGS = {"max_steps": 2, "use_cpu": True, "per_device_train_batch_size": 4}


@pytest.mark.parametrize(
    ("length", "samples"),
    [
        (9, [([5], [3, 8, 4, 1])]),
        (2, [([5], [3, 8]), ([8], [4, 1])]),
        (3, [([5], [3, 8]), ([3, 8], [4, 1])]),
    ],
)
def test_windows_hold_every_target_once(split_of, contexts, length, samples):
    view = split_of([[5, 3, 8, 4, 1, 0, 7]]).view(Part.TRAIN)
    found = contexts(SequenceModelling(history_length=length), view)
    assert [(s.slots["history"], s.slots["target"]) for s in found] == samples


def test_it_asks_for_what_comes_after_a_history(split_of, contexts):
    view = split_of([[5, 3, 8, 4, 1, 0, 7]]).view(Part.TEST)
    [one] = contexts(SequenceModelling(history_length=2), view)
    assert (one.slots["history"], one.slots["target"], one.target) == ([1, 0], [7], 7)


@given(data=st.data(), length=st.integers(1, 4), share=st.sampled_from([0.4, 1.0]))
def test_each_training_target_is_asked_for_once(data, length, share, splits, contexts):
    split = data.draw(splits())
    split = learn_from(split, share, seed=1) if share < 1 else split
    view = split.view(Part.TRAIN)
    found = contexts(SequenceModelling(history_length=length), view)
    asked = sorted((s.user, item) for s in found for item in s.slots["target"])
    log = view.interactions
    events = view.targets.values
    pairs = zip(log.users[events].tolist(), log.items[events].tolist(), strict=True)
    assert asked == sorted(pairs)
    assert all(len(s.slots["history"]) >= 1 for s in found)
    assert all(len(s.slots["history"] + s.slots["target"]) <= length + 1 for s in found)


@pytest.fixture(scope="module")
def data():
    log = simulate_shop(users=40, items=30, events_per_user=9, seed=1)
    return ri.prepare(log, k_core=2, identifiers="token")


def test_every_item_after_the_first_is_a_label_and_no_end(data):
    samples = ri.build_samples(data, {"sequence": {"history_length": 50}}, causal=True)
    own = token_columns(samples.folder, "sequence", "train")
    known = samples.tokenizer.get_vocab()
    ids = np.array([known[text] for text in data.identifiers.texts])
    train = data.split.train
    for row in range(3):
        user = samples["sequence"]["train"][row]["user"]
        items = train.items[train.users == user]
        assert [*own[row]["input_ids"], *own[row]["labels"]] == ids[items].tolist()


def test_a_causal_model_learns_it_and_is_asked_like_retrieval(data):
    samples = ri.build_samples(data, {"sequence": {"history_length": 50}}, causal=True)
    model = ri.fine_tune(GPT2, samples, start="content", **SETTINGS)
    assert isinstance(model, LanguageModel)
    assert isinstance(model._model, GPT2LMHeadModel)
    result = ri.evaluate([model, "popularity"], data, samples, resamples=100)
    assert set(result.metrics["task"]) == {"sequence"}
    audit = result.audit.set_index("check")
    assert audit.loc["tokens_unlike_text", "verdict"] == "ok"
    assert len(model.recommend([data.catalog.titles[:2]], k=5)) == 5


def test_what_cannot_be_learnt_so_is_refused(data):
    with pytest.raises(RecinjectError, match="both ways"):
        ri.build_samples(data, ["sequence"])
    log = simulate_shop(users=40, items=30, events_per_user=9, seed=1)
    with pytest.raises(RecinjectError, match="no tokens of their own"):
        ri.build_samples(ri.prepare(log, k_core=2), ["sequence"], causal=True)
    with pytest.raises(RecinjectError, match="no tokens of their own"):
        ri.build_samples(ri.prepare(log, k_core=2), {"retrieval": {"targets": 2}})


def test_an_encoder_decoder_model_writes_the_next_items(data):
    phrases = {"history": "{{ identifier }}"}
    samples = ri.build_samples(data, {"retrieval": {"targets": 3}}, phrases=phrases)
    labels = token_columns(samples.folder, "retrieval", "train")["labels"]
    assert sorted({len(row) for row in labels}) == [1, 2, 3]
    assert all(
        len(row) == 1 for row in token_columns(samples.folder, "retrieval", "validation")["labels"]
    )
    first = samples["retrieval"]["train"][0]["completion"].split()
    assert len(first) == 3 and all(text in data.identifiers.texts for text in first)
    model = ri.fine_tune(T5, samples, **SETTINGS)
    result = ri.evaluate([model, "popularity"], data, samples, resamples=100)
    assert result.audit.set_index("check").loc["tokens_unlike_text", "verdict"] == "ok"
