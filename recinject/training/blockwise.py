"""The loss over a vocabulary at the positions that have labels, a block of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

FULL_SOFTMAX_TOKENS = 50_000
"""The largest vocabulary whose logits are held for a whole batch."""
_LOGITS_AT_ONCE = 1 << 26  # 256 MB in single precision
_CACHED_LOGITS = 1 << 19  # about as many as fit the processor's cache
_IGNORED = -100
Head: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


def cross_entropies(
    states: torch.Tensor, weights: torch.Tensor, targets: torch.Tensor, divisor: float = 1.0
) -> torch.Tensor:
    """Return the cross-entropy of each row of ``states @ weights.T``, over a divisor: (n,).

    Gradients are computed beside the losses, a few rows at a time: no logits are kept, and none
    computed twice, unless the losses are weighed differently later.

    Args:
        states: shape (n, width).
        weights: of the tokens, shape (vocabulary, width).
        targets: the token of each row, shape (n,).
        divisor: of all losses.
    """
    if not torch.is_grad_enabled():
        states, weights = states.detach(), weights.detach()
    losses: torch.Tensor = _CrossEntropies.apply(states, weights, targets, divisor)  # type: ignore[no-untyped-call]
    return losses


class _CrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weights: torch.Tensor, targets: torch.Tensor, divisor: float
    ) -> torch.Tensor:
        tokens, width = weights.shape
        moves_states, moves_weights = ctx.needs_input_grad[:2]
        losses, for_states = states.new_empty(len(states)), torch.empty_like(states)
        for_weights = torch.zeros_like(weights) if moves_weights else None
        rows = max(32, width // 4, _CACHED_LOGITS // tokens)
        blocks = (torch.split(whole, rows) for whole in (states, targets, losses, for_states))
        for some, wanted, lost, gradient in zip(*blocks, strict=True):
            logits = some @ weights.T
            highest, column = logits.amax(1, keepdim=True), wanted[:, None]
            right = logits.gather(1, column) - highest
            probabilities = logits.sub_(highest).exp_()
            sums = probabilities.sum(1, keepdim=True)
            lost.copy_((sums.log() - right)[:, 0])
            # Dividing the products, which are narrow, is cheaper than dividing the probabilities.
            if moves_states:
                torch.mm(probabilities, weights, out=gradient)
                gradient.div_(sums)
            if for_weights is not None:
                for_weights.addmm_(probabilities.T, some / sums)
        if moves_states:
            for_states.sub_(weights[targets]).div_(divisor)
        if for_weights is not None:
            for_weights.index_add_(0, targets, states, alpha=-1).div_(divisor)
        ctx.save_for_backward(states, weights, targets, for_states, for_weights)
        ctx.divisor = divisor
        return losses.div_(divisor)

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        (given,) = gradients
        states, weights, targets, for_states, for_weights = ctx.saved_tensors
        if for_weights is None:
            return for_states * given[:, None], None, None, None
        if (given == given[0]).all():
            # In place: there may be as many weights as memory holds.
            return for_states.mul_(given[0]), for_weights.mul_(given[0]), None, None
        with torch.enable_grad():
            own = weights.detach().requires_grad_()
            losses = cross_entropy(states.detach() @ own.T, targets, reduction="none")
        (for_weights,) = torch.autograd.grad(losses, own, given / ctx.divisor)
        return for_states * given[:, None], for_weights, None, None


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

    The head then computes logits where labels are, and nowhere else.

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
        self._is_matrix = _is_matrix(self._head)

    @staticmethod
    def suits(model: torch.nn.Module, smoothing: float = 0.0, device: str = "cpu") -> bool:
        """Whether nothing stands between head and logits, and it pays.

        It does where there are many tokens; and on a CPU, which need not wait to be told how many
        labels there are, if the head is a bare matrix.
        """
        config = model.config
        scales = ("final_logit_softcapping", "logit_scale", "logits_scaling")
        if any(getattr(config, name, None) for name in scales):
            return False
        head = model.get_output_embeddings()  # type: ignore[operator]
        pays = device == "cpu" and not smoothing and _is_matrix(head)
        return pays or vocabulary_of(model) > FULL_SOFTMAX_TOKENS

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
            mixed = torch.is_autocast_enabled(states.device.type)
            # Small blocks suit a processor's cache, and leave a GPU idle.
            plain = self._is_matrix and not mixed and states.device.type == "cpu"
            if self._smoothing or not plain:
                return blockwise_losses(
                    self._forward, states, labels, self._smoothing, vocabulary=self._vocabulary
                )
            known = labels != _IGNORED
            losses = torch.zeros(labels.shape, dtype=states.dtype, device=states.device)
            if not known.any():
                return losses
            found = cross_entropies(
                states[known], cast(torch.Tensor, self._head.weight), labels[known]
            )
            return losses.masked_scatter(known, found)


def _is_matrix(head: torch.nn.Module | None) -> bool:
    """Whether a head is a matrix alone, with no bias, adapter or other forward."""
    return (
        type(head) is torch.nn.Linear
        and getattr(head, "bias", None) is None
        and "forward" not in vars(head)
    )


def vocabulary_of(model: torch.nn.Module) -> int:
    """Return how many tokens a language model chooses among."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return 0 if head is None else int(getattr(head, "weight", torch.empty(0)).shape[0])


def _passed_on(states: torch.Tensor) -> torch.Tensor:
    return states
