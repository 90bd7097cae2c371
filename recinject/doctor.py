"""What this machine has: versions, devices, precision, optional packages."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator

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
    for name in _NEEDED:
        yield f"{name} {_version(name) or 'missing: install recinject again'}"
    for name, (extra, purpose) in _OPTIONAL.items():
        hint = f"missing: pip install 'recinject[{extra}]' {purpose}"
        yield f"{name} {_version(name) or hint}"
    yield from _devices()


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
