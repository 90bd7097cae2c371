"""Constrained beam search over a trie, and scores of given candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recinject.data.schema import Flags, Floats, Integers
from recinject.decoding.decoders import BranchingDecoder, Numbers, log_probabilities, read_prompts
from recinject.decoding.trie import ROOT, Trie
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged

Normalised = Literal["vocabulary", "legal"]
"""Whether a step's probability is over the vocabulary, or over the tokens legal at the step."""


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
    steps = path_scores(model, input_ids, attention_mask, sequences, scores)
    totals = np.zeros(steps.shape[:2])
    for step in np.moveaxis(steps, 2, 0):  # one after another, as a search adds them
        totals += step
    return totals


@torch.inference_mode()
def path_scores(
    model: torch.nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    sequences: Integers,
    scores: Normalised = "vocabulary",
) -> Floats:
    """Return what :func:`score_candidates` sums: shape (n, c, tokens), 0 after the ends."""
    n = len(input_ids)
    sequences = np.broadcast_to(sequences, (n, *sequences.shape[-2:]))
    gains, legal = np.zeros(sequences.shape), scores == "legal"
    # The first candidate of its prompt that has begun with the same tokens as each.
    first = np.zeros(sequences.shape[:2], np.int64)
    with read_prompts(model, input_ids, attention_mask) as decoder:
        tokens = decoder.start
        for position, column in enumerate(np.moveaxis(sequences, 2, 0)):
            logits = decoder.step(tokens)
            prompts, candidates = np.nonzero(column >= 0)
            branches, ids = first[prompts, candidates], column[prompts, candidates]
            found = log_probabilities(logits, prompts, branches, ids, legal)
            gains[prompts, candidates, position] = found
            first[prompts, candidates] = _first_alike(prompts, candidates, branches, ids)
            if position == 0:
                decoder.branch(np.zeros(column.shape, np.int64))
            tokens = np.maximum(column, 0)
    return gains


@torch.inference_mode()
def score_next(
    model: torch.nn.Module, input_ids: Tensor, attention_mask: Tensor, tokens: Integers
) -> Floats:
    """Return the log-probabilities of tokens as what comes next after each prompt, (n, tokens).

    The arguments are those of :func:`score_candidates`; ``tokens`` are the same for all prompts.
    """
    with read_prompts(model, input_ids, attention_mask) as decoder:
        logits = decoder.step(decoder.start)[:, 0]
    index = torch.from_numpy(tokens.astype(np.int64)).to(logits.device)
    values: Floats = logits[:, index].cpu().numpy().astype(np.float64)
    sums: Floats = logits.logsumexp(-1).cpu().numpy().astype(np.float64)
    return values - sums[:, None]


def _first_alike(prompts: Numbers, candidates: Numbers, branches: Numbers, ids: Numbers) -> Numbers:
    """Return the first candidate of its prompt that shares each one's beginning and token."""
    _, found, alike = np.unique(
        np.stack([prompts, branches, ids]), axis=1, return_index=True, return_inverse=True
    )
    return candidates[found][alike]


class _Paths(NamedTuple):
    """Paths down the trie, as columns: of which user, from which branch, to which node."""

    users: Numbers
    parents: Numbers
    nodes: Numbers
    scores: Floats

    def take(self, index: Numbers | Flags) -> _Paths:
        columns: list[Any] = [column[index] for column in self]
        return _Paths(*columns)

    def best(self, beams: int) -> _Paths:
        """Keep each user's best, best first; equal scores are ordered by node."""
        order = np.lexsort((self.nodes, -self.scores, self.users))
        return self.take(order[_ranks(self.users[order]) < beams])

    def joined(self, other: _Paths) -> _Paths:
        columns: list[Any] = [np.concatenate(pair) for pair in zip(self, other, strict=True)]
        return _Paths(*columns)


@torch.inference_mode()
def constrained_beam_search(
    model: torch.nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    trie: Trie,
    beams: int,
    excluded: Sequence[Integers] | None = None,
    allowed: Flags | None = None,
    scores: Normalised = "vocabulary",
) -> tuple[Integers, Floats]:
    """Find the items whose identifiers are the likeliest after each prompt.

    With as many beams as items the search is exhaustive.

    Args:
        model: in evaluation mode; see :class:`BranchingDecoder`, as for the next two.
        input_ids: the prompts' tokens, shape (n, length).
        attention_mask: 1 for the prompt, 0 for padding, shape (n, length).
        trie: the items' token sequences.
        beams: how many paths to follow, and how many items to return.
        excluded: the items not to return, one array a prompt.
        allowed: a mask of the items to return, such as those in stock, shape (items,) or
            (n, items).
        scores: ``vocabulary`` sums log-probabilities over the whole vocabulary, ``legal`` over the
            tokens that lead to an item that may be returned; both as in :func:`score_candidates`.

    Returns:
        Different items, best first, -1 where there are no more, shape (n, beams), and their
        scores, then -inf.

    Raises:
        RecinjectError: ``allowed`` is no such mask, or leaves nothing.
    """
    n = len(input_ids)
    if allowed is not None:
        _check_mask(allowed, len(trie.paths), n)
    left = _ItemsLeft(trie, excluded, allowed)
    with read_prompts(model, input_ids, attention_mask) as decoder:
        found = _search(decoder, n, trie, left, beams, scores == "legal")
    items, listed = np.full((n, beams), -1, np.int32), np.full((n, beams), -np.inf)
    place = found.users, _ranks(found.users)
    items[place], listed[place] = trie.items[found.nodes], found.scores
    return items, listed


