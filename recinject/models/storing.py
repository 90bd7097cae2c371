"""A trained model as a folder that plain transformers can load."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel

from recinject.foundation.errors import RecinjectError
from recinject.models.adapters import (
    HEAD_FILE,
    Model,
    RatingModel,
    adaptation_of,
    load_adapted,
    load_head,
)
from recinject.models.building import StandIn, load_model, no_progress_bars, wrap_tokenizer
from recinject.registry import names
from recinject.samples.tokenizer import load_tokenizer

ADAPTER_FOLDER, TASK_ADAPTERS_FOLDER = "adapter", "adapters"
_WEIGHTS, _MATRICES = "adapter_model.safetensors", ("lora_A", "lora_B")


@contextmanager
def explain_failed_writing(folder: Path) -> Iterator[None]:
    """Explain any library's error about a full disk or a barred folder.

    The block must only write, as torch raises a plain ``RuntimeError``.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecinjectError(
            f"{folder}: cannot be written ({error})".split("\n")[0],
            hint="free or choose another place with runs=FOLDER; the same command goes on from "
            "the last good checkpoint",
        ) from error


def save_trained(
    model: Model, tokenizer: Tokenizer, folder: Path, initial: Path | None = None
) -> None:
    """Write a trained model, its head for ratings if it has one, and its tokenizer.

    LoRA and layers that stand in for others are merged, so that plain transformers loads the
    folder. Where LoRA's base has a name that others can fetch, ``adapter/`` has the adapter alone.
    Another adapter's own files, such as those of experts, lie beside the plain model, and what it
    has for each task in ``adapters/``. The model is not changed; for ``initial`` see
    :func:`save_converted`.
    """
    language_model = model.backbone if isinstance(model, RatingModel) else model
    plain = _plain(language_model)
    with explain_failed_writing(folder), no_progress_bars():
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(model, RatingModel):
            model.save_head(folder)
        _save_adapters(language_model, folder, initial)
        plain.save_pretrained(folder)
        wrap_tokenizer(tokenizer, plain.config).save_pretrained(folder)


def _plain(model: nn.Module) -> PreTrainedModel:
    """Return a plain model; a copy where LoRA or stand-ins must be merged."""
    if not _stand_ins(model) and not isinstance(model, PeftModel):
        return model
    merged = copy.deepcopy(model)
    for name, layer in _stand_ins(merged).items():
        merged.set_submodule(name, layer.plain())
    return merged.merge_and_unload() if isinstance(merged, PeftModel) else merged


def _stand_ins(model: nn.Module) -> dict[str, StandIn]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, StandIn)}


def _save_adapters(model: Model, folder: Path, initial: Path | None) -> None:
    adaptation_of(model).save_task_adapters(folder / TASK_ADAPTERS_FOLDER)
    if not isinstance(model, PeftModel) or _stand_ins(model):
        return
    if model.peft_config[model.active_adapter].base_model_name_or_path:
        if initial is None:
            model.save_pretrained(folder / ADAPTER_FOLDER)
        else:
            save_converted(model, initial, folder / ADAPTER_FOLDER)


def save_converted(model: PeftModel, initial: Path, folder: Path) -> None:
    """Write a trained adapter, at twice its rank, for plain peft and the original base.

    ``initial`` is the adapter before training, which was subtracted from the base; peft takes its
    folder's name for an adapter's, so it has no dot.
    """
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(initial))
    # peft converts the matrices and drops what else trained, such as the rows of new tokens.
    kept = get_peft_model_state_dict(model).items()
    others = {n: t.contiguous() for n, t in kept if not any(part in n for part in _MATRICES)}
    if others:
        converted = load_file(folder / _WEIGHTS)
        save_file({**others, **converted}, folder / _WEIGHTS, metadata={"format": "pt"})


def load_trained(folder: Path) -> tuple[Model, Tokenizer]:
    """Read what :func:`save_trained` wrote, the model in evaluation mode."""
    model = load_model(str(folder))
    for name in names("adapter"):
        if (folder / f"{name}.json").is_file():
            model = load_adapted(name, model, folder)
    if (folder / HEAD_FILE).is_file():
        model = load_head(model, folder)
    return model.eval(), load_tokenizer(folder)
