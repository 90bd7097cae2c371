"""Heads that predict a rating from a language model's hidden state."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from recinject.models.adapters import Wrapper, without_wrapper

HEAD_FILE = "rating_head.safetensors"
Kind = Literal["regression", "classification"]


class RatingModel(Wrapper):
    """A language model that answers a prompt with a rating, through one linear layer.

    The layer reads the last hidden state of the first decoder position, or of a causal model's
    last prompt token (arXiv 2305.06474, section 3.3), and starts at the mean of the training
    ratings. The model's own output layer is not used, and not trained.

    Args:
        backbone: an encoder-decoder or a causal model, LoRA's wrapper allowed.
        kind: ``regression`` gives one number, trained by squared error in units of the ratings'
            standard deviation, so that the mean alone has a loss of 1; ``classification`` gives
            logits of the distinct ratings, trained by cross-entropy, and answers with their mean.
        values: the distinct ratings of the training samples, ascending, shape (values,).
        counts: how often each occurs, shape (values,).
    """

    values: Tensor
    counts: Tensor

    def __init__(
        self,
        backbone: PreTrainedModel | PeftModel,
        kind: Kind,
        values: ArrayLike,
        counts: ArrayLike,
    ) -> None:
        super().__init__()
        self.backbone, self.kind = backbone, kind
        self.register_buffer("values", torch.from_numpy(np.array(values, np.float32)))
        self.register_buffer("counts", torch.from_numpy(np.array(counts, np.int64)))
        shares = self.counts.double() / self.counts.sum()
        self.mean = float(self.values.double() @ shares)
        self.scale = float((self.values.double() - self.mean).square() @ shares) ** 0.5 or 1.0
        outputs = 1 if kind == "regression" else len(self.values)
        self.head = nn.Linear(self.config.hidden_size, outputs)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(torch.zeros(1) if kind == "regression" else shares.log())
        inner = without_wrapper(self)
        unused = inner.get_output_embeddings()
        if unused is not None and unused.weight is not inner.get_input_embeddings().weight:
            unused.requires_grad_(False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Return ``logits`` for prompts, padded on the right, and with labels the ``loss``.

        Logits are the standardised rating, (n, 1), or of each value, (n, values).
        """
        states = self._states(input_ids, attention_mask)
        logits = self.head(states.to(self.head.weight.dtype)).float()
        loss = None if labels is None else self.losses(logits, labels).mean()
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each sample, shape (n,)."""
        if self.kind == "classification":
            classes = (labels[:, None] - self.values).abs().argmin(1)
            return cross_entropy(logits, classes, reduction="none")
        return (logits[:, 0] - (labels - self.mean) / self.scale).square()

    @torch.no_grad()
    def rate(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the ratings of prompts, within the range of the training ratings, shape (n,)."""
        device = self.head.weight.device
        logits: Tensor = self(input_ids.to(device), attention_mask.to(device)).logits
        if self.kind == "regression":
            ratings = logits[:, 0] * self.scale + self.mean
        else:
            ratings = logits.softmax(-1) @ self.values
        return ratings.clamp(self.values[0], self.values[-1])

    def _states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        inner, mask = without_wrapper(self), attention_mask
        if not inner.config.is_encoder_decoder:
            read = inner.base_model(input_ids=input_ids, attention_mask=mask, use_cache=False)
            rows = torch.arange(len(mask), device=mask.device)
            last: Tensor = read.last_hidden_state[rows, mask.sum(1) - 1]
            return last
        encoded = inner.get_encoder()(input_ids=input_ids, attention_mask=mask)
        decoded = inner.get_decoder()(
            input_ids=input_ids.new_full((len(mask), 1), inner.config.decoder_start_token_id),
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=mask,
            use_cache=False,
        )
        first: Tensor = decoded.last_hidden_state[:, 0]
        return first

    def save_head(self, folder: Path) -> None:
        """Write the head beside the language model."""
        own = {**self.head.state_dict(), "values": self.values, "counts": self.counts}
        tensors = {name: tensor.detach().contiguous() for name, tensor in own.items()}
        save_file(tensors, folder / HEAD_FILE, metadata={"kind": self.kind})


def load_head(backbone: PreTrainedModel, folder: Path) -> RatingModel:
    """Give a language model the head that :meth:`RatingModel.save_head` wrote."""
    tensors = load_file(folder / HEAD_FILE)
    with safe_open(folder / HEAD_FILE, "pt") as file:
        kind = file.metadata()["kind"]
    model = RatingModel(backbone, kind, tensors.pop("values"), tensors.pop("counts"))
    model.head.load_state_dict(tensors)
    return model
