"""Experts in a model's feed-forward and attention layers, and how a gate mixes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from peft import LoraConfig, TaskType
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize
from torch.optim import Optimizer
from transformers import PreTrainedModel

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.settings import MOST, bind
from recinject.methods.experts.gates import GATES, Gate, Routing, part_gate
from recinject.models.adapters import Adaptation, Wrapper
from recinject.registry import pick
from recinject.training.networks import global_chance


@dataclass(frozen=True)
class ExpertSettings:
    """What experts there are, and who decides between them.

    Attributes:
        number: of experts.
        k: how many a task or a sequence gets; a softmax gives it all.
        gate: a name in :data:`~recinject.methods.experts.gates.GATES`.
        decision: once a ``task``, or once a ``sequence`` from the mean of its embeddings, by one
            rule for all tasks, or by a rule for each: ``task_sequence``, as in the paper.
        gamma: the width of DSelect-k's smooth step.
        rank: of each expert.
        alpha: an expert's output is scaled by ``alpha / rank``.
        dropout: of the experts' input.
        target_modules: names, or ends of names, of the layers that get experts.
        regulariser: the weight of the entropy of DSelect-k's selectors in the loss.
        warmup_steps: in how many steps that weight rises from 0: experts start alike (B = 0), and
            until they differ the entropy alone would choose.
        gate_rate: the gate's learning rate as a multiple of the others'. Under Adam a selector is
            saturated, and fixed, after about ``gamma / (2 * rate * gate_rate)`` steps.
    """

    number: Annotated[int, Field(ge=2, le=MOST)] = 4
    k: Annotated[int, Field(ge=1, le=MOST)] = 2
    gate: str = "dselect_k"
    decision: Literal["task", "sequence", "task_sequence"] = "task"
    gamma: Annotated[float, Field(gt=0)] = 1.0
    rank: Annotated[int, Field(ge=1, le=MOST)] = 4
    alpha: Annotated[float, Field(gt=0)] = 8.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = ("q", "v")
    regulariser: Annotated[float, Field(ge=0)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0, le=MOST)] = 0
    gate_rate: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _are_of_experts_that_exist(self) -> ExpertSettings:
        pick(self.gate, GATES, "experts.gate: unknown gate")
        if self.k > self.number:
            hint = f"set it to 1 up to number, {self.number}"
            raise RecinjectError(f"experts.k: {self.k}", hint=hint)
        return self


class Route:
    """The mixture of the present rows, which all layers with experts read.

    Attributes:
        factors: of the columns of the chosen experts' A, shape (rows, 1, experts * rank); None
            before a gate decided.
        chosen: the experts to compute, shape (k,) for all rows alike or (rows, k); None for all.
    """

    factors: Tensor | None = None
    chosen: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> Route:
        return Route()  # tensors within a graph cannot be copied; the next forward makes new ones

    def set(self, routing: Routing, scale: float, rank: int) -> None:
        """Take the picks alone where every row's gate is saturated, else all experts."""
        weights, self.chosen = routing.weights, None
        if bool(routing.is_saturated.all()):
            weights, picks = routing.shares, routing.chosen
            alike = bool((picks == picks[:1]).all())
            self.chosen = picks[0] if alike else picks
        self.factors = (weights * scale).repeat_interleave(rank, 1)[:, None]


class ExpertsLinear(nn.Linear):
    """A linear layer, its weights' names kept, plus ``sum_i q_i B_i A_i x`` as two products."""

    def __init__(self, base: nn.Linear, settings: ExpertSettings, route: Route) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self._route, self._dropout = route, settings.dropout
        shape, device = (settings.number, settings.rank), base.weight.device
        # With the rank in the middle of both, experts can be picked, or laid side by side.
        self.expert_a = nn.Parameter(torch.empty(*shape, base.in_features, device=device))
        self.expert_b = nn.Parameter(torch.zeros(*shape, base.out_features, device=device))
        for matrix in self.expert_a:
            nn.init.kaiming_uniform_(matrix, a=5**0.5)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Linear names it so
        """Apply the layer and its experts to (n, tokens, in); a prompt's branches are adjacent."""
        output, factors, chosen = super().forward(input), self._route.factors, self._route.chosen
        assert factors is not None, "the encoder, where the gate decides, runs first"
        picked = slice(None) if chosen is None else chosen
        a, b = (m[picked].flatten(-3, -2) for m in (self.expert_a, self.expert_b))
        by_row = input.to(a.dtype).reshape(len(factors), -1, self.in_features)
        hidden = torch.matmul(dropout(by_row, self._dropout, self.training), a.mT) * factors
        return output + torch.matmul(hidden, b).to(output.dtype).view_as(output)


