import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from recinject.foundation.errors import RecinjectError
from recinject.models.adapters import add_lora
from recinject.training import blockwise
from recinject.training.arguments import training_arguments
from recinject.training.blockwise import BlockwiseSoftmax
from recinject.training.fitting import fit, refuse_sharding
from recinject.training.trainer import MARKER, newest_complete


@pytest.fixture
def train(tokenizer, dataset, tmp_path):
    """Train into a folder of a given name; return the model and the log's entries."""

    def run(model, settings, name="run", validation=None, training=dataset):
        log = tmp_path / name / "train.jsonl"
        folder = tmp_path / name / "checkpoints"
        fit(model, tokenizer, training, validation, settings, folder, log, seed=5)
        return model, [json.loads(line) for line in log.read_text().splitlines()]

    return run


def assert_same_weights(one, other, tolerance=0.0):
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(
            tensor, other.state_dict()[name], atol=tolerance, rtol=tolerance, msg=name
        )


def test_how_a_batch_is_cut_up_changes_nothing(train, make_model, settings):
    runs = [
        train(
            make_model(),
            settings
            | {
                "per_device_train_batch_size": batch,
                "gradient_accumulation_steps": parts,
                "save_strategy": "no",
            },
            name=f"{batch}x{parts}",
        )
        for batch, parts in ((8, 1), (4, 2), (2, 4))
    ]
    whole, log = runs[0]
    assert len(log) == 6
    for model, other in runs[1:]:
        for entry, same in zip(log, other, strict=True):
            assert entry["loss"] == pytest.approx(same["loss"], abs=1e-4)
            assert entry["grad_norm"] == pytest.approx(same["grad_norm"], abs=1e-4)
        assert_same_weights(whole, model, tolerance=1e-4)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_softmax_in_blocks_trains_the_same(
    train, make_model, settings, dataset, monkeypatch, adapted
):
    settings |= {"eval_steps": 3, "save_strategy": "no"}
    runs, seen, deferred = [], [], BlockwiseSoftmax.deferred
    for largest in (blockwise.FULL_SOFTMAX_TOKENS, 10):
        monkeypatch.setattr(blockwise, "FULL_SOFTMAX_TOKENS", largest)
        monkeypatch.setattr(blockwise, "_LOGITS_AT_ONCE", 1000)  # a few positions at once
        monkeypatch.setattr(BlockwiseSoftmax, "deferred", lambda s: seen.append(s) or deferred(s))
        model = add_lora(make_model(), {"r": 2}, seed=1) if adapted else make_model()
        runs.append((*train(model, settings, str(largest), validation=dataset), len(seen)))
    (whole, log, none), (blocks, other, some) = runs
    assert none == 0 and some > 6
    for entry, same in zip(log, other, strict=True):
        for name in {"loss", "grad_norm", "eval_loss"} & entry.keys():
            assert entry[name] == pytest.approx(same[name], abs=1e-4)
    assert_same_weights(whole, blocks, tolerance=1e-4)


def test_the_loss_is_a_mean_over_tokens(train, make_model, settings, dataset):
    untrained = make_model()
    _, log = train(make_model(), settings | {"per_device_train_batch_size": 64, "max_steps": 1})
    total = count = 0.0
    for sample in dataset:
        ids, labels = torch.tensor([sample["input_ids"]]), torch.tensor([sample["labels"]])
        with torch.no_grad():
            total += float(untrained(input_ids=ids, labels=labels).loss) * labels.numel()
        count += labels.numel()
    assert log[0]["loss"] == pytest.approx(total / count, abs=1e-4)


def test_it_learns_and_measures_validation(train, make_model, settings, dataset):
    settings |= {"max_steps": 40, "save_steps": 20, "eval_steps": 10}
    _, log = train(make_model(0.1), settings, validation=dataset)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    measured = [(entry["step"], entry["eval_loss"]) for entry in log if "eval_loss" in entry]
    assert losses[-1] < losses[0] / 2
    assert [step for step, _ in measured] == [10, 20, 30, 40]
    assert measured[-1][1] < losses[0] / 2
    assert {"step", "epoch", "loss", "learning_rate", "grad_norm"} <= log[0].keys()


