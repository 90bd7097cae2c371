"""A trained model as a folder that plain transformers can load."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError
from tokenizers import Tokenizer

from recinject.foundation.errors import RecinjectError
from recinject.methods.low_rank.layers import low_rank_layers, merge_low_rank
from recinject.methods.low_rank.lora import save_converted
from recinject.models.adapters import Model, adaptation_of, load_adapted
from recinject.models.building import load_model, wrap_tokenizer
from recinject.models.heads import HEAD_FILE, RatingModel, load_head
from recinject.registry import names
from recinject.samples.tokenizer import load_tokenizer

ADAPTER_FOLDER, TASK_ADAPTERS_FOLDER = "adapter", "adapters"
_OF_TORCH_WRITING = ("PytorchStreamWriter", "unexpected pos", "Parent directory", "open file")


@contextmanager
def explain_failed_writing(folder: Path) -> Iterator[None]:
    """Tell a full disk or a folder that cannot be written, which each library words its own way.

    Raises:
        RecinjectError: the block failed to write.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(
            words in str(error) for words in _OF_TORCH_WRITING
        ):
            raise
        raise RecinjectError(
            f"{folder}: cannot be written ({error})".split("\n")[0],
            hint="free or choose another place with runs=FOLDER; the same command goes on from "
            "the last good checkpoint",
        ) from error


def save_trained(
    model: Model,
    tokenizer: Tokenizer,
    folder: Path,
    initial: Path | None = None,
) -> None:
    """Write a trained model and its tokenizer; a head for ratings lies beside the model.

    LoRA and low-rank layers are written merged, so that every folder loads in the same way,
    wherever it is moved to. Where LoRA's base has a name that others can fetch, the adapter alone
    lies beside it in ``adapter/``; an adapter over random weights would be of no use to anybody,
    and over low-rank layers it fits no base. Another adapter's own files, such as those of
    experts, lie beside the plain model, and what it has for each task in ``adapters/``.

    Args:
        model: it is left as it is.
        tokenizer: that it was trained with.
        folder: where it goes.
        initial: where an adapter was stored that started from its layers' function; see
            :func:`~recinject.methods.low_rank.lora.save_converted`.

    Raises:
        RecinjectError: the folder cannot be written.
    """
    with explain_failed_writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(model, RatingModel):
            model.save_head(folder)
            model = model.backbone
        _save_adapters(model, folder, initial)
        if low_rank_layers(model) or isinstance(model, PeftModel):
            model = copy.deepcopy(model)
            merge_low_rank(model)
        if isinstance(model, PeftModel):
            model = model.merge_and_unload()
        model.save_pretrained(folder)
        wrap_tokenizer(tokenizer, model.config).save_pretrained(folder)


def _save_adapters(model: Model, folder: Path, initial: Path | None) -> None:
    adaptation_of(model).save_task_adapters(folder / TASK_ADAPTERS_FOLDER)
    if not isinstance(model, PeftModel) or low_rank_layers(model):
        return
    if model.peft_config[model.active_adapter].base_model_name_or_path:
        if initial is None:
            model.save_pretrained(folder / ADAPTER_FOLDER)
        else:
            save_converted(model, initial, folder / ADAPTER_FOLDER)


def load_trained(folder: Path) -> tuple[Model, Tokenizer]:
    """Read what :func:`save_trained` wrote, the model in evaluation mode.

    Raises:
        RecinjectError: the folder holds no such model.
    """
    model = load_model(str(folder))
    for name in names("adapter"):
        if (folder / f"{name}.json").is_file():
            model = load_adapted(name, model, folder)
    if (folder / HEAD_FILE).is_file():
        model = load_head(model, folder)
    return model.eval(), load_tokenizer(folder)
