"""The README and docs/ are true: links lead somewhere, examples and commands run."""

import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import recinject
from recinject import registry
from recinject.data.simulator import simulate_shop
from recinject.models.building import build_model, wrap_tokenizer
from recinject.pipeline.new import new_recipe
from recinject.pipeline.recipe import load_recipe
from recinject.samples.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[1]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text("utf-8")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
LINE = re.compile(r"^    (?:\w+=\S+ )*((?:recinject|accelerate launch|python|make) .*)$", re.M)
COMMANDS = {
    page: [shlex.split(line, comments=True) for line in LINE.findall(re.sub(r"\\\n\s*", "", text))]
    for page, text in PAGES.items()
}
# Pages share commands; each is run once.
DISTINCT = {shlex.join(command): command for page in COMMANDS.values() for command in page}
RECINJECT = [command for command in DISTINCT.values() if command[0] in ("recinject", "accelerate")]
LINKS = [
    (page, link)
    for page, text in PAGES.items()
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)
]
EXAMPLES = [
    pytest.param(code, id=page)
    for page, text in PAGES.items()
    for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
]
# Pages that explain words, and need no command.
WORDS_ALONE = {f"docs/{name}.md" for name in ("api", "citing", "decisions", "glossary")}
# What the docs say for the reader's own log, model and titles, and what stands for it here.
LOGS = ("FOLDER", "amazon-2014-toys", "ml-100k", "ml-1m")
MODELS = ("google/flan-t5-base", "model.gguf", "FOLDER")
TITLES = ("Some title", "Another title")
LESS = ["data.k_core=2", "evaluation.resamples=100", "evaluation.limit=5"]
LESS_TRAINING = [
    *("training.max_steps=2", "training.warmup_steps=0", "training.per_device_train_batch_size=4"),
    *("training.validation_samples=4", "training.use_cpu=true", "training.bf16=false"),
]


@pytest.mark.parametrize("page", sorted(PAGES.keys() - WORDS_ALONE))
def test_a_page_has_commands(page):
    assert COMMANDS[page]


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_every_public_name_stands_in_the_api():
    shown = re.findall(r"^::: ([\w.]+)$", PAGES["docs/api.md"], re.MULTILINE)
    assert sorted(shown) == sorted(f"{home}.{name}" for name, home in recinject._HOMES.items())


MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGES["docs/troubleshooting.md"], re.MULTILINE)


def test_troubles_are_those_that_people_meet():
    """Each message is there in the code, though a string may go on in the next line."""
    files = (ROOT / "recinject").rglob("*.py")
    code = "".join(re.sub(r'"\s*\n\s*f?"', "", file.read_text("utf-8")) for file in files)
    assert len(MESSAGES) >= 20 and not [text for text in MESSAGES if text not in code]


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == recinject.__version__
    assert f"version = {{{recinject.__version__}}}" in PAGES["docs/citing.md"]


WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")


