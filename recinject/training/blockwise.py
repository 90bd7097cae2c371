"""The softmax over a large vocabulary, a block of positions at a time, to the same loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TypeAlias

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

FULL_SOFTMAX_TOKENS = 50_000
"""The largest vocabulary whose logits are held for a whole batch."""
_LOGITS_AT_ONCE = 1 << 26  # 256 MB in single precision
_IGNORED = -100
Head: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


def blockwise_losses(
    head: Head,
    states: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float = 0.0,
    *,
    vocabulary: int,
    at_once: int | None = None,
) -> torch.Tensor:
    """Return what :func:`~recinject.training.trainer.token_losses` returns of ``head(states)``.

    The logits of a block of positions are computed, reduced to losses and thrown away, and computed
    again for the gradients (arXiv 1604.06174): memory grows with the vocabulary, and no longer with
    the batch times the vocabulary. Positions without a label cost nothing.

    Args:
        head: gives the logits of states, (m, width) to (m, vocabulary).
        states: shape (n, tokens, width).
        labels: shape (n, tokens), -100 for none.
        smoothing: the share of the label that all tokens have together.
        vocabulary: how many tokens there are.
        at_once: how many logits a block has at most; 256 MB of them if not given.
    """
    known = labels != _IGNORED
    rows, wanted = states[known], labels[known]
    size = max(1, (at_once or _LOGITS_AT_ONCE) // vocabulary)
    measure = partial(_block_losses, head, smoothing)
    blocks = [
        checkpoint(measure, *block, use_reentrant=False, preserve_rng_state=False)
        for block in zip(torch.split(rows, size), torch.split(wanted, size), strict=True)
    ]
    losses = torch.zeros(labels.shape, dtype=torch.float32, device=states.device)
    return losses.masked_scatter(known, torch.cat(blocks)) if len(rows) else losses


def _block_losses(
    head: Head, smoothing: float, states: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    logits = head(states).float()
    return cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


class BlockwiseSoftmax:
    """A model whose forward gives the states before its head while :meth:`deferred` is entered.

    Args:
        model: with an output layer that gives its logits as they are, see :meth:`suits`.
        smoothing: as in :func:`blockwise_losses`.
        autocast: gives the context that the head computes in.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        smoothing: float = 0.0,
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._head: torch.nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        self._vocabulary = vocabulary_of(model)
        self._smoothing, self._autocast = smoothing, autocast
        self._forward: Head = self._head.forward

    @staticmethod
    def suits(model: torch.nn.Module) -> bool:
        """Whether a model has so many tokens that it pays, and nothing between head and logits."""
        config = model.config
        scales = ("final_logit_softcapping", "logit_scale", "logits_scaling")
        bare = not any(getattr(config, name, None) for name in scales)
        return bare and vocabulary_of(model) > FULL_SOFTMAX_TOKENS

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the head pass its states on in a block."""
        before = vars(self._head).get("forward")
        self._forward = self._head.forward
        self._head.forward = _passed_on
        try:
            yield
        finally:
            del self._head.forward
            if before is not None:
                self._head.forward = before

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits of a few of the states that :meth:`deferred` let pass."""
        with self._autocast():
            return self._forward(states)

    def losses(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Measure what :meth:`deferred` let pass, as ``token_losses`` measures logits."""
        with self._autocast():
            return blockwise_losses(
                self._forward, states, labels, self._smoothing, vocabulary=self._vocabulary
            )


def vocabulary_of(model: torch.nn.Module) -> int:
    """Return how many tokens a language model chooses among."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return 0 if head is None else int(getattr(head, "weight", torch.empty(0)).shape[0])


def _passed_on(states: torch.Tensor) -> torch.Tensor:
    return states
