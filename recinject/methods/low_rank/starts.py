"""LoRA that starts from a part of its layers: the initializations spectral, nkp and lfai."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from peft import LoraConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from pydantic import Field
from torch import Tensor, nn

from recinject.foundation.errors import RecinjectError
from recinject.methods.low_rank.factors import check_method, check_rank, find_factors
from recinject.methods.low_rank.layers import BY_WEIGHT, Blocks, capture_inputs, find_blocks
from recinject.models.building import Initialization

_ADAPTER = "default"
_Batches = Sequence[Mapping[str, Tensor]]


class LoraStart(Initialization):
    """LoRA's matrices take over a layer's low-rank part, which is subtracted from the base weight.

    The model's outputs stay the same, to the precision of its weights. The reduced base weight is
    stored nowhere: resuming a training and exporting the adapter read the adapter that
    :meth:`save` wrote before training. ``spectral`` equals peft's ``pissa``.

    Args:
        rows: how many inputs of each layer are read, at most.
    """

    method: ClassVar[str]

    def __init__(self, *, rows: Annotated[int, Field(ge=1)] = 2048) -> None:
        self.rows, self.reads_batches = rows, self.method != BY_WEIGHT

    def check(self, model: nn.Module) -> None:
        """Fill B, which must be zero before, with ones."""
        for layer in self._layers(model).values():
            nn.init.ones_(layer.lora_B[_ADAPTER].weight)

    @torch.no_grad()
    def start(self, model: nn.Module, batches: _Batches, seed: int) -> None:
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
