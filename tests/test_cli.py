import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
VERBS = (
    *("run", "sweep", "prepare", "build", "train", "evaluate", "report"),
    *("recommend", "serve", "export", "new", "compare"),
    *("push", "preview", "identifiers", "check", "ls", "show", "cp", "doctor"),
)
LOG = "user,item,rating,timestamp\nu1,i1,5,100\nu1,i2,4,200\nu2,i1,3,300\n"
BROKEN_PROMPTS = """task: retrieval
version: 1
phrases: {history: "{{ item }}", target: "{{ identifier }}"}
templates:
  - {name: next, prompt: "After {{ histroy | join('; ') }}?", completion: "{{ target }}"}
"""

# What goes wrong: the overrides, the place and the fact as they are said, and the fix.
BAD_INPUT = {
    "missing column": (
        ["data.path=odd.csv"],
        "odd.csv: no column looks like user_id",
        "set data.columns.user_id=NAME",
    ),
    "column named wrongly": (
        ["data.path=log.csv", "data.columns.item_id=itm"],
        "log.csv: there is no column 'itm' to read item_id from",
        "did you mean 'item'?",
    ),
    "bad rating": (
        ["data.path=rating.csv"],
        "rating.csv, line 3: rating 'great' is not a number",
        "mend or remove it",
    ),
    "non-numeric timestamp": (
        ["data.path=time.csv"],
        "time.csv, line 4: timestamp 'yesterday' is neither seconds since 1970 nor a date",
        "do without the column with data.columns.timestamp=''",
    ),
    "no such log": (
        ["data.path=lgo.csv"],
        "lgo.csv: there is no such file or folder",
        "did you mean log.csv or odd.csv? set data.path=PATH",
    ),
    "empty after k-core": (
        ["data.path=log.csv", "data.k_core=3"],
        "data.k_core=3: nothing is left of 2 users, 2 items and 3 events",
        "data.k_core=1 is the largest that leaves something: 3 events",
    ),
    "unknown recipe key": (
        ["data.pth=log.csv"],
        "tiny.yaml: data.pth: unknown key",
        "did you mean 'path'?",
    ),
    "unknown training key": (
        ["training.lerning_rate=1e-3"],
        "training: 'lerning_rate' is no training argument",
        "did you mean 'learning_rate'?",
    ),
    "unknown slot in a template": (
        ["samples.prompts=prompts"],
        "prompts/retrieval.yaml: next.prompt: unknown slot 'histroy'",
        "did you mean 'history'?",
    ),
    "model not available offline": (
        ["model.name=google/flan-t5-small", "model.config=null"],
        "google/flan-t5-small: not on this machine, and the hub cannot be reached",
        "download it once with a network, give a local folder, or set model.config",
    ),
    "unwritable folder": (
        ["runs=log.csv/runs"],
        "log.csv cannot be written to",
        "choose another place with runs=FOLDER",
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, tiny_recipe, monkeypatch):
    """A folder with a recipe, logs with one fault each, and a template with one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts").mkdir()
    files = {
        "tiny.yaml": tiny_recipe.read_text("utf-8"),
        "log.csv": LOG,
        "odd.csv": LOG.replace("user", "whoever"),
        "rating.csv": LOG.replace("i2,4", "i2,great"),
        "time.csv": LOG.replace("300", "yesterday"),
        "prompts/retrieval.yaml": BROKEN_PROMPTS,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_clear_error_and_leaves_nothing_behind(case, folder, recinject):
    overrides, fact, fix = BAD_INPUT[case]
    before = listing(folder)
    ended = recinject("run", "tiny.yaml", *overrides)
    assert ended.code == 2
    before_it, _, said = ended.output.partition("error: ")
    told = before_it.removesuffix("data: starting\n").splitlines()
    assert all(line.startswith(("plan of ", "  ")) for line in told)
    lines = f"error: {said}".rstrip("\n").split("\n")
    assert lines[0].startswith("error: ") and fact in lines[0]
    assert lines[1].startswith("  fix: ") and fix in lines[1]
    assert len(lines) == 2
    assert listing(folder) == before


@pytest.mark.parametrize("verb", ["prepare", "build", "train", "evaluate", "report", "check"])
def test_every_verb_refuses_a_bad_log_in_the_same_way(verb, folder, recinject):
    before = listing(folder)
    ended = recinject(verb, "tiny.yaml", "data.path=time.csv")
    assert ended.code == 2 and "time.csv, line 4: timestamp 'yesterday'" in ended.output
    assert listing(folder) == before


def run_process(*words, **environment):
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100", **environment},
    )


def test_a_real_process_ends_in_the_same_way(folder):
    before = listing(folder)
    ended = run_process("-m", "recinject", "prepare", "tiny.yaml", "data.path=rating.csv")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "error: rating.csv, line 3: rating 'great' is not a number" in ended.stderr
    assert listing(folder) == before


def test_the_module_is_the_command_line():
    ended = run_process("-m", "recinject", "--help")
    assert ended.returncode == 0 and "recinject run quickstart" in ended.stdout
    for verb in VERBS:
        assert re.search(rf"^\W*{verb} ", ended.stdout, re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example_of_itself(verb, recinject, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    ended = recinject(verb, "--help")
    assert ended.code == 0
    assert re.search(
        rf"Example: `(recinject|accelerate launch -m recinject) {verb}\b", ended.output
    )


def test_no_verb_and_a_wrong_verb_say_what_there_is(recinject):
    assert "Usage: " in recinject().output
    wrong = recinject("rnu", "quickstart")
    assert wrong.code == 2 and "run" in wrong.output


def test_a_preview_is_made_without_torch(tmp_path):
    program = (
        "import sys; from recinject.cli import main\n"
        "sys.argv = ['recinject', 'preview', 'quickstart', 'data.simulator.users=200']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'peft', 'datasets'} & sys.modules.keys()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"retrieval/test/U00000/0  \w+@\d", ended.stdout)
    assert not listing(tmp_path)


def test_preview_shows_the_task_and_the_number_that_were_asked_for(recinject, folder):
    ended = recinject("preview", "tiny.yaml", "--task", "rating", "-n", "3")
    shown = re.findall(r"^(\w+)/(\w+)/", ended.output, re.MULTILINE)
    splits = ("train", "validation", "test", "reworded", "shuffled")
    assert shown == [("rating", split) for split in splits for _ in range(3)]
    assert re.search(r"^  prompt \(\d+ tokens\): \S", ended.output, re.MULTILINE)
    wrong = recinject("preview", "tiny.yaml", "--task", "ratings")
    assert wrong.code == 2 and "did you mean 'rating'?" in wrong.output


def test_ls_shows_each_recipe_with_its_first_line(recinject):
    assert re.search(r"^quickstart +Quickstart: ", recinject("ls").output, re.MULTILINE)


def test_show_prints_a_recipe_that_loads_as_the_same(recinject, folder):
    shown = recinject("show", "tiny.yaml", "training.max_steps=10").output
    content = yaml.safe_load(shown)
    assert content["training"]["max_steps"] == 10 and content["data"]["split"] == "leave_one_out"
    (folder / "shown.yaml").write_text(shown, "utf-8")
    assert recinject("show", "shown.yaml").output == shown


def test_cp_copies_a_recipe_that_runs_under_its_own_name(recinject, folder):
    for destination, target in [
        ("mine", "mine.yaml"), ("mine.v2", "mine.v2.yaml"), ("your.yml", "your.yml"),
        ("prompts", "prompts/quickstart.yaml"),
    ]:  # fmt: skip
        ended = recinject("cp", "quickstart", destination)
        assert ended.code == 0 and f"recinject run {target}" in ended.output
        copy = (folder / target).read_text("utf-8")
        assert copy.startswith("# Quickstart") and "\nname:" not in copy
    assert "name: mine\n" in recinject("show", "mine.yaml").output


def test_cp_overwrites_nothing(recinject, folder):
    before = (folder / "tiny.yaml").read_text("utf-8")
    ended = recinject("cp", "quickstart", "tiny")
    assert ended.code == 2 and "tiny.yaml: exists already" in ended.output
    assert (folder / "tiny.yaml").read_text("utf-8") == before
    ended = recinject("cp", "quickstart", "no/such/place")
    assert ended.code == 2 and "no/such/place.yaml: cannot be written" in ended.output


@pytest.mark.parametrize("name", ["prompts", "prompts/tiger"])
def test_cp_copies_templates_to_be_changed(recinject, folder, name):
    ended = recinject("cp", name, "words")
    assert ended.code == 0 and "samples.prompts=words" in ended.output
    copied = {path.name: path.read_text("utf-8") for path in (folder / "words").iterdir()}
    assert copied == {path.name: path.read_text("utf-8") for path in (ROOT / name).glob("*.yaml")}
    assert recinject("preview", "tiny.yaml", "samples.prompts=words").code == 0
    assert recinject("cp", name, "words").code == 2


def test_check_writes_nothing_and_counts_everything(recinject, folder):
    before = listing(folder)
    ended = recinject("check", "tiny.yaml")
    assert ended.code == 0 and "log: 60 users, 40 items" in ended.output
    assert "retrieval (test): 60 samples" in ended.output and "parameters" in ended.output
    assert listing(folder) == before


def test_the_doctor_is_in(recinject):
    assert recinject("doctor").output.startswith("recinject ")


def test_an_interrupted_command_says_how_to_go_on(recinject, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("recinject.pipeline.recipe.shipped_recipes", interrupt)
    ended = recinject("ls")
    assert ended == (130, "stopped; the same command goes on from what is done\n")


def test_it_says_its_version(recinject):
    ended = recinject("--version")
    assert ended.code == 0 and "recinject 0.1.0" in ended.output
