"""Low-rank layers, and starts of layers and adapters from a layer's function."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from peft import LoraConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.settings import MOST
from recinject.methods.low_rank.factors import (
    Block,
    Factors,
    check_method,
    check_rank,
    find_factors,
)
from recinject.models.building import Initialization, StandIn

Blocks: TypeAlias = list[tuple[tuple[str, ...], Block]]  # with the full names of their layers
Batches: TypeAlias = Sequence[Mapping[str, Tensor]]  # the arguments of a model's forward
_FACTORS = "factors.safetensors"
_ADAPTER = "default"
BY_WEIGHT = "spectral"  # the method that looks at no inputs
FEED_FORWARD = ("wi", "wi_0", "wi_1", "wo")
# Layers by their own names whose outputs one activation of their parent joins; T5's and Llama's.
_JOINED = {("wi_0", "wi_1"): "act", ("gate_proj", "up_proj"): "act_fn", ("wi",): "act"}


class LowRankLinear(StandIn):
    """A linear layer of two factors: ``(x down^T) up^T + bias``."""

    def __init__(self, up: Tensor, down: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)
        self.bias = None if bias is None else nn.Parameter(bias)

    @classmethod
    def from_linear(cls, layer: nn.Linear, factors: Factors) -> LowRankLinear:
        """Replace a layer's weight by factors, which train if it did."""
        bias = None if layer.bias is None else layer.bias.detach().clone()
        made = cls(factors.up.detach(), factors.down.detach(), bias)
        return made.requires_grad_(layer.weight.requires_grad)

    @property
    def weight(self) -> Tensor:
        """The factor of the outputs: T5 reads its layers' type off their weight."""
        return self.up

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layer to inputs of shape (..., inputs)."""
        return linear(linear(inputs, self.down), self.up, self.bias)

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """Return the layer with one matrix."""
        (outputs, _), (_, inputs) = self.up.shape, self.down.shape
        made = nn.Linear(inputs, outputs, self.bias is not None).to(self.up)
        made.weight.copy_(self.up @ self.down)
        if self.bias is not None:
            made.bias.copy_(self.bias)
        return made.requires_grad_(self.up.requires_grad)


class LowRank(Initialization):
    """The initialization ``low_rank``: linear layers become two thin factors before training.

    ``model/`` has whole matrices again, so that plain transformers loads it.

    Args:
        targets: the layers' own names, such as ``wo``; None takes T5's feed-forward layers.
        rank: of each layer.
        energy: in place of a rank, the fraction of a weight's squared singular values to keep at
            least, above 0 and up to 1.
        method: see :func:`~recinject.methods.low_rank.factors.find_factors`.
    """

    def __init__(
        self,
        *,
        targets: Annotated[list[str], Field(min_length=1)] | None = None,
        rank: Annotated[int, Field(ge=1, le=MOST)] | None = None,
        energy: float | None = None,
        method: Literal["spectral", "data", "nkp", "lfai"] = "lfai",
    ) -> None:
        self.targets, self.rank, self.energy, self.method = targets, rank, energy, method
        self.reads_batches = method != BY_WEIGHT

    def ranks(self, model: nn.Module) -> dict[str, int]:
        """Return each layer's rank by its full name, or refuse what does not fit the model."""
        rank, energy = self.rank, self.energy
        if (rank is None) == (energy is None) or not (energy is None or 0 < energy <= 1):
            raise RecinjectError(
                f"low rank: rank {rank} and energy {energy}",
                hint="give one of them: a rank from 1 on, or a fraction of energy above 0, up to 1",
            )
        layers, ranks = find_layers(model, self.targets), dict[str, int]()
        for _, block in find_blocks(model, layers):
            check_method(block, self.method)
        for name, layer in layers.items():
            if rank is None:
                kept = torch.linalg.svdvals(layer.weight.detach().double()).square().cumsum(0)
                least = (energy or 1.0) * kept[-1]
                ranks[name] = min(len(kept), 1 + int((kept < least).sum()))
            else:
                check_rank(name, layer.weight, rank)
                ranks[name] = rank
        return ranks

    def check(self, model: nn.Module) -> None:
        """Make the layers low-rank, with factors of ones."""
        shape_low_rank(model, self.ranks(model))

    def start(self, model: nn.Module, batches: Batches, seed: int) -> None:
        """Make the layers low-rank, given their inputs in the batches."""
        layers = find_layers(model, self.targets)
        inputs = capture_inputs(model, batches, layers) if self.reads_batches else {}
        self.factorise(model, inputs, seed)

    def factorise(
        self, model: nn.Module, inputs: Mapping[str, Tensor] | None = None, seed: int = 0
    ) -> None:
        """Make the layers low-rank, in place; nothing changes if anything is refused.

        Layers that :func:`capture_inputs` gave no inputs have x ~ N(0, I), drawn by the seed.
        """
        ranks, layers = self.ranks(model), find_layers(model, self.targets)
        made: dict[str, Factors] = {}
        for names, block in find_blocks(model, layers):
            rows, sizes = (inputs or {}).get(names[0]), [ranks[name] for name in names]
            made |= zip(names, find_factors(block, sizes, self.method, rows, seed), strict=True)
        for name, factors in made.items():
            model.set_submodule(name, LowRankLinear.from_linear(layers[name], factors))

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the low-rank layers' weights."""
        layers = {n: m for n, m in model.named_modules() if isinstance(m, LowRankLinear)}
        weights = {f"{n}.{k}": t for n, m in layers.items() for k, t in m.state_dict().items()}
        save_file(weights, folder / _FACTORS)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Make the layers low-rank, with the weights that :meth:`save` wrote."""
        weights = load_file(folder / _FACTORS)
        downs = {name: len(weight) for name, weight in weights.items() if name.endswith(".down")}
        shape_low_rank(model, {name.removesuffix(".down"): rank for name, rank in downs.items()})
        model.load_state_dict(weights, strict=False)


def shape_low_rank(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Make linear layers, by full name, low-rank, in place, with factors of ones."""
    for name, rank in ranks.items():
        layer: Any = model.get_submodule(name)
        (outputs, inputs), filled = layer.weight.shape, layer.weight.new_ones
        factors = Factors(filled(outputs, rank), filled(rank, inputs))
        model.set_submodule(name, LowRankLinear.from_linear(layer, factors))


