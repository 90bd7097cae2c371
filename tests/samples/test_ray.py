"""Samples written by workers on Ray, one of them killed in the middle."""

import sys

import pytest

from recinject import registry
from recinject.engines import Engine
from recinject.samples import store
from recinject.samples.samples import build_samples
from recinject.samples.store import Forms
from recinject.tasks.task import BPR, Retrieval

# The first process that comes to some samples dies as by kill -9, which nothing can catch.
DYING = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from recinject.tasks.task import Retrieval

@dataclass(frozen=True)
class Dying(Retrieval):
    mark: str = ""

    def sample(self, view, keys, words):
        if (keys.users == 2).any() and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(view, keys, words)
"""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(store, "SAMPLES_PER_SHARD", 17)


def built(factory, folder, engine):
    folder.mkdir()
    build_samples(factory, folder, Forms(jsonl=True), engine=engine)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_ray_changes_no_byte_whatever_the_number_of_workers(ray, make, small_split, tmp_path):
    factory = make(small_split, tasks=[Retrieval(), BPR()])
    here = built(factory, tmp_path / "here", Engine())
    assert sum(path.suffix == ".parquet" for path in here) > 8
    for workers in (1, 2, 4):
        assert built(factory, tmp_path / str(workers), Engine("ray", workers)) == here


def test_a_worker_killed_in_the_middle_changes_no_byte(
    ray, make, small_split, tmp_path, monkeypatch
):
    monkeypatch.setattr(registry, "_plugins", {})
    plugin, mark = tmp_path / "dying.py", tmp_path / "killed"
    plugin.write_text(DYING, "utf-8")
    registry.load_plugin(plugin)
    dying = sys.modules[registry._plugins[plugin.resolve()]].Dying(mark=str(mark))
    here = built(make(small_split, tasks=[Retrieval()]), tmp_path / "here", Engine())
    found = built(make(small_split, tasks=[dying]), tmp_path / "ray", Engine("ray", 2))
    assert mark.exists()
    facts = next(path for path in here if path.name == "samples.json")  # it names the mark
    assert found.keys() == here.keys()
    assert all(found[path] == here[path] for path in here if path != facts)
