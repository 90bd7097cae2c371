"""Models that nobody trained, asked through the real command line."""

import json

import numpy as np
import pandas as pd
import pytest
from transformers.utils import is_gguf_available

from recinject.foundation.errors import RecinjectError
from recinject.models.building import build_model, load_model, wrap_tokenizer
from recinject.samples.tokenizer import train_tokenizer

SIZES = {
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 1100},
}
SMALL = ["data.simulator={users: 60, items: 40, events_per_user: 10}", "data.k_core=2"]
SMALL += ["evaluation.limit=30", "evaluation.resamples=100"]


@pytest.mark.parametrize(("kind", "shots"), [("t5", 0), ("gpt2", 2)])
def test_a_named_model_answers_by_label_and_in_words(recinject, tmp_path, kind, shots):
    tokenizer = train_tokenizer(["Ratings by one customer, from 1 to 5"], 500)
    model = build_model(SIZES[kind], tokenizer, 0)
    model.save_pretrained(tmp_path / kind)
    wrap_tokenizer(tokenizer, model.config).save_pretrained(tmp_path / kind)
    words = [f"runs={tmp_path}", f"model.name={tmp_path / kind}", f"samples.shots={shots}", *SMALL]
    ended = recinject("run", "zero_shot_ratings", *words, "samples.max_prompt_tokens=1000")
    assert ended.code == 0, ended.output
    folder = tmp_path / "zero_shot_ratings" / "evaluation"
    metrics, comparisons, audit = (
        pd.DataFrame(json.loads((folder / f"{name}.json").read_text("utf-8")))
        for name in ("metrics", "comparisons", "audit")
    )
    models, means = {"language_model", "language_model_generated"}, {"global_mean", "item_mean"}
    assert set(metrics["recommender"]) == models | means | {
        "user_mean",
        "history_mean",
        "recent_biases",
    }
    pairs = set(zip(comparisons["recommender"], comparisons["reference"], strict=True))
    assert pairs > {(own, mean) for own in models for mean in means}
    assert ("language_model", "language_model_generated") in pairs
    found = audit.set_index("check")["value"]
    assert 0 <= found["label_mass:language_model"] <= 1
    written = pd.read_parquet(folder / "predictions" / "rating.language_model_generated.parquet")
    assert written["text"].map(type).eq(str).all() and written["rating"].between(1, 5).all()
    assert 0 <= found["unparsed_ratings:language_model_generated"] <= 1
    samples = tmp_path / "zero_shot_ratings" / "samples" / "rating"
    test = pd.read_parquet(next(samples.glob("test-*.parquet")))
    assert (test["prompt"].str.count("\n\n") == shots).all()
    assert test["prompt"].str.endswith(", rated").all()
    assert np.all(test["prompt"].str.count("Answer with a number from 1 to 5") == shots + 1)


def test_a_hub_name_fails_offline_with_its_fix(recinject, tmp_path):
    ended = recinject("run", "zero_shot_ratings", f"runs={tmp_path}", *SMALL)
    assert ended.code == 2 and "google/flan-t5-small: " in ended.output
    assert "download it once with a network, give a local folder" in ended.output


def test_a_gguf_file_must_be_there_and_be_one(recinject, tmp_path):
    """Without the package that reads it, the fix is to install that."""
    file = tmp_path / "model.gguf"
    with pytest.raises(RecinjectError, match="no such file"):
        load_model(str(file))
    file.write_bytes(b"no model")
    ended = recinject("run", "zero_shot_ratings", f"runs={tmp_path}", f"model.name={file}", *SMALL)
    said = "cannot be read" if is_gguf_available() else "pip install -U gguf"
    assert ended.code == 2 and said in ended.output


def test_a_named_model_is_asked_for_impact_and_harm(recinject, tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "films"
    folder.mkdir()
    rows = [
        (u, i, 1 + (u + i) % 5, t)
        for u in range(110)
        for t, i in enumerate(rng.permutation(40)[:8])
    ]
    files = {
        "inter": ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
        + ["\t".join(map(str, row)) for row in rows],
        "item": ["item_id:token\tmovie_title:token_seq\tclass:token_seq"]
        + [f"{n}\tThe film number {n}\tDrama" for n in range(40)],
        "user": ["user_id:token\tgender:token"] + [f"{n}\t{'MF'[n % 2]}" for n in range(110)],
    }
    for name, lines in files.items():
        (folder / f"films.{name}").write_text("\n".join(lines) + "\n", "utf-8")
    tokenizer = train_tokenizer(["A customer chose the film number 1 2 3 4 5; F M page"], 500)
    build_model(SIZES["gpt2"], tokenizer, 0).save_pretrained(tmp_path / "gpt2")
    config = build_model(SIZES["gpt2"], tokenizer, 0).config
    wrap_tokenizer(tokenizer, config).save_pretrained(tmp_path / "gpt2")
    words = [f"runs={tmp_path}", f"data.path={folder}", f"model.name={tmp_path / 'gpt2'}"]
    small = ["evaluation.harm_queries=12", "evaluation.limit=100", "evaluation.resamples=100"]
    ended = recinject("run", "zero_shot_harm", *words, *small)
    assert ended.code == 0, ended.output
    kept = json.loads((tmp_path / "zero_shot_harm" / "evaluation" / "harm.json").read_text("utf-8"))
    own = [row for row in kept if row["recommender"] == "language_model"]
    found = {(row["measure"], row["part"]): row for row in own}
    asked = (
        ("memorisation", "titles"),
        ("memorisation", "likelier than last kept"),
    )
    asked += ("order", "flips"), ("injection", "success"), ("attribute_swap", "excess")
    assert all(found[key]["value"] is not None for key in asked), found.keys()
    assert found["memorisation", "titles"]["n"] == 36  # three titles a query
    assert [row["measure"] for row in own].count("memorisation") == 3