def find_layers(model: nn.Module, targets: Collection[str] | None = None) -> dict[str, nn.Linear]:
    """Return the linear layers of these own names by full name; refuse a name without a layer."""
    every = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    known = {name.rpartition(".")[2] for name in every}
    chosen = known & set(FEED_FORWARD) if targets is None else set(targets)
    if not chosen or chosen - known:
        wrong = min(chosen - known, default="wo")
        raise RecinjectError(
            f"low rank: the model has no linear layer {wrong!r}", hint=did_you_mean(wrong, known)
        )
    return {name: layer for name, layer in every.items() if name.rpartition(".")[2] in chosen}


def find_blocks(model: nn.Module, layers: Mapping[str, nn.Linear]) -> Blocks:
    """Group layers, by full name, by the activation that joins them; the others are linear."""
    blocks: Blocks = []
    left = dict(layers)
    while left:
        name = next(iter(left))
        parent, _, own = name.rpartition(".")
        names: tuple[str, ...] = (name,)
        activation: nn.Module = nn.Identity()
        for joined, by in _JOINED.items():
            together = tuple(f"{parent}.{part}" for part in joined)
            if own in joined and left.keys() >= set(together):
                names, activation = together, model.get_submodule(f"{parent}.{by}")
        chosen = [left.pop(part) for part in names]
        block = Block([m.weight for m in chosen], [m.bias for m in chosen], activation)
        blocks.append((names, block))
    return blocks


