import re
from itertools import takewhile
from pathlib import Path

import pytest

from recinject.pipeline.check import check_settings
from recinject.recipe import load_recipe, shipped_recipes

RECIPES = shipped_recipes()


def header(name):
    lines = RECIPES[name].read_text("utf-8").splitlines()
    return list(takewhile(lambda line: line.startswith("#"), lines))


def test_there_is_a_recipe_to_start_with():
    assert "quickstart" in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_fits_on_a_page(name):
    assert len(RECIPES[name].read_text("utf-8").splitlines()) <= 50


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_says_how_to_launch_it_on_what_and_how_long_it_takes(name):
    text = "\n".join(header(name))
    launch = re.search(r"^# Launch: +(.+)$", text, re.MULTILINE)
    words = launch[1].split()
    assert words[words.index("recinject") + 1] in ("run", "train")
    assert words[words.index("recinject") + 2] == name
    hardware = re.search(r"^# Hardware: +(.+)$", text, re.MULTILINE)
    assert re.search(r"CPU|GPU|MPS", hardware[1])
    assert re.search(r"\b(seconds|minutes?|hours?)\b", hardware[1])


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_binds_every_setting(name, tmp_path):
    recipe = load_recipe(name, [f"runs={tmp_path}"])
    if recipe.model.name is not None and not Path(recipe.model.name).is_dir():
        pytest.skip(f"{recipe.model.name} comes from a hub")
    check_settings(recipe)
    assert not list(tmp_path.iterdir())
