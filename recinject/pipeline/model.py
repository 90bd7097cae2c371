"""The model as training finds it: low-rank where asked, with LoRA or experts, or as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, load_peft_weights
from tokenizers import Tokenizer
from transformers import PretrainedConfig, PreTrainedModel

from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import derive_rng
from recinject.foundation.storage import atomic_folder
from recinject.methods.low_rank.layers import (
    capture_inputs,
    choose_ranks,
    find_layers,
    load_low_rank,
    make_low_rank,
    save_low_rank,
    shape_low_rank,
)
from recinject.methods.low_rank.lora import check_start, initialize_lora_lfai_weights
from recinject.models.adapters import Model, without_wrapper
from recinject.models.building import build_model, embed_all_tokens, load_model, wrap_tokenizer
from recinject.models.heads import RatingModel
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import Run, dialect_of, is_first_process
from recinject.pipeline.sections import LoraSection, LowRankSection
from recinject.registry import find
from recinject.samples.encoding import Dialect
from recinject.training.batches import Batch, make_collator

_ADAPTER, _LOW_RANK, _FACTORS = "initial", "low_rank", "factors.safetensors"
_BY_WEIGHT = "spectral"
_SAMPLES, _ROWS = 256, 16
_Shown: TypeAlias = Callable[[torch.nn.Module], list[Batch]]


def base_model(recipe: Recipe, tokenizer: Tokenizer) -> PreTrainedModel:
    """Load the named model, or build the small one that the config describes.

    Either has an embedding for every token of the tokenizer.

    Raises:
        RecinjectError: the model cannot be had, is not what its config says, or cannot read
            samples as long as the recipe allows.
    """
    if recipe.model.name is not None:
        model = embed_all_tokens(load_model(recipe.model.name), tokenizer, recipe.seed)
    else:
        model = build_model(recipe.model.config or {}, tokenizer, recipe.seed)
    if not model.config.is_encoder_decoder:
        _check_causal(recipe, tokenizer, model.config)
    return model


def _check_causal(recipe: Recipe, tokenizer: Tokenizer, config: PretrainedConfig) -> None:
    # Samples are built without loading the model, from what its config.json spells out.
    stated = Dialect.of_model(tokenizer, **dialect_of(recipe))
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
        raise RecinjectError(
            f"samples: a prompt and its completion may take {most} tokens, and the model reads "
            f"{longest}",
            hint="lower samples.max_prompt_tokens",
        )


def adapt(
    recipe: Recipe, model: PreTrainedModel, tasks: Sequence[str], new_tokens: Sequence[int] = ()
) -> Model:
    """Add what is trained in a model's place, if anything is.

    Raises:
        RecinjectError: a setting is unknown, out of its range, or not for this model.
    """
    given = {"experts": recipe.experts, "lora": recipe.lora and recipe.lora.arguments}
    for name, settings in given.items():
        if settings is not None:
            adapt_to = find("adapter", name)
            return adapt_to(model, settings, tasks, recipe.seed, new_tokens)
    return model


def check_adapted(recipe: Recipe, model: PreTrainedModel) -> Model:
    """Return a model of the form that training would find, without the work.

    Raises:
        RecinjectError: as training would.
    """
    if low := recipe.model.low_rank:
        ranks = choose_ranks(model, low.targets, low.rank, low.energy, low.method)
        shape_low_rank(model, ranks)
    adapted = adapt(recipe, model, [task.name for task in recipe.tasks()])
    if recipe.lora is not None and recipe.lora.initialisation != "default":
        check_start(adapted, recipe.lora.initialisation)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:  # zeros, until training finds their start
                torch.nn.init.ones_(weight)
    if recipe.model.head == "text":
        return adapted
    return RatingModel(adapted, recipe.model.head, [1, 2], [1, 1])  # whatever ratings there are


def adapter_folder(recipe: Recipe, checkpoints: Path) -> Path | None:
    """Return where an adapter that starts from its layers' function is stored before training."""
    default = recipe.lora is None or recipe.lora.initialisation == "default"
    return None if default else checkpoints / _ADAPTER


