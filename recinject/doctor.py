"""What this machine has: versions, devices, precision, optional packages."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping

from packaging.requirements import Requirement

import recinject

_NEEDED = ("torch", "transformers", "datasets", "peft", "accelerate", "tokenizers", "pandas")
_OPTIONAL = {
    "implicit": ("cf", "for the baselines als and bpr"),
    "s3fs": ("s3", "to read logs from s3:// addresses"),
    "ray": ("ray", "to build and recommend on a cluster"),
    "sentence-transformers": ("semantic", "to embed items by a text model"),
    "gguf": ("gguf", "to prompt models in .gguf files"),
    "fastapi": ("serve", "to serve runs over HTTP"),
    "nbmake": ("notebooks", "to run the notebooks"),
}


def examine() -> Iterator[str]:
    """Yield one line for each fact that belongs in a report of a problem."""
    yield f"recinject {recinject.__version__}, Python {platform.python_version()}"
    yield f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    wanted = _requirements()
    for name in _NEEDED:
        yield _state(name, wanted, "install recinject again")
    for name, (extra, purpose) in _OPTIONAL.items():
        yield _state(name, wanted, f"pip install 'recinject[{extra}]' {purpose}")
    for name in wanted.keys() - {*_NEEDED, *_OPTIONAL}:
        line, own = _state(name, wanted, "install recinject again"), wanted[name]
        if line != f"{name} {_version(name)}" and (_version(name) or own.marker is None):
            yield line
    yield from _devices()


def _requirements() -> dict[str, Requirement]:
    """Return what recinject asks for, by name; nothing where it runs without being installed."""
    try:
        listed = importlib.metadata.requires("recinject") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {each.name: each for each in map(Requirement, listed)}


def _state(name: str, wanted: Mapping[str, Requirement], mending: str) -> str:
    """Say which version is there, and what to do where it is none or a wrong one."""
    version, own = _version(name), wanted.get(name)
    if version is None:
        return f"{name} missing: {mending}"
    if own is not None and not own.specifier.contains(version, prereleases=True):
        return f"{name} {version} is not {own.specifier}: pip install '{name}{own.specifier}'"
    return f"{name} {version}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[str]:
    import torch

    if not torch.cuda.is_available():
        yield "device: CPU, 32-bit floats (no CUDA device was found)"
        return
    precision = "bf16" if torch.cuda.is_bf16_supported() else "32-bit floats"
    for number in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(number)
        yield f"device {number}: {name}, {precision} (T5 overflows fp16)"
