"""Causal models and heads, through the real command line."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from recinject.foundation.errors import RecinjectError
from recinject.foundation.storage import RunManifest
from recinject.models.building import build_model
from recinject.models.storing import load_trained
from recinject.pipeline.check import check_settings
from recinject.pipeline.prepare import dialect_of
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Queries
from recinject.samples.mixture import token_columns
from recinject.samples.store import read_samples

TYPES = {
    "gpt2": "{model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2}",
    "llama": "{model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, "
    "num_attention_heads: 2}",
}
OTHERS = ("masked_item_modelling", "masked_language_modelling", "bpr", "retrieval", "ranking")
RATING = [f"samples.tasks.{task}=null" for task in OTHERS]


@pytest.mark.parametrize(
    "kind",
    TYPES,
)
@pytest.mark.slow
def test_a_causal_model_runs_by_the_same_recipe(recinject, tiny_recipe, tmp_path, kind):
    words = (f"runs={tmp_path}", f"model.config={TYPES[kind]}")
    ended = recinject("run", tiny_recipe, *words)
    assert ended.code == 0, ended.output
    folder = tmp_path / "tiny"
    model = AutoModelForCausalLM.from_pretrained(folder / "model", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", local_files_only=True)
    assert model.config.model_type == kind and tokenizer.eos_token_id == model.config.eos_token_id
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text("utf-8"))
    asked = {row["task"] for row in metrics if row["recommender"] == "language_model"}
    assert asked == {"retrieval", "ranking", "rating"}
    assert f"{kind.upper()} built here" in (folder / "report" / "report.md").read_text("utf-8")
    samples = RunManifest.read(folder / "samples")
    assert samples.settings["dialect"] == {"causal": True, "ends": None}
    run = Run(load_recipe(str(tiny_recipe), words))
    rows = token_columns(folder / "samples", "retrieval", "train")
    texts = read_samples(folder / "samples", "retrieval", "train").to_pylist()
    assert run.samples.factory.wordings["retrieval"].encoder.dialect.causal
    for row, text in zip(rows, texts, strict=True):
        whole = run.samples.factory.tokenizer.encode(f"{text['prompt']} {text['completion']}").ids
        assert [*row["input_ids"], *row["labels"]] == whole and len(whole) == row["length"]
    ended = recinject("run", tiny_recipe, *words)
    assert ended.output.count("nothing to do") == 6
    ended = recinject("evaluate", tiny_recipe, f"runs={tmp_path}")
    assert "samples: again, since" in ended.output and "dialect" in ended.output


def test_a_causal_model_finds_what_it_was_trained_on(recinject, tiny_recipe, tmp_path):
    """Training and decoding cut texts into the same tokens, or the right item would not come."""
    small = "{model_type: gpt2, n_embd: 32, n_layer: 1, n_head: 2, resid_pdrop: 0, embd_pdrop: 0}"
    words = [
        f"runs={tmp_path}",
        f"model.config={small}",
        *(f"samples.tasks.{task}=null" for task in OTHERS if task != "retrieval"),
        "samples.tasks.rating=null",
        "samples.tasks.retrieval={history_length: 3}",
        "samples.limit=6",
        "identifiers.kind=number_title",
        "training.max_steps=120",
        "training.learning_rate=1e-2",
        "training.save_strategy=no",
    ]
    ended = recinject("train", tiny_recipe, *words)
    assert ended.code == 0, ended.output
    run = Run(load_recipe(str(tiny_recipe), words))
    rows = read_samples(run.folder("samples"), "retrieval", "train").to_pylist()
    items = {item: number for number, item in enumerate(run.data.catalog.item_ids)}
    queries = Queries(
        task="retrieval",
        sample_ids=[row["sample_id"] for row in rows],
        prompts=[row["prompt"] for row in rows],
        users=np.arange(len(rows), dtype=np.int32),
        histories=[np.empty(0, np.int32)] * len(rows),
        targets=np.array([items[row["target_item_id"]] for row in rows], np.int32),
    )
    model, tokenizer = load_trained(run.folder("model"))
    names = run.samples.factory.wordings["retrieval"].phrases["target"]
    found = LanguageModel(model, tokenizer, names, beams=5).predict(queries, 1)
    np.testing.assert_array_equal(found.items[:, 0], queries.targets)
    assert (np.exp(found.scores[:, 0]) > 0.7).all()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A GPT-2 on disk, as others' models are: its config names an end token of its own."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = _byte_level()
    config = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 600}
    model = build_model(config, tokenizer, 0)
    model.config.eos_token_id = model.config.bos_token_id = 0
    model.config.pad_token_id = None
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _byte_level():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE({text: n for n, text in enumerate(["<|end|>", *alphabet])}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


@pytest.mark.parametrize("lora", ["lora=null", "lora={r: 2}"])
def test_a_named_causal_model_is_read_in_its_own_tokens(
    recinject, tiny_recipe, tmp_path, saved, lora
):
    words = [
        *(f"runs={tmp_path}", "model.config=null", f"model.name={saved}", lora),
        *(f"samples.tasks.{task}=null" for task in (*OTHERS, "rating") if task != "retrieval"),
        "samples.tasks.retrieval.history_length=4",
        "identifiers.kind=token",
    ]
    ended = recinject("evaluate", tiny_recipe, *words)
    assert ended.code == 0, ended.output
    folder = tmp_path / "tiny"
    rows = token_columns(folder / "samples", "retrieval", "train")
    assert all(row["labels"][-1] != 0 and len(row["labels"]) == 1 for row in rows)
    assert all(row["input_ids"][-1] != 0 for row in rows)
    assert RunManifest.read(folder / "samples").settings["dialect"] == {"causal": True, "ends": 0}
    loaded = AutoTokenizer.from_pretrained(folder / "model", local_files_only=True)
    assert loaded.eos_token == loaded.pad_token == "<|end|>"
    AutoModelForCausalLM.from_pretrained(folder / "model", local_files_only=True)


def test_a_prompt_longer_than_a_causal_model_reads_is_refused_at_once(recinject, tiny_recipe):
    ended = recinject("run", tiny_recipe, "model.config={model_type: gpt2, n_positions: 256}")
    assert ended.code == 2 and "may take 576 tokens, and the model reads 256" in ended.output


def test_a_config_without_its_end_token_is_refused(tiny_recipe, tmp_path, saved):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((saved / "config.json").read_text("utf-8"))
    del config["eos_token_id"]  # transformers then takes the one of its own GPT-2
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    words = ["model.config=null", f"model.name={tmp_path}", f"runs={tmp_path / 'runs'}"]
    with pytest.raises(RecinjectError, match="its config.json leaves out the end token"):
        check_settings(load_recipe(str(tiny_recipe), words))
    (tmp_path / "config.json").unlink()
    with pytest.raises(RecinjectError, match=r"no config.json in it"):
        dialect_of(str(tmp_path))


HEADS = [
    ("regression", [], "lora=null"),
    pytest.param(
        "classification", [], "lora={r: 2, target_modules: [q, v]}", marks=pytest.mark.slow
    ),
    pytest.param(
        "regression", [f"model.config={TYPES['gpt2']}"], "lora={r: 2}", marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("head", "config", "lora"), HEADS)
def test_a_head_runs_by_the_same_recipe(recinject, tiny_recipe, tmp_path, head, config, lora):
    words = [f"runs={tmp_path}", f"model.head={head}", *RATING, *config, lora]
    ended = recinject("run", tiny_recipe, *words)
    assert ended.code == 0, ended.output
    folder = tmp_path / "tiny"
    plain = AutoModelForCausalLM if config else AutoModelForSeq2SeqLM
    plain.from_pretrained(folder / "model", local_files_only=True)
    weights = load_file(folder / "model" / "rating_head.safetensors")
    assert np.abs(weights["weight"]).max() > 0
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text("utf-8"))
    rows = [row for row in metrics if row["recommender"].startswith("language_model")]
    asked = {"language_model", "language_model_reworded", "language_model_shuffled"}
    asked.add("language_model_blend")
    assert {row["recommender"] for row in rows} == asked
    assert {row["task"] for row in rows} == {"rating"}
    assert f"{head} head" in (folder / "report" / "report.md").read_text("utf-8")
    log = (folder / "training" / "log.jsonl").read_text("utf-8")
    assert "loss/rating" in log and "eval_loss" in log


SHORT = """
task: rating
version: 1
phrases: {history: "{{ identifier }}", target: "{{ identifier }}"}
templates:
  - name: short
    prompt: "{{ target }} after {{ history | rated(' - ', '; ') }}?"
    completion: "{{ rating }}"
