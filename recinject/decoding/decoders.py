"""How models read a prompt once and go on from it in several branches."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

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

Numbers: TypeAlias = NDArray[np.integer[Any]]


class BranchingDecoder(ABC):
    """Decodes n prompts in step, each in ``width`` branches, which share its keys and values.

    Args:
        model: an encoder-decoder or a causal model.
        input_ids: the prompts' tokens, shape (n, length); a causal model's are padded on the left.
        attention_mask: 1 for the prompt, 0 for padding, shape (n, length).

    Raises:
        RecinjectError: a causal model's prompt is empty, padded on the right, or longer than the
            model can be searched with.
    """

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
        self._model = model
        self._ids, self._mask = input_ids.to(model.device), attention_mask.to(model.device)
        self._first = self._ids[:, -1:]
        if model.config.is_encoder_decoder:
            start = model.config.decoder_start_token_id
            self._first = self._ids.new_full((len(self._ids), 1), start)
        elif not (self._mask.shape[1] and self._mask[:, -1].all()):
            raise RecinjectError(
                "a causal model continues its prompt's last token, and a prompt ends in none",
                hint="pad prompts on the left, and give each at least one token",
            )

    @property
    def start(self) -> Integers:
        """The token to read first: the decoder's start, or each prompt's last, shape (n, 1)."""
        return self._first.cpu().numpy().astype(np.int32)

    @abstractmethod
    def step(self, tokens: Integers) -> Tensor:
        """Read a token a branch, shape (n, width); return logits, shape (n, width, vocabulary)."""

    @abstractmethod
    def branch(self, parents: Numbers) -> None:
        """Let each prompt's new branches continue old ones of its own, shape (n, new width)."""

    def _tensor(self, numbers: Numbers) -> Tensor:
        return torch.from_numpy(numbers.astype(np.int64)).to(self._ids.device)


@contextmanager
def read_prompts(
    model: torch.nn.Module, input_ids: Tensor, attention_mask: Tensor
) -> Iterator[BranchingDecoder]:
    """Let a model read prompts, and yield the fastest decoder that continues them.

    Within the block, an encoder-decoder model attends by an implementation of our own. Arguments
    and errors are those of :class:`BranchingDecoder`; LoRA's wrapper is allowed.
    """
    inner = without_wrapper(model)
    kind: type[BranchingDecoder] = CopiedBranches
    if inner.config.is_encoder_decoder and inner._can_set_attn_implementation():
        kind = EncoderDecoderBranches
    elif not inner.config.is_encoder_decoder and _takes_masks(inner):
        kind = CausalBranches
    decoder = kind(inner, input_ids, attention_mask)
    if kind is not EncoderDecoderBranches:
        yield decoder
        return
    before = inner.config._attn_implementation
    inner.set_attn_implementation(_SHARED)
    try:
        yield decoder
    finally:
        inner.set_attn_implementation(before)


def log_probabilities(
    logits: Tensor, prompts: Numbers, branches: Numbers, tokens: Numbers, legal: bool = False
) -> Floats:
    """Return log-probabilities, shape (m,), of next tokens of branches of prompts.

    ``logits`` are those of :meth:`BranchingDecoder.step`; ``legal`` takes probabilities over a
    branch's own ``tokens`` alone.
    """
    rows, flat = prompts * logits.shape[1] + branches, logits.flatten(0, 1)
    index, ids = torch.from_numpy(np.stack([rows, tokens]).astype(np.int64)).to(logits.device)
    values: Floats = flat[index, ids].cpu().numpy().astype(np.float64)
    if legal:
        return values - _log_sums(values, rows, tokens)
    sums: Floats = flat.logsumexp(-1)[index].cpu().numpy().astype(np.float64)
    return values - sums


def _log_sums(values: Floats, rows: Numbers, tokens: Numbers) -> Floats:
    """Return the log of the sum of the exponentials of each row's values, a token counted once."""
    _, first = np.unique(np.stack([rows, tokens]), axis=1, return_index=True)
    sums = np.full(int(rows.max(initial=-1)) + 1, -np.inf)
    np.logaddexp.at(sums, rows[first], values[first])
    of_row: Floats = sums[rows]
    return of_row


_SHARED = "shared_by_branches"


