"""The model as training finds it: loaded or built, initialized, adapted, with its head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from transformers import PretrainedConfig, PreTrainedModel

from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import derive_rng
from recinject.foundation.settings import bind
from recinject.foundation.storage import atomic_folder
from recinject.models.adapters import Model, RatingModel, without_wrapper
from recinject.models.building import (
    Initialization,
    build_model,
    embed_all_tokens,
    load_model,
    wrap_tokenizer,
)
from recinject.models.starts import TokenStart, token_start
from recinject.pipeline.prepare import dialect_of, given_tokenizer
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import first_process_first
from recinject.registry import find
from recinject.samples.encoding import Dialect
from recinject.samples.samples import Samples
from recinject.training.batches import make_collator
from recinject.training.networks import Tensors

_ADAPTER, _MODEL, _ROWS_OF_ITEMS = "initial", "initial_model", "initial_rows"
_SAMPLES, _ROWS = 256, 16


def base_model(recipe: Recipe, tokenizer: Tokenizer) -> PreTrainedModel:
    """Load the named model, or build the small one that the config describes.

    Either has an embedding for every token of the tokenizer.
    """
    if recipe.model.name is not None:
        model = embed_all_tokens(load_model(recipe.model.name), tokenizer, recipe.seed)
    else:
        start = recipe.model.start
        model = build_model(recipe.model.config or {}, tokenizer, recipe.seed, start)
    if not model.config.is_encoder_decoder:
        _check_causal(recipe, tokenizer, model.config)
    return model


def _check_causal(recipe: Recipe, tokenizer: Tokenizer, config: PretrainedConfig) -> None:
    # Samples are built without loading the model, from what its config.json spells out.
    stated = Dialect.of_model(tokenizer, **dialect_of(recipe.model.name, recipe.model.config))
    if stated.end != Dialect.of_model(tokenizer, True, config.eos_token_id).end:
        raise RecinjectError(
            f"{recipe.model.name}: its config.json leaves out the end token",
            hint=f'add "eos_token_id": {config.eos_token_id} to it, in a local copy',
        )
    samples = recipe.samples
    most = samples.max_prompt_tokens + samples.max_completion_tokens
    # Which of these a config has depends on its model; None stands for no limit.
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and most > longest:
        fact = f"a prompt and its completion may take {most} tokens, and the model reads {longest}"
        raise RecinjectError(f"samples: {fact}", hint="lower samples.max_prompt_tokens")


def adapt(
    recipe: Recipe, model: PreTrainedModel, tasks: Sequence[str], new_tokens: Sequence[int] = ()
) -> Model:
    """Add what is trained in a model's place, if anything is."""
    given = {"experts": recipe.experts, "lora": recipe.lora and recipe.lora.arguments}
    for name, settings in given.items():
        if settings is not None:
            return find("adapter", name)(model, settings, tasks, recipe.seed, new_tokens)
    return model


def check_adapted(recipe: Recipe, model: PreTrainedModel) -> Model:
    """Return a model of the form that training would find, without the work."""
    if recipe.identifiers.start is not None:
        token_start(recipe.identifiers.start).check(model)
    if start := _model_start(recipe):
        start.check(model)
    adapted = adapt(recipe, model, [task.name for task in recipe.tasks()])
    if start := _adapter_start(recipe):
        start.check(adapted)
    if recipe.model.head == "text":
        return adapted
    return RatingModel(adapted, recipe.model.head, [1, 2], [1, 1])  # whatever ratings there are


def _model_start(recipe: Recipe) -> Initialization | None:
    settings = recipe.model.low_rank
    return None if settings is None else _start("low_rank", settings, "model.low_rank")


def _token_start(recipe: Recipe, samples: Samples) -> TokenStart | None:
    """Return what new item tokens start from; None where they stay random, or there are none."""
    asked = recipe.identifiers.start
    data = samples.data if asked is None else samples.factory.data
    if data is None or not data.identifiers.is_token:
        if asked is None:
            return None
        raise RecinjectError(
            "identifiers.start: these samples name no item by a token of its own",
            hint='prepare the data with identifiers="token", or leave the start out',
        )
    # What a model was trained on already must not start anew.
    own = given_tokenizer(recipe.model.tokenizer or recipe.model.name)
    known = {} if own is None else own.get_vocab()
    fresh = np.array([text not in known for text in data.identifiers.texts])
    asked = asked or ("words" if recipe.model.name is not None else "random")
    if asked == "random" or not fresh.any():
        return None
    return token_start(asked).read(data, samples.tokenizer, fresh)


def _adapter_start(recipe: Recipe) -> Initialization | None:
    if (lora := recipe.lora) is None or lora.initialization == "default":
        return None
    settings = {"rows": lora.initialization_rows}
    return _start(lora.initialization, settings, "lora.initialization")


def _start(name: str, settings: Mapping[str, Any], place: str) -> Initialization:
    made: Initialization = bind(find("initialization", name, place), settings, place)
    return made


def adapter_folder(recipe: Recipe, checkpoints: Path) -> Path | None:
    """Return where an adapter whose base gives up a part is stored before training."""
    return None if _adapter_start(recipe) is None else checkpoints / _ADAPTER


def make_untrained(
    recipe: Recipe, samples: Samples, mixed: Dataset, tasks: Sequence[str], checkpoints: Path
) -> Model:
    """Return a recipe's model as training finds it, the same to the bit each time.

    An initialization is found once, by the first process, and stored with the checkpoints; it is
    shown some of the ``mixed`` samples.
    """
    tokenizer = samples.tokenizer
    model, known = base_model(recipe, tokenizer), tokenizer.get_vocab()
    show = partial(sample_batches, tokenizer=tokenizer, samples=mixed, seed=recipe.seed)
    if rows := _token_start(recipe, samples):
        _begin(rows, model, show, recipe.seed, checkpoints / _ROWS_OF_ITEMS)
    if start := _model_start(recipe):
        _begin(start, model, show, recipe.seed, checkpoints / _MODEL)
    # A task that is asked, though no phase trains on it, has a place in the gate too.
    asked = dict.fromkeys([*tasks, *(task.name for task in recipe.tasks())])
    adapted = adapt(recipe, model, list(asked), [known[token] for token in samples.new_tokens])
    if start := _adapter_start(recipe):
        _begin(start, adapted, show, recipe.seed, checkpoints / _ADAPTER)
    if recipe.model.head == "text":
        return adapted
    return RatingModel(adapted, recipe.model.head, *np.unique(mixed["rating"], return_counts=True))


def _begin(
    start: Initialization,
    model: torch.nn.Module,
    show: Callable[[torch.nn.Module], list[Tensors]],
    seed: int,
    folder: Path,
) -> None:
    """Find a start in the first process, or read what it stored."""
    with first_process_first() as is_first:
        if is_first and not folder.exists():
            with atomic_folder(folder) as temporary:
                batches = show(model) if start.reads_batches else []
                for batch in batches:
                    batch.pop("task", None)  # no input of a model
                start.start(model, batches, seed)
                start.save(model, temporary)
            return
    start.load(model, folder)


def sample_batches(
    model: torch.nn.Module, tokenizer: Tokenizer, samples: Dataset, seed: int
) -> list[Tensors]:
    """Collate some of the training samples, drawn by the seed."""
    rows = derive_rng(seed, "sample batches").permutation(len(samples))[:_SAMPLES]
    chosen = samples.select(rows).to_list()
    collate = make_collator(model, wrap_tokenizer(tokenizer, without_wrapper(model).config))
    return [collate(chosen[start : start + _ROWS]) for start in range(0, len(chosen), _ROWS)]
