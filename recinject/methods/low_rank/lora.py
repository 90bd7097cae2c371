"""LoRA that starts from the function of the layers it adapts, in the shape of peft's EVA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recinject.foundation.errors import RecinjectError
from recinject.methods.low_rank.initialisation import Block, check_method, check_rank, initialise
from recinject.methods.low_rank.layers import capture_inputs, find_blocks

_WEIGHTS = "adapter_model.safetensors"
_MATRICES = ("lora_A", "lora_B")
_ADAPTER = "default"


@torch.no_grad()
def initialize_lora_lfai_weights(
    model: PeftModel,
    batches: Iterable[Mapping[str, Tensor]] = (),
    *,
    method: str = "lfai",
    rows: int = 2048,
    seed: int = 0,
    lfai_state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Let LoRA's matrices take over a layer's low-rank part, which the base weight gives up.

    The model computes what it did before, to the precision of its weights. Store the adapter
    with ``model.save_pretrained`` before training: :func:`save_converted` needs it, and so does
    whoever goes on with a training, as a base weight without its part is stored nowhere.

    Args:
        model: fresh from ``get_peft_model``, its matrices' product still zero.
        batches: the arguments of the model's forward, to see what its layers read; without any
            they are taken to read x ~ N(0, I).
        method: see :func:`~recinject.methods.low_rank.initialisation.initialise`.
        rows: how many inputs of each layer are looked at, at most.
        seed: of which they are, and of what is sampled.
        lfai_state_dict: the adapter as this function once left it, from ``load_peft_weights``;
            the base gives up just that, and nothing else is asked for.

    Raises:
        RecinjectError: the adapter or the base is of a kind that this cannot be done with.
    """
    layers = check_start(model, method)
    if lfai_state_dict is None:
        _fill(model, layers, list(batches), method, rows, seed)
    else:
        set_peft_model_state_dict(model, dict(lfai_state_dict))
    for layer in layers.values():
        layer.get_base_layer().weight -= layer.get_delta_weight(_ADAPTER)


def save_converted(model: PeftModel, initial: Path, folder: Path) -> None:
    """Write a trained adapter so that plain peft loads it over the base as it once was.

    It has twice the rank: what was learnt less what the base gave up. ``initial`` is where the
    adapter was stored before training; peft takes that folder's own name for an adapter's, so it
    holds no dot.
    """
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(initial))
    # peft converts the matrices and drops what else trained, such as the rows of new tokens.
    kept = get_peft_model_state_dict(model).items()
    others = {n: t.contiguous() for n, t in kept if not any(part in n for part in _MATRICES)}
    if others:
        converted = load_file(folder / _WEIGHTS)
        save_file({**others, **converted}, folder / _WEIGHTS, metadata={"format": "pt"})


def check_start(model: PeftModel, method: str = "lfai") -> dict[str, LoraLinear]:
    """Return the layers that :func:`initialize_lora_lfai_weights` fills; errors are its own."""
    config: LoraConfig = model.peft_config[_ADAPTER]
    if config.use_dora or (config.use_rslora and (config.rank_pattern or config.alpha_pattern)):
        raise RecinjectError(
            "lora: DoRA, and rsLoRA with patterns, cannot start from a layer's function",
            hint="drop lora.use_dora, or lora.rank_pattern and lora.alpha_pattern",
        )
    every = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    for name, layer in every.items():
        base = layer.get_base_layer()
        if not isinstance(base, nn.Linear) or not base.weight.is_floating_point():
            raise RecinjectError(
                f"lora: {name} is a {type(base).__name__}; only linear layers in floating point "
                "can start from their function",
                hint="name other layers in lora.target_modules, and do not quantise the base",
            )
        if layer.lora_B[_ADAPTER].weight.any():
            raise RecinjectError(
                f"lora: {name} does not start at zero",
                hint="leave out lora.init_lora_weights, and initialise once, before training",
            )
        check_rank(name, base.weight, layer.r[_ADAPTER])
    for _, block in _blocks(model, every):
        check_method(block, method)
    return every


def _blocks(
    model: PeftModel, layers: Mapping[str, LoraLinear]
) -> list[tuple[tuple[str, ...], Block]]:
    return find_blocks(model, {name: layer.get_base_layer() for name, layer in layers.items()})


def _fill(
    model: PeftModel,
    layers: Mapping[str, LoraLinear],
    batches: list[Mapping[str, Tensor]],
    method: str,
    rows: int,
    seed: int,
) -> None:
    blocks = _blocks(model, layers)
    first = [names[0] for names, _ in blocks]
    inputs = capture_inputs(model, batches, first, rows, seed) if batches else {}
    for names, block in blocks:
        chosen = [layers[name] for name in names]
        ranks = [layer.r[_ADAPTER] for layer in chosen]
        found = initialise(block, ranks, method, inputs.get(names[0]), seed)
        for layer, factors in zip(chosen, found, strict=True):
            share = layer.scaling[_ADAPTER] ** 0.5
            layer.lora_A[_ADAPTER].weight.copy_(factors.down / share)
            layer.lora_B[_ADAPTER].weight.copy_(factors.up / share)
