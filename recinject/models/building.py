"""FLAN-T5 by name, or a small T5 built from a config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
from transformers import (
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.samples.tokenizer import END, PAD, SENTINELS, UNKNOWN, local_copy

# Loading and saving take a moment here, and their bars would cut through the training's own.
logging.disable_progress_bar()
_VOCABULARY_MULTIPLE = 8
_FROM_TOKENIZER = {"vocab_size", "pad_token_id", "eos_token_id", "decoder_start_token_id"}
_NOT_IN_SIGNATURE = {"tie_word_embeddings"}
_REFUSALS = (StrictDataclassError, ValueError, TypeError, KeyError, RuntimeError, ArithmeticError)


def load_model(name_or_path: str) -> PreTrainedModel:
    """Load an encoder-decoder model from a folder or, by its name, from the hub.

    Raises:
        RecinjectError: it is neither here nor to be had, or is no encoder-decoder model.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = local_copy(name_or_path, ["*.json", "*.safetensors"])
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise RecinjectError(
            f"{name_or_path}: no encoder-decoder model in safetensors form ({error})".split("\n")[
                0
            ],
            hint="name a T5-like model such as google/flan-t5-small, or a folder that holds one",
        ) from error
    # The folder of the hub's cache is this machine's affair; an adapter must record the name.
    model.name_or_path = model.config.name_or_path = name_or_path
    return model


def build_t5(config: Mapping[str, Any], tokenizer: Tokenizer, seed: int) -> PreTrainedModel:
    """Build a T5 with random weights that the seed alone decides.

    Args:
        config: parameters of ``transformers.T5Config``, passed on as they are.
        tokenizer: gives the vocabulary; its size is rounded up to a multiple of 8.
        seed: of the weights. The global random state is left as it was.

    Raises:
        RecinjectError: a parameter is unknown, taken from the tokenizer, or refused by T5.
    """
    legal = (set(inspect.signature(T5Config).parameters) | _NOT_IN_SIGNATURE) - _FROM_TOKENIZER
    for key in config:
        if key not in legal:
            raise RecinjectError(
                f"model.config: T5Config takes no {key!r} here", hint=did_you_mean(key, legal)
            )
    pad = tokenizer.token_to_id(PAD)
    special = {
        "vocab_size": _padded_size(tokenizer),
        "pad_token_id": pad,
        "eos_token_id": tokenizer.token_to_id(END),
        "decoder_start_token_id": pad,
    }
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return T5ForConditionalGeneration(T5Config(**config, **special))
    except _REFUSALS as error:
        raise RecinjectError(
            f"model.config: T5 refuses it ({error})",
            hint="see transformers.T5Config for what each parameter may be",
        ) from error


def embed_all_tokens(model: PreTrainedModel, tokenizer: Tokenizer, seed: int) -> PreTrainedModel:
    """Add embeddings where a tokenizer has outgrown a model; a model with enough is left alone.

    Args:
        model: it is changed in place, and returned.
        tokenizer: its size is rounded up to a multiple of 8.
        seed: of the new rows, which are drawn around the mean of the old ones. The global random
            state is left as it was.
    """
    if tokenizer.get_vocab_size() > model.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model.resize_token_embeddings(_padded_size(tokenizer))
    return model


def _padded_size(tokenizer: Tokenizer) -> int:
    return int(-(-tokenizer.get_vocab_size() // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE)


def wrap_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Give a tokenizer the form that transformers works with, T5's special tokens named."""
    known = tokenizer.get_vocab()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        extra_special_tokens=[text for text in SENTINELS if text in known],
    )


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Count a model's trainable parameters, and all of them."""
    sizes = [(parameter.requires_grad, parameter.numel()) for parameter in model.parameters()]
    return sum(size for trains, size in sizes if trains), sum(size for _, size in sizes)
