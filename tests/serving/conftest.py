import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

import recinject as ri
from recinject.serving.service import Service, Shop

SHOP = """
name: tiny
seed: 1
data:
  simulator: {users: 60, items: 40, events_per_user: 10}
  k_core: 2
samples: {tasks: {retrieval: {}, rating: {max_per_user: 2}}}
model:
  config: {d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_heads: 2}
  vocab_size: 600
training: {max_steps: 8, per_device_train_batch_size: 8, validation_samples: 20, use_cpu: true}
evaluation: {resamples: 100, beams: 10, baselines: [ease, item_mean]}
"""


@pytest.fixture(scope="session")
def served_run(recinject, tmp_path_factory):
    """A finished run; nobody may change it."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "tiny.yaml").write_text(SHOP, "utf-8")
    ended = recinject("run", folder / "tiny.yaml", f"runs={folder / 'runs'}")
    assert ended.code == 0, ended.output
    return ri.load(folder / "runs" / "tiny")


@pytest.fixture(scope="session")
def shop(served_run):
    return Shop.of_run(served_run, ["ease", "item_mean"])


@pytest.fixture
def service(shop):
    """A service of its own, which is closed afterwards."""
    made = Service([shop])
    yield made
    made.close()


@pytest.fixture
def open_client(shop):
    """Open a client of an application with some arguments; return what asks it."""
    from fastapi.testclient import TestClient

    from recinject.serving.app import create_app

    opened = []

    def start(limits=None, **given):
        app = create_app(Service([shop], limits), **given)
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        opened.append(client.__enter__())
        return client

    yield start
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def started(served_run):
    """Start the service on a free port; return the process and its address."""
    made = []

    def start(*words):
        command = [sys.executable, "-m", "recinject", "serve", str(served_run.recipe.folder)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        process = subprocess.Popen(
            [*command, "--port", "0", *words], stderr=subprocess.PIPE, text=True, env=env
        )
        made.append(process)
        seen = ""
        for line in process.stderr:
            seen += line
            if found := re.search(r"at (http://\S+?),", line):
                return process, found[1]
        raise AssertionError(seen)

    yield start
    for process in made:
        process.kill()
        process.communicate()
