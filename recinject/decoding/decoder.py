"""A model that has read its prompts and goes on token by token, several branches a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from recinject.data.schema import Floats, Integers
from recinject.models.lora import without_wrapper

_SHARED = "shared_by_branches"


class BranchingDecoder:
    """Decodes n prompts in step, each in ``width`` branches, with cached keys and values.

    The prompt's keys and values are computed once a prompt and shared by its branches, never
    copied: on long prompts that is most of the time and most of the memory of a beam search.

    Args:
        model: an encoder-decoder model, LoRA's wrapper allowed.
        input_ids: the prompts' tokens, shape (n, length).
        attention_mask: 1 for the prompt, 0 for padding, shape (n, length).
    """

    def __init__(self, model: torch.nn.Module, input_ids: Tensor, attention_mask: Tensor) -> None:
        self._model: PreTrainedModel = without_wrapper(model)
        self.device = self._model.device
        self._mask = attention_mask.to(self.device)
        self._encoded = self._model.get_encoder()(
            input_ids=input_ids.to(self.device), attention_mask=self._mask
        )
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.width = 1

    @property
    def start(self) -> Integers:
        """The token that every decoding begins with, one a prompt, shape (n, 1)."""
        return np.full((len(self._mask), 1), self._model.config.decoder_start_token_id, np.int32)

    def step(self, tokens: Integers) -> Tensor:
        """Read a token a branch, shape (n, width); return logits, shape (n, width, vocabulary)."""
        ids = torch.from_numpy(tokens.astype(np.int64)).to(self.device).reshape(-1, 1)
        with _sharing(self._model):
            output = self._model(
                encoder_outputs=self._encoded,
                attention_mask=self._mask,
                decoder_input_ids=ids,
                past_key_values=self._cache,
                use_cache=True,
            )
        logits: Tensor = output.logits.float()
        return logits.reshape(*tokens.shape, -1)

    def branch(self, parents: NDArray[np.integer[Any]]) -> None:
        """Let each prompt's new branches continue old ones of its own, shape (n, new width)."""
        rows = parents + np.arange(len(parents))[:, None] * self.width
        if parents.shape[1] != self.width or not np.array_equal(rows.ravel(), np.arange(rows.size)):
            index = torch.from_numpy(rows.ravel().astype(np.int64)).to(self.device)
            self._cache.self_attention_cache.batch_select_indices(index)
        self.width = parents.shape[1]


def log_probabilities(
    logits: Tensor,
    prompts: NDArray[np.integer[Any]],
    branches: NDArray[np.integer[Any]],
    tokens: NDArray[np.integer[Any]],
) -> Floats:
    """Return log-probabilities over the whole vocabulary of some next tokens.

    Args:
        logits: what :meth:`BranchingDecoder.step` returned.
        prompts: the prompt of each token asked for, shape (m,).
        branches: the branch of its prompt, shape (m,).
        tokens: the tokens, shape (m,).
    """
    normalisers = logits.logsumexp(-1).flatten()
    rows, ids = (
        torch.from_numpy(np.asarray(index, np.int64)).to(logits.device)
        for index in (prompts * logits.shape[1] + branches, tokens)
    )
    values = logits.flatten(0, 1)[rows, ids] - normalisers[rows]
    return values.cpu().numpy().astype(np.float64)


@contextmanager
def _sharing(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(_SHARED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend_shared(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as ever; but where a prompt has several branches, they are its queries in one go."""
    prompts, width = len(key), len(query) // len(key)
    if width == 1:
        result: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, position_bias=position_bias, **settings
        )
        return result
    # (n * width, heads, 1, size) becomes (n, heads, width, size), and back afterwards.
    together = query.reshape(prompts, width, *query.shape[1:]).squeeze(3).transpose(1, 2)
    output, _ = sdpa_attention_forward(
        module, together, key, value, attention_mask, position_bias=position_bias, **settings
    )
    return output.reshape(len(query), 1, *output.shape[2:]), None


AttentionInterface.register(_SHARED, _attend_shared)
AttentionMaskInterface.register(_SHARED, sdpa_mask)
