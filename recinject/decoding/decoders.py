"""How models read a prompt once and go on from it in several branches."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutput

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


@contextmanager
def read_prompts(
    model: torch.nn.Module, input_ids: Tensor, attention_mask: Tensor
) -> Iterator[BranchingDecoder]:
    """Let a model read prompts, and give what continues them within the block.

    Within the block, an encoder-decoder model attends by an implementation of our own. A model
    that can neither do that nor mask its attention as we say is decoded by
    :class:`CopiedBranches`, to the same result but more slowly.

    Args:
        model: an encoder-decoder or a causal model, LoRA's wrapper allowed.
        input_ids: the prompts' tokens, shape (n, length); a causal model's are padded on the left.
        attention_mask: 1 for the prompt, 0 for padding, shape (n, length).

    Raises:
        RecinjectError: see :class:`CausalBranches` and :class:`CopiedBranches`.
    """
    inner = without_wrapper(model)
    kind: type[EncoderDecoderBranches | CausalBranches | CopiedBranches] = CopiedBranches
    if inner.config.is_encoder_decoder and inner._can_set_attn_implementation():
        kind = EncoderDecoderBranches
    elif not inner.config.is_encoder_decoder and _takes_masks(inner):
        kind = CausalBranches
    decoder = kind(inner, input_ids, attention_mask)
    with _sharing(inner) if kind is EncoderDecoderBranches else nullcontext():
        yield decoder


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
    """A :class:`BranchingDecoder` over an encoder-decoder model; use :func:`read_prompts`.

    A prompt's branches share its cross-attention's keys and values, which are never copied: the
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
        output = self._model(
            encoder_outputs=self._encoded,
            attention_mask=self._mask,
            decoder_input_ids=_on(self._mask, tokens).reshape(-1, 1),
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = output.logits.float()
        return logits.reshape(*tokens.shape, -1)

    def branch(self, parents: NDArray[np.integer[Any]]) -> None:
        """Let each prompt's new branches continue old ones of its own."""
        rows = (parents + np.arange(len(parents))[:, None] * self._width).ravel()
        if parents.shape[1] != self._width or not np.array_equal(rows, np.arange(rows.size)):
            self._cache.self_attention_cache.batch_select_indices(_on(self._mask, rows))
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


class CausalBranches:
    """A :class:`BranchingDecoder` over a causal model.

    A step appends one token a branch to the prompt's own sequence, all at one position, and an
    attention mask lets each see only the prompt and its own ancestors (tree attention, Miao et
    al., SpecInfer, 2024). So there is one set of keys and values a prompt, never one a branch.

    Args:
        model: a causal model whose attention takes a mask and positions as they are given.
        input_ids: the prompts' tokens, shape (n, length), padded on the left.
        attention_mask: 1 for the prompt, 0 for padding, shape (n, length).

    Raises:
        RecinjectError: a prompt is empty, padded on the right, or longer than the model can read.
    """

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
        mask, ids = attention_mask.to(model.device).bool(), input_ids.to(model.device)
        _refuse_open_ends(mask)
        self._model = model
        self._last = ids[:, -1:]
        self._cache = DynamicCache()
        # The position of the token that is read next, shape (n,), and which of the tokens read
        # so far each branch sees, shape (n, width, tokens).
        self._position = mask.sum(1) - 1
        self._seen = mask[:, None, :-1]
        _refuse_too_long(model, self._position.max())
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
        _refuse_too_long(self._model, self._position.max())
        n, width = tokens.shape
        ids = _on(self._last, tokens)
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
        rows = _on(self._last, parents)
        self._seen = self._seen.gather(1, rows[:, :, None].expand(-1, -1, self._seen.shape[2]))


class CopiedBranches:
    """A :class:`BranchingDecoder` over any other model that keeps keys and values.

    Each prompt is read alone and unpadded, and what the model keeps of it is copied to every
    branch: slower than the other decoders, but nothing is asked of the model's attention.

    Args:
        model: an encoder-decoder or a causal model.
        input_ids: the prompts' tokens, shape (n, length); a causal model's are padded on the left.
        attention_mask: 1 for the prompt, 0 for padding, shape (n, length).

    Raises:
        RecinjectError: the model keeps nothing that could be copied, or a causal model reads both
            ways; or see :class:`CausalBranches`.
    """

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
        _refuse_uncopied(model)
        mask, ids = attention_mask.to(model.device).bool(), input_ids.to(model.device)
        self._model = model
        prompts = [row[seen][None] for row, seen in zip(ids, mask, strict=True)]
        if model.config.is_encoder_decoder:
            start = model.config.decoder_start_token_id
            self._last = torch.full_like(ids[:, :1], start)
            self._encoded = [model.get_encoder()(input_ids=row)[0] for row in prompts]
            self._caches = [EncoderDecoderCache(DynamicCache(), DynamicCache()) for _ in prompts]
            return
        _refuse_open_ends(mask)
        self._last = ids[:, -1:]
        self._caches = [DynamicCache(config=model.config) for _ in prompts]
        for number, row in enumerate(prompts):
            if row.shape[1] > 1:
                self._read(number, row[:, :-1])

    @property
    def start(self) -> Integers:
        """The token that decoding begins with, or each prompt's last one."""
        return self._last.cpu().numpy().astype(np.int32)

    def step(self, tokens: Integers) -> Tensor:
        """Read a token a branch."""
        rows = enumerate(_on(self._last, tokens)[:, :, None])
        return torch.stack([self._read(number, row) for number, row in rows])

    def branch(self, parents: NDArray[np.integer[Any]]) -> None:
        """Let each prompt's new branches continue old ones of its own."""
        for cache, rows in zip(self._caches, _on(self._last, parents), strict=True):
            cache.batch_select_indices(rows)

    def _read(self, prompt: int, tokens: Tensor) -> Tensor:
        """Read a prompt's branches' tokens; return the last ones' logits, (width, vocabulary)."""
        cache = self._caches[prompt]
        _refuse_too_long(self._model, cache.get_seq_length() + tokens.shape[1] - 1)
        given: dict[str, Any] = {"input_ids": tokens}
        if self._model.config.is_encoder_decoder:
            encoded = self._encoded[prompt].expand(len(tokens), -1, -1)
            given = {"encoder_outputs": BaseModelOutput(encoded), "decoder_input_ids": tokens}
        logits: Tensor = self._model(**given, past_key_values=cache, use_cache=True).logits
        return logits[:, -1].float()


def _on(like: Tensor, numbers: NDArray[np.integer[Any]]) -> Tensor:
    return torch.from_numpy(numbers.astype(np.int64)).to(like.device)


def _takes_masks(model: PreTrainedModel) -> bool:
    # Models that transformers has not moved to its attention interface make masks of their own.
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    return model._supports_attention_backend and takes_positions and _looks_back(model)


def _looks_back(model: PreTrainedModel) -> bool:
    # Those that read both ways, as BERT does, load as causal models all the same.
    return all(getattr(module, "is_causal", True) for module in model.modules())


def _refuse_uncopied(model: PreTrainedModel) -> None:
    both_ways = not model.config.is_encoder_decoder and not _looks_back(model)
    if both_ways or "past_key_values" not in inspect.signature(model.forward).parameters:
        fact = "reads both ways" if both_ways else "keeps no keys and values of what it has read"
        raise RecinjectError(
            f"{model.config.model_type}: it {fact}, so it cannot be searched token by token",
            hint="take an encoder-decoder or a causal model, such as google/flan-t5-small or "
            "openai-community/gpt2",
        )


def _refuse_open_ends(mask: Tensor) -> None:
    if not (mask.shape[1] and mask[:, -1].all()):
        raise RecinjectError(
            "a causal model continues its prompt's last token, and a prompt ends in none",
            hint="pad prompts on the left, and give each at least one token",
        )


def _refuse_too_long(model: PreTrainedModel, position: Tensor | int) -> None:
    """Refuse a position beyond those that every layer sees whole, such as a sliding window."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "sliding_window", "attention_chunk_size")
    # Which of these a config has depends on its model; None stands for no limit.
    limits = [getattr(config, name, None) for name in names]
    longest = min((limit for limit in limits if limit), default=float("inf"))
    if position >= longest:
        raise RecinjectError(
            f"{model.config.model_type}: a prompt and what follows it take more than the "
            f"{longest} tokens that the model can be searched with",
            hint="lower samples.max_prompt_tokens",
        )
