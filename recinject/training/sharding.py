"""Sharing out a model's weights among processes (FSDP 2), and bringing them together again."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

from peft import PeftModel
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel, Trainer

from recinject.foundation.progress import say
from recinject.models.experts import ExpertsModel
from recinject.models.heads import RatingModel
from recinject.models.lora import without_wrapper

Model: TypeAlias = PreTrainedModel | PeftModel | RatingModel | ExpertsModel


def share_out_weights(trainer: Trainer) -> None:
    """Shard a model block by block where FSDP 2 is asked for; else leave it as it is.

    accelerate would give the embeddings a group of their own. T5's encoder and decoder each hold
    the same ones, which torch refuses to see in two groups; here they stay with the root.
    """
    if not trainer.is_fsdp_enabled:
        if os.environ.get("ACCELERATE_USE_FSDP") == "true" and trainer.is_world_process_zero():
            say("  FSDP is for GPUs: here each process holds the whole model")
        return
    plugin = trainer.accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        return
    settings = {
        "reshard_after_forward": plugin.reshard_after_forward,
        "offload_policy": plugin.cpu_offload,
        "mp_policy": plugin.mixed_precision_policy or MixedPrecisionPolicy(),
    }
    blocks = set(without_wrapper(trainer.model)._no_split_modules or ())
    for module in trainer.model.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, **settings)
    fully_shard(trainer.model, **settings)


def whole_model(trainer: Trainer, rebuild: Callable[[], Model] | None) -> Model:
    """Return the trained model, its weights brought together where processes share them out."""
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if rebuild is None or not sharded:
        model: Model = trainer.model
        return model
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    model = rebuild()
    if trainer.is_world_process_zero():
        model.load_state_dict(weights)
    return model
