"""Every command in the README and in docs/ is one that this version understands."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.main import get_command

from recinject.cli import app
from recinject.data.simulator import simulate_shop
from recinject.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What a command of the docs names is the reader's own file: only its form is looked at.
LINE = re.compile(r"^    ((?:recinject|accelerate launch|python|make) .*)$", re.MULTILINE)
COMMANDS = [
    (page.name, " ".join(shlex.split(line, comments=True)), line)
    for page in PAGES
    for line in LINE.findall(re.sub(r"\\\n\s*", "", page.read_text("utf-8")))
]


EXAMPLES = [
    pytest.param(code, id=page.stem)
    for page in PAGES
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
]
LINKS = [
    (page, link)
    for page in PAGES
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text("utf-8"))
]


def test_the_pages_have_commands():
    assert {page for page, *_ in COMMANDS} >= {page.name for page in PAGES}


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda value: str(value)[-60:])
def test_a_link_leads_somewhere(page, link):
    file, _, heading = link.partition("#")
    target = page.parent / file if file else page
    assert target.exists()
    if heading:
        titles = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
        assert heading in {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_of_the_docs_runs(code, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    log = simulate_shop(users=80, items=40, events_per_user=10, seed=0)
    events, catalog = log.interactions, log.catalog
    columns = {
        "user_id": np.array(events.user_ids)[events.users],
        "item_id": np.array(catalog.item_ids)[events.items],
        "rating": events.ratings,
        "timestamp": events.timestamps,
    }
    (tmp_path / "shop").mkdir()
    pd.DataFrame(columns).to_csv("shop/interactions.csv", index=False)
    items = {"item_id": catalog.item_ids, "title": catalog.titles}
    pd.DataFrame(items).to_csv("shop/items.csv", index=False)
    exec(compile(code, "example", "exec"), {})  # noqa: S102  # our own words


@pytest.mark.parametrize(("page", "command", "line"), COMMANDS, ids=lambda value: str(value)[:60])
def test_a_command_of_the_docs_is_understood(page, command, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert words[1] in targets
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        if words[0] == "accelerate":
            configs = [word for word in words if word.endswith(".yaml")]
            assert all((ROOT / config).is_file() for config in configs)
            words = words[words.index("-m") + 1 :]
        verb, *rest = words[1:]
        commands = get_command(app).commands
        assert verb in commands, f"recinject has no verb {verb}"
        with commands[verb].make_context(verb, rest) as context:
            given = context.params
        recipe = given.get("recipe")
        if recipe and not recipe.endswith(".yaml") and "/" not in recipe and recipe.isidentifier():
            load_recipe(recipe, given.get("overrides") or ())
