"""What is put around a language model and stands in for it, and LoRA."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from recinject.foundation.errors import RecinjectError, did_you_mean


class Wrapper(nn.Module):
    """A module around a language model; what it has no attribute for, it asks that model for."""

    backbone: PreTrainedModel | PeftModel

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "backbone":
                raise
            return getattr(self.backbone, name)

    @property
    def _keys_to_ignore_on_save(self) -> list[str]:
        # Checkpoints hold what trains: the Trainer warns of anything else that it misses.
        return [name for name in self.state_dict() if name not in self.trained_weights()]

    def trained_weights(self) -> dict[str, Tensor]:
        """Return the weights that train, each once whatever names it has."""
        found = self.named_parameters()
        return {name: weight.detach() for name, weight in found if weight.requires_grad}


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
