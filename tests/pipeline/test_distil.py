import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import recinject as ri
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError
from recinject.pipeline.distil import find_soft_labels, soft_shares
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.sections import DistilSection
from recinject.training.trainer import SoftLabels, token_losses

T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
SETTINGS = {"max_steps": 2, "use_cpu": True, "per_device_train_batch_size": 4}


@pytest.fixture(scope="module")
def data():
    log = simulate_shop(users=40, items=30, events_per_user=9, seed=1)
    return ri.prepare(log, k_core=2, identifiers="token")


@pytest.fixture(scope="module")
def samples(data):
    phrases = {"history": "{{ identifier }}"}
    return ri.build_samples(data, {"retrieval": {"targets": 2}, "bpr": {}}, phrases=phrases)


def test_a_place_has_what_the_teacher_lists_after_the_targets_own_history(data, samples):
    section = DistilSection.model_validate({"from": "ease", "top": 5})
    soft, places = find_soft_labels(section, samples, seed=1)
    assert places.keys() == {"retrieval"}
    ease, view = ri.fit("ease", data), data.split.view(Part.TRAIN)
    known = samples.tokenizer.get_vocab()
    for row in (0, 7, 30):
        sample = samples["retrieval"]["train"][row]
        event = np.searchsorted(view.event_numbers, [sample["event"]])
        history = view.histories(event)[0]
        ids = [data.catalog.item_ids[item] for item in view.interactions.items[history]]
        listed = ease.recommend([ids], k=5)["item_id"]
        texts = [data.identifiers.texts[data.catalog.item_ids.index(item)] for item in listed]
        assert soft.tokens[places["retrieval"][row]].tolist() == [known[text] for text in texts]
    torch.testing.assert_close(soft.shares.sum(1), torch.ones(len(soft.shares)))


def test_the_loss_is_the_cross_entropy_of_blended_labels():
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 9, generator=chance)
    labels = torch.tensor([[1, 2], [3, -100], [4, 5]])
    tokens = torch.tensor([[7, 8], [0, 1], [2, 3], [6, 8]])
    shares = torch.tensor([[0.5, 0.5], [0.9, 0.1], [1.0, 0.0], [0.3, 0.7]])
    places = torch.tensor([2, 0, -1])
    found = SoftLabels(tokens, shares, 0.25).blended(
        token_losses(logits, labels), logits, labels, places
    )
    expected = torch.zeros(3, 2)
    for row, column in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1)):
        wanted = torch.zeros(9)
        wanted[labels[row, column]] = 1.0
        if places[row] >= 0:
            place = places[row] + column
            wanted *= 0.75
            wanted.index_add_(0, tokens[place], 0.25 * shares[place])
        expected[row, column] = cross_entropy(logits[row, column], wanted)
    torch.testing.assert_close(found, expected)


def test_shares_are_a_softmax_whatever_the_unit_of_the_scores():
    scores = np.array([[3.0, 2.0, 1.0, -np.inf], [5.0, 5.0, -np.inf, -np.inf]])
    found = soft_shares(scores, 1.0)
    np.testing.assert_allclose(found, soft_shares(scores * 100 + 7, 1.0), atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_allclose(found[1], [0.5, 0.5, 0, 0])
    assert found[0, 3] == 0 and soft_shares(scores, 0.1)[0, 0] > 0.99


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_a_taught_model_learns_other_things(kind, data, samples):
    if kind == "gpt2":
        samples = ri.build_samples(data, ["sequence"], causal=True)
    config, distil = T5 if kind == "t5" else GPT2, {"from": "markov_chain", "weight": 0.5}
    taught, plain, again = (
        ri.fine_tune(config, samples, learning_rate=0.01, **{**SETTINGS, "max_steps": 9}, **more)
        for more in ({"distil": distil}, {}, {"distil": distil})
    )
    tables = [each._model.get_input_embeddings().weight for each in (taught, plain, again)]
    assert torch.equal(tables[0], tables[2]) and not torch.equal(tables[0], tables[1])


def test_a_recipe_keeps_what_it_says_of_a_teacher(tmp_path):
    asked = ["training.distil={from: {ease: {regularization: 9.0}}, top: 7}"]
    recipe = load_recipe("amazon", asked)
    recipe.save(tmp_path / "own.yaml")
    again = load_recipe(tmp_path / "own.yaml").training.distil
    assert again == recipe.training.distil and again.top == 7


@pytest.mark.parametrize(
    ("distil", "said"),
    [
        ({"from": "eas"}, "did you mean 'ease'"),
        ({"from": "item_mean"}, "does not score every item"),
        ({"form": "ease"}, "did you mean 'from'"),
        ({"from": "ease", "weight": 2}, "training.distil.weight"),
    ],
)
def test_a_wrong_teacher_is_refused(distil, said, samples):
    with pytest.raises(RecinjectError, match=said):
        ri.fine_tune(T5, samples, distil=distil, **SETTINGS)


def test_items_must_be_tokens(data):
    log = simulate_shop(users=40, items=30, events_per_user=9, seed=1)
    numbered = ri.build_samples(ri.prepare(log, k_core=2), ["retrieval"])
    with pytest.raises(RecinjectError, match="by a token of its own"):
        ri.fine_tune(T5, numbered, distil={"from": "ease"}, **SETTINGS)