def _search(
    decoder: BranchingDecoder, n: int, trie: Trie, left: _ItemsLeft, beams: int, legal: bool
) -> _Paths:
    """Return each prompt's best paths that end in an item."""
    users = np.arange(n)
    live = _Paths(users, np.zeros(n, np.int64), np.full(n, ROOT), np.zeros(n))
    found = live.take(users[:0])
    tokens = decoder.start
    while True:
        reached = _extend(live, decoder.step(tokens), trie, left, legal)
        ends = trie.items[reached.nodes] >= 0
        found = found.joined(reached.take(ends)).best(beams)
        live = _hopeful(reached.take(~ends), found, n, beams).best(beams)
        if not len(live.users):
            return found
        # A prompt's unused branches read token 0, and their logits are ignored.
        branches = _ranks(live.users)
        parents = np.zeros((n, int(branches.max()) + 1), np.int64)
        tokens = np.zeros(parents.shape, np.int32)
        parents[live.users, branches] = live.parents
        tokens[live.users, branches] = trie.tokens[live.nodes]
        decoder.branch(parents)


def _check_mask(allowed: Flags, items: int, n: int) -> None:
    if allowed.dtype != np.bool_ or allowed.shape not in ((items,), (n, items)):
        raise RecinjectError(
            f"allowed: {allowed.dtype} of shape {allowed.shape} is no mask over {items} items",
            hint=f"give True or False for each item, in shape ({items},) or ({n}, {items})",
        )
    if not allowed.any(-1).all():
        raise RecinjectError(
            "allowed: it leaves not one item to recommend", hint="allow at least one item a prompt"
        )


class _ItemsLeft:
    """How many items may still be returned to a user below a node."""

    def __init__(
        self, trie: Trie, excluded: Sequence[Integers] | None, allowed: Flags | None
    ) -> None:
        # One row of counts for all users, or one row a user.
        self._size, self._counts = len(trie), trie.counts[None]
        gone, n_items = Ragged.from_rows(excluded or [], np.int64), len(trie.paths)
        users, items = np.divmod(np.unique(gone.rows * n_items + gone.values), n_items)
        if allowed is not None:
            masks = np.atleast_2d(allowed)
            self._counts = np.stack([_below(trie, mask) for mask in masks])
            # An excluded item that is not allowed was not counted: do not subtract it.
            counted = masks[users % len(masks), items]
            users, items = users[counted], items[counted]
        nodes = trie.paths[items]
        keys = users[:, None] * self._size + nodes
        self._keys, self._gone = np.unique(keys[nodes >= 0], return_counts=True)

    def any(self, users: Numbers, nodes: Numbers) -> Flags:
        counts = self._counts[users if len(self._counts) > 1 else 0, nodes]
        if not len(self._keys):
            return np.asarray(counts > 0)
        keys = users * self._size + nodes
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        gone = np.where(self._keys[place] == keys, self._gone[place], 0)
        return np.asarray(counts > gone)


def _below(trie: Trie, allowed: Flags) -> Integers:
    """Count the allowed items at each node or below it; a path ends in -1."""
    counts = np.bincount(trie.paths[allowed].ravel() + 1, minlength=len(trie) + 1)
    return counts[1:].astype(np.int32)


def _extend(live: _Paths, logits: Tensor, trie: Trie, left: _ItemsLeft, legal: bool) -> _Paths:
    """Follow every allowed child of every path; ``parents`` are branches of the present step."""
    children = trie.children(live.nodes)
    row, nodes = children.rows, children.values
    allowed = left.any(live.users[row], nodes)
    row, nodes = row[allowed], nodes[allowed]
    users, branches = live.users[row], _ranks(live.users)[row]
    gains = log_probabilities(logits, users, branches, trie.tokens[nodes], legal)
    return _Paths(users, branches, nodes, live.scores[row] + gains)


def _hopeful(paths: _Paths, found: _Paths, n: int, beams: int) -> _Paths:
    """Drop paths already worse than a full list's last item: scores only ever fall."""
    bars = np.full(n, -np.inf)
    last = _ranks(found.users) == beams - 1
    bars[found.users[last]] = found.scores[last]
    return paths.take(paths.scores >= bars[paths.users])


def _ranks(users: Numbers) -> Numbers:
    """Number the rows of each user from 0; the users must be in order."""
    return np.arange(len(users)) - np.searchsorted(users, users)
