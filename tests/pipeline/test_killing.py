"""Runs that are killed, and disks that are full, through the real command line.

``RECINJECT_KILLS=50 pytest -m slow tests/pipeline/test_killing.py`` is the long form.
"""

import os
import random
import shutil
import signal
import sys
import time

import pytest

from recinject.training.trainer import MARKER, newest_complete

CHILD = """
import os, resource, sys
sys.stderr = open("{stderr}", "a")
if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = ["recinject", *{words!r}]
from recinject.cli import main
main()
"""
# Saves so often that many a kill falls into a save.
SETTINGS = (
    *("training.max_steps=24", "training.logging_steps=4", "training.save_steps=2"),
    "training.eval_strategy=no",
    "model.config={d_model: 64, d_kv: 16, d_ff: 128, num_layers: 1, num_heads: 4}",
)


@pytest.fixture
def start(start_python, copy_built, tiny_recipe, tmp_path):
    """Start training in a folder of a given name, in a process that may write files so large."""

    def run(name, limit=0):
        words = ["train", str(tiny_recipe), f"runs={copy_built(name).parent}", *SETTINGS]
        return start_python(CHILD.format(words=words, limit=limit, stderr=tmp_path / f"{name}.txt"))

    return run


def finish(process):
    process.join(240)
    return process.exitcode


def check_kills(start, tmp_path, kills, assert_same_weights):
    assert finish(start("first")) == 0  # the server's imports are no part of a run
    began = time.monotonic()
    assert finish(start("whole")) == 0
    lasted = time.monotonic() - began
    chance, folder, killed, torn = random.Random(0), tmp_path / "cut" / "tiny", 0, 0
    while killed < kills:
        process = start("cut")
        process.join(chance.uniform(0.1, lasted))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), (tmp_path / "cut.txt").read_text()
        saved = list(folder.glob("training/checkpoints/*/checkpoint-*"))
        torn += sum(not (path / MARKER).is_file() for path in saved)
        if process.exitcode == 0:  # it came to its end, and is as it should be: once more
            assert_same_weights(tmp_path / "whole" / "tiny", folder)
            for left in ("model", "training"):
                shutil.rmtree(folder / left)
    assert finish(start("cut")) == 0, (tmp_path / "cut.txt").read_text()
    assert_same_weights(tmp_path / "whole" / "tiny", folder)
    assert not list(folder.rglob("*partial*"))
    assert all(
        (path / MARKER).is_file() for path in folder.glob("training/checkpoints/*/checkpoint-*")
    )
    return torn


@pytest.mark.slow
def test_killed_three_times_it_ends_as_if_it_had_not_been(start, tmp_path, assert_same_weights):
    check_kills(start, tmp_path, 3, assert_same_weights)


@pytest.mark.slow
def test_killed_many_times_it_ends_as_if_it_had_not_been(start, tmp_path, assert_same_weights):
    kills = int(os.environ.get("RECINJECT_KILLS", "50"))
    torn = check_kills(start, tmp_path, kills, assert_same_weights)
    sys.stdout.write(f"{kills} kills, {torn} torn checkpoints seen\n")
    assert torn or kills < 50  # else no kill fell into a save, and nothing was shown


def checkpoints(folder):
    return next(folder.glob("training/checkpoints/*"))


def test_a_full_disk_is_a_clear_error_that_leaves_the_last_good_checkpoint(
    start, tmp_path, assert_same_weights
):
    assert finish(start("whole")) == 0
    process, folder = start("full"), tmp_path / "full" / "tiny"
    while not (
        process.exitcode is not None or list(folder.glob("training/checkpoints/*/*-8/" + MARKER))
    ):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = newest_complete(checkpoints(folder))
    assert finish(start("full", limit=100_000)) == 2
    said = (tmp_path / "full.txt").read_text("utf-8")
    assert "cannot be written" in said and "the last good checkpoint" in said
    assert "Traceback" not in said
    assert newest_complete(checkpoints(folder)) == before
    assert not [p for p in checkpoints(folder).iterdir() if not (p / MARKER).is_file()]
    assert finish(start("full")) == 0
    assert_same_weights(tmp_path / "whole" / "tiny", folder)


def test_a_folder_that_cannot_be_written_is_a_clear_error(start, tmp_path, copy_built):
    copy_built("barred")
    (tmp_path / "barred" / "tiny" / "training").write_text("in the way")
    assert finish(start("barred")) == 2
    said = (tmp_path / "barred.txt").read_text("utf-8")
    assert "cannot be written" in said and "Traceback" not in said