@pytest.mark.parametrize("adapted", [False, True])
def test_the_checkpoint_with_the_best_validation_loss_is_kept(
    train, make_model, settings, dataset, tmp_path, capsys, adapted
):
    def make():
        return add_lora(make_model(), {"r": 2}, seed=1) if adapted else make_model()

    # A few samples are learnt by heart, with a rate that grows too large for the others.
    few, others = dataset.select(range(8)), dataset.select(range(8, 64))
    settings |= {"max_steps": 50, "save_steps": 4, "learning_rate": 0.05}
    kept, log = train(make(), settings, validation=others, training=few)
    measured = {entry["step"]: entry["eval_loss"] for entry in log if "eval_loss" in entry}
    best = min(measured, key=measured.get)
    assert max(measured) == 50 and best < 50  # the last step is no multiple, and measured too
    assert measured[best] < measured[50] - 0.01
    said = capsys.readouterr().err
    assert f"kept the weights of step {best} of 50" in said and "missing keys" not in said
    folder = tmp_path / "run" / "checkpoints"
    file = "adapter_model.safetensors" if adapted else "model.safetensors"
    stored, ours = load_file(folder / f"checkpoint-{best}" / file), kept.state_dict()
    for name, tensor in stored.items():
        own = name.replace(".weight", ".default.weight") if adapted else name
        assert torch.equal(tensor, ours[own]), name
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [f"checkpoint-{best}", "checkpoint-50"]
    )
    # A finished training is not trained again, and ends with the same weights.
    again, _ = train(make(), settings, validation=others, training=few)
    assert_same_weights(kept, again)
    last, _ = train(make(), settings | {"load_best_model_at_end": False}, "last", others, few)
    assert any(not torch.equal(own, ours[name]) for name, own in last.state_dict().items())


def test_a_run_cut_off_and_resumed_ends_as_one_that_was_not(train, make_model, settings, tmp_path):
    settings |= {"max_steps": 14, "save_steps": 3}  # an epoch has 8 steps: cut in the second one
    whole, log = train(make_model(0.1), settings, name="whole")
    train(make_model(0.1), settings, name="cut")
    folder = tmp_path / "cut" / "checkpoints"
    (folder / "checkpoint-14" / MARKER).unlink()  # torn while it was written
    assert newest_complete(folder).name == "checkpoint-12"
    resumed, resumed_log = train(make_model(0.1), settings, name="cut")
    assert_same_weights(whole, resumed)
    assert [(e["step"], e["loss"]) for e in resumed_log] == [(e["step"], e["loss"]) for e in log]
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-12", "checkpoint-14"]
    assert newest_complete(folder).name == "checkpoint-14"


def test_a_finished_run_is_not_trained_again(train, make_model, settings):
    model, log = train(make_model(), settings)
    again, same_log = train(make_model(), settings)
    assert_same_weights(model, again)
    assert same_log == log


def test_lora_trains_its_matrices_only_and_resumes(train, make_model, settings, tmp_path):
    def make():
        return add_lora(make_model(), {"r": 2}, seed=1)

    model, _ = train(make(), settings, name="whole")
    for (name, after), (_, before) in zip(
        model.named_parameters(), make().named_parameters(), strict=True
    ):
        assert torch.equal(after, before) == ("lora" not in name), name
    train(make(), settings, name="cut")
    (tmp_path / "cut" / "checkpoints" / "checkpoint-6" / MARKER).unlink()
    resumed, _ = train(make(), settings, name="cut")
    assert_same_weights(model, resumed)


