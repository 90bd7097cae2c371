"""Training's invariants, through the real command line."""

import json
import os
import signal
import time

import numpy as np
import pytest

STILL = "model.config.dropout_rate=0.0"
LORA = "lora={r: 2, target_modules: [q, v]}"
ADAPTATIONS = [pytest.param("lora=null", marks=pytest.mark.slow), LORA]
CHILD = """
import os, sys
sys.stderr = open(os.devnull, "w")
sys.argv = ["recinject", *{words!r}]
from recinject.cli import main
main()
"""


@pytest.fixture
def words(copy_built, tiny_recipe):
    """The words that train in a folder of a given name, on samples that are built already."""

    def make(name, *settings):
        runs = copy_built(name).parent
        return ["train", str(tiny_recipe), f"runs={runs}", *settings]

    return make


@pytest.fixture
def train(recinject, words, tmp_path):
    def run(name, *settings):
        ended = recinject(*words(name, *settings))
        assert ended.code == 0, ended.output
        return tmp_path / name / "tiny"

    return run


def log_of(folder):
    lines = (folder / "training" / "log.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(folder):
    return [(e["step"], e["loss"], e["grad_norm"]) for e in log_of(folder) if "loss" in e]


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_how_a_batch_is_cut_up_changes_nothing(train, adaptation):
    folders = [
        train(
            f"{batch}x{parts}",
            *(STILL, adaptation, "training.logging_steps=1", "training.save_strategy=no"),
            f"training.per_device_train_batch_size={batch}",
            f"training.gradient_accumulation_steps={parts}",
        )
        for batch, parts in ((8, 1), (4, 2), (2, 4))
    ]
    whole = losses(folders[0])
    assert len(whole) == 8
    for folder in folders[1:]:
        np.testing.assert_allclose(losses(folder), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_the_same_run_twice_gives_the_same_weights_to_the_bit(
    train, assert_same_weights, adaptation
):
    assert_same_weights(train("one", adaptation), train("two", adaptation))


def test_the_loss_of_each_task_is_logged(train):
    entries = log_of(train("run", "training.logging_steps=8", "training.save_strategy=no"))
    first, entry = [entry for entry in entries if "loss" in entry]
    assert (first["step"], entry["step"]) == (1, 8)
    by_task = [value for name, value in entry.items() if name.startswith("loss/")]
    assert len(by_task) == 6 and min(by_task) < entry["loss"] < max(by_task)


@pytest.fixture
def start(start_python):
    return lambda words: start_python(CHILD.format(words=words))


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.002)


def at_step(folder, step):
    path = folder / "training" / "log.jsonl"
    return lambda: path.is_file() and f'{{"step": {step},' in path.read_text("utf-8")


LONG = ("training.max_steps=60", "training.logging_steps=1", "training.save_steps=20")


@pytest.mark.parametrize(
    ("adaptation", "stop", "end"),
    [
        pytest.param("lora=null", signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(LORA, signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_interrupted_at_three_points_and_resumed_it_ends_the_same(
    assert_same_weights, train, start, words, tmp_path, adaptation, stop, end
):
    settings = (*LONG, adaptation)
    whole, folder = train("whole", *settings), tmp_path / "cut" / "tiny"
    marker = "training/checkpoints/*/checkpoint-{}/complete.json"
    for reached, number, code in (
        (at_step(folder, 3), signal.SIGKILL, -9),  # before there is a checkpoint
        (at_step(folder, 31), stop, end),  # between two
        (lambda: list(folder.glob(marker.format(60))), signal.SIGKILL, -9),  # before the model
    ):
        process = start(words("cut", *settings))
        wait_for(reached, process)
        os.kill(process.pid, number)
        process.join()
        assert process.exitcode == code
        assert not (folder / "model").exists()
        if number == stop:
            found = [int(p.parent.name.rpartition("-")[2]) for p in folder.glob(marker.format("*"))]
            assert 31 <= max(found) < 60
    assert_same_weights(whole, train("cut", *settings))
    assert {e[0]: e[1] for e in losses(folder)} == {e[0]: e[1] for e in losses(whole)}
