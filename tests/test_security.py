"""What SECURITY.md says of code that comes from others, sentence by sentence."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

import recinject as ri
from recinject.foundation.errors import RecinjectError
from recinject.models.building import load_model
from recinject.pipeline.run import _seal_line

PLUGIN = "from pathlib import Path\nPath({ran!r}).touch()\n"
TASK = """
from recinject.registry import register
from recinject.tasks.task import Retrieval
@register("task")
class Evil(Retrieval):
    name = "evil"
"""
RECIPE = """
data: {simulator: {users: 40, items: 40, events_per_user: 8}, k_core: 2}
samples: {tasks: {retrieval: {}}}
model: null
training: null
evaluation: {baselines: [popularity], resamples: 100}
"""


@pytest.fixture
def ran(tmp_path):
    """A file that is there once foreign Python has run."""
    return tmp_path / "it ran"


@pytest.fixture
def mine(tmp_path, ran):
    """A recipe with a plug-in beside it."""
    (tmp_path / "plugin.py").write_text(PLUGIN.format(ran=str(ran)), "utf-8")
    (tmp_path / "mine.yaml").write_text(RECIPE + "plugins: [plugin.py]\n", "utf-8")
    return tmp_path / "mine.yaml"


@pytest.fixture
def words(tmp_path, ran):
    """A folder of prompts with a task of its own."""
    folder = tmp_path / "words"
    folder.mkdir()
    shutil.copy(Path(__file__).parents[1] / "prompts" / "retrieval.yaml", folder / "evil.yaml")
    (folder / "evil.py").write_text(PLUGIN.format(ran=str(ran)) + TASK, "utf-8")
    return folder


@pytest.fixture
def foreign(recinject, tmp_path, ran):
    """A finished run of somebody else, whose recipe and samples name Python that nobody read."""
    (tmp_path / "theirs.yaml").write_text(RECIPE, "utf-8")
    assert recinject("run", tmp_path / "theirs.yaml", f"runs={tmp_path}").code == 0
    (tmp_path / "plugin.py").write_text(PLUGIN.format(ran=str(ran)), "utf-8")
    return tmp_path / "theirs"


def name_plugin(run):
    file = run / "recipe.yaml"
    text = file.read_text("utf-8").replace("plugins: []", f"plugins: [{run.parent}/plugin.py]")
    above = text.rpartition("# sha256")[0]
    file.write_text(above + _seal_line(above), "utf-8")  # who gives a run away can seal it


def name_prompts(run, words):
    facts = json.loads((run / "samples" / "samples.json").read_text("utf-8"))
    facts["settings"]["prompts"] = str(words)
    (run / "samples" / "samples.json").write_text(json.dumps(facts), "utf-8")


def test_a_recipe_that_is_named_runs_its_plugins(recinject, mine, ran):
    assert recinject("show", mine).code == 0 and ran.exists()


def test_a_recipe_that_is_named_runs_its_prompts(recinject, mine, words, ran):
    mine.write_text(RECIPE.replace("tasks: {", f"prompts: {words}, tasks: {{evil: {{}}, "), "utf-8")
    assert recinject("show", mine).code == 0 and ran.exists()


@pytest.mark.parametrize("verb", ["show", "run", "check", "report", "preview"])
def test_a_stored_recipe_runs_nothing(recinject, foreign, ran, verb):
    name_plugin(foreign)
    ended = recinject(verb, foreign / "recipe.yaml")
    assert ended.code == 2 and "plugin.py: this is Python" in ended.output
    assert not ran.exists()


@pytest.mark.parametrize("verb", ["recommend", "serve", "simulate", "export"])
def test_a_run_runs_nothing(recinject, foreign, ran, verb):
    name_plugin(foreign)
    ended = recinject(verb, foreign)
    assert ended.code == 2 and "--trust" in ended.output and not ran.exists()


def test_loading_a_run_runs_nothing_unless_it_is_trusted(foreign, ran):
    name_plugin(foreign)
    with pytest.raises(RecinjectError, match=r"plugin\.py"):
        ri.load(foreign)
    assert not ran.exists()
    ri.load(foreign, trust_code=True)
    assert ran.exists()


def test_prompts_that_stored_samples_name_are_not_run(foreign, words, ran):
    name_prompts(foreign, words)
    samples = ri.load_samples(foreign / "samples")
    with pytest.raises(RecinjectError, match=r"evil\.py"):
        samples.bound_tasks()
    assert not ran.exists()


def test_with_trust_it_runs(recinject, foreign, ran):
    name_plugin(foreign)
    asked = ("--recommender", "popularity", "--all", "-o", foreign / "lists.jsonl", "--trust")
    recinject("recommend", foreign, *asked)
    assert ran.exists()


def test_prompts_that_are_named_run(recinject, foreign, words, ran):
    assert recinject("show", foreign / "recipe.yaml", f"samples.prompts={words}").code == 0
    assert ran.exists()


def test_trust_counts_on_the_command_line_alone(recinject, foreign, ran):
    name_plugin(foreign)
    file = foreign / "recipe.yaml"
    text = file.read_text("utf-8")
    file.write_text(f"trust_code: true\n{text}", "utf-8")
    assert recinject("show", file).code == 2 and not ran.exists()
    file.write_text(text, "utf-8")
    assert recinject("show", file, "trust_code=true").code == 0 and ran.exists()


@pytest.mark.parametrize("kind", ["t5", "own"])
def test_a_model_is_data(tmp_path, ran, kind, monkeypatch):
    (tmp_path / "evil.py").write_text(PLUGIN.format(ran=str(ran)), "utf-8")
    named = {"AutoConfig": "evil.Config", "AutoModelForSeq2SeqLM": "evil.Model"}
    config = {"model_type": kind, "auto_map": named, "vocab_size": 8, "is_encoder_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    monkeypatch.setattr("builtins.input", lambda *_: sys.exit("somebody was asked"))
    with pytest.raises(RecinjectError, match="no language model"):
        load_model(str(tmp_path))
    assert not ran.exists()


def test_what_is_too_deep_or_too_long_for_yaml_is_refused(recinject, mine):
    for value in ("[" * 5000, "9" * 6000):
        ended = recinject("show", mine, f"training.max_steps={value}")
        assert ended.code == 2 and "is not YAML" in ended.output, ended.output[-500:]


def test_what_the_system_refuses_is_one_error(recinject):
    ended = recinject("show", "x" * 300 + ".yaml")
    assert ended.code == 2 and "File name too long" in ended.output
    assert "fix:" in ended.output and "Traceback" not in ended.output


def test_what_nobody_foresaw_is_a_short_report(recinject, monkeypatch):
    monkeypatch.setattr("recinject.pipeline.recipe.shipped_recipes", lambda: 1 / 0)
    ended = recinject("ls")
    assert ended.code == 70 and "ZeroDivisionError" in ended.output
    assert "Traceback" not in ended.output
    written = Path(ended.output.split("report this with ")[1].strip())
    assert "Traceback" in written.read_text("utf-8")
    written.unlink()


PAYLOADS = (
    *("model.safetensors", "pytorch_model.bin", "adapter_model.bin", "training_args.bin"),
    *("tokenizer.model", "optimizer.pt"),
)


def test_weights_are_never_read_as_pickles(tmp_path, ran):
    payload = f"cbuiltins\nopen\n(V{ran}\nVw\ntR.".encode()
    shape = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    config = {"model_type": "t5", "vocab_size": 8, **shape}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    for name in PAYLOADS:
        (tmp_path / name).write_bytes(payload)
        with pytest.raises(RecinjectError):
            load_model(str(tmp_path))
    assert not ran.exists()


HOSTILE = (
    *(
        "\x1b[2J",
        "\x1b]0;owned\x07",
        "\x9b31m",
        "\u202eevil",
        "\u2066x",
        "\x08\x08\x08",
        "a\rb",
        "\x7f",
    ),
    *("<script>ran()</script>", "{{ 7 * 7 }}", "{% include '/etc/passwd' %}", "[bold red]x[/]"),
)


def test_what_a_log_holds_is_no_command_to_a_terminal_and_no_template(recinject, tmp_path):
    items = [{"item_id": f"{n}{text}", "title": f"t{n}{text}"} for n, text in enumerate(HOSTILE)]
    events = [
        {"user_id": f"u{user}{HOSTILE[user]}", "item_id": items[(user * 5 + n) % 12]["item_id"]}
        for user in range(12)
        for n in range(6)
    ]
    for name, rows in (("log", events), ("items", items)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, "utf-8")
    recipe = RECIPE.replace("{simulator: {users: 40, items: 40, events_per_user: 8}, ", "{")
    (tmp_path / "r.yaml").write_text(recipe, "utf-8")
    settings = (f"runs={tmp_path}", f"data.path={tmp_path}/log.jsonl", "name=hostile")
    settings += (f"data.items={tmp_path}/items.jsonl", "data.order=rows")
    asked = ("--recommender", "popularity")
    said = [
        recinject("run", tmp_path / "r.yaml", *settings),
        recinject("preview", tmp_path / "r.yaml", *settings),
        recinject("identifiers", tmp_path / "r.yaml", *settings, "identifiers.kind=title"),
        recinject("recommend", tmp_path / "hostile", *asked, "--liked", items[0]["item_id"]),
        recinject("recommend", tmp_path / "hostile", *asked, "--all", "-k", 2),
        recinject("recommend", tmp_path / "hostile", *asked, "--liked", "\x1b[2J nobody"),
        recinject("check", tmp_path / "log.jsonl"),
    ]
    assert [ended.code for ended in said] == [0, 0, 0, 0, 0, 2, 0], [e.output[-300:] for e in said]
    for ended in said:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066]", ended.output)
        assert "root:" not in ended.output
    lines = [line for line in said[4].output.splitlines() if line.startswith("{")]
    assert len(lines) == 12 and all("recommended" in json.loads(line) for line in lines)
    page = (tmp_path / "hostile" / "report" / "report.html").read_text("utf-8")
    assert "<script>ran" not in page
