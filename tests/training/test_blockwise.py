"""The softmax in blocks is the softmax."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from recinject.training import blockwise
from recinject.training.blockwise import BlockwiseSoftmax, blockwise_losses
from recinject.training.trainer import token_losses

VOCABULARY = 37


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("at_once", [1, 3 * VOCABULARY, 1 << 20])
def test_losses_and_gradients_are_those_of_the_whole_softmax(smoothing, at_once):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, VOCABULARY, bias=False).double()
    states = torch.randn(5, 4, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, VOCABULARY, (5, 4))
    labels[1, 2:] = labels[3] = -100
    weights = torch.rand(5, 4)
    found = []
    for measure in (
        lambda: token_losses(head(states), labels, smoothing),
        lambda: blockwise_losses(
            head, states, labels, smoothing, vocabulary=VOCABULARY, at_once=at_once
        ),
    ):
        losses = measure()
        gradients = torch.autograd.grad((losses * weights).sum(), [states, head.weight])
        found.append([losses.detach(), *gradients])
    for plain, blocks in zip(*found, strict=True):
        torch.testing.assert_close(blocks, plain)
    assert found[1][0][3].eq(0).all()


def test_no_label_at_all_costs_nothing():
    head = torch.nn.Linear(8, VOCABULARY)
    nothing = torch.full((2, 3), -100)
    losses = blockwise_losses(head, torch.randn(2, 3, 8), nothing, vocabulary=VOCABULARY)
    assert losses.shape == (2, 3) and not losses.any()


def tiny_t5():
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=VOCABULARY, dropout_rate=0.0, decoder_start_token_id=0, **sizes)
    return T5ForConditionalGeneration(config)


def tiny_gpt2():
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, **none))


@pytest.mark.parametrize("make", [tiny_t5, tiny_gpt2])
def test_a_model_trains_by_blocks_as_it_does_by_all(make, monkeypatch):
    monkeypatch.setattr(blockwise, "_LOGITS_AT_ONCE", 3 * VOCABULARY)
    torch.manual_seed(0)
    model = make()
    ids, labels = torch.randint(1, VOCABULARY, (4, 6)), torch.randint(1, VOCABULARY, (4, 6))
    asked = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        asked["decoder_input_ids"] = torch.randint(1, VOCABULARY, (4, 6))
    softmax, found = BlockwiseSoftmax(model), []
    plain = token_losses(model(**asked).logits, labels)
    found.append([plain.detach(), *torch.autograd.grad(plain.sum(), list(model.parameters()))])
    with softmax.deferred():
        states = model(**asked).logits
        assert states.shape[-1] == 8
        blocks = softmax.losses(states, labels)
    found.append([blocks.detach(), *torch.autograd.grad(blocks.sum(), list(model.parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one)
    assert model(**asked).logits.shape[-1] == VOCABULARY  # the head is back at work


def test_only_a_large_vocabulary_with_a_bare_head_is_cut(monkeypatch):
    model = tiny_t5()
    assert not BlockwiseSoftmax.suits(model)
    monkeypatch.setattr(blockwise, "FULL_SOFTMAX_TOKENS", VOCABULARY - 1)
    assert BlockwiseSoftmax.suits(model)
    model.config.final_logit_softcapping = 30.0
    assert not BlockwiseSoftmax.suits(model)
