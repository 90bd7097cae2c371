"""Several processes over gloo, through accelerate and the real command line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForSeq2SeqLM

from recinject.foundation.storage import shipped_folder

CONFIGS = shipped_folder("recipes") / "accelerate"
# Each process writes down what it holds when training ends; the command line itself is untouched.
# accelerate turns FSDP on for GPUs alone and trains by DDP elsewhere, without a word: with
# SHARE_OUT it is told that these processes are such, and torch shares weights out over gloo.
SCRIPT = """
import os, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from accelerate.state import DistributedType, PartialState
if os.environ.get("SHARE_OUT"):
    first = PartialState.__init__
    def told(self, *given, **settings):
        first(self, *given, **settings)
        if self._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    PartialState.__init__ = told
    Accelerator.device = property(lambda self: torch.device("cpu"))
from torch.distributed.tensor import DTensor
from recinject.training import fitting
whole = fitting.whole_model
def noted(trainer, rebuild):
    held = {name: p.to_local() if isinstance(p, DTensor) else p.detach()
            for name, p in trainer.model_wrapped.named_parameters()}
    sharded = all(isinstance(p, DTensor) for p in trainer.model_wrapped.parameters())
    torch.save({"sharded": sharded, "held": {n: t.clone() for n, t in held.items()}},
               Path(os.environ["NOTES"]) / f"{trainer.args.process_index}.pt")
    return whole(trainer, rebuild)
fitting.whole_model = noted
from recinject.cli import main
main()
"""
SETTINGS = (
    *("model.config.dropout_rate=0.0", "training.logging_steps=1", "training.save_steps=4"),
    "training.learning_rate=0.01",
)


@pytest.fixture
def launch(tiny_recipe, tmp_path):
    """Train in processes of their own; return the run's folder and what each process held."""
    (tmp_path / "script.py").write_text(SCRIPT, "utf-8")

    def run(name, config, processes, *settings, share_out=""):
        runs = tmp_path / name
        runs.mkdir(exist_ok=True)
        words = ["--config_file", str(CONFIGS / config), "--num_processes", str(processes)]
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "accelerate.commands.launch", *words),
                *(str(tmp_path / "script.py"), "train", str(tiny_recipe), f"runs={runs}"),
                *(*SETTINGS, *settings),
            ],
            capture_output=True,
            text=True,
            timeout=240,
            env=os.environ
            | {
                **{"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
                **{"NOTES": str(runs), "SHARE_OUT": share_out},
            },
        )
        assert ended.returncode == 0, ended.stderr[-4000:]
        notes = [torch.load(runs / f"{rank}.pt") for rank in range(processes)]
        return runs / "tiny", notes, ended.stderr

    return run


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def entries(folder):
    lines = (folder / "training" / "log.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(folder):
    return np.array(
        [(e["step"], e["loss"], e["grad_norm"]) for e in entries(folder) if "loss" in e]
    )


def validation_losses(folder):
    return [entry["eval_loss"] for entry in entries(folder) if "eval_loss" in entry]


def assert_close(one, other, tolerance):
    for name, value in weights(one).items():
        np.testing.assert_allclose(
            weights(other)[name], value, rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "adaptation",
    [
        "lora=null",
        "lora={r: 2, target_modules: [q, v]}",
        "lora={r: 2, target_modules: [q, wo], initialization: lfai}",
        "experts={number: 3, regulariser: 0.1}",
        "model.low_rank={rank: 4}",
    ],
)
def test_two_processes_train_as_one_does(launch, adaptation):
    one, _, _ = launch("one", "one_process.yaml", 1, adaptation)
    half = "training.per_device_train_batch_size=4"
    two, notes, _ = launch("two", "ddp.yaml", 2, adaptation, half)
    np.testing.assert_allclose(losses(two), losses(one), rtol=0, atol=1e-4)
    first, second = (note["held"] for note in notes)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert_close(one, two, 1e-3)  # Adam turns rounding of tiny gradients into steps


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["lora=null", "lora={r: 2, target_modules: [q, v]}"])
def test_shared_out_weights_train_are_saved_whole_and_resume(launch, adaptation):
    plain, _, _ = launch("plain", "ddp.yaml", 2, adaptation)
    shared, notes, _ = launch("shared", "fsdp.yaml", 2, adaptation, share_out="1")
    assert all(note["sharded"] for note in notes)
    held = [sum(tensor.numel() for tensor in note["held"].values()) for note in notes]
    whole = AutoModelForSeq2SeqLM.from_pretrained(shared / "model", local_files_only=True)
    assert max(held) < 0.6 * sum(held) and whole.num_parameters() <= sum(held)
    np.testing.assert_allclose(losses(shared), losses(plain), rtol=0, atol=1e-4)
    assert_close(plain, shared, 1e-3)
    # On the same samples each time, unlike the loss of two batches.
    measured = validation_losses(shared)
    assert len(measured) > 1 and measured[-1] < measured[0]

    before = weights(shared)
    for path in shared.glob("training/checkpoints/*/checkpoint-8/complete.json"):
        path.unlink()
    (shared / "model" / "manifest.json").unlink()
    _, _, said = launch("shared", "fsdp.yaml", 2, adaptation, share_out="1")
    assert "going on from" in said and "checkpoint-4" in said
    for name, value in weights(shared).items():
        np.testing.assert_allclose(value, before[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_without_gpus_it_is_said_that_nothing_is_shared_out(launch):
    _, notes, said = launch("plain", "fsdp.yaml", 2)
    assert not any(note["sharded"] for note in notes)
    assert "FSDP is for GPUs: here each process holds the whole model" in said
