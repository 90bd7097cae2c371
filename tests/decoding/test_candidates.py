import numpy as np
import pytest
import torch

from recinject.decoding.beam_search import score_candidates
from recinject.foundation.ragged import Ragged

SEQUENCES = [[5, 1], [4, 7, 3, 1], [9], [4, 7, 1], [6, 6, 6, 6, 1]]


def test_scores_equal_teacher_forcing(model, prompts, exhaustive):
    scores = score_candidates(model, *prompts, Ragged.from_rows(SEQUENCES).to_grid(-1))
    np.testing.assert_allclose(scores, exhaustive(model, prompts, SEQUENCES), atol=1e-4)


def test_each_prompt_may_have_its_own_candidates(model, prompts, exhaustive):
    order = np.array([[0, 1], [3, 2], [4, 4]])
    scores = score_candidates(model, *prompts, Ragged.from_rows(SEQUENCES).to_grid(-1)[order])
    truth = np.take_along_axis(exhaustive(model, prompts, SEQUENCES), order, 1)
    np.testing.assert_allclose(scores, truth, atol=1e-4)


def test_legal_scores_share_the_whole_probability(model, prompts, exhaustive, followers):
    ended = [[*sequence, 1] if sequence[-1] != 1 else sequence for sequence in SEQUENCES]
    scores = score_candidates(model, *prompts, Ragged.from_rows(ended).to_grid(-1), "legal")
    truth = exhaustive(model, prompts, ended, followers(ended))
    np.testing.assert_allclose(scores, truth, atol=1e-4)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, atol=1e-4)


def test_a_candidate_that_comes_twice_counts_once(model, prompts):
    twice = score_candidates(
        model, *prompts, Ragged.from_rows([*SEQUENCES, SEQUENCES[1]]).to_grid(-1), "legal"
    )
    once = score_candidates(model, *prompts, Ragged.from_rows(SEQUENCES).to_grid(-1), "legal")
    np.testing.assert_allclose(twice[:, :5], once, atol=1e-5)
    np.testing.assert_allclose(twice[:, 5], once[:, 1], atol=1e-5)


@pytest.mark.parametrize(("labels", "steps"), [([[4], [5], [6]], 1), ([[4, 1], [5, 1]], 2)])
def test_one_decoder_step_a_token(model, prompts, labels, steps):
    calls = []
    hook = model.decoder.register_forward_hook(lambda *_: calls.append(1))
    score_candidates(model, *prompts, Ragged.from_rows(labels).to_grid(-1))
    hook.remove()
    assert len(calls) == steps


def test_the_prompt_is_read_once_and_its_keys_are_not_copied(model, prompts):
    encoded, keys = [], []
    hooks = [
        model.encoder.register_forward_hook(lambda *_: encoded.append(1)),
        model.decoder.block[0]
        .layer[1]
        .EncDecAttention.k.register_forward_hook(
            lambda _module, _inputs, output: keys.append(output.shape)
        ),
    ]
    score_candidates(model, *prompts, Ragged.from_rows(SEQUENCES).to_grid(-1))
    for hook in hooks:
        hook.remove()
    assert encoded == [1]
    assert keys == [torch.Size([3, 9, 16])]
