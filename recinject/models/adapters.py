"""What is trained in a model's place: adapters and heads for ratings."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

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
        """Return facts for a training's manifest, whose tasks have these names.

        ``show`` makes some batches of training samples, with a column ``task``.
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
    """Adapt a plain model, in place, as the one was that left files of an adapter's name.

    ``NAME.json`` has the adapter's settings and ``task_names``, ``NAME.safetensors`` its weights.
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
    """Freeze a model, in place, and add the LoRA matrices that are trained for it, for all tasks.

    Args:
        model: an encoder-decoder or a causal model.
        settings: parameters of ``peft.LoraConfig``, passed on as they are.
        tasks: not used.
        seed: of the matrices' first values. The global random state is left as it was.
        new_tokens: those whose embeddings are random yet, and are trained too.
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


HEAD_FILE = "rating_head.safetensors"
Kind = Literal["regression", "classification"]


class RatingModel(Wrapper):
    """A language model that answers a prompt with a rating, through one linear layer.

    The layer reads the last hidden state of the first decoder position, or of a causal model's
    last prompt token (arXiv 2305.06474, section 3.3), and starts at the mean of the training
    ratings. The model's own output layer is not used, and not trained.

    Args:
        backbone: an encoder-decoder or a causal model, LoRA's wrapper allowed.
        kind: ``regression`` gives one number, trained by squared error in units of the ratings'
            standard deviation, so that the mean alone has a loss of 1; ``classification`` gives
            logits of the distinct ratings, trained by cross-entropy, and answers with their mean.
        values: the distinct ratings of the training samples, ascending, shape (values,).
        counts: how often each occurs, shape (values,).
    """

    values: Tensor
    counts: Tensor

    def __init__(
        self,
        backbone: PreTrainedModel | PeftModel,
        kind: Kind,
        values: ArrayLike,
        counts: ArrayLike,
    ) -> None:
        super().__init__()
        self.backbone, self.kind = backbone, kind
        self.register_buffer("values", torch.from_numpy(np.array(values, np.float32)))
        self.register_buffer("counts", torch.from_numpy(np.array(counts, np.int64)))
        shares = self.counts.double() / self.counts.sum()
        self.mean = float(self.values.double() @ shares)
        self.scale = float((self.values.double() - self.mean).square() @ shares) ** 0.5 or 1.0
        outputs = 1 if kind == "regression" else len(self.values)
        self.head = nn.Linear(self.config.hidden_size, outputs)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(torch.zeros(1) if kind == "regression" else shares.log())
        inner = without_wrapper(self)
        unused = inner.get_output_embeddings()
        if unused is not None and unused.weight is not inner.get_input_embeddings().weight:
            unused.requires_grad_(False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Return ``logits`` for prompts, padded on the right, and with labels the ``loss``.

        Logits are the standardised rating, (n, 1), or of each value, (n, values).
        """
        states = self._states(input_ids, attention_mask)
        logits = self.head(states.to(self.head.weight.dtype)).float()
        loss = None if labels is None else self.losses(logits, labels).mean()
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each sample, shape (n,)."""
        if self.kind == "classification":
            classes = (labels[:, None] - self.values).abs().argmin(1)
            return cross_entropy(logits, classes, reduction="none")
        return (logits[:, 0] - (labels - self.mean) / self.scale).square()

    @torch.no_grad()
    def rate(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the ratings of prompts, within the range of the training ratings, shape (n,)."""
        device = self.head.weight.device
        logits: Tensor = self(input_ids.to(device), attention_mask.to(device)).logits
        if self.kind == "regression":
            ratings = logits[:, 0] * self.scale + self.mean
        else:
            ratings = logits.softmax(-1) @ self.values
        return ratings.clamp(self.values[0], self.values[-1])

    def _states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        inner, mask = without_wrapper(self), attention_mask
        if not inner.config.is_encoder_decoder:
            read = inner.base_model(input_ids=input_ids, attention_mask=mask, use_cache=False)
            rows = torch.arange(len(mask), device=mask.device)
            last: Tensor = read.last_hidden_state[rows, mask.sum(1) - 1]
            return last
        encoded = inner.get_encoder()(input_ids=input_ids, attention_mask=mask)
        decoded = inner.get_decoder()(
            input_ids=input_ids.new_full((len(mask), 1), inner.config.decoder_start_token_id),
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=mask,
            use_cache=False,
        )
        first: Tensor = decoded.last_hidden_state[:, 0]
        return first

    def save_head(self, folder: Path) -> None:
        """Write the head beside the language model."""
        own = {**self.head.state_dict(), "values": self.values, "counts": self.counts}
        tensors = {name: tensor.detach().contiguous() for name, tensor in own.items()}
        save_file(tensors, folder / HEAD_FILE, metadata={"kind": self.kind})


def load_head(backbone: PreTrainedModel, folder: Path) -> RatingModel:
    """Give a language model the head that :meth:`RatingModel.save_head` wrote."""
    tensors = load_file(folder / HEAD_FILE)
    with safe_open(folder / HEAD_FILE, "pt") as file:
        kind = file.metadata()["kind"]
    model = RatingModel(backbone, kind, tensors.pop("values"), tensors.pop("counts"))
    model.head.load_state_dict(tensors)
    return model