def test_divergence_ends_the_run_and_leaves_no_bad_checkpoint(
    train, make_model, settings, tmp_path
):
    settings |= {"logging_steps": 100, "save_steps": 2, "max_steps": 8}
    model = make_model()
    train(model, settings | {"max_steps": 2})
    broken = make_model()
    broken.lm_head.register_forward_hook(lambda *_: _[2] * math.nan)
    with pytest.raises(RecinjectError, match=r"loss is nan at step 4.*\n.*learning_rate"):
        train(broken, settings)
    assert newest_complete(tmp_path / "run" / "checkpoints").name == "checkpoint-2"


def test_a_full_device_names_the_settings_to_change(train, make_model, settings):
    model = make_model()

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.lm_head.register_forward_hook(full)
    with pytest.raises(RecinjectError) as full_device:
        train(model, settings | {"gradient_accumulation_steps": 3})
    assert "with per_device_train_batch_size=8" in full_device.value.message
    for setting in (
        "training.per_device_train_batch_size=4 training.gradient_accumulation_steps=6",
        "training.gradient_checkpointing=true",
    ):
        assert setting in full_device.value.hint


SCRIPT = """
import sys
from pathlib import Path
from datasets import Dataset
from recinject.models.building import build_model
from recinject.samples.tokenizer import load_tokenizer
from recinject.training.fitting import fit
folder = Path(sys.argv[1])
tokenizer = load_tokenizer(folder / "tokenizer.json")
sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
model = build_model(sizes, tokenizer, seed=0)
settings = {"use_cpu": True, "per_device_train_batch_size": 4, "learning_rate": 0.01,
            "max_steps": 3, "logging_steps": 1, "save_steps": 2}
fit(model, tokenizer, Dataset.load_from_disk(folder / "data"), None, settings,
    folder / "two", folder / "two.jsonl", seed=5)
"""


@pytest.mark.slow
def test_two_processes_train_as_one_does(train, make_model, settings, tokenizer, dataset, tmp_path):
    _, log = train(make_model(), settings | {"max_steps": 3})
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    dataset.save_to_disk(tmp_path / "data")
    (tmp_path / "script.py").write_text(SCRIPT)
    # "--cpu" would start a single process, whatever the number; use_cpu keeps this one off GPUs.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    subprocess.run(
        [*launch, "--num_processes", "2", str(tmp_path / "script.py"), str(tmp_path)],
        check=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    other = [json.loads(line) for line in (tmp_path / "two.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in other] == [0.125, 0.25, 0.375]  # both shared each step
    for entry, same in zip(log, other, strict=True):
        assert entry["loss"] == pytest.approx(same["loss"], abs=1e-4)
    assert newest_complete(tmp_path / "two").name == "checkpoint-3"


def test_recomputed_activations_train_the_same_with_lora(train, make_model, settings):
    def losses(name, **more):
        model = add_lora(make_model(), {"r": 2}, seed=1)
        _, log = train(model, settings | more, name=name)
        return [(entry["loss"], entry["grad_norm"]) for entry in log if "loss" in entry]

    plain = losses("plain")
    assert all(norm > 0 for _, norm in plain) and plain[-1] < plain[0]
    recomputed = losses("recomputed", gradient_checkpointing=True)
    torch.testing.assert_close(torch.tensor(recomputed), torch.tensor(plain))


def test_what_needs_whole_weights_refuses_sharded_training(tmp_path, monkeypatch):
    plain = training_arguments({"use_cpu": True}, tmp_path, 0)
    why = ("a scale is of a whole tensor", "choose adafactor")
    refuse_sharding(plain, *why)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # in one process nothing is shared out
    refuse_sharding(plain, *why)
    asked = training_arguments({"use_cpu": True, "fsdp": "full_shard"}, tmp_path, 0)
    refuse_sharding(asked, "", "")
    with pytest.raises(RecinjectError, match=r"FSDP shares .* whole tensor\n.*DDP, or c"):
        refuse_sharding(asked, *why)
    plain.deepspeed_plugin = SimpleNamespace(zero_stage=2)
    with pytest.raises(RecinjectError, match="DeepSpeed"):
        refuse_sharding(plain, *why)
