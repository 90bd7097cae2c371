"""Two processes and one run's folder."""

import os
import subprocess
import sys
import time

import pytest

from recinject.foundation.errors import RecinjectError
from recinject.pipeline.lock import RunIsBusyError, only_writer
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run

HOLD = """
import sys, time
from recinject.pipeline.lock import only_writer
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run
with only_writer(Run(load_recipe("quickstart", {"runs": sys.argv[1]}))):
    print("held", flush=True)
    time.sleep(60)
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
