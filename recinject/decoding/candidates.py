"""How likely a model finds given completions of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recinject.data.schema import Floats, Integers
from recinject.decoding.decoder import BranchingDecoder, log_probabilities


def pad_sequences(sequences: Sequence[Sequence[int]]) -> Integers:
    """Put token sequences into one array, -1 after their ends: shape (sequences, longest)."""
    grid = np.full((len(sequences), max(map(len, sequences), default=0)), -1, np.int32)
    for row, sequence in enumerate(sequences):
        grid[row, : len(sequence)] = sequence
    return grid


@torch.inference_mode()
def score_candidates(
    model: torch.nn.Module, input_ids: Tensor, attention_mask: Tensor, sequences: Integers
) -> Floats:
    """Sum the log-probabilities of each candidate's tokens after its prompt.

    The prompt is read once for all its candidates; candidates of one token take one step.

    Args:
        model: an encoder-decoder model in evaluation mode.
        input_ids: the prompts' tokens, shape (n, length).
        attention_mask: 1 for the prompt, 0 for padding, shape (n, length).
        sequences: the candidates' tokens, -1 after their ends, shape (n, c, tokens), or
            (c, tokens) when all prompts have the same candidates.

    Returns:
        Log-probabilities, shape (n, c).
    """
    n = len(input_ids)
    sequences = np.broadcast_to(sequences, (n, *sequences.shape[-2:]))
    decoder = BranchingDecoder(model, input_ids, attention_mask)
    scores = np.zeros(sequences.shape[:2])
    tokens = decoder.start
    for position in range(sequences.shape[2]):
        logits = decoder.step(tokens)
        column = sequences[:, :, position]
        prompts, candidates = np.nonzero(column >= 0)
        branches = candidates if position else np.zeros_like(candidates)
        gains = log_probabilities(logits, prompts, branches, column[prompts, candidates])
        scores[prompts, candidates] += gains
        if position == 0:
            decoder.branch(np.zeros(column.shape, np.int64))
        tokens = np.maximum(column, 0)
    return scores
