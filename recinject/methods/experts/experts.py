"""Experts in a model's feed-forward layers, and how a gate chooses among them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, TaskType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize
from transformers import PreTrainedModel

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.methods.experts.gates import GATES, Gate, Routing
from recinject.models.adapters import Wrapper


@dataclass(frozen=True)
class ExpertSettings:
    """What experts there are, and who decides between them.

    Attributes:
        number: of experts.
        k: how many a task or a sequence gets; a softmax gives it all of them.
        gate: a name in :data:`~recinject.methods.experts.gates.GATES`.
        decision: once a ``task``, or once a ``sequence`` from the mean of its embeddings.
        gamma: the width of DSelect-k's smooth step.
        rank: of each expert.
        alpha: an expert's output is scaled by ``alpha / rank``.
        dropout: of what the experts read.
        target_modules: names, or ends of names, of the layers that get experts.
        regulariser: the weight of the entropy of DSelect-k's selectors in the loss.
        warmup_steps: in how many steps that weight rises from 0. Experts start alike (B = 0), and
            until they differ the entropy alone would choose.
        gate_rate: the gate's learning rate as a multiple of the others'. Under Adam a selector is
            saturated after about ``gamma / (2 * rate * gate_rate)`` steps, and decides no more.

    Raises:
        RecinjectError: a value is out of its range.
    """

    number: int = 4
    k: int = 2
    gate: str = "dselect_k"
    decision: Literal["task", "sequence"] = "task"
    gamma: float = 1.0
    rank: int = 4
    alpha: float = 8.0
    dropout: float = 0.0
    target_modules: Sequence[str] = ("q", "v")
    regulariser: float = 1e-3
    warmup_steps: int = 0
    gate_rate: float = 1.0

    def __post_init__(self) -> None:
        for name, is_right, hint in (
            ("gate", self.gate in GATES, did_you_mean(self.gate, GATES)),
            ("decision", self.decision in ("task", "sequence"), "set it to task or sequence"),
            ("number", self.number >= 2, "set it to 2 or more; lora: is for one alone"),
            ("k", 1 <= self.k <= self.number, f"set it to 1 up to number, {self.number}"),
            ("gamma", self.gamma > 0, "set it above 0; 1 is usual"),
            ("rank", self.rank >= 1, "set it to 1 or more"),
            ("alpha", self.alpha > 0, "set it above 0; twice the rank is usual"),
            ("dropout", 0 <= self.dropout < 1, "set it to at least 0 and below 1"),
            ("target_modules", bool(self.target_modules), "name layers, such as [q, v]"),
            ("regulariser", self.regulariser >= 0, "set it to 0 or more"),
            ("warmup_steps", self.warmup_steps >= 0, "set it to 0 or more"),
            ("gate_rate", self.gate_rate > 0, "set it above 0; 1 is usual"),
        ):
            if not is_right:
                raise RecinjectError(f"experts.{name}: {getattr(self, name)!r}", hint=hint)


class Route:
    """What all layers with experts read."""

    factors: Tensor | None = None
    chosen: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> Route:
        return Route()  # tensors within a graph cannot be copied, and the next forward makes new

    def set(self, routing: Routing, scale: float, rank: int) -> None:
        """Take the picks alone where every row's gate is saturated, else all experts."""
        weights, self.chosen = routing.weights, None
        if bool(routing.is_saturated.all()):
            weights, picks = routing.shares, routing.chosen
            alike = bool((picks == picks[:1]).all())
            self.chosen = picks[0] if alike else picks
        # (rows, 1, width): beside each column of what the experts' A give.
        self.factors = (weights * scale).repeat_interleave(rank, 1)[:, None]


class ExpertsLinear(nn.Linear):
    """A linear layer whose output has ``sum_i q_i B_i A_i x`` added, as one pair of products.

    The weights of the layer beneath keep their names.
    """

    def __init__(self, base: nn.Linear, settings: ExpertSettings, route: Route) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self._route, self._dropout = route, settings.dropout
        shape, place = (settings.number, settings.rank), base.weight.device
        # Both with the rank in the middle: experts are then picked, or laid side by side, freely.
        self.expert_a = nn.Parameter(torch.empty(*shape, base.in_features, device=place))
        self.expert_b = nn.Parameter(torch.zeros(*shape, base.out_features, device=place))
        for matrix in self.expert_a:
            nn.init.kaiming_uniform_(matrix, a=5**0.5)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Linear names it so
        """Apply the layer and its experts to (n, tokens, in); a prompt's branches are adjacent."""
        output, factors, chosen = super().forward(input), self._route.factors, self._route.chosen
        if factors is None:
            raise RecinjectError("experts: no gate decided", hint="call the model's encoder first")
        picked = slice(None) if chosen is None else chosen
        a, b = (m[picked].flatten(-3, -2) for m in (self.expert_a, self.expert_b))
        by_row = input.to(a.dtype).reshape(len(factors), -1, self.in_features)
        hidden = torch.matmul(dropout(by_row, self._dropout, self.training), a.mT) * factors
        return output + torch.matmul(hidden, b).to(output.dtype).view_as(output)


