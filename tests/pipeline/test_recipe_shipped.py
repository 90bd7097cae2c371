import re
from itertools import takewhile
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

from recinject.foundation.storage import shipped_folder
from recinject.pipeline.check import check_settings
from recinject.pipeline.recipe import load_recipe, shipped_recipes
from recinject.templating.language import load_templates
from recinject.templating.writers import SlotKind

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
def test_a_recipe_that_reads_text_shows_titles_in_every_history(name):
    samples, tasks = load_recipe(name).samples, load_recipe(name).tasks()
    if not any(task.slots["history"] in (SlotKind.GAPPED, SlotKind.RATED) for task in tasks):
        return
    for task in tasks:
        if name == "baselines" or (name == "quickstart" and task.name in ("retrieval", "ranking")):
            continue  # no model reads them, or the shop has two minutes
        found = load_templates(task.name, task.slots, samples.prompts, samples.phrases)
        names = ["item", "title", *["identifier"] * (load_recipe(name).identifiers.kind == "title")]
        assert re.search(rf"\b({'|'.join(names)})\b", found.phrases["history"]), task.name


# Where a hub's weights are not at hand, a model of the same kind binds LoRA's targets as well.
SMALL = "{d_model: 16, d_ff: 32, num_layers: 1, num_heads: 2, feed_forward_proj: gated-gelu}"


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_binds_every_setting(name, tmp_path):
    recipe = load_recipe(name, [f"runs={tmp_path}"])
    if recipe.model.name is not None and not Path(recipe.model.name).is_dir():
        small = ["model.name=null", f"model.config={SMALL}", "training.use_cpu=true"]
        recipe = load_recipe(name, [f"runs={tmp_path}", *small])
    check_settings(recipe)
    assert not list(tmp_path.iterdir())


CONFIGS = sorted((shipped_folder("recipes") / "accelerate").glob("*.yaml"))


def test_there_are_launch_configs_for_each_way_to_train():
    kinds = {path.stem: load_config_from_file(str(path)).distributed_type for path in CONFIGS}
    assert kinds == {
        "one_process": DistributedType.NO,
        "ddp": DistributedType.MULTI_GPU,
        "two_nodes": DistributedType.MULTI_GPU,
        "fsdp": DistributedType.FSDP,
        "deepspeed_zero2": DistributedType.DEEPSPEED,
        "deepspeed_zero3": DistributedType.DEEPSPEED,
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_launch_config_says_how_to_use_it_and_has_no_unknown_key(path):
    launch = rf"accelerate launch --config_file {path.name}.* -m recinject"
    assert re.search(launch, path.read_text("utf-8"))
    words = ["--config_file", str(path), "-m", "recinject", "doctor"]
    launched, config, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert launched.num_processes == config.num_processes
    stage = int(path.stem[-1]) if "zero" in path.stem else 0
    assert config.deepspeed_config.get("zero_stage", 0) == stage
