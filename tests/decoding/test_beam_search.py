import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from recinject.decoding.beam_search import constrained_beam_search
from recinject.decoding.trie import Trie

RNG = np.random.default_rng(1)
BODIES = sorted({tuple(RNG.integers(3, 9, RNG.integers(1, 5)).tolist()) for _ in range(40)})
SEQUENCES = [[*body, 1] for body in BODIES]
TRIE = Trie.build(SEQUENCES)


def test_with_as_many_beams_as_items_it_is_exhaustive(model, prompts, exhaustive):
    items, scores = constrained_beam_search(model, *prompts, TRIE, len(SEQUENCES))
    truth = exhaustive(model, prompts, SEQUENCES)
    assert all(sorted(row) == list(range(len(SEQUENCES))) for row in items)
    np.testing.assert_allclose(scores, np.take_along_axis(truth, items, 1), atol=1e-4)
    assert np.all(np.diff(scores, axis=1) <= 0)


def test_few_beams_still_give_exact_scores(model, prompts, exhaustive):
    items, scores = constrained_beam_search(model, *prompts, TRIE, 4)
    truth = exhaustive(model, prompts, SEQUENCES)
    np.testing.assert_allclose(scores, np.take_along_axis(truth, items, 1), atol=1e-4)


def test_a_prompt_is_answered_alike_alone_and_in_a_batch(model, prompts):
    together, scores = constrained_beam_search(model, *prompts, TRIE, 6)
    for row, (ids, mask) in enumerate(zip(*prompts, strict=True)):
        alone = ids[None, mask == 1], mask[None, mask == 1]
        items, alone_scores = constrained_beam_search(model, *alone, TRIE, 6)
        np.testing.assert_array_equal(items[0], together[row])
        np.testing.assert_allclose(alone_scores[0], scores[row], atol=1e-4)


def test_padding_where_too_few_items_are_left(model, prompts):
    everything = np.arange(len(SEQUENCES))
    excluded = [everything[:0], everything[2:], everything]
    items, scores = constrained_beam_search(model, *prompts, TRIE, 5, excluded)
    assert np.all(items[0] >= 0)
    assert sorted(items[1][:2]) == [0, 1]
    assert np.all(items[1][2:] == -1) and np.all(items[2] == -1)
    assert np.array_equal(np.isneginf(scores), items == -1)


def test_lora_at_work_is_searched_and_the_model_left_as_it_was(model, prompts, exhaustive):
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(task_type="SEQ_2_SEQ_LM", r=2))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    adapted.eval()
    before = adapted.get_base_model().config._attn_implementation
    items, scores = constrained_beam_search(adapted, *prompts, TRIE, len(SEQUENCES))
    truth = exhaustive(adapted, prompts, SEQUENCES)
    np.testing.assert_allclose(scores, np.take_along_axis(truth, items, 1), atol=1e-4)
    assert not np.allclose(truth, exhaustive(model, prompts, SEQUENCES), atol=1e-2)
    assert adapted.get_base_model().config._attn_implementation == before


@pytest.mark.parametrize("beams", [1, 3, 10])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_all_items_are_legal_distinct_and_as_many_as_there_can_be(model, prompts, beams, data):
    bodies = st.lists(st.integers(3, 6), max_size=3).map(tuple)
    drawn = data.draw(st.lists(bodies, min_size=1, max_size=20, unique=True))
    trie = Trie.build([[*body, 1] for body in drawn])
    chosen = st.sets(st.integers(0, len(drawn) - 1)).map(sorted)
    excluded = [np.array(data.draw(chosen), np.int32) for _ in range(3)]
    items, _ = constrained_beam_search(model, *prompts, trie, beams, excluded)
    for row, gone in zip(items, excluded, strict=True):
        listed = row[row >= 0].tolist()
        assert len(set(listed)) == len(listed) == min(beams, len(drawn) - len(gone))
        assert not set(listed) & set(gone.tolist())
        assert all(item < len(drawn) for item in listed)
