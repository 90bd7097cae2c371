import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from recinject.decoding.beam_search import constrained_beam_search, score_candidates
from recinject.decoding.trie import Trie
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged

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
    n = len(drawn)
    trie = Trie.build([[*body, 1] for body in drawn])
    chosen = st.sets(st.integers(0, n - 1)).map(sorted)
    excluded = [np.array(data.draw(chosen), np.int32) for _ in range(3)]
    masks = st.lists(st.booleans(), min_size=n, max_size=n).filter(any).map(np.array)
    each = st.lists(masks, min_size=3, max_size=3).map(np.array)
    allowed = data.draw(st.one_of(st.none(), masks, each))
    items, _ = constrained_beam_search(model, *prompts, trie, beams, excluded, allowed)
    for row, gone in enumerate(excluded):
        listed = items[row][items[row] >= 0].tolist()
        mask = np.ones(n, bool) if allowed is None else np.broadcast_to(allowed, (3, n))[row]
        left = set(np.flatnonzero(mask).tolist()) - set(gone.tolist())
        assert set(listed) <= left
        assert len(set(listed)) == len(listed) == min(beams, len(left))


def test_a_subset_is_searched_as_if_it_were_the_catalogue(model, prompts):
    stocked = np.arange(len(SEQUENCES)) % 3 == 0
    items, scores = constrained_beam_search(model, *prompts, TRIE, 20, allowed=stocked)
    small = Trie.build([s for s, there in zip(SEQUENCES, stocked, strict=True) if there])
    found, close = constrained_beam_search(model, *prompts, small, 20)
    np.testing.assert_array_equal(
        items, np.where(found < 0, -1, np.flatnonzero(stocked)[np.maximum(found, 0)])
    )
    np.testing.assert_allclose(scores, close, atol=1e-5)
    assert ((items >= 0).sum(1) == stocked.sum()).all()
    rows = np.stack([stocked, ~stocked, stocked])
    by_prompt, _ = constrained_beam_search(model, *prompts, TRIE, 20, allowed=rows)
    np.testing.assert_array_equal(by_prompt[[0, 2]], items[[0, 2]])
    assert not stocked[by_prompt[1]].any()


@pytest.mark.parametrize(
    ("allowed", "said"),
    [
        (np.zeros(len(SEQUENCES), bool), "not one item to recommend"),
        (np.arange(3 * len(SEQUENCES)).reshape(3, -1) < 50, "not one item to recommend"),
        (np.ones(5, bool), r"bool of shape \(5,\) is no mask"),
        (np.arange(len(SEQUENCES)), "int64 of shape"),
    ],
    ids=["nothing", "nothing for one", "too short", "no flags"],
)
def test_a_mask_that_leaves_nothing_or_is_none_is_refused(model, prompts, allowed, said):
    with pytest.raises(RecinjectError, match=said):
        constrained_beam_search(model, *prompts, TRIE, 5, allowed=allowed)


def test_new_items_join_without_training(model, prompts):
    old, before = constrained_beam_search(model, *prompts, TRIE, len(SEQUENCES))
    grown = [*SEQUENCES, [10, 11, 1], [10, 12, 13, 14, 15, 1]]
    items, scores = constrained_beam_search(model, *prompts, Trie.build(grown), len(grown))
    for row in range(3):
        known = items[row] < len(SEQUENCES)
        np.testing.assert_array_equal(items[row][known], old[row])
        np.testing.assert_allclose(scores[row][known], before[row], atol=1e-4)
        assert sorted(items[row][~known]) == [len(SEQUENCES), len(SEQUENCES) + 1]


def test_legal_scores_share_the_whole_probability(model, prompts, exhaustive, followers):
    items, scores = constrained_beam_search(model, *prompts, TRIE, len(SEQUENCES), scores="legal")
    truth = exhaustive(model, prompts, SEQUENCES, followers(SEQUENCES))
    np.testing.assert_allclose(scores, np.take_along_axis(truth, items, 1), atol=1e-4)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, atol=1e-4)
    candidates = score_candidates(
        model, *prompts, Ragged.from_rows(SEQUENCES).to_grid(-1), scores="legal"
    )
    np.testing.assert_allclose(candidates, truth, atol=1e-4)


def test_legal_are_the_tokens_that_lead_to_an_item_that_may_be_returned(model, prompts):
    stocked, gone = np.arange(len(SEQUENCES)) % 2 == 0, [np.array([0, 4])] * 3
    _, scores = constrained_beam_search(
        model, *prompts, TRIE, len(SEQUENCES), gone, stocked, scores="legal"
    )
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, atol=1e-4)


def test_ten_thousand_lists_from_random_weights_hold_nothing_but_items(model):
    rng = np.random.default_rng(3)
    bodies = np.unique(rng.integers(3, 24, (400, 3)), axis=0).tolist()
    trie, k = Trie.build([[*body, 1] for body in bodies]), 5
    valid = 0
    for _ in range(10):
        ids = torch.from_numpy(rng.integers(3, 24, (1000, 6)))
        items, scores = constrained_beam_search(model, ids, torch.ones_like(ids), trie, k)
        assert items.shape == (1000, k) and np.isfinite(scores).all()
        assert items.min() >= 0 and items.max() < len(bodies)
        assert (np.diff(np.sort(items, axis=1), axis=1) > 0).all()
        valid += len(items)
    assert valid == 10_000


def test_one_identifier_for_all_items_is_refused():
    with pytest.raises(RecinjectError, match="items 0 and 1 have the same tokens"):
        Trie.build([[7, 8, 1]] * 5)


def test_what_may_follow_is_told_by_the_whole_beginning_and_not_the_last_token(model, make_prompts):
    """Rotations of one another: each token may follow each other, though not everywhere.

    Searches by the last token alone, or that let a row go where its beginning is unknown, name
    identifiers that nobody has.
    """
    legal = [(4, 5, 6, 1), (5, 6, 4, 1), (6, 4, 5, 1), (7, 5, 4, 1), (7, 1)]
    trie, rng, model = Trie.build(legal), np.random.default_rng(0), copy.deepcopy(model)
    for seed in range(125):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for weight in model.parameters():
                torch.nn.init.normal_(weight, std=0.5)
        ids, mask = make_prompts(tuple(rng.integers(1, 12, 8)), left=False)
        items, scores = constrained_beam_search(model, ids, mask, trie, 6)
        # All items, each once, and an empty sixth place.
        assert (np.sort(items[:, :5], axis=1) == np.arange(5)).all()
        assert (items[:, 5] == -1).all() and np.isneginf(scores[:, 5]).all()
        assert np.isfinite(scores[:, :5]).all()
