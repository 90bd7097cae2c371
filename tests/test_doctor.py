import importlib.metadata
import tomllib
from pathlib import Path

import pytest
import torch

import recinject
from recinject.doctor import _OPTIONAL, examine


def test_the_doctor_names_versions_and_device():
    lines = list(examine())
    assert lines[0].startswith(f"recinject {recinject.__version__}, Python 3.")
    assert "CPU cores" in lines[1]
    assert f"torch {importlib.metadata.version('torch')}" in lines
    assert lines[-1].startswith("device")


@pytest.mark.parametrize("name", ["implicit", "gguf", "datasets"])
def test_what_is_missing_is_said_with_its_mending(name, monkeypatch):
    version = importlib.metadata.version

    def without(asked):
        if asked == name:
            raise importlib.metadata.PackageNotFoundError(asked)
        return version(asked)

    monkeypatch.setattr(importlib.metadata, "version", without)
    (line,) = [line for line in examine() if line.startswith(name)]
    assert line.startswith(f"{name} missing: ") and "install" in line


@pytest.mark.parametrize("name", ["pandas", "gguf", "pydantic"])
def test_a_wrong_version_is_said_with_its_mending(name, monkeypatch):
    version = importlib.metadata.version
    old = lambda asked: "0.0.1" if asked == name else version(asked)  # noqa: E731
    monkeypatch.setattr(importlib.metadata, "version", old)
    (line,) = [line for line in examine() if line.startswith(name)]
    assert line.startswith(f"{name} 0.0.1 is not >=") and f"pip install '{name}>=" in line


def test_nothing_is_said_of_what_is_right():
    assert not [line for line in examine() if " is not " in line]


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "32-bit floats")])
def test_every_device_is_named_with_its_precision(bf16, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"card {number}")
    assert [line.partition(" (")[0] for line in examine()][-2:] == [
        f"device 0: card 0, {precision}",
        f"device 1: card 1, {precision}",
    ]


def test_without_a_gpu_it_says_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(examine())[-1].startswith("device: CPU, 32-bit floats")


def test_every_extra_for_users_is_examined():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"].keys() - {"dev", "docs"}
    assert {extra for extra, _ in _OPTIONAL.values()} == extras
