"""A language model by name, or a small one built from a config."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import is_gguf_available, logging

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.storage import read_json
from recinject.registry import pick
from recinject.samples.tokenizer import END, PAD, SENTINELS, UNKNOWN, local_copy

_VOCABULARY_MULTIPLE = 8
_FROM_TOKENIZER = {
    *("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
}
# To T5 this stands for whether logits are scaled; its weights are tied whatever it says.
_UNSCALED, _SCALES = "tie_word_embeddings", "scale_decoder_outputs"
_NOT_IN_SIGNATURE = {_UNSCALED}
_TYPE = "model_type"
Start = Literal["small_rows", "library"]
"""How a model that is built from a config starts; see :func:`build_model`."""
# A model is data: what its folder holds of Python is not run, and nobody is asked about it.
_SAFELY = {"local_files_only": True, "trust_remote_code": False}
_CONFIG, _WEIGHTS = "config.json", ["*.json", "*.safetensors"]
_UNREADABLE = (OSError, ValueError, KeyError, ImportError, SafetensorError)
_REFUSALS = (StrictDataclassError, ValueError, TypeError, KeyError, RuntimeError, ArithmeticError)


class StandIn(nn.Module, ABC):
    """A layer that stands in a plain one's place while a model trains."""

    @abstractmethod
    def plain(self) -> nn.Module:
        """Return the layer that computes the same, as it is stored."""


class Initialization(ABC):
    """The weights that a model, or its adapter, starts its training from.

    The first of several processes makes them, once, and stores them with the checkpoints. The
    constructor's keyword arguments are the settings in a recipe.

    Attributes:
        reads_batches: whether :meth:`start` looks at training samples.
    """

    reads_batches: bool = True

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Give a model the form that :meth:`start` gives it, or refuse the model, without the work.

        No weight stays zero, as an optimizer may refuse to train such weights.
        """

    @abstractmethod
    def start(self, model: nn.Module, batches: Sequence[Mapping[str, Tensor]], seed: int) -> None:
        """Change a model in place.

        Args:
            model: loaded or built, with its adapter if it has one.
            batches: arguments of its forward; none where :attr:`reads_batches` is false.
            seed: of whatever is random.
        """

    @abstractmethod
    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what :meth:`start` made of a model."""

    @abstractmethod
    def load(self, model: nn.Module, folder: Path) -> None:
        """Change a model in place as :meth:`start` did, from what :meth:`save` wrote."""


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide transformers' bars in a block: they would cut through those of a training."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@no_progress_bars()
def load_model(name_or_path: str) -> PreTrainedModel:
    """Load an encoder-decoder or a causal model from a folder, a GGUF file or, by name, the hub.

    Weights keep their stored type; those of a GGUF file are unpacked.
    """
    folder, found = _source(name_or_path)
    try:
        config = AutoConfig.from_pretrained(folder, **_SAFELY, **found)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        found = found or {"use_safetensors": True}
        model = kind.from_pretrained(folder, **_SAFELY, **found)
    except _UNREADABLE as error:
        raise RecinjectError(
            f"{name_or_path}: no language model in safetensors or GGUF form ({_first_line(error)})",
            hint="name a model such as google/flan-t5-small or openai-community/gpt2, a folder "
            "that holds one, or a .gguf file of a kind that transformers reads",
        ) from error
    if is_gguf(name_or_path):
        # They are plain numbers now; transformers would not save what it takes for packed.
        model.hf_quantizer = None
        del model.config.quantization_config
    # An adapter must record the name, and not this machine's cache folder.
    model.name_or_path = model.config.name_or_path = name_or_path
    return model


def is_gguf(name_or_path: str) -> bool:
    """Say whether a model's name is that of a GGUF file."""
    return Path(name_or_path).suffix.lower() == ".gguf"


@cache
def read_gguf(path: str) -> tuple[PretrainedConfig, Tokenizer]:
    """Read a GGUF file's config and tokenizer, which takes seconds."""
    folder, found = _source(path)
    try:
        config = AutoConfig.from_pretrained(folder, **_SAFELY, **found)
        return config, AutoTokenizer.from_pretrained(folder, **_SAFELY, **found).backend_tokenizer
    except _UNREADABLE as error:
        raise RecinjectError(
            f"{path}: its config or tokenizer cannot be read ({_first_line(error)})",
            hint="give a .gguf file of a kind that transformers reads",
        ) from error


def stated_config(name: str) -> dict[str, Any]:
    """Return the config of a folder, a hub's name or a GGUF file, without loading the model."""
    if is_gguf(name):
        return dict(read_gguf(name)[0].to_dict())
    file = (Path(name) if Path(name).is_dir() else local_copy(name, [_CONFIG])) / _CONFIG
    if not file.is_file():
        raise RecinjectError(f"{name}: no {_CONFIG} in it", hint="name a model of transformers")
    return dict(read_json(file))


