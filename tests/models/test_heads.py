import json
import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from recinject.models.adapters import HEAD_FILE, RatingModel, add_lora
from recinject.models.building import build_model, count_parameters, wrap_tokenizer
from recinject.models.storing import load_trained, save_trained
from recinject.samples.encoding import Dialect
from recinject.samples.tokenizer import train_tokenizer
from recinject.training.batches import make_collator
from recinject.training.fitting import fit
from recinject.training.trainer import MARKER

WORDS = ["red", "blue", "green", "car", "doll", "brick"]
TEXTS = [" ".join(WORDS[i * j % 6] for j in range(1 + i % 5)) + " ?" for i in range(64)]
TOKENIZER = train_tokenizer(TEXTS, 300)
RATINGS = [1.0 + (text.count("car") > 0) + 2.5 * ("doll" in text) for text in TEXTS]
VALUES, COUNTS = np.unique(RATINGS, return_counts=True)
CONFIGS = {
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2,
           "dropout_rate": 0.0},
    "t5 untied": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2,
                  "dropout_rate": 0.0, "tie_word_embeddings": False},
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "embd_pdrop": 0.0,
             "attn_pdrop": 0.0, "resid_pdrop": 0.0},
    "llama": {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
              "num_hidden_layers": 1, "num_attention_heads": 2},
}  # fmt: skip
KINDS = ["regression", "classification"]


def make(backbone="t5", kind="regression", lora=None):
    model = build_model(CONFIGS[backbone], TOKENIZER, 0)
    if lora is not None:
        model = add_lora(model, lora, seed=1)
    return RatingModel(model, kind, VALUES, COUNTS)