@torch.no_grad()
def capture_inputs(
    model: nn.Module, batches: Batches, names: Iterable[str], rows: int = 2048
) -> dict[str, Tensor]:
    """Run a model over batches and collect the inputs of layers, by full name, without padding.

    At most ``rows`` of each layer are kept, evenly over the batches: (rows, inputs), on the CPU.
    """
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    masks: dict[torch.Size, Tensor] = {}
    most = -(-rows // max(1, len(batches)))

    def read(_: nn.Module, inputs: tuple[Tensor], name: str) -> None:
        states = inputs[0]
        if (mask := masks.get(states.shape[:-1])) is not None:
            states = states[mask.to(states.device)]
        states = states.flatten(0, -2)
        kept[name].append(states[:: max(1, len(states) // most)][:most].float().cpu())

    layers = ((name, model.get_submodule(name)) for name in kept)
    hooks = [m.register_forward_pre_hook(partial(read, name=name)) for name, m in layers]
    training, device = model.training, next(model.parameters()).device
    try:
        model.eval()
        for batch in batches:
            masks = _masks(model, batch)
            model(**{name: value.to(device) for name, value in batch.items()})
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts)[:rows] for name, parts in kept.items()}


def _masks(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[torch.Size, Tensor]:
    """Return by shape which tokens are no padding; where prompts and labels have one, in both."""
    config: Any = model.config
    padding = {"attention_mask": 0, **({"labels": -100} if config.is_encoder_decoder else {})}
    masks: dict[torch.Size, Tensor] = {}
    for name in padding.keys() & batch.keys():
        mask = batch[name].cpu() != padding[name]
        masks[mask.shape] = mask & masks.get(mask.shape, mask)
    return masks


class LoraStart(Initialization):
    """LoRA's matrices take over a layer's low-rank part, which is subtracted from the base weight.

    The model's outputs stay the same, to the precision of its weights. The reduced base weight is
    stored nowhere: resuming a training and exporting the adapter read the adapter that
    :meth:`save` wrote before training. ``spectral`` equals peft's ``pissa``.

    Args:
        rows: how many inputs of each layer are read, at most.
    """

    method: ClassVar[str]

    def __init__(self, *, rows: Annotated[int, Field(ge=1, le=MOST)] = 2048) -> None:
        self.rows, self.reads_batches = rows, self.method != BY_WEIGHT

    def check(self, model: nn.Module) -> None:
        """Fill B, which must be zero before, with ones."""
        for layer in self._layers(model).values():
            nn.init.ones_(layer.lora_B[_ADAPTER].weight)

    @torch.no_grad()
    def start(self, model: nn.Module, batches: Batches, seed: int) -> None:
        """Fill the matrices; without batches, for inputs x ~ N(0, I).

        Raises:
            RecinjectError: the adapter or the base cannot start so.
        """
        layers = self._layers(model)
        blocks = _blocks(model, layers)
        first = [names[0] for names, _ in blocks]
        inputs = capture_inputs(model, batches, first, self.rows) if batches else {}
        for names, block in blocks:
            chosen = [layers[name] for name in names]
            ranks = [layer.r[_ADAPTER] for layer in chosen]
            found = find_factors(block, ranks, self.method, inputs.get(names[0]), seed)
            for layer, factors in zip(chosen, found, strict=True):
                root = layer.scaling[_ADAPTER] ** 0.5
                layer.lora_A[_ADAPTER].weight.copy_(factors.down / root)
                layer.lora_B[_ADAPTER].weight.copy_(factors.up / root)
        _subtract(layers)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the adapter."""
        assert isinstance(model, PeftModel)
        model.save_pretrained(folder)

    @torch.no_grad()
    def load(self, model: nn.Module, folder: Path) -> None:
        """Take the matrices that :meth:`save` wrote, and subtract them from the base."""
        layers = self._layers(model)
        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
        _subtract(layers)

    def _layers(self, model: nn.Module) -> dict[str, LoraLinear]:
        """Return the layers to fill, or refuse the adapter or the base."""
        assert isinstance(model, PeftModel)
        config: LoraConfig = model.peft_config[_ADAPTER]
        if config.use_dora or (config.use_rslora and (config.rank_pattern or config.alpha_pattern)):
            raise RecinjectError(
                "lora: DoRA, and rsLoRA with patterns, cannot start from a layer's function",
                hint="drop lora.use_dora, or lora.rank_pattern and lora.alpha_pattern",
            )
        layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
        for name, layer in layers.items():
            base = layer.get_base_layer()
            if not isinstance(base, nn.Linear) or not base.weight.is_floating_point():
                raise RecinjectError(
                    f"lora: {name} is a {type(base).__name__}; only linear layers in floating "
                    "point can start from their function",
                    hint="name other layers in lora.target_modules, and do not quantise the base",
                )
            if layer.lora_B[_ADAPTER].weight.any():
                raise RecinjectError(
                    f"lora: {name} does not start at zero",
                    hint="leave out lora.init_lora_weights, and initialize once, before training",
                )
            check_rank(name, base.weight, layer.r[_ADAPTER])
        for _, block in _blocks(model, layers):
            check_method(block, self.method)
        return layers


class SpectralStart(LoraStart):
    """The truncated singular value decomposition of the weight."""

    method = "spectral"


class NkpStart(LoraStart):
    """The directions in which the layer's outputs vary most."""

    method = "nkp"


class LfaiStart(LoraStart):
    """The factors with the least error of the layer's outputs."""

    method = "lfai"


def _subtract(layers: Mapping[str, LoraLinear]) -> None:
    for layer in layers.values():
        layer.get_base_layer().weight -= layer.get_delta_weight(_ADAPTER)


def _blocks(model: nn.Module, layers: Mapping[str, LoraLayer]) -> Blocks:
    return find_blocks(model, {name: layer.get_base_layer() for name, layer in layers.items()})
