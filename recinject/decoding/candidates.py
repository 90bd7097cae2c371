"""The log-probabilities of given completions of a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recinject.data.schema import Floats, Integers
from recinject.decoding.beam_search import Normalised
from recinject.decoding.decoders import BranchingDecoder, log_probabilities, read_prompts


@torch.inference_mode()
def score_candidates(
    model: torch.nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    sequences: Integers,
    scores: Normalised = "vocabulary",
) -> Floats:
    """Sum the log-probabilities of each candidate's tokens after its prompt.

    The prompt is read once for all its candidates; candidates of one token take one step.

    Args:
        model: in evaluation mode; see :class:`BranchingDecoder`, as for the next two.
        input_ids: the prompts' tokens, shape (n, length).
        attention_mask: 1 for the prompt, 0 for padding, shape (n, length).
        sequences: the candidates' tokens, -1 after their ends, shape (n, c, tokens), or
            (c, tokens) when all prompts have the same candidates.
        scores: ``vocabulary`` for probabilities over the whole vocabulary, ``legal`` over the
            tokens of the prompt's candidates.

    Returns:
        Log-probabilities, shape (n, c).
    """
    n = len(input_ids)
    sequences = np.broadcast_to(sequences, (n, *sequences.shape[-2:]))
    with read_prompts(model, input_ids, attention_mask) as decoder:
        return _sum_log_probabilities(decoder, sequences, scores == "legal")


def _sum_log_probabilities(decoder: BranchingDecoder, sequences: Integers, legal: bool) -> Floats:
    totals = np.zeros(sequences.shape[:2])
    # The first candidate of its prompt that has begun with the same tokens as each.
    first = np.zeros(sequences.shape[:2], np.int64)
    tokens = decoder.start
    for position in range(sequences.shape[2]):
        logits = decoder.step(tokens)
        column = sequences[:, :, position]
        prompts, candidates = np.nonzero(column >= 0)
        branches, ids = first[prompts, candidates], column[prompts, candidates]
        totals[prompts, candidates] += log_probabilities(logits, prompts, branches, ids, legal)
        first[prompts, candidates] = _first_alike(prompts, candidates, branches, ids)
        if position == 0:
            decoder.branch(np.zeros(column.shape, np.int64))
        tokens = np.maximum(column, 0)
    return totals


def _first_alike(*columns: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return the first candidate of its prompt that shares each one's beginning and token."""
    prompts, candidates, branches, ids = columns
    _, found, alike = np.unique(
        np.stack([prompts, branches, ids]), axis=1, return_index=True, return_inverse=True
    )
    return candidates[found][alike]
