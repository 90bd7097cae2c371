"""A recipe's training settings: those of transformers, over a few defaults of ours."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from transformers import Seq2SeqTrainingArguments

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.settings import MOST

_OF_THE_RUN = {"output_dir", "seed", "resume_from_checkpoint", "do_train", "do_eval", "do_predict"}
_OF_THE_RECIPE = {
    *("mixture", "temperature", "cap", "curriculum"),
    *("validation_samples", "optimizer", "optimizer_settings", "distil"),
}
_ANY_TYPE = ConfigDict(arbitrary_types_allowed=True)
_COUNTS = {
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
}
_RATES = ("learning_rate", "weight_decay", "max_grad_norm", "adam_epsilon", "warmup_steps")
_DEFAULTS: dict[str, Any] = {
    "logging_steps": 0.01,
    # The loss before anything is learnt: what a divergence is told by.
    "logging_first_step": True,
    "save_strategy": "steps",
    "save_total_limit": 2,
    "report_to": "none",
    "disable_tqdm": True,
    # The Trainer's filter would write a diverged loss as the mean of the losses before it.
    "logging_nan_inf_filter": False,
    # The collator chooses the columns; the sampler needs one that the model does not read.
    "remove_unused_columns": False,
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "length",
    "dataloader_num_workers": 0,
    # Every parameter of an encoder-decoder is used in every step.
    "ddp_find_unused_parameters": False,
}


def check_training_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that could not train, before anything is written."""
    training_arguments(settings, Path(tempfile.gettempdir()), 0)


def training_arguments(
    settings: Mapping[str, Any], folder: Path, seed: int, *, validates: bool = False
) -> Seq2SeqTrainingArguments:
    """Turn a recipe's training settings, which win over our defaults, into the Trainer's arguments.

    Settings are fields of ``transformers.Seq2SeqTrainingArguments``; what is unknown, wrong, or
    leads to a broken training is refused. ``validates`` says that a validation loss is measured:
    beside each checkpoint, unless the settings part them, so that the best one can be kept.
    """
    settings = _bind(settings)
    for key in ("fp16", "fp16_full_eval"):
        if settings.get(key):
            raise RecinjectError(
                f"training.{key}: T5's activations overflow 16-bit floats, the loss becomes NaN",
                hint="use bf16: true where the device has it, else leave both out",
            )
    limit = settings.get("save_total_limit")
    if limit is not None and limit < 2:
        raise RecinjectError(
            f"training.save_total_limit: {limit} checkpoint could be cut off while it is written",
            hint="keep 2 or more, so that a whole one is always left to resume from",
        )
    cuda = torch.cuda.is_available() and not settings.get("use_cpu")
    ours = {
        "bf16": cuda and torch.cuda.is_bf16_supported(),
        "dataloader_pin_memory": cuda,
        "eval_strategy": _measures(settings) if validates else "no",
        "save_steps": settings.get("eval_steps", 0.1),
        "eval_steps": settings.get("save_steps", 0.1),
    }
    values = {**_DEFAULTS, **ours, **settings}
    same = ("eval_strategy", "save_strategy"), ("eval_steps", "save_steps")
    keeps = {"load_best_model_at_end": validates and all(values[a] == values[b] for a, b in same)}
    return _make({**keeps, **values, "output_dir": str(folder), "seed": seed})


def _measures(settings: Mapping[str, Any]) -> str:
    return "epoch" if settings.get("save_strategy") == "epoch" else "steps"


def _bind(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check each setting's type, which transformers would only do in the middle of a training."""
    legal = {field.name for field in fields(Seq2SeqTrainingArguments) if field.init} - _OF_THE_RUN
    kinds = get_type_hints(Seq2SeqTrainingArguments)
    kinds |= dict.fromkeys(_COUNTS, Annotated[int, Field(ge=1, le=MOST)])
    kinds |= dict.fromkeys(_RATES, Annotated[float, Field(ge=0, allow_inf_nan=False)])
    bound = {}
    for key, value in settings.items():
        if key not in legal:
            what = "is set by the run itself" if key in _OF_THE_RUN else "is no training argument"
            hint = did_you_mean(key, legal | _OF_THE_RECIPE)
            raise RecinjectError(f"training: {key!r} {what}", hint=hint)
        try:
            adapter = TypeAdapter[Any](kinds[key], config=_ANY_TYPE)
            bound[key] = adapter.validate_python(value)
        except ValidationError as error:
            raise RecinjectError(
                f"training.{key}: {error.errors()[0]['msg']}",
                hint=f"it is {value!r} now; change or remove it",
            ) from error
    return bound


def count_in_steps(
    arguments: Seq2SeqTrainingArguments, samples: int, in_one_epoch: bool = False
) -> None:
    """Turn intervals that are fractions of a run into steps, in place.

    The Trainer would warn on each resumption that 0.1 is not 300. An epoch has so many samples;
    ``in_one_epoch`` makes the run's epochs one, as long as all of them.
    """
    steps_an_epoch = math.ceil(samples / samples_a_step(arguments))  # as the Trainer counts them
    epochs, most = arguments.num_train_epochs, arguments.max_steps
    total = most if most > 0 else math.ceil(epochs * steps_an_epoch)
    if in_one_epoch:
        arguments.max_steps = total
    arguments.logging_steps, arguments.save_steps, arguments.eval_steps = (
        interval if interval >= 1 else max(1, math.ceil(interval * total))
        for interval in (arguments.logging_steps, arguments.save_steps, arguments.eval_steps or 1)
    )


def samples_a_step(arguments: Seq2SeqTrainingArguments) -> int:
    """Return the number of samples that one optimizer step reads, over all devices."""
    accumulated = arguments.train_batch_size * arguments.gradient_accumulation_steps
    return int(accumulated * arguments.world_size)


def describe_device(arguments: Seq2SeqTrainingArguments, given: Mapping[str, Any]) -> str:
    """Say what a training computes on and in which precision, and why, from what was ``given``."""
    device = arguments.device
    if device.type == "cuda":
        place = f"{torch.cuda.get_device_name(device)}, since torch sees it"
    elif given.get("use_cpu"):
        place = "CPU, since training.use_cpu is set"
    else:
        place = f"{device.type.upper()}, since torch sees no CUDA device"
    precision = "bf16" if arguments.bf16 else "float32"
    if "bf16" in given:
        why = ", as the recipe asks"
    elif device.type == "cuda":
        why = f", since the device {'has' if arguments.bf16 else 'lacks'} bf16"
    else:
        why = ", the choice wherever there is no CUDA device"
    return f"device: {place}; precision: {precision}{why}"


def _make(values: Mapping[str, Any]) -> Seq2SeqTrainingArguments:
    try:
        arguments = Seq2SeqTrainingArguments(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise RecinjectError(
            f"training: transformers refuses the settings ({error})",
            hint="see transformers.Seq2SeqTrainingArguments for what each may be",
        ) from error
    if arguments.n_gpu > 1:
        raise RecinjectError(
            f"training: one process sees {arguments.n_gpu} GPUs",
            hint="start it with accelerate launch, or show it one with CUDA_VISIBLE_DEVICES=0",
        )
    return arguments
