"""The decoder for models that ours cannot branch: the same lists, one prompt at a time."""

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    MvpConfig,
    MvpForConditionalGeneration,
    RwkvConfig,
    RwkvForCausalLM,
)

from recinject.decoding import decoders
from recinject.decoding.beam_search import constrained_beam_search, score_candidates
from recinject.decoding.trie import Trie
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged

RNG = np.random.default_rng(1)
BODIES = sorted({tuple(RNG.integers(3, 9, RNG.integers(1, 5)).tolist()) for _ in range(40)})
SEQUENCES = [[*body, 1] for body in BODIES]
SIZES = {"vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
MVP = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 32}
MVP |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
MVP |= {f"{side}_ffn_dim": 16 for side in ("encoder", "decoder")}
UNLIKE = {
    "bloom": lambda: BloomForCausalLM(BloomConfig(**SIZES)),
    "mvp": lambda: MvpForConditionalGeneration(
        MvpConfig(**MVP, vocab_size=24, decoder_start_token_id=2, forced_eos_token_id=None)
    ),
}


def make(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().eval()
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.3)
    return model


@pytest.mark.parametrize("scores", ["vocabulary", "legal"])
@pytest.mark.parametrize("causal", [False, True])
def test_it_finds_what_the_other_decoders_find(request, monkeypatch, causal, scores):
    model = request.getfixturevalue("gpt2" if causal else "model")
    prompts = request.getfixturevalue("left_prompts" if causal else "prompts")
    search = (model, *prompts, Trie.build(SEQUENCES), 6, [[0, 2]] * 3, np.arange(len(BODIES)) > 1)
    grid = Ragged.from_rows(SEQUENCES).to_grid(-1)
    items, close = constrained_beam_search(*search, scores)
    candidates = score_candidates(model, *prompts, grid, scores)
    monkeypatch.setattr(decoders, "CausalBranches", decoders.CopiedBranches)
    monkeypatch.setattr(decoders, "EncoderDecoderBranches", decoders.CopiedBranches)
    again, copied = constrained_beam_search(*search, scores)
    np.testing.assert_array_equal(again, items)
    np.testing.assert_allclose(copied, close, atol=1e-4)
    alike = score_candidates(model, *prompts, grid, scores)
    np.testing.assert_allclose(alike, candidates, atol=1e-4)


@pytest.mark.parametrize("name", UNLIKE)
def test_a_model_that_cannot_be_branched_is_searched(request, exhaustive, name):
    model = make(UNLIKE[name])
    prompts = request.getfixturevalue("prompts" if name == "mvp" else "left_prompts")
    items, scores = constrained_beam_search(model, *prompts, Trie.build(SEQUENCES), len(SEQUENCES))
    truth = exhaustive(model, prompts, SEQUENCES)
    np.testing.assert_array_equal(items, np.argsort(-truth, axis=1))
    np.testing.assert_allclose(scores, np.take_along_axis(truth, items, 1), atol=1e-4)
    assert truth.std() > 1


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: BertLMHeadModel(BertConfig(**SIZES, intermediate_size=16)), "reads both ways"),
        (
            lambda: RwkvForCausalLM(RwkvConfig(vocab_size=24, hidden_size=16, num_hidden_layers=2)),
            "keeps no keys and values",
        ),
    ],
    ids=["bert", "rwkv"],
)
def test_what_cannot_go_on_token_by_token_is_refused(build, said, left_prompts):
    with pytest.raises(RecinjectError, match=said):
        constrained_beam_search(make(build), *left_prompts, Trie.build(SEQUENCES), 2)


def test_prompts_padded_on_the_right_are_refused(prompts):
    with pytest.raises(RecinjectError, match="a prompt ends in none"):
        constrained_beam_search(make(UNLIKE["bloom"]), *prompts, Trie.build(SEQUENCES), 2)
