"""Two processes and one run's folder."""

import os
import subprocess
import sys
import time
from datetime import timedelta

import pytest

import recinject as ri
from recinject.foundation.errors import RecinjectError
from recinject.pipeline import run as run_module
from recinject.pipeline.lock import RunIsBusyError, only_writer
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run
from recinject.pipeline.sweep import sweep

HOLD = """
import sys, time
from recinject.pipeline.lock import only_writer
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run
with only_writer(Run(load_recipe("quickstart", {"runs": sys.argv[1]}))):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that fills the run."""
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_ends_or_is_refused_and_a_dead_one_holds_nothing(tmp_path, holder):
    run = Run(load_recipe("quickstart", {"runs": str(tmp_path)}))
    with pytest.raises(RunIsBusyError, match=f"process {holder.pid} on .* since 2") as said:
        only_writer(run, wait=False).__enter__()
    assert said.value.exit_code == 3
    other = Run(load_recipe("quickstart", {"runs": str(tmp_path), "seed": 2}))
    with pytest.raises(RecinjectError, match="other settings: seed"), only_writer(other):
        pass
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with only_writer(run):
        assert str(os.getpid()) in (tmp_path / ".quickstart.lock.json").read_text("utf-8")
    assert time.monotonic() - began < 5


def test_python_and_sweeps_wait_for_a_holder_too(tmp_path, holder, recinject, monkeypatch):
    busy = []
    monkeypatch.setattr(
        "recinject.pipeline.lock._wait_for", lambda *_: busy.append(_) or sys.exit("busy")
    )
    for work in (
        lambda: ri.run("quickstart", runs=tmp_path),
        lambda: sweep(load_recipe("quickstart", {"runs": str(tmp_path)})),
    ):
        with pytest.raises(SystemExit):
            work()
    assert len(busy) == 2
    monkeypatch.undo()
    for verb in ("report", "sweep", "run"):
        ended = recinject(verb, "quickstart", f"runs={tmp_path}", "--no-wait")
        assert ended.code == 3 and f"process {holder.pid}" in ended.output


def test_of_processes_launched_together_the_first_one_holds(tmp_path, holder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with only_writer(Run(load_recipe("quickstart", {"runs": str(tmp_path)}))):
        assert str(holder.pid) in (tmp_path / ".quickstart.lock.json").read_text("utf-8")


def test_a_process_whose_others_are_not_there_ends(monkeypatch):
    places = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(run_module, "_LONGEST_MEETING", timedelta(seconds=1))
    with pytest.raises(RecinjectError, match=r"process 1 of 2: the others are not there"):
        run_module.is_first_process()