def make_untrained(run: Run, samples: Dataset, tasks: Sequence[str], checkpoints: Path) -> Model:
    """Return a recipe's model as training finds it, the same to the bit each time.

    What is found by descent is found once, by the first process, and stored with the checkpoints.

    Args:
        run: its samples are built.
        samples: the training samples; some show what layers read.
        tasks: the numbers of the samples' tasks stand for these.
        checkpoints: their folder.
    """
    recipe, tokenizer = run.recipe, run.factory.tokenizer
    model, known = base_model(recipe, tokenizer), tokenizer.get_vocab()
    low, lora, made = recipe.model.low_rank, recipe.lora, checkpoints / _LOW_RANK
    shown = partial(_shown, tokenizer=tokenizer, samples=samples, seed=recipe.seed)
    if low and not _made_now(made, partial(_make_low_rank, model, low, shown, recipe.seed)):
        load_low_rank(model, made / _FACTORS)
    # A task that is asked, though no phase trains on it, has a place in the gate too.
    asked = dict.fromkeys([*tasks, *(task.name for task in recipe.tasks())])
    adapted = adapt(recipe, model, list(asked), [known[token] for token in run.factory.new_tokens])
    start = adapter_folder(recipe, checkpoints)
    begin = partial(_start_lora, adapted, lora, shown, recipe.seed) if lora else None
    if start and begin and not _made_now(start, begin):
        stored = load_peft_weights(str(start), device="cpu")
        initialize_lora_lfai_weights(adapted, lfai_state_dict=stored)
    if recipe.model.head == "text":
        return adapted
    return RatingModel(
        adapted, recipe.model.head, *np.unique(samples["rating"], return_counts=True)
    )


def sample_batches(
    model: torch.nn.Module, tokenizer: Tokenizer, samples: Dataset, seed: int
) -> list[Batch]:
    """Collate some of the training samples, drawn by the seed."""
    rows = derive_rng(seed, "sample batches").permutation(len(samples))[:_SAMPLES]
    chosen = samples.select(rows).to_list()
    collate = make_collator(model, wrap_tokenizer(tokenizer, without_wrapper(model).config))
    return [collate(chosen[start : start + _ROWS]) for start in range(0, len(chosen), _ROWS)]


def _made_now(folder: Path, make: Callable[[Path], Any]) -> bool:
    if is_first_process() and not folder.exists():
        with atomic_folder(folder) as temporary:
            make(temporary)
        return True
    while not folder.exists():
        time.sleep(0.2)
    return False


def _shown(
    model: torch.nn.Module, tokenizer: Tokenizer, samples: Dataset, seed: int
) -> list[Batch]:
    batches = sample_batches(model, tokenizer, samples, seed)
    return [{n: column for n, column in batch.items() if n != "task"} for batch in batches]


def _make_low_rank(
    model: PreTrainedModel, low: LowRankSection, shown: _Shown, seed: int, folder: Path
) -> None:
    inputs = {}
    if low.method != _BY_WEIGHT:
        inputs = capture_inputs(model, shown(model), find_layers(model, low.targets), seed=seed)
    make_low_rank(
        model,
        low.targets,
        rank=low.rank,
        energy=low.energy,
        method=low.method,
        inputs=inputs,
        seed=seed,
    )
    save_low_rank(model, folder / _FACTORS)


def _start_lora(
    model: PeftModel, lora: LoraSection, shown: _Shown, seed: int, folder: Path
) -> None:
    batches = () if lora.initialisation == _BY_WEIGHT else shown(model)
    method, rows = lora.initialisation, lora.initialisation_rows
    initialize_lora_lfai_weights(model, batches, method=method, rows=rows, seed=seed)
    model.save_pretrained(folder)
