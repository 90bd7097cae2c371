"""Experts, low-rank layers, LoRA's start and Clippy as settings, through the real command line."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM

from recinject.foundation.storage import RunManifest
from recinject.methods.experts.experts import ExpertsLinear
from recinject.models.adapters import Adaptation, adaptation_of, answering
from recinject.models.storing import load_trained

STILL = ("model.config.dropout_rate=0.0", "training.learning_rate=0.02")
EXPERTS = "experts={number: 3, k: 1, rank: 2, target_modules: [q, v], dropout: 0.1}"
LOW_RANK = "model.low_rank={rank: 3}"
LORA = "lora={r: 2, target_modules: [q, wi, wo], initialization: %s, initialization_rows: 99}"
CLIPPY = "training.optimizer=clippy_adagrad"
METHODS = {
    "experts": (EXPERTS,),
    "by_sequence": (EXPERTS.replace("rank", "decision: sequence, rank"),),
    "low_rank": (LOW_RANK,),
    "lora": (LORA % "lfai",),
    "together": (EXPERTS, LOW_RANK, CLIPPY),
    "lora_together": (LORA.replace("wi, wo", "v") % "spectral", "model.low_rank={energy: 0.7}"),
}


@pytest.fixture
def start(recinject, tiny_recipe, copy_built):
    def run(verb, name, *settings):
        folder = copy_built(name)
        ended = recinject(verb, tiny_recipe, f"runs={folder.parent}", *settings)
        assert ended.code == 0, ended.output
        return folder

    return run


def entries(folder, name="loss"):
    lines = (folder / "training" / "log.jsonl").read_text("utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if name in entry]


def cut_off(folder, step=4):
    """Leave of a finished training what a process killed after a checkpoint leaves."""
    shutil.rmtree(folder / "model")
    for path in folder.glob("training/checkpoints/*/checkpoint-*"):
        if not path.name.endswith(f"-{step}"):
            shutil.rmtree(path)


# The others have their parts from these.
_ALONE = ("experts", "low_rank", "lora", "together")


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=[] if name in _ALONE else pytest.mark.slow) for name in METHODS],
)
@pytest.mark.slow
def test_it_resumes_to_the_bit(start, assert_same_weights, method, tmp_path):
    settings = (*METHODS[method], "training.save_steps=4", "training.learning_rate=0.02")
    whole = start("train", "whole", *settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    cut = tmp_path / "cut" / "tiny"
    cut_off(cut)
    assert_same_weights(whole, start("train", "cut", *settings))
    assert entries(whole, "eval_loss")
    assert entries(cut) == entries(whole)


@pytest.mark.parametrize(
    "method",
    [
        "experts",
        pytest.param("by_sequence", marks=pytest.mark.slow),
        pytest.param("together", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_how_a_batch_is_cut_up_changes_nothing(start, method):
    settings = [word.replace("dropout: 0.1", "regulariser: 1") for word in METHODS[method]]
    settings += ["training.logging_steps=1", "training.save_strategy=no", *STILL]
    found = []
    for batch, parts in ((8, 1), (4, 2)):
        cut = (f"training.per_device_train_batch_size={batch}",
               f"training.gradient_accumulation_steps={parts}")  # fmt: skip
        log = entries(start("train", f"{batch}x{parts}", *settings, *cut))
        found.append([(entry["loss"], entry["grad_norm"]) for entry in log])
    assert len(found[0]) == 8
    np.testing.assert_allclose(*found, rtol=0, atol=1e-4)


def test_all_together_is_evaluated_and_reported(start, recinject):
    # A gate this quick is saturated at the end, and its tasks flip on the way there.
    settings = (EXPERTS.replace("k: 1", "k: 1, gate_rate: 10, gamma: 0.1"), LOW_RANK, CLIPPY)
    more = ("training.learning_rate=0.1", "evaluation.generate=true")
    folder = start("report", "run", *settings, *more)
    model = adaptation_of(load_trained(folder / "model")[0])
    assert {type(m).__name__ for m in model.modules()} & {"LowRankLinear"} == set()
    facts = RunManifest.read(folder / "model").facts
    assert facts["trainable"] < facts["parameters"] / 5
    shares = np.array(facts["experts"]["shares"])
    np.testing.assert_allclose(shares, model.routing().weights.detach(), atol=1e-6)
    assert sum(entry["expert_flips"] for entry in entries(folder)) > 0
    assert all("clip_share" in entry for entry in entries(folder))
    assert (folder / "report" / "figures" / "experts.png").is_file()
    assert "LoRA experts, low-rank layers" in (folder / "report" / "report.md").read_text("utf-8")
    card = (folder / "model" / "README.md").read_text("utf-8")
    assert "adapters/masked_item_modelling" in card and "is the base alone" in card
    frame = pd.read_parquet(folder / "identifiers" / "items.parquet")
    assert recinject("recommend", folder, "--liked", frame["item_id"][0], "-k", 3).code == 0
    ids = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(0))
    asked = {"input_ids": ids, "labels": ids[:, :2].clone()}
    for task in ("rating", "bpr"):
        plain = AutoModelForSeq2SeqLM.from_pretrained(folder / "model")
        adapted = PeftModel.from_pretrained(plain, folder / "model" / "adapters" / task).eval()
        with torch.no_grad(), answering(model, task):
            found, expected = adapted(**asked).logits, model.eval()(**asked).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_adapter_that_took_a_part_of_the_base_fits_the_base_as_it_was(start, tmp_path):
    base = start("train", "base", "training.max_steps=1") / "model"
    named = ("model.config=null", f"model.name={base}", f"model.tokenizer={base}")
    folder = start("train", "run", *named, LORA % "lfai", "training.learning_rate=0.02")
    plain = AutoModelForSeq2SeqLM.from_pretrained(base)
    ids = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(0))
    asked = {"input_ids": ids, "labels": ids[:, :2].clone()}
    with torch.no_grad():
        before = plain.eval()(**asked).logits
        adapted = PeftModel.from_pretrained(plain, folder / "model" / "adapter").eval()
        merged = AutoModelForSeq2SeqLM.from_pretrained(folder / "model").eval()
        found, expected = adapted(**asked).logits, merged(**asked).logits
    assert (expected - before).abs().max() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["experts={k: 5}"], "experts.k: 5\n  fix: set it to 1 up to number, 4"),
        (["experts={gamma: 0}"], "experts.gamma: Input should be greater than 0"),
        (["experts={rnk: 2}"], "experts.rnk: unknown key\n  fix: did you mean 'rank'"),
        (["experts={rank: x}"], "experts.rank: Input should be a valid integer"),
        (["experts={gate: dselect}"], "experts.gate: unknown gate 'dselect'\n  fix: did you mean"),
        (["experts={target_modules: [qq]}"], "the model has no linear layer 'qq'"),
        (["experts={}", "lora={r: 2}"], "experts: lora adapts the same model"),
        (["experts={}", "identifiers.kind=token"], "identifiers.kind=token brings tokens"),
        (["experts={}", "training.fsdp=full_shard"], "whole experts\n  fix: launch it with"),
        (["experts={}", "model.config={model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2}"],
         "experts: the model is causal"),
        (["model.low_rank={}"], "low rank: rank None and energy None\n  fix: give one"),
        (["model.low_rank={rank: 17}"], "whose full rank is 16\n  fix: choose one from 1 to 16"),
        (["model.low_rank={energy: 1.5}"], "energy 1.5"),
        (["model.low_rank={rank: 2, targets: [wx]}"], "has no linear layer 'wx'"),
        (["model.low_rank={rank: 2, method: svd}"], "model.low_rank.method: Input should be"),
        (["model.low_rank={rank: 2, method: nkp}", "model.config.feed_forward_proj=gated-gelu"],
         "nkp has a closed form for ReLU"),
        (["lora={initialization: pissa}"], "lora.initialization: unknown initialization 'pissa'"),
        (["lora={initialization: lfai, r: 17, target_modules: [q]}"], "whose full rank is 16"),
        (["lora={initialization: lfai, use_dora: true}"], "DoRA"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_before_training(recinject, tiny_recipe, tmp_path, settings, said):
    ended = recinject("train", tiny_recipe, f"runs={tmp_path}", *settings)
    assert ended.code == 2 and said in ended.output, ended.output
    assert not (tmp_path / "tiny" / "training" / "checkpoints").exists()


def test_off_nothing_of_it_is_there(start):
    folder = start("train", "run", "training.max_steps=2")
    model = load_trained(folder / "model")[0]
    assert type(adaptation_of(model)) is Adaptation and not any(
        module._forward_pre_hooks or isinstance(module, ExpertsLinear) for module in model.modules()
    )
    names = {path.name for path in folder.glob("training/checkpoints/*/*")}
    assert names == {"checkpoint-1", "checkpoint-2"}
    assert not list((folder / "model").glob("*expert*")) and not entries(folder, "expert_flips")