"""
# A T5 from scratch takes longer to find the item in question than a GPT-2 does.
BACKBONES = [
    pytest.param(
        "{d_model: 64, d_kv: 16, d_ff: 128, num_layers: 1, num_heads: 4, dropout_rate: 0.0}",
        ("training.max_steps=800", "training.learning_rate=3e-3"),
        0.99,
        id="t5",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "{model_type: gpt2, n_embd: 48, n_layer: 1, n_head: 4, n_inner: 64}",
        ("training.max_steps=300", "training.learning_rate=5e-3"),
        0.95,
        id="gpt2",
    ),
]


@pytest.mark.parametrize(("config", "training", "share"), BACKBONES)
def test_a_head_beats_the_global_mean(recinject, tiny_recipe, tmp_path, config, training, share):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "rating.yaml").write_text(SHORT, "utf-8")
    words = [
        *(f"runs={tmp_path}", "model.head=regression", *RATING, f"model.config={config}"),
        "data.simulator={users: 400, items: 50, events_per_user: 14}",
        *(f"samples.prompts={tmp_path / 'prompts'}", "identifiers.kind=token"),
        "samples.tasks.rating={history_length: 1}",
        *(*training, "training.per_device_train_batch_size=32", "training.save_strategy=no"),
        *("evaluation.baselines=[global_mean]", "evaluation.reworded=false"),
    ]
    ended = recinject("evaluate", tiny_recipe, *words)
    assert ended.code == 0, ended.output
    metrics = json.loads((tmp_path / "tiny" / "evaluation" / "metrics.json").read_text("utf-8"))
    found = {row["recommender"]: row["value"] for row in metrics if row["metric"] == "rmse"}
    assert found["language_model"] < share * found["global_mean"], found
