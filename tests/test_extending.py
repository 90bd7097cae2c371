"""The examples of docs/extending.md work, as a file beside a recipe and as an entry point."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from recinject import registry
from recinject.data.simulator import simulate_shop

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text("utf-8")
CODE = dict(re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```", PAGE, re.M | re.S))
TEMPLATE = re.search(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)[1]
# What each example registers, and how a recipe asks for it.
ASKED = {
    "A reader": ("reader", "likes", "likes", ["data.path=log.likes", "data.format=likes"]),
    "A recommender": (
        *("recommender", "loyal", "Loyal"),
        ["evaluation.baselines=[{loyal: {power: 0.5}}, popularity]"],
    ),
    "A metric": ("metric", "first", "First", []),
    "Identifiers": ("identifiers", "letters", "letters", ["identifiers={kind: letters, width: 5}"]),
    "A task with its metrics": (
        *("task", "last_two", "LastTwo"),
        ["samples.prompts=words", "samples.tasks={last_two: {}}"],
    ),
}
RECIPE = """
name: mine
data: {k_core: 2, simulator: {users: 60, items: 40, events_per_user: 8}}
samples: {tasks: {retrieval: {}}}
model: null
training: null
evaluation: {baselines: [popularity, markov_chain], resamples: 100}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a recipe, a log of sentences, and words for the task."""
    (tmp_path / "mine.yaml").write_text(RECIPE, "utf-8")
    log = simulate_shop(users=60, items=40, events_per_user=8, seed=1)
    events, ids = log.interactions, log.catalog.item_ids
    pairs = zip(events.users, events.items, strict=True)
    lines = [f"{events.user_ids[user]} likes {ids[item]}" for user, item in pairs]
    (tmp_path / "log.likes").write_text("\n".join(lines), "utf-8")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "last_two.yaml").write_text(TEMPLATE, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def metrics(place):
    return pd.read_json(place / "runs" / "mine" / "evaluation" / "metrics.json")


def assert_used(what, place):
    rows = metrics(place)
    if what == "A reader":
        users = pd.read_parquet(place / "runs" / "mine" / "data" / "users.parquet")
        assert len(users) == 60
    elif what == "A recommender":
        assert {"loyal", "popularity"} == set(rows["recommender"]) - {"oracle"}
    elif what == "A metric":
        found = rows.pivot(index="recommender", columns="metric", values="value")
        assert (found["first"] <= found["hr@5"]).all() and (found["first"] > 0).any()
        assert "First" in (place / "runs" / "mine" / "report" / "report.md").read_text("utf-8")
    elif what == "Identifiers":
        table = pd.read_parquet(place / "runs" / "mine" / "identifiers" / "items.parquet")
        assert table["identifier"].str.fullmatch("@[a-z]{5}").all()
    else:
        assert set(rows["task"]) == {"last_two"}
        assert set(rows["metric"]) == {"hr@5", "hr@10", "mrr"}


def test_the_page_shows_what_is_tested_in_at_most_twenty_lines():
    assert CODE.keys() == ASKED.keys()
    for what, code in CODE.items():
        body = [line for line in code.splitlines() if line.strip()]
        assert len(body) <= 20, what


@pytest.mark.parametrize("what", ASKED)
def test_a_strangers_file_beside_a_recipe(what, place, recinject, monkeypatch):
    for kind in registry.HOMES:
        registry.names(kind)  # what ships registers itself before the copy is made
    kept = {kind: dict(things) for kind, things in registry._things.items()}
    monkeypatch.setattr(registry, "_things", kept)
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))
    file = place / ("words/last_two.py" if "task" in what else "plugin.py")
    file.write_text(CODE[what], "utf-8")
    if "task" not in what:
        (place / "mine.yaml").write_text(RECIPE + "plugins: [plugin.py]\n", "utf-8")
    ended = recinject("run", "mine.yaml", *ASKED[what][3])
    assert ended.code == 0, ended.output
    assert_used(what, place)


@pytest.fixture
def package(place):
    """An installed package that offers all examples by entry points, of which nothing is named."""
    (place / "package").mkdir()
    about = place / "package" / "stranger-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    offered = []
    for number, what in enumerate(ASKED):
        kind, name, thing, _ = ASKED[what]
        (place / "package" / f"stranger_{number}.py").write_text(CODE[what], "utf-8")
        offered.append(f"[recinject.{kind}]\n{name} = stranger_{number}:{thing}\n")
    (about / "entry_points.txt").write_text("\n".join(offered))
    return os.pathsep.join([str(place / "package"), *sys.path])


@pytest.mark.parametrize("together", [list(ASKED)[:4], list(ASKED)[4:]], ids=["four", "the_task"])
@pytest.mark.slow
def test_a_package_offers_it_by_an_entry_point(together, place, package):
    settings = [setting for what in together for setting in ASKED[what][3]]
    ended = subprocess.run(
        [sys.executable, "-m", "recinject", "run", "mine.yaml", *settings],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": package, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    for what in together:
        assert_used(what, place)
