"""Wrappers of a language model that forward unknown attributes to it; LoRA."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from recinject.foundation.errors import RecinjectError
from recinject.registry import find, pick, register


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
        # Checkpoints hold what trains; the Trainer would warn that the rest is missing.
        return [name for name in self.state_dict() if name not in self.trained_weights()]

    def trained_weights(self) -> dict[str, Tensor]:
        """Return the weights that train, each once whatever names it has."""
        found = self.named_parameters()
        return {name: weight.detach() for name, weight in found if weight.requires_grad}


Model: TypeAlias = PreTrainedModel | PeftModel | Wrapper


class Adaptation:
    """Hooks of an adapted model into its training, answers and folder: here, without effect.

    A model of a registered adapter that needs them inherits from this and from :class:`Wrapper`.

    Attributes:
        needs_whole_weights: why processes cannot shard its weights, and a remedy; else both empty.
    """

    needs_whole_weights: tuple[str, str] = ("", "")

    def answering(self, task: str | Tensor | None) -> AbstractContextManager[None]:
        """Tell the model, while a block runs, its rows' task: one name, or indices, (rows,)."""
        return nullcontext()

    def extra_loss(self, step: int) -> Tensor | None:
        """Return what joins the last rows' loss, shape () or (rows,)."""
        return None

    def group_parameters(self, optimizer: Optimizer) -> None:
        """Move parameters of a new optimizer into groups with settings of their own."""

    def log_entries(self) -> dict[str, float]:
        """Return what the log says of the steps since the last call."""
        return {}

    def facts(
        self, tasks: Sequence[str], show: Callable[[], Iterable[Mapping[str, Tensor]]]
    ) -> dict[str, Any]:
        """Return facts for a training's manifest.

        Args:
            tasks: the names of the tasks that were trained on.
            show: makes some batches of training samples, with a column ``task``.
        """
        return {}

    def save_task_adapters(self, folder: Path) -> None:
        """Write a plain adapter of peft for each task, in a folder of the task's name."""


def adaptation_of(model: nn.Module) -> Adaptation:
    """Return the part of a model that has hooks, or one whose hooks do nothing."""
    return next((part for part in model.modules() if isinstance(part, Adaptation)), Adaptation())


def answering(model: nn.Module, task: str | Tensor | None) -> AbstractContextManager[None]:
    """Return :meth:`Adaptation.answering` of a model's part that has hooks."""
    return adaptation_of(model).answering(task)


def load_adapted(name: str, model: PreTrainedModel, folder: Path) -> nn.Module:
    """Adapt a plain model as the one was that left ``NAME.json`` and ``NAME.safetensors``.

    Args:
        name: of the adapter in the registry.
        model: the plain model of the folder; it is changed in place.
        folder: ``NAME.json`` has the adapter's settings, and ``task_names``.
    """
    told = json.loads((folder / f"{name}.json").read_text("utf-8"))
    tasks = told.pop("task_names")
    adapted: nn.Module = find("adapter", name)(model, told, tasks)
    adapted.load_state_dict(load_file(folder / f"{name}.safetensors"), strict=False)
    return adapted


_OURS = {"task_type", "peft_type", "inference_mode", "base_model_name_or_path"}


@register("adapter", "lora")
def add_lora(
    model: PreTrainedModel,
    settings: Mapping[str, Any],
    tasks: Sequence[str] = (),
    seed: int = 0,
    new_tokens: Sequence[int] = (),
) -> PeftModel:
    """Freeze a model and add the LoRA matrices that are trained in its place.

    Args:
        model: an encoder-decoder or a causal model; it is changed in place.
        settings: parameters of ``peft.LoraConfig``, passed on as they are.
        tasks: not used; every task shares the same matrices.
        seed: of the matrices' first values. The global random state is left as it was.
        new_tokens: those whose embeddings are random yet, and are trained too.

    Raises:
        RecinjectError: a parameter is unknown, or refused by peft for this model.
    """
    legal = set(inspect.signature(LoraConfig).parameters) - _OURS
    for key in settings:
        pick(key, legal, "lora: LoraConfig takes no")
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
    """Return the language model within a head, LoRA or experts, which stay at work in it."""
    backbone = model.backbone if isinstance(model, Wrapper) else model
    return backbone.get_base_model() if isinstance(backbone, PeftModel) else backbone
