"""A trained model as a folder that plain transformers can load."""

from __future__ import annotations

import copy
from pathlib import Path

from peft import PeftModel
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from recinject.models.building import load_model, wrap_tokenizer
from recinject.samples.tokenizer import load_tokenizer

ADAPTER_FOLDER = "adapter"


def save_trained(model: PreTrainedModel | PeftModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a trained model and its tokenizer.

    A LoRA model is written merged, so that every folder loads in the same way, wherever it is
    moved to. Where the base has a name that others can fetch, the adapter alone lies beside it
    in ``adapter/``; an adapter over random weights would be of no use to anybody.
    """
    if isinstance(model, PeftModel):
        if model.peft_config[model.active_adapter].base_model_name_or_path:
            model.save_pretrained(folder / ADAPTER_FOLDER)
        model = copy.deepcopy(model).merge_and_unload()
    model.save_pretrained(folder)
    wrap_tokenizer(tokenizer).save_pretrained(folder)


def load_trained(folder: Path) -> tuple[PreTrainedModel, Tokenizer]:
    """Read what :func:`save_trained` wrote, the model in evaluation mode.

    Raises:
        RecinjectError: the folder holds no such model.
    """
    return load_model(str(folder)).eval(), load_tokenizer(folder)
