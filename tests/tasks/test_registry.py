from multiprocessing import get_context
from pathlib import Path

import pytest

from recinject.foundation.errors import RecinjectError
from recinject.samples.store import read_samples
from recinject.tasks.registry import TASKS, find_tasks, task_type

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "bought_first"


def test_a_folders_tasks_stand_beside_the_projects_own():
    assert find_tasks(EXAMPLE).keys() == {*TASKS, "bought_first"}
    assert task_type("bought_first", EXAMPLE).name == "bought_first"
    with pytest.raises(RecinjectError, match="unknown task 'bought_first'"):
        task_type("bought_first")


def test_a_task_of_ones_own_needs_one_yaml_and_one_sampler(recinject, tiny_recipe, tmp_path):
    settings = [f"samples.prompts={EXAMPLE}", "samples.tasks.bought_first={per_user: 3}"]
    ended = recinject("build", str(tiny_recipe), f"runs={tmp_path}", *settings)
    assert ended.code == 0, ended.output
    (folder,) = tmp_path.glob("*/samples")
    samples = read_samples(folder, "bought_first", "train").to_pylist()
    assert len(samples) % 3 == 0 and len(samples) > 0
    for sample in samples:
        assert sample["completion"] in sample["prompt"].split(" Which came first, ")[1]


def test_other_processes_know_a_folders_task_too():
    task = task_type("bought_first", EXAMPLE)(per_user=5)
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(repr, (task,)) == repr(task)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "cannot be imported \\(ZeroDivisionError"),
        ("import no_such_module_anywhere", "cannot be imported \\(ModuleNotFoundError"),
        ("x = 1", "holds no task called"),
    ],
)
def test_a_file_that_is_no_task_is_said(tmp_path, code, said):
    name = f"broken_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / f"{name}.yaml").write_text("")
    with pytest.raises(RecinjectError, match=said):
        find_tasks(tmp_path)


def test_a_python_file_without_templates_is_none_of_our_business(tmp_path):
    (tmp_path / "notes.py").write_text("raise SystemExit")
    assert find_tasks(tmp_path) == TASKS
