"""Fine-tuning a language model on a mixture of tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset
from peft import PeftModel
from tokenizers import Tokenizer
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.optim import Optimizer
from transformers import PreTrainedModel, Trainer

from recinject.foundation.progress import say
from recinject.methods.clippy.step_scales import refuse_sharding
from recinject.methods.experts.experts import ExpertsModel, answering, experts_of
from recinject.methods.experts.gates import part_gate
from recinject.models.adapters import Wrapper, without_wrapper
from recinject.models.building import wrap_tokenizer
from recinject.models.heads import RatingModel
from recinject.training.arguments import (
    count_steps,
    describe_device,
    samples_a_step,
    training_arguments,
)
from recinject.training.batches import LengthBuckets, make_collator
from recinject.training.curriculum import Phase, order_by_phase
from recinject.training.optimizers import clips_itself
from recinject.training.trainer import (
    BatchLoss,
    ResumableTrainer,
    SaveOnTermination,
    explain_full_device,
    run_training,
    token_losses,
)

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


def fit(
    model: Model,
    tokenizer: Tokenizer,
    train_dataset: Dataset,
    validation_dataset: Dataset | None,
    arguments: Mapping[str, Any],
    folder: Path,
    log_path: Path,
    seed: int,
    optimizer: str | None = None,
    *,
    task_names: Sequence[str] = (),
    phases: Sequence[Phase] = (),
    rebuild: Callable[[], Model] | None = None,
    optimizer_settings: Mapping[str, Any] | None = None,
) -> Model:
    """Train a model, going on from the newest whole checkpoint when there is one.

    The same call gives the same model, cut off and resumed or not. Started by ``accelerate
    launch`` it uses all processes. SIGTERM saves a checkpoint and ends the process.

    Args:
        model: an encoder-decoder or a causal model, or one with a head for ratings; it is
            trained in place.
        tokenizer: the tokenizer that made the datasets.
        train_dataset: columns ``input_ids``, ``labels`` (token lists) and ``length`` (tokens that
            are read at once), one row a sample; ``rating`` where there is a head; and, where the
            loss is to be logged by task or there are phases, ``task`` (a number).
        validation_dataset: the same columns, to measure a loss on while training.
        arguments: see :func:`~recinject.training.arguments.training_arguments`.
        folder: where checkpoints go.
        log_path: see :func:`~recinject.training.trainer.run_training`; so are ``optimizer`` and
            ``optimizer_settings``.
        seed: of dropout and of the batches' order.
        task_names: what the numbers in the column ``task`` stand for.
        phases: see :func:`~recinject.training.curriculum.order_by_phase`; empty for one mixture.
        rebuild: makes the model anew. Sharded training needs it, to have something to bring
            the weights together in.

    Returns:
        The trained model; in sharded training a new one, which only the first process fills.

    Raises:
        RecinjectError: the arguments are wrong, the device's memory is full, or see
            :func:`~recinject.training.trainer.run_training`.
    """
    if clips_itself(optimizer):
        arguments = {"max_grad_norm": 0.0, **arguments}
    settings = training_arguments(arguments, folder, seed, validates=validation_dataset is not None)
    if clips_itself(optimizer):
        refuse_sharding(settings)
    if experts_of(model) is not None:
        refuse_sharding(settings, "a layer mixes whole experts", "set experts=null")
    if phases:
        # A curriculum is one long epoch.
        settings.max_steps = count_steps(settings, len(train_dataset))
    if settings.should_save:
        say(f"  {describe_device(settings, arguments)}")
    wrapped = wrap_tokenizer(tokenizer, without_wrapper(model).config)
    termination = SaveOnTermination()
    with termination.listening(), explain_full_device(settings):
        trainer = run_training(
            TokenTrainer,
            settings,
            log_path=log_path,
            optimizer=optimizer,
            optimizer_settings=optimizer_settings,
            callbacks=[termination],
            model=model,
            train_dataset=train_dataset,
            eval_dataset=validation_dataset,
            data_collator=make_collator(model, wrapped),
            processing_class=wrapped,
            phases=phases,
            task_names=task_names,
        )
    return whole_model(trainer, rebuild)


class TokenTrainer(ResumableTrainer):
    """The Trainer, but for its order of batches and what it hands to the model.

    Args:
        phases: as in :func:`fit`; so is ``task_names``.
        settings: of ``transformers.Trainer``.
    """

    def __init__(
        self, *, phases: Sequence[Phase] = (), task_names: Sequence[str] = (), **settings: Any
    ) -> None:
        self._phases, self._task_names = phases, task_names
        model, smoothing = settings["model"], settings["args"].label_smoothing_factor
        by_token = partial(token_losses, smoothing=smoothing)
        measure = model.losses if isinstance(model, RatingModel) else by_token
        self._loss, self._experts = BatchLoss(measure, task_names), experts_of(model)
        super().__init__(compute_loss_func=self._loss, **settings)
        # T5's forward takes any keyword, and would pass the token count on to its layers.
        self.model_accepts_loss_kwargs = False
        # A causal model's labels come shifted from the collator; the Trainer would not count the
        # first of each sample.
        self._loss_shifts_labels = False
        # The Trainer reads their names off a signature, and a wrapper's has none.
        self.label_names = ["labels"]
        share_out_weights(self)  # before the Trainer has accelerate do it

    def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **settings: Any) -> Any:
        """Return the loss; note whose samples it is of while training."""
        tasks, experts = inputs.pop("task", None), self._experts
        self._loss.tasks = tasks if model.training else None
        if experts is None:
            return super().compute_loss(model, inputs, *given, **settings)
        auxiliary = partial(experts.auxiliary_loss, self.state.global_step)
        self._loss.auxiliary = auxiliary if model.training else None
        with answering(experts, tasks):
            return super().compute_loss(model, inputs, *given, **settings)

    def create_optimizer(self, *given: Any) -> Optimizer:
        """Make the optimizer, a gate in a group of its own."""
        optimizer: Optimizer = super().create_optimizer(*given)
        if self._experts is not None:
            part_gate(optimizer, self._experts.gate, self._experts.settings.gate_rate)
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the loss of each task beside the whole one."""
        if "loss" in logs:
            logs |= self._loss.read_out(partial(self.accelerator.reduce, reduction="sum"))
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if isinstance(self.model, Wrapper):
            # Of weights that have two names, safetensors refuses to write both.
            state_dict = self.model.trained_weights()
        super()._save(output_dir, state_dict)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        if not self._phases and self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = list(self.train_dataset[self.args.length_column_name])
        batch_size, seed = samples_a_step(self.args), self.args.seed
        if not self._phases:
            return LengthBuckets(lengths, batch_size, seed, self.present_epoch)
        tasks, names = np.asarray(self.train_dataset["task"], np.int64), self._task_names
        steps, phases = self.args.max_steps, self._phases
        order = order_by_phase(
            tasks, names, np.asarray(lengths, np.int64), phases, steps, batch_size, seed
        )
        return order.tolist()
