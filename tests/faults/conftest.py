"""A small run, commands in processes of their own, and a tally of how they end under faults."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from recinject.pipeline.run import find_whole_damage

RECIPE = """
data: {simulator: {users: 30, items: 30, events_per_user: 8}, k_core: 2}
samples: {tasks: {retrieval: {}}}
model: {config: {d_model: 8, d_kv: 4, d_ff: 8, num_layers: 1, num_heads: 2}, vocab_size: 400}
training: {max_steps: 4, per_device_train_batch_size: 8, use_cpu: true}
evaluation:
  {baselines: [popularity], resamples: 100, cutoffs: [1, 5], beams: 5, limit: 10, blend: false,
   reworded: false, shuffled: false}
"""
# The command line as a user starts it, but that its imports are there, and what a test limits.
CHILD = """
import os, resource, sys
stream = open({said!r}, "w", buffering=1)
os.dup2(stream.fileno(), 1), os.dup2(stream.fileno(), 2)
sys.stdout = sys.stderr = stream
from recinject.foundation import progress
progress.console.file = stream
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = ["recinject", *{words!r}]
{before}
from recinject.cli import main
main()
"""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    output: str


@dataclass
class Tally:
    """How many commands were tried, and how they ended."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    worst: list[str] = field(default_factory=list)

    def note(self, kind: str, how: str, what: str) -> None:
        self.counts.setdefault(kind, Counter())[how] += 1
        if how in ("silently wrong", "traceback"):
            self.worst.append(f"{kind}: {what}: {how}")

    def table(self) -> str:
        names = ("redone", "refused", "harmless", "silently wrong", "traceback")
        rows = [("fault", "tried", *names)]
        for kind, own in self.counts.items():
            rows.append((kind, str(own.total()), *(str(own[name]) for name in names)))
        return "\n".join("  ".join(f"{cell:>14}" for cell in row) for row in rows)


@pytest.fixture(scope="session")
def all_tallies() -> Iterator[Tally]:
    """Count over all tests, and print the table at the end."""
    found = Tally()
    yield found
    sys.__stdout__.write("\n".join(["", found.table(), *found.worst, ""]))


@pytest.fixture
def tally(all_tallies: Tally) -> Iterator[Tally]:
    """Count together with the other tests; the worst are a test's own."""
    found = Tally(all_tallies.counts)
    yield found
    all_tallies.worst += found.worst


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "small.yaml"
    path.write_text(RECIPE, "utf-8")
    return path


@pytest.fixture(scope="session")
def whole(recinject: Callable[..., Any], recipe: Path, tmp_path_factory: Any) -> Path:
    """A finished run that nobody may change."""
    runs = tmp_path_factory.mktemp("whole")
    ended = recinject("run", recipe, f"runs={runs}")
    assert ended.code == 0, ended.output
    return runs / "small"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy the finished run into a folder of its own."""

    def make(name: str) -> Path:
        shutil.copytree(whole, tmp_path / name / "small")
        return tmp_path / name / "small"

    return make


def content(run: Path) -> dict[str, str]:
    """Return hashes of what a run found: figures, weights, data, samples."""
    files = [run / "evaluation" / "metrics.json", run / "model" / "model.safetensors"]
    files += [*(run / "data").glob("*.parquet"), *run.glob("samples/*/*.arrow")]
    files += run.glob("evaluation/predictions/*.parquet")
    found = {str(path.relative_to(run)): path.read_bytes() for path in files if path.is_file()}
    return {name: hashlib.sha256(own).hexdigest() for name, own in found.items()}


@pytest.fixture(scope="session")
def judge(whole: Path) -> Callable[..., str]:
    """Say how a command ended, beside the run as it should be."""
    right = content(whole)

    def say(code: int, output: str, run: Path, only: str = "") -> str:
        if code == 70 or "Traceback" in output or code < 0:
            return "traceback"
        if code:
            one = output.count("error: ") == 1 and "fix: " in output
            return "refused" if one else "traceback"
        found = content(run)
        asked = {name: own for name, own in right.items() if name.startswith(only)}
        if any(found.get(name) != own for name, own in asked.items()):
            return "silently wrong"
        if not only and any(find_whole_damage(run)):
            return "silently wrong"
        return "redone" if "again, since" in output or ": starting" in output else "harmless"

    return say


@pytest.fixture
def start(start_python: Callable[[str], Any], tmp_path: Path) -> Callable[..., Any]:
    """Start a command in a process of its own; it may write files of ``limit`` bytes."""
    numbers = itertools.count()

    def run(*words: object, limit: int = -1, before: str = "") -> Any:
        said = tmp_path / f"said-{next(numbers)}"
        os.mkfifo(said)  # what it says must not be what the limit of files cuts off
        code = CHILD.format(said=str(said), limit=limit, words=[*map(str, words)], before=before)
        process = start_python(code)
        process.said = []
        process.reader = threading.Thread(target=_read, args=(said, process.said), daemon=True)
        process.reader.start()
        return process

    return run


@pytest.fixture(name="finish", scope="session")
def finish_fixture() -> Callable[..., Ended]:
    """Give :func:`finish`."""
    return finish


@pytest.fixture(name="share", scope="session")
def share_fixture() -> Callable[..., list[Any]]:
    """Give :func:`share`."""
    return share


@pytest.fixture(name="lists", scope="session")
def lists_fixture() -> Callable[[str], list[Any]]:
    """Give :func:`lists`."""
    return lists


def _read(pipe: Path, said: list[str]) -> None:
    with pipe.open(encoding="utf-8", errors="replace") as stream:
        said += stream


def finish(process: Any, seconds: float = 240) -> Ended:
    """Wait for a process; one that hangs is a failure."""
    process.join(seconds)
    assert process.exitcode is not None, "it hangs"
    process.reader.join(10)
    return Ended(process.exitcode, "".join(process.said))


def lists(output: str) -> list[Any]:
    """Return the lists that ``recommend`` printed."""
    return [json.loads(line) for line in output.split("\n") if line.startswith("{")]


def share(cases: list[Any], short: int) -> list[Any]:
    """Return the cases that are asked for: some of them, or part ``i/n`` of all."""
    part = os.environ.get("RECINJECT_FAULTS", "")
    if not part:
        return cases[:: max(1, len(cases) // short)][:short]
    number, _, of = part.partition("/")
    return cases[int(number) :: int(of or 1)]
