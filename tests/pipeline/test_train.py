import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from recinject.foundation.storage import RunManifest

SHORT_LOG = "user,item\n" + "".join(f"u{n % 30},i{n * 11 % 29}\n" for n in range(90))


def load(folder):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_the_model_loads_with_plain_transformers(finished):
    model, tokenizer = load(finished.folder / "model")
    prompt = tokenizer("Which item comes next?", return_tensors="pt")
    with torch.no_grad():
        answer = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert isinstance(tokenizer.decode(answer[0], skip_special_tokens=True), str)
    facts = RunManifest.read(finished.folder / "model").facts
    assert facts["trainable"] == facts["parameters"] == model.num_parameters()


def test_training_left_a_log_and_whole_checkpoints_only(finished):
    checkpoints = list(finished.folder.glob("training/checkpoints/*/checkpoint-*"))
    assert checkpoints and all((path / "complete.json").is_file() for path in checkpoints)
    lines = (finished.folder / "training" / "log.jsonl").read_text("utf-8").splitlines()
    assert any('"loss"' in line for line in lines) and any('"eval_loss"' in line for line in lines)


@pytest.mark.slow
def test_lora_trains_little_and_is_saved_as_a_whole_model(finished, again, copied):
    assert again("train", "lora={r: 2, target_modules: [q, v]}") == ["model"]
    facts = RunManifest.read(copied / "model").facts
    assert 0 < facts["trainable"] < facts["parameters"] / 10
    model, _ = load(copied / "model")
    full, _ = load(finished.folder / "model")
    assert model.num_parameters() == full.num_parameters()
    assert again("report", "lora={r: 2, target_modules: [q, v]}") == ["evaluation", "report"]
    assert "LoRA" in (copied / "report" / "report.md").read_text("utf-8")


def test_a_mixture_trains_on_its_tasks_alone(again, copied):
    assert again("train", "training.mixture={retrieval: 3, bpr: 1}") == ["model"]
    assert logged(copied) == {"retrieval", "bpr"}


def logged(folder, first=0, last=8):
    """The tasks whose loss was logged at some of the steps."""
    lines = (folder / "training" / "log.jsonl").read_text("utf-8").splitlines()
    entries = [entry for entry in map(json.loads, lines) if first <= entry["step"] <= last]
    return {name[5:] for entry in entries for name in entry if name.startswith("loss/")}


def test_a_curriculum_trains_on_the_tasks_of_each_phase(again, copied):
    phases = "[{share: 1, tasks: [bpr, masked_item_modelling]}, {share: 1, mixture: {rating: 1}}]"
    again("train", f"training.curriculum={phases}", "training.temperature=2")
    assert logged(copied, last=4) == {"bpr", "masked_item_modelling"}
    assert logged(copied, first=5) == {"rating"}


def test_a_phase_without_samples_is_refused(start):
    words = "training.mixture={retrieval: 1}", "training.curriculum=[{share: 1, tasks: [bpr]}]"
    ended = start("train", *words)
    assert ended.code == 2 and "training.curriculum: phase 1 has no task" in ended.output


def test_another_setting_does_not_resume_from_the_checkpoints_of_the_first(again, copied):
    again("train", "training.learning_rate=1e-3")
    assert len(list(copied.glob("training/checkpoints/*"))) == 2


def test_training_null_trains_nothing(start, tmp_path):
    ended = start("train", "training=null")
    assert ended.code == 0 and "training: null, the model is evaluated as it is" in ended.output
    assert not (tmp_path / "tiny" / "model").exists()


def test_a_log_too_short_to_train_on_is_refused(start, tmp_path):
    path = tmp_path / "short.csv"
    path.write_text(SHORT_LOG, "utf-8")
    settings = [f"data.path={path}", "data.k_core=0", "samples.tasks.rating=null"]
    ended = start("train", *settings)
    assert ended.code == 2 and "training: none of its tasks has a training sample" in ended.output
    assert "training=null" in ended.output and not (tmp_path / "tiny" / "model").exists()


def launch(recipe, runs, *words):
    command = [sys.executable, "-m", "accelerate.commands.launch", *words]
    ended = subprocess.run(
        [*command, "-m", "recinject", "train", str(recipe), f"runs={runs}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=runs,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.returncode == 0, ended.stderr
    folder = runs / "tiny"
    assert {path.name for path in folder.iterdir()} == {
        *("data", "identifiers", "samples", "model", "training"),
        "recipe.yaml",
    }
    assert not list(folder.rglob("*partial*")) and load(folder / "model")
    assert ended.stderr.count("model: starting") == 1
    assert ended.stderr.count("parameters train on") == 1
    return folder


@pytest.mark.slow
def test_accelerate_launches_the_same_command(tiny_recipe, tmp_path, finished):
    folder = launch(tiny_recipe, tmp_path, "--cpu", "--num_processes", "1")
    ours, theirs = load(finished.folder / "model")[0], load(folder / "model")[0]
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_one_model_together(tiny_recipe, tmp_path):
    # With --cpu, accelerate would start one process whatever the number.
    folder = launch(tiny_recipe, tmp_path, "--multi_gpu", "--num_processes", "2")
    checkpoint = next(folder.glob("training/checkpoints/*/checkpoint-8"))
    assert {path.name for path in checkpoint.glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