def stirred(model):
    """Give the head and LoRA's matrices other weights than those that they start with."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if name.startswith("head.") or "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=generator)
    return model.eval()


def dataset(backbone="t5"):
    dialect = Dialect(TOKENIZER, "t5" not in backbone, 1)
    prompts, answers = dialect.prompts(TEXTS).to_list(), [[5, 1]] * len(TEXTS)
    lengths = [len(ids) for ids in prompts]
    columns = {"input_ids": prompts, "labels": answers, "length": lengths, "rating": RATINGS}
    return Dataset.from_dict(columns)


def batch_of(model, rows, backbone):
    collate = make_collator(model, wrap_tokenizer(TOKENIZER))
    found = dataset(backbone)
    return collate([found[row] for row in rows])


def state_by_hand(model, sample):
    """The state that is read, by the model's own whole forward on one prompt without padding."""
    ids = torch.tensor([sample["input_ids"]])
    backbone = model.backbone
    with torch.no_grad():
        if not backbone.config.is_encoder_decoder:
            return backbone(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
        found = backbone(
            input_ids=ids, decoder_input_ids=torch.tensor([[0]]), output_hidden_states=True
        )
        return found.decoder_hidden_states[-1][0, 0]


@pytest.mark.parametrize("lora", [None, {"r": 2}])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", CONFIGS)
def test_loss_and_ratings_are_those_of_each_prompt_alone(backbone, kind, lora):
    model, rows = stirred(make(backbone, kind, lora)), [0, 3, 4, 9, 12]
    batch = batch_of(model, rows, backbone)
    assert (batch["attention_mask"] == 0).any()
    with torch.no_grad():
        loss = float(model(**batch).loss)
    found = model.rate(batch["input_ids"], batch["attention_mask"])
    mean, scale = np.mean(RATINGS), np.std(RATINGS)
    losses = []
    for sample, rating in zip(dataset(backbone).select(rows), found.tolist(), strict=True):
        logits = (model.head(state_by_hand(model, sample))).detach().numpy().astype(float)
        if kind == "regression":
            losses.append((logits[0] - (sample["rating"] - mean) / scale) ** 2)
            expected = mean + scale * logits[0]
        else:
            odds = np.exp(logits) / np.exp(logits).sum()
            losses.append(-np.log(odds[list(VALUES).index(sample["rating"])]))
            expected = odds @ VALUES
        assert rating == pytest.approx(np.clip(expected, VALUES[0], VALUES[-1]), abs=1e-4)
    assert loss == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", CONFIGS)
def test_it_starts_at_the_mean_of_the_training_ratings(backbone, kind):
    model = make(backbone, kind).eval()
    batch = batch_of(model, range(64), backbone)
    found = model.rate(batch["input_ids"], batch["attention_mask"])
    np.testing.assert_allclose(found, np.mean(RATINGS), atol=1e-5)
    with torch.no_grad():
        loss = float(model(**batch).loss)
    shares = COUNTS / COUNTS.sum()
    expected = 1.0 if kind == "regression" else -(shares * np.log(shares)).sum()
    assert loss == pytest.approx(expected, abs=1e-5)


def test_ratings_stay_within_those_of_training():
    for sign, bound in ((1, VALUES[-1]), (-1, VALUES[0])):
        model = make()
        torch.nn.init.constant_(model.head.bias, sign * 99.0)
        batch = batch_of(model, range(4), "t5")
        assert model.rate(batch["input_ids"], batch["attention_mask"]).tolist() == [bound] * 4


def test_equal_ratings_have_no_scale_and_can_still_be_learnt():
    model = RatingModel(build_model(CONFIGS["t5"], TOKENIZER, 0), "regression", [4.0], [9])
    ids = torch.ones(2, 3, dtype=torch.long)
    assert model(ids, ids, torch.tensor([4.0, 4.0])).loss.item() == 0
    assert model.rate(ids, ids).tolist() == [4.0, 4.0]


@pytest.mark.parametrize("backbone", CONFIGS)
def test_everything_that_trains_has_a_gradient(backbone):
    model = stirred(make(backbone))
    model(**batch_of(model, range(8), backbone)).loss.backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name


@pytest.mark.parametrize("lora", [None, {"r": 2}])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", ["t5", "gpt2"])
def test_saved_and_loaded_it_is_the_same_and_its_model_is_plain(backbone, kind, lora, tmp_path):
    model = stirred(make(backbone, kind, lora))
    save_trained(model, TOKENIZER, tmp_path / "model")
    loaded, _ = load_trained(tmp_path / "model")
    assert isinstance(loaded, RatingModel) and not loaded.training
    assert (loaded.kind, loaded.mean, loaded.scale) == (kind, model.mean, model.scale)
    batch = batch_of(model, range(64), backbone)
    asked = batch["input_ids"], batch["attention_mask"]
    if lora is None:
        assert torch.equal(loaded.rate(*asked), model.rate(*asked))
    else:  # merging rounds
        torch.testing.assert_close(loaded.rate(*asked), model.rate(*asked), atol=1e-4, rtol=0)
    plain = AutoModelForSeq2SeqLM if backbone == "t5" else AutoModelForCausalLM
    found, info = plain.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    size = count_parameters(build_model(CONFIGS[backbone], TOKENIZER, 0))[1]
    assert found.num_parameters() == size
    assert (tmp_path / "model" / HEAD_FILE).is_file()


def train(model, folder, backbone="t5", **more):
    settings = {
        "use_cpu": True,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "max_steps": 6,
        "logging_steps": 1,
        "save_steps": 3,
        **more,
    }
    log = folder / "train.jsonl"
    fit(model, TOKENIZER, dataset(backbone), dataset(backbone), settings, folder, log, seed=5)
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", ["t5", "gpt2"])
def test_how_a_batch_is_cut_up_changes_nothing(backbone, kind, tmp_path):
    logs = [
        train(
            make(backbone, kind),
            tmp_path / f"{batch}",
            backbone,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=parts,
            save_strategy="no",
        )
        for batch, parts in ((8, 1), (2, 4))
    ]
    for entry, same in zip(*logs, strict=True):
        for name in {"loss", "grad_norm", "eval_loss"} & entry.keys():
            assert entry[name] == pytest.approx(same[name], abs=1e-4)


def test_lora_trains_its_matrices_and_the_head_alone(tmp_path):
    model = make("t5 untied", lora={"r": 2})
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    log = train(model, tmp_path)
    for name, weight in model.named_parameters():
        trains = "lora" in name or name.startswith("head.")
        assert weight.requires_grad == trains and torch.equal(weight, before[name]) != trains, name
    assert len([entry for entry in log if "loss" in entry]) == 6


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_run_cut_off_and_resumed_ends_as_one_that_was_not(lora, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    whole = make("gpt2", lora=lora)
    train(whole, tmp_path / "whole", "gpt2")
    train(make("gpt2", lora=lora), tmp_path / "cut", "gpt2")
    (tmp_path / "cut" / "checkpoint-6" / MARKER).unlink()  # torn while it was written
    resumed = make("gpt2", lora=lora)
    train(resumed, tmp_path / "cut", "gpt2")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert "missing keys" not in caplog.text


def test_it_learns(tmp_path):
    model = make("t5")
    train(model, tmp_path, max_steps=80, save_strategy="no")
    batch = batch_of(model.eval(), range(64), "t5")
    errors = model.rate(batch["input_ids"], batch["attention_mask"]).numpy() - np.array(RATINGS)
    assert np.sqrt(np.mean(errors**2)) < 0.3 * np.std(RATINGS)
