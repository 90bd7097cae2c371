"""How encoder-decoder and causal models read a prompt once for all beams."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from recinject.data.schema import Floats, Integers
from recinject.foundation.errors import RecinjectError
from recinject.models.adapters import without_wrapper


class BranchingDecoder(Protocol):
    """Decodes n prompts in step, each in ``width`` branches, with cached keys and values.

    The prompt's keys and values are computed once a prompt and shared by its branches, never
    copied: on long prompts that is most of the time and most of the memory of a beam search.
    """

    @property
    def start(self) -> Integers:
        """The token that every decoding begins with, one a prompt, shape (n, 1)."""

    def step(self, tokens: Integers) -> Tensor:
        """Read a token a branch, shape (n, width); return logits, shape (n, width, vocabulary)."""

    def branch(self, parents: NDArray[np.integer[Any]]) -> None:
        """Let each prompt's new branches continue old ones of its own, shape (n, new width)."""


def read_prompts(
    model: torch.nn.Module, input_ids: Tensor, attention_mask: Tensor
) -> BranchingDecoder:
    """Let a model read prompts, to go on from them.

    Args:
        model: an encoder-decoder or a causal model, LoRA's wrapper allowed.
        input_ids: the prompts' tokens, shape (n, length); a causal model's are padded on the left.
        attention_mask: 1 for the prompt, 0 for padding, shape (n, length).

    Raises:
        RecinjectError: see :class:`~recinject.decoding.decoders.CausalBranches`.
    """
    inner = without_wrapper(model)
    kind = EncoderDecoderBranches if inner.config.is_encoder_decoder else CausalBranches
    return kind(inner, input_ids, attention_mask)


def log_probabilities(
    logits: Tensor,
    prompts: NDArray[np.integer[Any]],
    branches: NDArray[np.integer[Any]],
    tokens: NDArray[np.integer[Any]],
    legal: bool = False,
) -> Floats:
    """Return log-probabilities of some next tokens.

    Args:
        logits: what :meth:`BranchingDecoder.step` returned.
        prompts: the prompt of each token asked for, shape (m,).
        branches: the branch of its prompt, shape (m,).
        tokens: the tokens, shape (m,).
        legal: whether a branch can have no other next tokens than those asked for, which then
            share the whole probability; else it is spread over the whole vocabulary.
    """
    rows, flat = prompts * logits.shape[1] + branches, logits.flatten(0, 1)
    index, ids = (
        torch.from_numpy(np.asarray(column, np.int64)).to(logits.device)
        for column in (rows, tokens)
    )
    values: Floats = flat[index, ids].cpu().numpy().astype(np.float64)
    if legal:
        return values - _log_sums(values, rows, tokens)
    sums: Floats = flat.logsumexp(-1)[index].cpu().numpy().astype(np.float64)
    return values - sums


def _log_sums(
    values: Floats, rows: NDArray[np.integer[Any]], tokens: NDArray[np.integer[Any]]
) -> Floats:
    """Return the log of the sum of the exponentials of each row's values, a token counted once."""
    _, first = np.unique(np.stack([rows, tokens]), axis=1, return_index=True)
    sums = np.full(int(rows.max(initial=-1)) + 1, -np.inf)
    np.logaddexp.at(sums, rows[first], values[first])
    of_row: Floats = sums[rows]
    return of_row


_SHARED = "shared_by_branches"


class EncoderDecoderBranches:
    """A :class:`~recinject.decoding.decoders.BranchingDecoder` over an encoder-decoder model.

    Cross-attention's keys and values are shared by a prompt's branches, never copied: the
    branches are its queries. Only the decoder's own few keys and values are one set a branch.

    Args:
        model: an encoder-decoder model.
        input_ids: the prompts' tokens, shape (n, length).
        attention_mask: 1 for the prompt, 0 for padding, shape (n, length).
    """

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
        self._model = model
        self._mask = attention_mask.to(model.device)
        self._encoded = model.get_encoder()(
            input_ids=input_ids.to(model.device), attention_mask=self._mask
        )
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._width = 1

    @property
    def start(self) -> Integers:
        """The token that every decoding begins with."""
        return np.full((len(self._mask), 1), self._model.config.decoder_start_token_id, np.int32)

    def step(self, tokens: Integers) -> Tensor:
        """Read a token a branch."""
        ids = torch.from_numpy(tokens.astype(np.int64)).to(self._mask.device).reshape(-1, 1)
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
        """Let each prompt's new branches continue old ones of its own."""
        rows = parents + np.arange(len(parents))[:, None] * self._width
        if parents.shape[1] != self._width or not np.array_equal(
            rows.ravel(), np.arange(rows.size)
        ):
            index = torch.from_numpy(rows.ravel().astype(np.int64)).to(self._mask.device)
            self._cache.self_attention_cache.batch_select_indices(index)
        self._width = parents.shape[1]


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