class ExpertsModel(Wrapper, Adaptation):
    """A frozen encoder-decoder model with experts, whose gate decides when the encoder is called.

    In a loop of training::

        with model.answering(batch.pop("task")):
            loss = measure(model(**batch)) + model.extra_loss(step).mean()
    """

    needs_whole_weights = ("a layer mixes whole experts", "set experts=null")

    def __init__(
        self, backbone: PreTrainedModel, settings: ExpertSettings, task_names: Sequence[str]
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.settings, self.task_names = settings, list(task_names)
        self.decides_by_task = settings.decision == "task"
        self._knows_tasks = settings.decision != "sequence"
        self._route = Route()
        self._tasks: Tensor | None = None
        self._routing: Routing | None = None
        self._support: Tensor | None = None  # the experts of each task when the log last asked
        for name in _targets(backbone, settings.target_modules):
            holder = backbone.get_submodule(name.rpartition(".")[0])
            layer = ExpertsLinear(backbone.get_submodule(name), settings, self._route)
            setattr(holder, name.rpartition(".")[2], layer)
        sizes: dict[str, int] = {}
        if settings.decision != "sequence":
            sizes["tasks"] = len(task_names)
        if not self.decides_by_task:
            sizes["size"] = backbone.config.d_model
        gate = GATES[settings.gate](settings.number, settings.k, settings.gamma, **sizes)
        self.gate: Gate = gate.to(backbone.device)
        backbone.get_encoder().register_forward_pre_hook(self._decide, with_kwargs=True)

    def forward(self, *inputs: Any, **settings: Any) -> Any:
        """Read and answer as the model does."""
        return self.backbone(*inputs, **settings)

    @contextmanager
    def answering(self, task: str | Tensor | None) -> Iterator[None]:
        """Tell the gate, while a block runs, the rows' task, or refuse one that has no gate."""
        before = self._tasks
        self._tasks = torch.tensor([self._number(task)]) if isinstance(task, str) else task
        try:
            yield
        finally:
            self._tasks = before

    def extra_loss(self, step: int = 0) -> Tensor:
        """Return the gate's penalty at a step: one for all tasks, or one a sequence, (rows,)."""
        warmth, routing = min(1.0, (step + 1) / (self.settings.warmup_steps + 1)), self._routing
        assert routing is not None, "the encoder, where the gate decides, runs first"
        loss = self.settings.regulariser * warmth * routing.entropy + routing.excess
        return loss.sum() if self.decides_by_task else loss

    def group_parameters(self, optimizer: Optimizer) -> None:
        """Give the gate a group of its own, at its own rate."""
        part_gate(optimizer, self.gate, self.settings.gate_rate)

    def log_entries(self) -> dict[str, float]:
        """Return how many tasks have got other experts since the last call."""
        if not self.decides_by_task:
            return {}
        before, self._support = self._support, self.routing().support()
        if before is None:
            return {}
        return {"expert_flips": int((before != self._support).any(1).sum())}

    def facts(
        self, tasks: Sequence[str], show: Callable[[], Iterable[Mapping[str, Tensor]]]
    ) -> dict[str, Any]:
        """Return the tasks' weights of the experts, for the report."""
        shares = self.shares(() if self.decides_by_task else show())[: len(tasks)].tolist()
        facts = {"tasks": list(tasks), "shares": shares, "by_task": self.decides_by_task}
        return {"experts": facts}

    def routing(self) -> Routing:
        """Return the decision for each task; an error where the gate decides by sequence."""
        if not self.decides_by_task:
            hint = "set experts.decision to task"
            raise RecinjectError("experts: the gate decides for each sequence", hint=hint)
        found: Routing = self.gate(torch.arange(len(self.task_names), device=self.device))
        return found

    @torch.no_grad()
    def shares(self, batches: Iterable[Mapping[str, Tensor]] = ()) -> Tensor:
        """Return the tasks' weights of the experts, shape (tasks, experts).

        Where the gate decides by sequence they are means over batches with a column ``task``, 0
        for a task without samples.
        """
        if self.decides_by_task:
            return self.routing().weights
        sums = torch.zeros(len(self.task_names), self.settings.number + 1)
        for batch in batches:
            ids, mask = (batch[name].to(self.device) for name in ("input_ids", "attention_mask"))
            weights = self._route_sequences(ids, mask, batch["task"]).weights.cpu()
            rows = torch.cat([weights, torch.ones(len(weights), 1)], 1)
            sums.index_add_(0, batch["task"], rows)
        return sums[:, :-1] / sums[:, -1:].clamp(min=1)

    def _decide(self, _: nn.Module, inputs: Any, settings: dict[str, Any]) -> None:
        tokens: Tensor = settings["input_ids"] if "input_ids" in settings else inputs[0]
        tasks = self._tasks
        if self._knows_tasks and (tasks is None or len(tasks) not in (1, len(tokens))):
            raise RecinjectError(
                "experts: the task of each row is not known",
                hint="call the model within answering(model, tasks)",
            )
        if self.decides_by_task and tasks is not None:
            self._routing = self.routing()
            routing = self._routing.of(tasks.to(self.device))
        else:
            mask = settings.get("attention_mask")
            routing = self._routing = self._route_sequences(tokens, mask, tasks)
        scale = self.settings.alpha / self.settings.rank
        self._route.set(routing, scale, self.settings.rank)

    def _route_sequences(
        self, tokens: Tensor, mask: Tensor | None, tasks: Tensor | None
    ) -> Routing:
        known = tasks.expand(len(tokens)) if self._knows_tasks and tasks is not None else None
        routing: Routing = self.gate(self._represent(tokens, mask), known)
        return routing

    def _represent(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mean of the input embeddings over the mask, of length 1: shape (n, d)."""
        mask = torch.ones_like(tokens) if mask is None else mask
        embedded = self.backbone.get_input_embeddings()(tokens).float()
        # Otherwise the gate's first steps would depend on the length of the model's embeddings.
        return normalize((embedded * mask[..., None]).sum(1), dim=-1)

    def _number(self, task: str) -> int:
        if self._knows_tasks:
            pick(task, self.task_names, "experts: no gate was trained for")
        return self.task_names.index(task) if task in self.task_names else 0

    def save_pretrained(self, folder: Path, **settings: Any) -> None:
        """Write the plain model, and beside it what ``models.adapters.load_adapted`` reads."""
        weights = self.backbone.state_dict().items()
        plain = {n: w for n, w in weights if not n.endswith(("expert_a", "expert_b"))}
        self.backbone.save_pretrained(folder, state_dict=plain, **settings)
        own = {name: tensor.contiguous() for name, tensor in self.trained_weights().items()}
        save_file(own, Path(folder) / "experts.safetensors")
        told = {**asdict(self.settings), "task_names": self.task_names}
        (Path(folder) / "experts.json").write_text(json.dumps(told, indent=2) + "\n", "utf-8")

    def save_task_adapters(self, folder: Path) -> None:
        """Write one adapter a task, where the gate decides by task."""
        for task in self.task_names if self.decides_by_task else ():
            self.export_adapter(task, folder / task)

    @torch.no_grad()
    def export_adapter(self, task: str, folder: Path) -> None:
        """Write a task's mixture, where the gate decides by task, as one plain adapter of peft.

        Its rank is the experts' times the number of those with a weight: k for a saturated gate.
        """
        weights = self.routing().weights[self._number(task)]
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


def _targets(backbone: PreTrainedModel, wanted: Sequence[str]) -> list[str]:
    linear = [name for name, part in backbone.named_modules() if isinstance(part, nn.Linear)]
    ends = [f".{target}" for target in wanted]
    for end in ends:
        if not any(f".{name}".endswith(end) for name in linear):
            raise RecinjectError(
                f"experts.target_modules: the model has no linear layer {end[1:]!r}",
                hint=did_you_mean(end[1:], {name.rpartition(".")[2] for name in linear}),
            )
    return [name for name in linear if f".{name}".endswith(tuple(ends))]


def add_experts(
    model: PreTrainedModel,
    settings: Mapping[str, Any],
    tasks: Sequence[str] = (),
    seed: int = 0,
    new_tokens: Sequence[int] = (),
) -> ExpertsModel:
    """Freeze an encoder-decoder model, in place, and give its target layers experts.

    Args:
        model: the model.
        settings: of :class:`ExpertSettings`.
        tasks: the names of the indices in the column ``task``.
        seed: of the first values; the global random state is left as it was.
        new_tokens: not used: their embeddings stay as they are.
    """
    told = bind(ExpertSettings, settings, "experts")
    if not model.config.is_encoder_decoder:
        hint = "name one such as google/flan-t5-small, or use lora:"
        raise RecinjectError("experts: the model is causal", hint=hint)
    if told.decision != "sequence" and not tasks:
        raise RecinjectError("experts: there are no tasks", hint="set experts.decision to sequence")
    with global_chance(seed):
        return ExpertsModel(model, told, tasks)
