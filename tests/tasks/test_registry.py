from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError
from recinject.registry import trust
from recinject.samples.store import read_samples
from recinject.tasks.task import TASKS, task_names, task_type

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "bought_first"
trust(EXAMPLE)


def test_a_folders_tasks_stand_beside_the_projects_own():
    assert {*task_names(EXAMPLE)} >= {*TASKS, "bought_first"}
    assert task_type("bought_first", EXAMPLE).name == "bought_first"
    with pytest.raises(RecinjectError, match="unknown task 'bought_frist'.*\n.*'bought_first'"):
        task_type("bought_frist", EXAMPLE)


def test_a_task_of_ones_own_needs_one_yaml_and_one_sampler(recinject, tiny_recipe, tmp_path):
    settings = [f"samples.prompts={EXAMPLE}", "samples.tasks.bought_first={per_user: 3}"]
    ended = recinject("build", str(tiny_recipe), f"runs={tmp_path}", *settings)
    assert ended.code == 0, ended.output
    (folder,) = tmp_path.glob("*/samples")
    samples = read_samples(folder, "bought_first", "train").to_pylist()
    assert len(samples) % 3 == 0 and len(samples) > 0
    for sample in samples:
        assert sample["completion"] in sample["prompt"].split(" Which came first, ")[1]


@settings(max_examples=30)
@given(data=st.data(), length=st.integers(2, 5))
def test_the_example_asks_for_the_earlier_of_two_of_the_latest(splits, contexts, data, length):
    view = data.draw(splits(repeats=True)).view(Part.TRAIN)
    task = task_type("bought_first", EXAMPLE)(history_length=length)
    samples = contexts(task, view)
    for sample in samples:
        latest = view.interactions.items_of(sample.user)[-length:].tolist()
        pair = sample.slots["pair"]
        assert sorted(sample.slots["history"]) == sorted(set(latest))
        assert len(set(pair)) == 2 and set(pair) <= set(latest)
        assert sample.target == min(pair, key=latest.index)
        assert sample.slots["target"] == [sample.target]
    backwards = range(len(samples) - 1, -1, -1)
    users, indices = [samples[n].user for n in backwards], [n % 2 for n in backwards]
    assert contexts(task, view, users, indices) == samples[::-1]


def test_the_example_shows_every_order_of_both_equally_often(split_of, contexts):
    view = split_of([[7, 2, 4, 9, 1]]).view(Part.TRAIN)
    task = task_type("bought_first", EXAMPLE)(per_user=1)
    samples = contexts(task, view, [0], seeds=range(3600))
    found = Counter((*s.slots["history"], *s.slots["pair"]) for s in samples)
    assert len(found) == 36
    assert stats.chisquare(list(found.values())).pvalue > 0.01


@pytest.mark.slow
def test_other_processes_know_a_folders_task_too(recinject, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("recinject.samples.store.SAMPLES_PER_SHARD", 40)
    settings = [f"samples.prompts={EXAMPLE}", "samples.tasks.bought_first={}", "samples.workers=2"]
    ended = recinject("build", str(tiny_recipe), f"runs={tmp_path}", *settings)
    assert ended.code == 0, ended.output
    assert len(list(tmp_path.glob("*/samples/bought_first/train-*.parquet"))) > 1


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "cannot be loaded \\(ZeroDivisionError"),
        ("import no_such_module_anywhere", "cannot be loaded \\(ModuleNotFoundError"),
        ("x = 1", "registers no task called"),
    ],
)
def test_a_file_that_is_no_task_is_said(tmp_path, code, said):
    name = f"broken_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / f"{name}.yaml").write_text("")
    trust(tmp_path)
    with pytest.raises(RecinjectError, match=said):
        task_names(tmp_path)


def test_a_task_without_a_history_is_refused(tmp_path):
    code = (EXAMPLE / "bought_first.py").read_text("utf-8").replace('"history"', '"past"')
    (tmp_path / "no_past.py").write_text(code.replace('"bought_first"', '"no_past"'), "utf-8")
    (tmp_path / "no_past.yaml").write_text("")
    trust(tmp_path)
    with pytest.raises(RecinjectError, match="'no_past' has no slot 'history'"):
        task_type("no_past", tmp_path)


def test_a_python_file_without_templates_is_none_of_our_business(tmp_path):
    (tmp_path / "notes.py").write_text("raise SystemExit")
    assert {*TASKS} <= {*task_names(tmp_path)} and "notes" not in task_names(tmp_path)
