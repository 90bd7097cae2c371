"""The loss, normalised by what the whole batch is to predict, and its account by task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch.nn.functional import cross_entropy
from transformers.utils import ModelOutput

Measure: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def token_losses(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the cross-entropy of each token, 0 where the label is -100: shape (n, tokens)."""
    losses = cross_entropy(
        logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=-100,
        reduction="none",
        label_smoothing=smoothing,
    )
    return losses.view_as(labels)


class BatchLoss:
    """The loss of a part of a batch as its share of the whole batch's mean.

    Dividing by the whole batch's tokens, or ratings, makes the loss and its gradient independent
    of how the batch is cut into accumulation steps and devices. (T5's own loss is a mean over
    the part, which the Trainer mistakes for such a share.)

    Args:
        measure: gives the loss of each label from logits and labels, in the labels' shape, and 0
            where a label is -100; see :func:`token_losses`.
        task_names: what the numbers in ``tasks`` stand for.

    Attributes:
        tasks: of each sample in the part that comes next, shape (n,); None for no account.
        auxiliary: gives what the model adds to the loss for each sample in the part, shape () or
            (n,); None for nothing. It counts by the sample's labels.
    """

    def __init__(self, measure: Measure, task_names: Sequence[str] = ()) -> None:
        self._measure = measure
        self._names = task_names
        self._sums: torch.Tensor | None = None
        self.tasks: torch.Tensor | None = None
        self.auxiliary: Callable[[], torch.Tensor] | None = None

    def __call__(
        self,
        outputs: ModelOutput,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the loss of a part.

        Args:
            outputs: with logits, for tokens of shape (n, tokens, vocabulary).
            labels: the tokens to predict, each where the model predicts it and -100 where there
                are none, shape (n, tokens); or the ratings, shape (n,).
            num_items_in_batch: how many of them there are in the whole batch.
        """
        losses = self._measure(outputs.logits, labels).reshape(len(labels), -1)
        total, counts = losses.sum(), (labels != -100).reshape(len(labels), -1).sum(1)
        if self.tasks is not None:
            # Kept on the device in one tensor: a training step must not wait for it.
            if self._sums is None:
                self._sums = losses.new_zeros(2, len(self._names))
            by_sample = torch.stack([losses.detach().sum(1), counts.to(losses.dtype)])
            self._sums.index_add_(1, self.tasks, by_sample)
        if self.auxiliary is not None:
            total = total + (counts * self.auxiliary()).sum()
        return total / (counts.sum() if num_items_in_batch is None else num_items_in_batch)

    def read_out(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Return the mean loss a token of each task since the last call, as ``loss/TASK``.

        ``reduce`` adds a tensor up over all processes, which call this together.
        """
        if self._sums is None:
            return {}
        losses, tokens = reduce(self._sums).tolist()
        self._sums = None
        rows = zip(self._names, losses, tokens, strict=True)
        return {f"loss/{name}": loss / count for name, loss, count in rows if count}