EXPERTS_FILE, CONFIG_FILE = "experts.safetensors", "experts.json"
_OURS = ("expert_a", "expert_b")


class ExpertsModel(Wrapper):
    """A frozen encoder-decoder model with experts; the encoder's call is where the gate decides.

    In a loop of training::

        with answering(model, batch.pop("task")):
            loss = measure(model(**batch)) + model.auxiliary_loss(step).mean()
    """

    def __init__(
        self, backbone: PreTrainedModel, settings: ExpertSettings, task_names: Sequence[str]
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.settings, self.task_names = settings, list(task_names)
        self._route = Route()
        self._tasks: Tensor | None = None
        self._routing: Routing | None = None
        for name in self._targets():
            holder = backbone.get_submodule(name.rpartition(".")[0])
            layer = ExpertsLinear(backbone.get_submodule(name), settings, self._route)
            setattr(holder, name.rpartition(".")[2], layer)
        by_task = settings.decision == "task"
        sizes = {"tasks": len(task_names)} if by_task else {"size": backbone.config.d_model}
        kind = GATES[settings.gate]
        self.gate: Gate = kind(settings.number, settings.k, settings.gamma, **sizes)
        self.gate.to(backbone.device)
        backbone.get_encoder().register_forward_pre_hook(self._decide, with_kwargs=True)

    def forward(self, *inputs: Any, **settings: Any) -> Any:
        """Read and answer as the model does."""
        return self.backbone(*inputs, **settings)

    def auxiliary_loss(self, step: int = 0) -> Tensor:
        """Return what the gate adds to the loss of the batch that the encoder read last.

        At a step of training: one number for all tasks, or one a sequence, shape (rows,).
        """
        if self._routing is None:
            raise RecinjectError("experts: no gate decided", hint="call the model first")
        warmth = min(1.0, (step + 1) / (self.settings.warmup_steps + 1))
        routing = self._routing
        loss = self.settings.regulariser * warmth * routing.entropy + routing.excess
        return loss.sum() if self.settings.decision == "task" else loss

    def routing(self) -> Routing:
        """Return the decision for each task; an error where the gate decides by sequence."""
        if self.settings.decision != "task":
            raise RecinjectError(
                "experts: the gate decides for each sequence", hint="set experts.decision to task"
            )
        found: Routing = self.gate(torch.arange(len(self.task_names), device=self.device))
        return found

    @torch.no_grad()
    def shares(self, batches: Iterable[Mapping[str, Tensor]] = ()) -> Tensor:
        """Return how much of each expert the tasks get, shape (tasks, experts).

        Where the gate decides for each sequence that is the mean over batches with a column
        ``task``; a task that none is of gets 0.
        """
        if self.settings.decision == "task":
            return self.routing().weights
        sums = torch.zeros(len(self.task_names), self.settings.number + 1)
        for batch in batches:
            placed = {name: batch[name].to(self.device) for name in ("input_ids", "attention_mask")}
            weights = self.gate(self._represent(placed["input_ids"], placed)).weights.cpu()
            rows = torch.cat([weights, torch.ones(len(weights), 1)], 1)
            sums.index_add_(0, batch["task"], rows)
        return sums[:, :-1] / sums[:, -1:].clamp(min=1)

    def _decide(self, _: nn.Module, inputs: Any, settings: dict[str, Any]) -> None:
        tokens: Tensor = settings["input_ids"] if "input_ids" in settings else inputs[0]
        if self.settings.decision == "task":
            self._routing, tasks = self.routing(), self._tasks
            if tasks is None or len(tasks) not in (1, len(tokens)):
                raise RecinjectError(
                    "experts: the task of each row is not known",
                    hint="call the model within answering(model, tasks)",
                )
            routing = self._routing.of(tasks.to(self.device))
        else:
            routing = self._routing = self.gate(self._represent(tokens, settings))
        scale = self.settings.alpha / self.settings.rank
        self._route.set(routing, scale, self.settings.rank)

    def _represent(self, tokens: Tensor, settings: dict[str, Any]) -> Tensor:
        """Return the mean of the input embeddings over the mask, of length 1: shape (n, d)."""
        mask = settings.get("attention_mask")
        mask = torch.ones_like(tokens) if mask is None else mask
        embedded = self.backbone.get_input_embeddings()(tokens).float()
        # The mean's length depends on the model, and the gate's first steps should not.
        return normalize((embedded * mask[..., None]).sum(1), dim=-1)

    def _targets(self) -> list[str]:
        linear = [n for n, m in self.backbone.named_modules() if isinstance(m, nn.Linear)]
        ends = [f".{target}" for target in self.settings.target_modules]
        for end in ends:
            if not any(f".{name}".endswith(end) for name in linear):
                raise RecinjectError(
                    f"experts.target_modules: the model has no linear layer {end[1:]!r}",
                    hint=did_you_mean(end[1:], {name.rpartition(".")[2] for name in linear}),
                )
        return [name for name in linear if f".{name}".endswith(tuple(ends))]

    def save_pretrained(self, folder: Path, **settings: Any) -> None:
        """Write the plain model, and beside it what :func:`load_experts` reads."""
        weights = self.backbone.state_dict().items()
        plain = {name: weight for name, weight in weights if not name.endswith(_OURS)}
        self.backbone.save_pretrained(folder, state_dict=plain, **settings)
        own = {name: tensor.contiguous() for name, tensor in self.trained_weights().items()}
        save_file(own, Path(folder) / EXPERTS_FILE)
        told = {**asdict(self.settings), "task_names": self.task_names}
        (Path(folder) / CONFIG_FILE).write_text(json.dumps(told, indent=2) + "\n", "utf-8")

    @torch.no_grad()
    def export_adapter(self, task: str, folder: Path) -> None:
        """Write what a task gets as one plain LoRA adapter of peft, equal to the mixture.

        Its rank is the experts' times the number of those with a weight: k for a saturated gate.

        Raises:
            RecinjectError: the task is unknown, or the gate decides for each sequence anew.
        """
        weights = self.routing().weights[_number(self, task)]
        kept, settings = weights.nonzero()[:, 0], self.settings
        factors, tensors = weights[kept] * settings.alpha / settings.rank, {}
        for name, layer in self.backbone.named_modules():
            if isinstance(layer, ExpertsLinear):
                a, b = layer.expert_a[kept], layer.expert_b[kept] * factors[:, None, None]
                start = f"base_model.model.{name}.lora_"
                tensors[f"{start}A.weight"] = a.flatten(0, 1).contiguous()
                tensors[f"{start}B.weight"] = b.flatten(0, 1).T.contiguous()
        rank = len(kept) * settings.rank
        config = LoraConfig(
            task_type=TaskType.SEQ_2_SEQ_LM,
            r=rank,
            lora_alpha=rank,
            target_modules=list(settings.target_modules),
            lora_dropout=settings.dropout,
            base_model_name_or_path=self.backbone.name_or_path,
            inference_mode=True,
        )
        config.save_pretrained(str(folder))
        save_file(tensors, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})