def _source(name: str) -> tuple[Path, dict[str, Any]]:
    """Return a model's folder, and transformers' argument for a GGUF file in it."""
    path = Path(name)
    if not is_gguf(name):
        return (path if path.is_dir() else local_copy(name, _WEIGHTS)), {}
    if not path.is_file():
        raise RecinjectError(f"{name}: no such file", hint="give the path of a .gguf file")
    if not is_gguf_available():
        raise RecinjectError(
            f"{name}: the package gguf, which reads such files, is missing or too old",
            hint="pip install -U gguf",
        )
    return path.parent, {"gguf_file": path.name}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def build_model(
    config: Mapping[str, Any], tokenizer: Tokenizer, seed: int, start: Start = "small_rows"
) -> PreTrainedModel:
    """Build a model with random weights that the seed alone decides.

    Args:
        config: ``model_type`` (T5 where it is not given) and parameters of that type's config of
            transformers, such as ``T5Config`` or ``GPT2Config``, passed on as they are.
        tokenizer: gives the vocabulary; its size is rounded up to a multiple of 8.
        seed: of the weights. The global random state is left as it was.
        start: ``small_rows`` gives T5 and its kin embeddings of the standard deviation
            ``d_model ** -0.5`` and logits that nothing scales, from which AdamW learns;
            ``library`` leaves them as transformers starts them: a standard deviation of 1, and
            logits divided by the root of the width. Models of other kinds start alike by both.

    Raises:
        RecinjectError: a parameter is unknown, taken from the tokenizer, or refused by the model.
    """
    kind, settings = _config_type(config), {k: v for k, v in config.items() if k != _TYPE}
    legal = (set(inspect.signature(kind).parameters) | _NOT_IN_SIGNATURE) - _FROM_TOKENIZER
    for key in settings:
        if key not in legal:
            raise RecinjectError(
                f"model.config: {kind.__name__} takes no {key!r} here",
                hint=did_you_mean(key, legal),
            )
    pad, end = tokenizer.token_to_id(PAD), tokenizer.token_to_id(END)
    settings |= {"vocab_size": _padded_size(tokenizer), "pad_token_id": pad, "eos_token_id": end}
    try:
        causal = is_causal(config)
        settings |= {"bos_token_id": end} if causal else {"decoder_start_token_id": pad}
        model = AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made = kind(**settings)
            is_small = start == "small_rows" and _UNSCALED not in settings
            if is_small and hasattr(made, _SCALES):
                made = kind(**settings, **{_UNSCALED: False})
            built = model.from_config(made)
            if is_small and hasattr(made, _SCALES):
                with torch.no_grad():
                    built.get_input_embeddings().weight.mul_(made.d_model**-0.5)
            return built
    except _REFUSALS as error:
        raise RecinjectError(
            f"model.config: {kind.__name__.removesuffix('Config')} refuses it ({error})",
            hint=f"see transformers.{kind.__name__} for what each parameter may be",
        ) from error


def is_causal(config: Mapping[str, Any]) -> bool:
    """Say whether a model built from a config is causal, and no encoder-decoder."""
    return not _config_type(config)().is_encoder_decoder


def _config_type(config: Mapping[str, Any]) -> type[PretrainedConfig]:
    kind = config.get(_TYPE, "t5")
    if kind not in CONFIG_MAPPING:
        raise RecinjectError(
            f"model.config: transformers knows no model_type {kind!r}",
            hint=did_you_mean(str(kind), ["t5", "gpt2", "llama", *CONFIG_MAPPING]),
        )
    found: type[PretrainedConfig] = CONFIG_MAPPING[kind]
    return found


def embed_all_tokens(model: PreTrainedModel, tokenizer: Tokenizer, seed: int) -> PreTrainedModel:
    """Add embeddings to a model, in place, for a tokenizer's new tokens; return the model.

    Its size is rounded up to a multiple of 8. The seed draws new rows around the mean of the old.
    """
    if tokenizer.get_vocab_size() > model.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model.resize_token_embeddings(_padded_size(tokenizer))
    return model


def _padded_size(tokenizer: Tokenizer) -> int:
    return int(-(-tokenizer.get_vocab_size() // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE)


def wrap_tokenizer(
    tokenizer: Tokenizer, config: PretrainedConfig | None = None
) -> PreTrainedTokenizerFast:
    """Wrap a tokenizer for transformers, its special tokens named, none added.

    A config names those of a tokenizer without T5's; its end token is the padding, if it has none.
    """
    known = tokenizer.get_vocab()
    named = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    special = {role: text for role, text in named.items() if text in known}
    if config is not None and not {PAD, END} <= known.keys():
        ids = {"bos_token": config.bos_token_id, "eos_token": config.eos_token_id}
        ids["pad_token"] = ids["eos_token"] if config.pad_token_id is None else config.pad_token_id
        texts = {role: tokenizer.id_to_token(i) for role, i in ids.items() if isinstance(i, int)}
        special |= {role: text for role, text in texts.items() if text is not None}
    extra = [text for text in SENTINELS if text in known]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens=extra, **special
    )


def check_generation(settings: Mapping[str, Any]) -> None:
    """Refuse parameters that ``transformers.GenerationConfig`` does not take."""
    legal = GenerationConfig().to_dict().keys() - {"transformers_version"}
    for key in settings:
        pick(key, legal, "generation: GenerationConfig takes no")
    try:
        GenerationConfig(**settings).validate(strict=True)
    except (ValueError, TypeError) as error:
        raise RecinjectError(
            f"generation: transformers refuses it ({_first_line(error)})",
            hint="see transformers.GenerationConfig for what each parameter may be",
        ) from error


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Count a model's trainable parameters, and all of them."""
    sizes = [(parameter.requires_grad, parameter.numel()) for parameter in model.parameters()]
    return sum(size for trains, size in sizes if trains), sum(size for _, size in sizes)