_INSTEAD = "search with transformers' generate and recinject.decoding.processor.TrieLogitsProcessor"


class CausalBranches:
    """A :class:`~recinject.decoding.decoders.BranchingDecoder` over a causal model.

    A step appends one token a branch to the prompt's own sequence, all at one position, and an
    attention mask lets each see the prompt and its own forebears alone (tree attention, Miao et
    al., SpecInfer, 2024). So there is one set of keys and values a prompt, never one a branch.

    Args:
        model: a causal model whose attention takes a mask and positions as they are given.
        input_ids: the prompts' tokens, shape (n, length), padded on the left.
        attention_mask: 1 for the prompt, 0 for padding, shape (n, length).

    Raises:
        RecinjectError: the model's attention cannot be masked so, a prompt is empty or padded on
            the right, or is longer than the model can read.
    """

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
        _refuse_unmaskable(model)
        mask, ids = attention_mask.to(model.device).bool(), input_ids.to(model.device)
        if not (mask.shape[1] and mask[:, -1].all()):
            raise RecinjectError(
                "a causal model continues its prompt's last token, and a prompt ends in none",
                hint="pad prompts on the left, and give each at least one token",
            )
        self._model = model
        self._last = ids[:, -1:]
        self._longest = _longest(model)
        self._cache = DynamicCache()
        # The position of the token that is read next, shape (n,), and which of the tokens read
        # so far each branch sees, shape (n, width, tokens).
        self._position = mask.sum(1) - 1
        self._seen = mask[:, None, :-1]
        self._check_length()
        if ids.shape[1] > 1:
            # The model without its head: logits of a whole prompt are large, and nobody asks.
            model.base_model(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1].long(),
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, :-1],
                past_key_values=self._cache,
                use_cache=True,
            )

    @property
    def start(self) -> Integers:
        """Each prompt's last token: reading it gives what follows the prompt."""
        return self._last.cpu().numpy().astype(np.int32)

    def step(self, tokens: Integers) -> Tensor:
        """Read a token a branch."""
        self._check_length()
        n, width = tokens.shape
        ids = torch.from_numpy(tokens.astype(np.int64)).to(self._last.device)
        own = torch.eye(width, dtype=torch.bool, device=ids.device).expand(n, width, width)
        self._seen = torch.cat([self._seen, own], dim=2)
        dtype = self._model.dtype
        hidden = torch.zeros(self._seen.shape, dtype=dtype, device=ids.device)
        output = self._model(
            input_ids=ids,
            attention_mask=hidden.masked_fill(~self._seen, torch.finfo(dtype).min)[:, None],
            position_ids=self._position[:, None].expand(n, width),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._position = self._position + 1
        logits: Tensor = output.logits.float()
        return logits

    def branch(self, parents: NDArray[np.integer[Any]]) -> None:
        """Let each prompt's new branches continue old ones of its own."""
        rows = torch.from_numpy(parents.astype(np.int64)).to(self._last.device)
        self._seen = self._seen.gather(1, rows[:, :, None].expand(-1, -1, self._seen.shape[2]))

    def _check_length(self) -> None:
        if self._position.max() >= self._longest:
            raise RecinjectError(
                f"{self._model.config.model_type}: a prompt and what follows it take more than "
                f"the {self._longest} tokens that the model can be searched with",
                hint="lower samples.max_prompt_tokens",
            )


def _refuse_unmaskable(model: PreTrainedModel) -> None:
    # Models that transformers has not moved to its attention interface make masks of their own.
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    # Those that read both ways, as BERT does, load as causal models all the same.
    looks_back = all(getattr(module, "is_causal", True) for module in model.modules())
    if not (model._supports_attention_backend and takes_positions and looks_back):
        raise RecinjectError(
            f"{model.config.model_type}: its attention cannot be told which tokens to see",
            hint=_INSTEAD,
        )


def _longest(model: PreTrainedModel) -> float:
    """Return the most tokens that every layer sees whole: all positions, one sliding window."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "sliding_window", "attention_chunk_size")
    # Which of these a config has depends on its model; None stands for no limit.
    limits = [getattr(config, name, None) for name in names]
    return min((limit for limit in limits if limit), default=float("inf"))
