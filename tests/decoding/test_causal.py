import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
)

from recinject.decoding.beam_search import constrained_beam_search, score_candidates
from recinject.decoding.trie import Trie
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged

RNG = np.random.default_rng(1)
BODIES = sorted({tuple(RNG.integers(3, 9, RNG.integers(1, 5)).tolist()) for _ in range(25)})
SEQUENCES = [[*body, 1] for body in BODIES]
TRIE = Trie.build(SEQUENCES)


@pytest.mark.parametrize("beams", [4, len(SEQUENCES)])
def test_beam_search_scores_are_those_of_whole_forwards(
    causal_model, left_prompts, exhaustive, beams
):
    items, scores = constrained_beam_search(causal_model, *left_prompts, TRIE, beams)
    truth = exhaustive(causal_model, left_prompts, SEQUENCES)
    np.testing.assert_allclose(scores, np.take_along_axis(truth, items, 1), atol=1e-4)
    assert truth.std() > 1
    if beams == len(SEQUENCES):
        np.testing.assert_array_equal(items, np.argsort(-truth, axis=1))


def test_candidate_scores_are_those_of_whole_forwards(causal_model, left_prompts, exhaustive):
    scores = score_candidates(causal_model, *left_prompts, Ragged.from_rows(SEQUENCES).to_grid(-1))
    truth = exhaustive(causal_model, left_prompts, SEQUENCES)
    np.testing.assert_allclose(scores, truth, atol=1e-4)


def test_legal_scores_are_those_of_whole_forwards(gpt2, left_prompts, exhaustive, followers):
    truth = exhaustive(gpt2, left_prompts, SEQUENCES, followers(SEQUENCES))
    items, scores = constrained_beam_search(gpt2, *left_prompts, TRIE, 5, scores="legal")
    np.testing.assert_allclose(scores, np.take_along_axis(truth, items, 1), atol=1e-4)


def test_attention_without_sdpa_gives_the_same(gpt2, left_prompts):
    eager = copy.deepcopy(gpt2)
    eager.set_attn_implementation("eager")
    items, scores = constrained_beam_search(gpt2, *left_prompts, TRIE, 6)
    again, close = constrained_beam_search(eager, *left_prompts, TRIE, 6)
    np.testing.assert_array_equal(items, again)
    np.testing.assert_allclose(scores, close, atol=1e-4)


def test_lists_do_not_depend_on_the_batch_its_padding_or_the_time(causal_model, make_prompts):
    lengths = RNG.integers(1, 15, 64).tolist()
    ids, mask = make_prompts(lengths, left=True)
    together, scores = constrained_beam_search(causal_model, ids, mask, TRIE, 6)
    for row in range(64):
        whole = mask[row] == 1
        for keep in (slice(None), whole):
            alone = ids[row : row + 1, keep], mask[row : row + 1, keep]
            items, close = constrained_beam_search(causal_model, *alone, TRIE, 6)
            np.testing.assert_array_equal(items[0], together[row])
            np.testing.assert_allclose(close[0], scores[row], atol=1e-4)
    again = constrained_beam_search(causal_model, ids, mask, TRIE, 6)
    np.testing.assert_array_equal(again[0], together)
    np.testing.assert_array_equal(again[1], scores)


def test_what_stands_in_the_padding_is_never_read(gpt2, left_prompts):
    ids, mask = left_prompts
    items, scores = constrained_beam_search(gpt2, ids, mask, TRIE, 6)
    again, same = constrained_beam_search(gpt2, ids + 7 * (1 - mask), mask, TRIE, 6)
    np.testing.assert_array_equal(items, again)
    np.testing.assert_allclose(scores, same, atol=1e-6)


def test_the_prompts_keys_are_computed_once_and_never_copied(gpt2, left_prompts):
    read = []
    hook = gpt2.transformer.h[0].attn.register_forward_pre_hook(
        lambda _module, inputs: read.append(tuple(inputs[0].shape[:2]))
    )
    score_candidates(gpt2, *left_prompts, Ragged.from_rows(SEQUENCES[:5]).to_grid(-1))
    hook.remove()
    # All of the prompt but its last token, that token, then a token a candidate; 3 rows always.
    assert read[:2] == [(3, 8), (3, 1)]
    assert set(read[2:]) == {(3, 5)}


def test_lora_at_work_is_searched(gpt2, left_prompts, exhaustive):
    adapted = get_peft_model(copy.deepcopy(gpt2), LoraConfig(task_type="CAUSAL_LM", r=2))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    items, scores = constrained_beam_search(adapted.eval(), *left_prompts, TRIE, 5)
    truth = exhaustive(adapted.get_base_model(), left_prompts, SEQUENCES)
    np.testing.assert_allclose(scores, np.take_along_axis(truth, items, 1), atol=1e-4)
    assert not np.allclose(truth, exhaustive(gpt2, left_prompts, SEQUENCES), atol=1e-2)


def test_prompts_padded_on_the_right_are_refused(gpt2, prompts):
    with pytest.raises(RecinjectError, match="a prompt ends in none"):
        constrained_beam_search(gpt2, *prompts, TRIE, 2)
    empty = torch.zeros((1, 0), dtype=torch.long)
    with pytest.raises(RecinjectError, match="a prompt ends in none"):
        constrained_beam_search(gpt2, empty, empty, TRIE, 2)


@pytest.mark.parametrize("length", [33, 31])
def test_a_prompt_that_leaves_no_room_is_refused(gpt2, make_prompts, length):
    with pytest.raises(RecinjectError, match=r"more than the 32 tokens(.|\n)*max_prompt_tokens"):
        constrained_beam_search(gpt2, *make_prompts([length], left=True), TRIE, 2)


def test_what_passes_a_sliding_window_is_refused(causal_model, make_prompts):
    prompts = make_prompts([25], left=True)
    if causal_model.config.model_type != "gemma3_text":
        assert (constrained_beam_search(causal_model, *prompts, TRIE, 2)[0] >= 0).all()
        return
    with pytest.raises(RecinjectError, match="more than the 20 tokens"):
        constrained_beam_search(causal_model, *prompts, TRIE, 2)


SMALL = {"vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_half_precision_gives_legal_lists(left_prompts):
    config = LlamaConfig(**SMALL, intermediate_size=16)
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    items, scores = constrained_beam_search(model, *left_prompts, TRIE, 5)
    assert all(len(set(row)) == 5 for row in items.tolist()) and np.isfinite(scores).all()