@pytest.mark.parametrize("target", re.findall(r"run: make ([\w-]+)", WORKFLOW))
def test_a_hosted_run_calls_a_target_of_make(target):
    assert f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    mkdocs = Path(sys.executable).with_name("mkdocs")
    if not mkdocs.exists():
        pytest.skip("the extra docs is not installed")
    words = [mkdocs, "build", "--strict", "--quiet", "--site-dir", tmp_path]
    subprocess.run(words, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    for page in tmp_path.rglob("*.html"):
        assert not re.search(
            r'src="https?:|rel="stylesheet" href="https?:', page.read_text("utf-8")
        )


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_leads_somewhere(page, link):
    file, _, heading = link.partition("#")
    target = (ROOT / page).parent / file if file else ROOT / page
    assert target.exists()
    if heading:
        titles = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
        assert heading in {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with every file that the docs name: logs in several forms, a model."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("docs", "recipes"):
        (folder / name).symlink_to(ROOT / name)
    log = simulate_shop(users=150, items=300, events_per_user=14, seed=0)
    events, catalog = log.interactions, log.catalog
    ids = np.array(catalog.item_ids)
    frame = pd.DataFrame(
        {
            "user_id": np.array(events.user_ids)[events.users],
            "item_id": ids[events.items],
            "rating": events.ratings,
            "timestamp": events.timestamps,
        }
    )
    items = pd.DataFrame({"item_id": ids, "title": catalog.titles, "categories": "Shop"})
    log_csv = frame.merge(items)
    log_csv.to_csv(folder / "log.csv", index=False)
    odd = {"user_id": "customer", "item_id": "sku"}
    log_csv.rename(columns=odd).to_csv(folder / "odd.csv", index=False)
    with chdir(folder):
        new_recipe("log.csv")
    (folder / "shop").mkdir()
    frame.to_csv(folder / "shop" / "interactions.csv", index=False)
    items.to_csv(folder / "shop" / "items.csv", index=False)
    items = items.assign(movie_title=items["title"], **{"class": items["categories"]})
    frame.columns = [f"{n}:{'token' if n.endswith('id') else 'float'}" for n in frame.columns]
    items.columns = [f"{n}:{'token' if n.endswith('id') else 'token_seq'}" for n in items.columns]
    for name in LOGS:
        (folder / name).mkdir()
        frame.to_csv(folder / name / f"{name}.inter", sep="\t", index=False)
        items.to_csv(folder / name / f"{name}.item", sep="\t", index=False)
    words = [path.read_text("utf-8") for path in (ROOT / "prompts").rglob("*.yaml")]
    tokenizer = train_tokenizer(words, 2000)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    shape |= {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    model = build_model(shape, tokenizer, seed=0)
    model.save_pretrained(folder / "model")
    wrap_tokenizer(tokenizer, model.config).save_pretrained(folder / "model")
    return folder


def small(recipe, overrides):
    """Return the overrides with others that leave little to do, and nothing to download."""
    overrides = ["model.name=model" if w[11:] in MODELS else w for w in overrides]
    if "data.columns.user_id=customer" in overrides:
        overrides = [word.replace("log.csv", "odd.csv") for word in overrides]
    loaded = load_recipe(recipe, overrides)
    less = list(LESS)
    if loaded.data.path is None:
        less.append("data.simulator={users: 100, items: 200, events_per_user: 12}")
    if loaded.model is not None and loaded.model.name:
        less.append("model.name=model")
    if loaded.sweep is not None:
        few = {"training.max_steps": 2, "training.warmup_steps": 0}
        arms = {
            name: own | {key: few[key] for key in few.keys() & own.keys()}
            for name, own in loaded.sweep.arms.items()
        }
        less.append(f"sweep.arms={json.dumps(arms)}")
    return [*overrides, *less, *(LESS_TRAINING if loaded.training is not None else [])]


def is_of_a_log(words):
    """Whether a command looks at a log alone, without a recipe."""
    return words[:1] == ["log.csv"]


def usual(command):
    """Tell whether a command is run whole by default: one of each verb, but ``sweep``."""
    verb = command[command.index("recinject") + 1]
    return verb != "sweep" and command == next(
        own for own in RECINJECT if verb == own[own.index("recinject") + 1]
    )


def whole(command):
    return pytest.param(
        command, id=shlex.join(command), marks=[] if usual(command) else pytest.mark.slow
    )


@pytest.mark.parametrize("command", RECINJECT, ids=shlex.join)
def test_a_command_of_recinject_has_a_recipe_that_loads(command, place, monkeypatch):
    """Each setting that the pages name is there, and its value is taken."""
    monkeypatch.chdir(place)
    verb, *words = command[command.index("recinject") + 1 :]
    if not is_of_a_log(words) and verb in (
        *("run", "build", "evaluate", "check", "sweep", "identifiers"),
    ):
        end = next((n for n, word in enumerate(words) if word.startswith("--")), len(words))
        small(words[0], words[1:end])


@pytest.mark.parametrize("command", map(whole, RECINJECT))
def test_a_command_of_recinject_runs(command, place, recinject, monkeypatch):
    def succeed(*words):
        ended = recinject(*words)
        assert ended.code == 0, ended.output

    monkeypatch.chdir(place)
    if any("ray" in word for word in command):
        pytest.importorskip("ray", reason="Ray is absent: recinject[ray]")
    command = [word.replace("s3://bucket", "memory://bucket") for word in command]
    if command[0] == "accelerate":
        assert all(Path(word).is_file() for word in command if word.endswith(".yaml"))
        command = command[command.index("-m") + 1 :]
    verb, *words = command[1:]
    if verb in ("serve", "compare"):  # tests/serving and tests/pipeline do it
        pytest.skip("a service would not end, and a comparison needs two whole runs")
    if verb == "new":
        Path("log.yaml").unlink()
    if verb == "simulate":
        succeed("train", "quickstart", *small("quickstart", []))
        words += ["users=20"]
    elif verb in ("recommend", "export"):
        succeed("train", "quickstart", *small("quickstart", []))
        catalog = pd.read_parquet("runs/quickstart/data/items.parquet")
        known = dict(zip(TITLES, catalog["title"], strict=False))
        words = [known.get(word, word) for word in words]
    elif verb == "gather":  # each its own run, whose only part is built first
        words = [*small(words[0], words[1:]), f"name=gathered{len(words)}"]
        succeed("build", "quickstart", *words, "--part=1/1")
        words = ["quickstart", *words]
    elif verb == "identifiers":
        succeed("prepare", *words, *small(words[0], ["data.path=ml-100k"]))
        words += small(words[0], ["data.path=ml-100k"])
    elif verb in ("run", "report", "build", "evaluate", "check", "sweep") and not is_of_a_log(
        words
    ):
        end = next((n for n, word in enumerate(words) if word.startswith("--")), len(words))
        words = [words[0], *small(words[0], words[1:end]), *words[end:]]
    succeed(verb, *words)


@pytest.mark.parametrize("command", DISTINCT.values(), ids=shlex.join)
def test_a_command_of_make_or_python_names_what_is_there(command):
    """The benchmarks themselves are run by their own test."""
    if command[0] == "make":
        assert f"\n{command[1]}:" in (ROOT / "Makefile").read_text("utf-8")
    elif command[0] == "python":
        assert (ROOT / command[1]).is_file()


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_runs(code, place, monkeypatch):
    monkeypatch.chdir(place)
    for kind in registry.HOMES:
        registry.names(kind)  # what ships is registered before the copy is made
    kept = {kind: dict(things) for kind, things in registry._things.items()}
    monkeypatch.setattr(registry, "_things", kept)
    exec(compile(code, "example", "exec"), {})  # noqa: S102  # our own words


WALK = re.findall(
    r"`((?:[a-z_]+\.)+\w+)(?:\(.*?\))?`", (ROOT / "ARCHITECTURE.md").read_text("utf-8")
)


@pytest.mark.parametrize(
    "name", sorted({n for n in WALK if (ROOT / "recinject" / n.split(".")[0]).is_dir()})
)
def test_a_name_of_the_walks_is_there(name):
    assert pkgutil.resolve_name(f"recinject.{name}")
