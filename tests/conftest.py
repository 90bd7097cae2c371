"""What tests of several rooms share."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from recinject.cli import main
from recinject.data.schema import Interactions
from recinject.data.splitting import Split, leave_one_out
from recinject.foundation.seals import seal_folder
from recinject.foundation.storage import MANIFEST_NAME, RunManifest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples every time, and no test that fails because the machine is busy.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=20)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.register_profile("quick", derandomize=True, deadline=None, max_examples=10)
hypothesis.settings.load_profile("ci")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RECINJECT_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; name its place with RECINJECT_DATA")
    return folder


def _split_of(histories: list[list[int]], n_items: int = 30) -> Split:
    items = np.array([item for history in histories for item in history], np.int32)
    lengths = [len(history) for history in histories]
    log = Interactions(
        users=np.repeat(np.arange(len(histories), dtype=np.int32), lengths),
        items=items,
        ratings=(np.arange(len(items)) * 7 % 10 + 1) / 2,
        timestamps=None,
        user_ids=[f"customer-{user}" for user in range(len(histories))],
        n_items=n_items,
    )
    return leave_one_out(log)


@pytest.fixture(scope="session")
def split_of() -> Callable[..., Split]:
    """Make a split from the items of each user, oldest first; the last two are held out."""
    return _split_of


@pytest.fixture(scope="session")
def splits() -> Callable[..., st.SearchStrategy[Split]]:
    """Strategies of small splits of 30 items; ``repeats`` lets users come back to an item."""

    def strategy(repeats: bool = False) -> st.SearchStrategy[Split]:
        history = st.lists(st.integers(0, 29), max_size=12, unique=not repeats)
        return st.lists(history, min_size=1, max_size=5).map(_split_of)

    return strategy


@pytest.fixture(scope="session")
def reseal() -> Callable[[Path], None]:
    """Let what a test changed in a stage's folder be what the stage wrote."""

    def write(folder: Path) -> None:
        sealed = seal_folder(folder, MANIFEST_NAME)
        replace(RunManifest.read(folder), files=sealed).write(folder)

    return write


class Ended(NamedTuple):
    """How a command ended: its exit code, and what it wrote to standard output and error."""

    code: int
    output: str


def _recinject(*words: object) -> Ended:
    written = io.StringIO()
    argv = mock.patch("sys.argv", ["recinject", *map(str, words)])
    with argv, redirect_stdout(written), redirect_stderr(written):
        try:
            main()
        except SystemExit as end:
            return Ended(int(end.code or 0), written.getvalue())
    return Ended(0, written.getvalue())


@pytest.fixture(scope="session")
def recinject() -> Callable[..., Ended]:
    """Run a command line within this process."""
    return _recinject


_TINY_RECIPE = """
data:
  simulator: {users: 60, items: 40, events_per_user: 10}
  k_core: 2
samples:
  tasks:
    masked_item_modelling: {}
    masked_language_modelling: {}
    bpr: {max_per_user: 2}
    retrieval: {}
    ranking: {negatives: 9, train_negatives: 4, max_per_user: 2}
    rating: {max_per_user: 2}
model:
  config: {d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_heads: 2}
  vocab_size: 600
training: {max_steps: 8, per_device_train_batch_size: 8, validation_samples: 20, use_cpu: true}
evaluation: {resamples: 100, beams: 10}
"""


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with every task and every baseline that runs in seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(_TINY_RECIPE, "utf-8")
    return path


@pytest.fixture(scope="session")
def ray() -> Iterator[ModuleType]:
    """Ray on this machine, which goes with the tests; they are skipped where it is absent."""
    found: ModuleType = pytest.importorskip("ray", reason="Ray is absent: recinject[ray]")
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    with mock.patch.dict(os.environ, {"RAY_USAGE_STATS_ENABLED": "0"}):
        found.init(address="local", num_cpus=4, **quiet)
        yield found
        found.shutdown()


@pytest.fixture(scope="session")
def forkserver() -> Any:
    """Processes that have everything imported already, so that each starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recinject.cli", "recinject.pipeline.report"])
    return context


@pytest.fixture
def start_python(forkserver: Any) -> Iterator[Callable[[str], Any]]:
    """Run code in a process of its own, which is killed when the test ends."""
    started = []

    def run(code: str) -> Any:
        process = forkserver.Process(target=exec, args=(code, {}))
        process.start()
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.join()