def add_experts(
    model: PreTrainedModel, settings: ExpertSettings, task_names: Sequence[str], seed: int = 0
) -> ExpertsModel:
    """Freeze an encoder-decoder model, in place, and give its target layers experts.

    ``task_names`` are what the numbers in the column ``task`` stand for. The seed is of the first
    values; the global random state is left as it was.

    Raises:
        RecinjectError: the model is causal, has no such layers, or there are no tasks to tell.
    """
    if not model.config.is_encoder_decoder:
        raise RecinjectError(
            "experts: the model is causal",
            hint="name one such as google/flan-t5-small, or use lora:",
        )
    if settings.decision == "task" and not task_names:
        raise RecinjectError("experts: there are no tasks", hint="set experts.decision to sequence")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ExpertsModel(model, settings, task_names)


def load_experts(model: PreTrainedModel, folder: Path) -> ExpertsModel:
    """Give a model the experts that :meth:`ExpertsModel.save_pretrained` wrote beside it."""
    told = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    loaded = add_experts(model, task_names=told.pop("task_names"), settings=ExpertSettings(**told))
    loaded.load_state_dict(load_file(folder / EXPERTS_FILE), strict=False)
    return loaded


def experts_of(model: nn.Module) -> ExpertsModel | None:
    """Return the part of a model that has experts, a head for ratings above it allowed."""
    return next((part for part in model.modules() if isinstance(part, ExpertsModel)), None)


@contextmanager
def answering(model: nn.Module, task: str | Tensor | None) -> Iterator[None]:
    """Tell a model with experts what its rows are of; any other model is left alone.

    ``task`` is the name of the one task at hand, or the number of each row's, shape (rows,).

    Raises:
        RecinjectError: the model knows no such task.
    """
    experts = experts_of(model)
    if experts is None:
        yield
        return
    before = experts._tasks
    experts._tasks = torch.tensor([_number(experts, task)]) if isinstance(task, str) else task
    try:
        yield
    finally:
        experts._tasks = before


def _number(model: ExpertsModel, task: str) -> int:
    if task not in model.task_names and model.settings.decision == "task":
        raise RecinjectError(
            f"experts: no gate was trained for {task!r}", hint=did_you_mean(task, model.task_names)
        )
    return model.task_names.index(task) if task in model.task_names else 0
