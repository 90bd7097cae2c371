"""A plan names every stage, what is done already, and what the others take."""

import re
from dataclasses import replace

import pytest
import torch

from recinject.pipeline.cost import STAGES, Machine, Sizes, costs, plan, shown, step_seconds
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run


@pytest.fixture
def recipe(tiny_recipe):
    return load_recipe(tiny_recipe)


def test_twice_the_steps_take_twice_the_time(tiny_recipe):
    few, many = (load_recipe(tiny_recipe, [f"training.max_steps={n}"]) for n in (1000, 2000))
    one, two = (
        next(c.seconds for c in costs(each, Sizes(600, 60), 0.1) if c.stage == "model")
        for each in (few, many)
    )
    assert two - one == pytest.approx(100)


def test_epochs_count_the_samples(tiny_recipe):
    recipe = load_recipe(tiny_recipe, ["training.num_train_epochs=2"])
    arguments = recipe.training.arguments
    assert arguments["max_steps"] == 8  # what the recipe says wins over epochs
    content = recipe.model_dump()
    del content["training"]["max_steps"]
    epochs = type(recipe).of(content, "")
    small, large = (
        next(c.seconds for c in costs(epochs, Sizes(n, 60), 0.1) if c.stage == "model")
        for n in (600, 6000)
    )
    assert large > 2 * small


def test_what_nobody_can_know_is_not_said(recipe):
    known = {cost.stage: cost.seconds for cost in costs(recipe, None, None)}
    assert tuple(known) == STAGES
    assert known["data"] is known["model"] is known["evaluation"] is None
    lines = list(shown(costs(recipe, None, None), recipe.folder))
    assert "and what is not known yet" in lines[-1] and "free" in lines[-1]


def test_a_step_of_the_model_is_timed(recipe):
    seconds = step_seconds(recipe)
    assert seconds is not None and seconds > 0


def test_timing_a_step_leaves_chance_as_it_was(recipe):
    before = torch.random.get_rng_state()
    step_seconds(recipe)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_by_name_is_not_loaded_to_be_timed(recipe):
    named = recipe.model.model_copy(update={"name": "no/such-model", "config": None})
    assert step_seconds(recipe.model_copy(update={"model": named})) is None


def test_without_a_model_no_training_is_planned(recipe):
    bare = {"model": recipe.model.model_copy(update={"config": None}), "training": None}
    stages = [cost.stage for cost in costs(recipe.model_copy(update=bare), Sizes(600, 60), None)]
    assert stages == [stage for stage in STAGES if stage != "model"]


def test_a_finished_run_is_done_and_another_setting_is_not(finished, tiny_recipe):
    again = Run(load_recipe(tiny_recipe, [f"runs={finished.folder.parent}"]))
    planned = plan(again)
    assert [cost.state for cost in planned] == ["done"] * 6 and not sum(c.seconds for c in planned)
    changed = Run(load_recipe(tiny_recipe, [f"runs={finished.folder.parent}", "seed=2"]))
    assert all(cost.state.startswith("done before") for cost in plan(changed))


def test_a_run_prints_its_plan_first(finished):
    lines = finished.output.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("plan of "))
    assert re.match(
        r"  in all: .*; [\d,]+ MB of disk or more, [\d,]+ GB are free", lines[first + 7]
    )
    assert lines.index("data: starting") > first


def test_the_machine_is_described():
    machine = Machine.here()
    assert machine.cores >= 1 and machine.memory > 1 << 28
    assert str(replace(machine, cores=1, memory=8 << 30, gpus=0)) == (
        "1 CPU core, 8 GB of memory, no GPU"
    )
