import json
import os
import re
import socket
import subprocess
import sys

import pytest
from transformers import T5Config

from recinject.foundation.errors import RecinjectError
from recinject.foundation.storage import RunManifest
from recinject.models.building import build_model, wrap_tokenizer
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run
from recinject.samples.tokenizer import train_tokenizer

STAGES = ["data", "identifiers", "samples", "model", "evaluation", "report"]


def times(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_run_makes_every_stage_and_leaves_nothing_half_written(finished):
    assert [line for line in finished.output.splitlines() if line.endswith(": starting")] == [
        f"{stage}: starting" for stage in STAGES
    ]
    assert {path.name for path in finished.folder.iterdir()} == {
        *("data", "identifiers", "samples", "model", "evaluation", "report"),
        *("training", "recipe.yaml"),
    }
    assert not list(finished.folder.rglob("*partial*"))
    assert "The language model " in finished.output
    assert f"Report: {finished.folder}/report/report.html" in finished.output


def test_the_same_command_again_does_nothing_and_says_so(finished, recinject, tiny_recipe):
    before = times(finished.folder)
    ended = recinject("run", tiny_recipe, f"runs={finished.folder.parent}")
    assert ended.code == 0
    for stage in STAGES:
        assert f"{stage}: nothing to do, settings and inputs are those of" in ended.output
    assert times(finished.folder) == before


@pytest.mark.parametrize(
    ("verb", "override", "made"),
    [
        ("report", "training.learning_rate=1e-3", ["model", "evaluation", "report"]),
        pytest.param(
            *("report", "evaluation.cutoffs=[1, 10]", ["evaluation", "report"]),
            marks=pytest.mark.slow,
        ),
        ("report", "report.examples=4", ["report"]),
        ("build", "samples.max_prompt_tokens=100", ["samples"]),
        ("build", "samples.tasks.bpr=null", ["samples"]),
        ("build", "samples.workers=2", []),
        ("build", "identifiers.kind=title", ["identifiers", "samples"]),
        ("build", "data.k_core=3", ["data", "identifiers", "samples"]),
        ("build", "seed=2", ["data", "identifiers", "samples"]),
    ],
)
def test_a_changed_setting_makes_only_what_depends_on_it_again(again, copied, verb, override, made):
    before = times(copied)
    cards = {str(copied / "model" / name) for name in ("README.md", "manifest.json")}  # its seal
    assert again(verb, override) == made
    for stage in set(STAGES) - set(made):
        kept = str(copied / stage) + os.sep
        unchanged = {path for path in before if path.startswith(kept) and path not in cards}
        assert unchanged and all(times(copied)[path] == before[path] for path in unchanged)
    assert again(verb, override) == []


def test_the_recipe_in_a_runs_folder_repeats_the_run(finished, recinject, tiny_recipe):
    before = times(finished.folder)
    ended = recinject("run", finished.folder / "recipe.yaml")
    assert ended.code == 0
    for stage in STAGES:
        assert f"{stage}: nothing to do" in ended.output
    before.pop(str(finished.folder / "recipe.yaml"))
    after = times(finished.folder)
    assert all(after[path] == time for path, time in before.items())


def test_what_was_changed_is_said(recinject, tiny_recipe, copied):
    ended = recinject("build", tiny_recipe, f"runs={copied.parent}", "samples.jsonl=true")
    assert "samples: again, since jsonl changed" in ended.output
    assert list(copied.glob("samples/rating/test-*.jsonl"))


def test_a_stage_that_fails_leaves_what_was_there(recinject, tiny_recipe, copied):
    before = times(copied)
    ended = recinject("prepare", tiny_recipe, f"runs={copied.parent}", "data.k_core=50")
    assert ended.code == 2 and times(copied).keys() == before.keys()
    assert RunManifest.read(copied / "data").settings["k_core"] == 2


def test_a_stage_that_was_cut_off_is_made_again(again, copied):
    (copied / "identifiers" / "manifest.json").unlink()
    assert again("build") == ["identifiers"]


def test_the_manifest_says_what_a_stage_was_made_of(finished):
    manifest = json.loads((finished.folder / "samples" / "manifest.json").read_text("utf-8"))
    assert manifest["settings"]["tasks"]["ranking"]["negatives"] == 9
    assert manifest["settings"]["seed"] == 1
    assert manifest["inputs"].keys() == {"data", "identifiers", "prompts"}
    assert manifest["inputs"]["data"] == RunManifest.read(finished.folder / "data").fingerprint
    assert manifest["facts"]["seconds"] >= 0


def test_the_results_are_the_same_whatever_was_run_before(finished, again, copied):
    again("evaluate", "evaluation.limit=5")
    again("evaluate")
    for name in ("metrics", "comparisons", "examples", "audit"):
        path = f"evaluation/{name}.json"
        assert (copied / path).read_text("utf-8") == (finished.folder / path).read_text("utf-8")


def two_processes(*words):
    """Run Python twice as launchers do, over gloo; return how each process ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    shared |= {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


WAITING = """
import os, sys, time
from pathlib import Path
from recinject.pipeline.run import Stage, is_first_process
stage = Stage("data", Path(sys.argv[1]), {"seed": 1}, {})
def make(folder):
    time.sleep(1)
    (folder / "made").write_text(os.environ["RANK"])
    return {}
stage.run(make)
assert stage.is_done and is_first_process() == (os.environ["RANK"] == "0")
"""


@pytest.mark.slow
def test_only_the_first_of_several_processes_writes_and_the_others_wait(tmp_path):
    ended = two_processes("-c", WAITING, tmp_path / "data")
    assert [code for code, _ in ended] == [0, 0], ended
    assert (tmp_path / "data" / "made").read_text() == "0"
    assert "data: starting" in ended[0][1] and "data: " not in ended[1][1]


@pytest.mark.slow
def test_when_the_first_process_fails_the_others_end_with_its_message(tiny_recipe, tmp_path):
    words = "prepare", tiny_recipe, f"runs={tmp_path}", "data.k_core=50"
    (first, said), (second, repeated) = two_processes("-m", "recinject", *words)
    assert first == second == 2, said + repeated
    message = re.search(r"^error: data.k_core=50: nothing is left of .*\n  fix: .*$", said, re.M)
    assert message[0] in repeated and "Traceback" not in repeated
    assert "data: starting" in said and "data: starting" not in repeated


def test_a_stage_that_is_not_there_is_refused_with_the_command_that_makes_it(tiny_recipe, tmp_path):
    run = Run(load_recipe(str(tiny_recipe), [f"runs={tmp_path}"]))
    with pytest.raises(RecinjectError, match="the stage data has not been finished"):
        run.fingerprints("data")


@pytest.mark.slow
def test_a_local_models_files_are_inputs(recinject, tiny_recipe, tmp_path):
    """Weights are what training reads, the tokenizer is what the samples are written with."""
    tokenizer, named = train_tokenizer(["Which item comes next?"], 500), tmp_path / "named"
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    words = [f"runs={tmp_path}", f"model.name={named}", "model.config=null"]
    words += ["samples.tasks={retrieval: {}}", "training.max_steps=1"]

    def stages(seed, spelling):
        build_model(shape, spelling, seed).save_pretrained(named)
        wrap_tokenizer(spelling, T5Config()).save_pretrained(named)
        (named / "README.md").write_text(f"seed {seed}")
        ended = recinject("train", tiny_recipe, *words)
        assert ended.code == 0, ended.output
        return re.findall(r"^(\w+): (?:starting|again)", ended.output, re.MULTILINE)

    assert stages(0, tokenizer) == ["data", "identifiers", "samples", "model"]
    assert stages(0, tokenizer) == []
    assert stages(1, tokenizer) == ["model"]
    assert stages(1, train_tokenizer(["other words"], 500)) == ["samples", "model"]
