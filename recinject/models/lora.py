"""LoRA: a few small matrices are trained in place of the model (Hu et al. 2022)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.models.wrapper import Wrapper

_OURS = {"task_type", "peft_type", "inference_mode", "base_model_name_or_path"}


def add_lora(
    model: PreTrainedModel,
    settings: Mapping[str, Any],
    seed: int = 0,
    new_tokens: Sequence[int] = (),
) -> PeftModel:
    """Freeze a model and add the LoRA matrices that are trained in its place.

    Args:
        model: an encoder-decoder or a causal model; it is changed in place.
        settings: parameters of ``peft.LoraConfig``, passed on as they are.
        seed: of the matrices' first values. The global random state is left as it was.
        new_tokens: that the model has never read: their embeddings, and no others, are trained
            too, as they are nothing but chance yet.

    Raises:
        RecinjectError: a parameter is unknown, or refused by peft for this model.
    """
    legal = set(inspect.signature(LoraConfig).parameters) - _OURS
    for key in settings:
        if key not in legal:
            raise RecinjectError(
                f"lora: LoraConfig takes no {key!r} here", hint=did_you_mean(key, legal)
            )
    rows = {"trainable_token_indices": list(new_tokens)} if new_tokens else {}
    kind = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = LoraConfig(task_type=kind, **{**rows, **settings})
            return get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise RecinjectError(
            f"lora: peft refuses it ({error})",
            hint="see peft.LoraConfig; T5's projections are named q, k, v, o, wi_0, wi_1 and wo, "
            "those of Llama and its kin q_proj, k_proj, v_proj and o_proj",
        ) from error


def without_wrapper(model: torch.nn.Module) -> PreTrainedModel:
    """Return the language model under a head, inside LoRA's wrapper or that of experts, at work."""
    backbone = model.backbone if isinstance(model, Wrapper) else model
    return backbone.get_base_model() if isinstance(backbone, PeftModel) else backbone