class EncoderDecoderBranches(BranchingDecoder):
    """An encoder-decoder model's; use it through :func:`read_prompts`.

    A prompt's branches share its cross-attention's keys and values: the branches are its queries.
    Only the decoder's own few keys and values are one set a branch.
    """

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
        super().__init__(model, input_ids, attention_mask)
        self._encoded = model.get_encoder()(input_ids=self._ids, attention_mask=self._mask)
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._width = 1

    def step(self, tokens: Integers) -> Tensor:
        """Read a token a branch."""
        output = self._model(
            encoder_outputs=self._encoded,
            attention_mask=self._mask,
            decoder_input_ids=self._tensor(tokens).reshape(-1, 1),
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = output.logits.float()
        return logits.reshape(*tokens.shape, -1)

    def branch(self, parents: Numbers) -> None:
        """Let each prompt's new branches continue old ones of its own."""
        rows = (parents + np.arange(len(parents))[:, None] * self._width).ravel()
        if parents.shape[1] != self._width or not np.array_equal(rows, np.arange(rows.size)):
            self._cache.self_attention_cache.batch_select_indices(self._tensor(rows))
        self._width = parents.shape[1]


def _attend_shared(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as SDPA does, but let all branches of a prompt be its queries at once."""
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


class CausalBranches(BranchingDecoder):
    """A causal model's, if its attention takes a mask and positions as they are given.

    A step appends one token a branch to the prompt's own sequence, all at one position, and an
    attention mask lets each see only the prompt and its own ancestors (tree attention, Miao et
    al., SpecInfer, 2024).
    """

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
        super().__init__(model, input_ids, attention_mask)
        mask = self._mask.bool()
        self._cache = DynamicCache()
        # The position of the token that is read next, shape (n,), and which of the tokens read
        # so far each branch sees, shape (n, width, tokens).
        self._position = mask.sum(1) - 1
        self._seen = mask[:, None, :-1]
        _refuse_too_long(model, self._position.max())
        if mask.shape[1] > 1:
            # The model without its head: a whole prompt's logits are large and not needed.
            model.base_model(
                input_ids=self._ids[:, :-1],
                attention_mask=mask[:, :-1].long(),
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, :-1],
                past_key_values=self._cache,
                use_cache=True,
            )

    def step(self, tokens: Integers) -> Tensor:
        """Read a token a branch."""
        _refuse_too_long(self._model, self._position.max())
        n, width = tokens.shape
        itself = torch.eye(width, dtype=torch.bool, device=self._ids.device).expand(n, width, width)
        self._seen = torch.cat([self._seen, itself], dim=2)
        dtype = self._model.dtype
        hidden = torch.zeros(self._seen.shape, dtype=dtype, device=self._ids.device)
        output = self._model(
            input_ids=self._tensor(tokens),
            attention_mask=hidden.masked_fill(~self._seen, torch.finfo(dtype).min)[:, None],
            position_ids=self._position[:, None].expand(n, width),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._position = self._position + 1
        logits: Tensor = output.logits.float()
        return logits

    def branch(self, parents: Numbers) -> None:
        """Let each prompt's new branches continue old ones of its own."""
        rows = self._tensor(parents)[:, :, None]
        self._seen = self._seen.gather(1, rows.expand(-1, -1, self._seen.shape[2]))


class CopiedBranches(BranchingDecoder):
    """Any other model's, if it keeps keys and values, which are copied to every branch.

    Each prompt is read alone and unpadded. The others are faster.

    Raises:
        RecinjectError: the model keeps no keys and values, or a causal model reads both ways.
    """

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
        super().__init__(model, input_ids, attention_mask)
        _refuse_uncopied(model)
        masks = self._mask.bool()
        prompts = [ids[mask][None] for ids, mask in zip(self._ids, masks, strict=True)]
        if model.config.is_encoder_decoder:
            self._encoded = [model.get_encoder()(input_ids=prompt)[0] for prompt in prompts]
            self._caches = [EncoderDecoderCache(DynamicCache(), DynamicCache()) for _ in prompts]
            return
        self._caches = [DynamicCache(config=model.config) for _ in prompts]
        for number, prompt in enumerate(prompts):
            if prompt.shape[1] > 1:
                self._read(number, prompt[:, :-1])

    def step(self, tokens: Integers) -> Tensor:
        """Read a token a branch."""
        rows = enumerate(self._tensor(tokens)[:, :, None])
        return torch.stack([self._read(number, row) for number, row in rows])

    def branch(self, parents: Numbers) -> None:
        """Let each prompt's new branches continue old ones of its own."""
        for cache, rows in zip(self._caches, self._tensor(parents), strict=True):
            cache.batch_select_indices(rows)

    def _read(self, prompt: int, tokens: Tensor) -> Tensor:
        """Read tokens in each of a prompt's branches; return the logits, (width, vocabulary)."""
        cache = self._caches[prompt]
        _refuse_too_long(self._model, cache.get_seq_length() + tokens.shape[1] - 1)
        given: dict[str, Any] = {"input_ids": tokens}
        if self._model.config.is_encoder_decoder:
            encoded = self._encoded[prompt].expand(len(tokens), -1, -1)
            given = {"encoder_outputs": BaseModelOutput(encoded), "decoder_input_ids": tokens}
        logits: Tensor = self._model(**given, past_key_values=cache, use_cache=True).logits
        return logits[:, -1].float()


def _takes_masks(model: PreTrainedModel) -> bool:
    # Models without transformers' attention interface make masks of their own.
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    return model._supports_attention_backend and takes_positions and _looks_back(model)


def _looks_back(model: PreTrainedModel) -> bool:
    # Models that read both ways, as BERT does, can be loaded as causal ones.
    return all(getattr(module, "is_causal", True) for module in model.modules())


def _refuse_uncopied(model: PreTrainedModel) -> None:
    both_ways = not (model.config.is_encoder_decoder or _looks_back(model))
    if both_ways or "past_key_values" not in inspect.signature(model.forward).parameters:
        fact = "reads both ways" if both_ways else "keeps no keys and values of what it has read"
        raise RecinjectError(
            f"{model.config.model_type}: it {fact}, so it cannot be searched token by token",
            hint="take an encoder-decoder or a causal model, such as google/flan-t5-small or "
            "openai-community/gpt2",
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
