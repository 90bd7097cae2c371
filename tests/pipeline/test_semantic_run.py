import json
import re

import numpy as np
import pandas as pd
import pytest

from recinject.data.cleaning import clean_catalog
from recinject.data.schema import Catalog
from recinject.data.splitting import load_split
from recinject.foundation.storage import RunManifest
from recinject.methods.semantic_ids.codes import load_codes

SEMANTIC = (
    "identifiers.kind=semantic",
    "identifiers.codes=8",
    "identifiers.levels=2",
    "identifiers.last_codes=40",
)


def test_a_run_names_items_by_codes_in_every_task_mixed_with_titles(start, tmp_path):
    phrase = "samples.phrases={history: '{{ title }} {{ identifier }}'}"
    alone = "evaluation.baselines=[popularity]"
    ended = start("run", *SEMANTIC, phrase, alone)
    assert ended.code == 0, ended.output
    folder = tmp_path / "tiny"
    table = pd.read_parquet(folder / "identifiers" / "items.parquet")
    assert table["identifier"].str.fullmatch(r"<a_\d+><b_\d+><c_\d+>").all()
    assert not table["identifier"].duplicated().any()
    codes, _ = load_codes(folder / "identifiers", table["identifier"])
    assert codes.texts == tuple(table["identifier"])
    facts = RunManifest.read(folder / "identifiers").facts
    assert [row["level"] for row in facts["quality"]] == [1, 2]
    files = (folder / "samples").rglob("retrieval/*.parquet")
    samples = pd.concat(map(pd.read_parquet, files))
    assert samples["completion"].isin(set(table["identifier"])).all()
    first = samples.iloc[0]["prompt"]
    named = [f"{row.title} {row.identifier}" for row in table.itertuples()]
    assert sum(name in first for name in named) >= 1
    tokenizer = json.loads((folder / "samples" / "tokenizer.json").read_text())
    added = {token["content"] for token in tokenizer["added_tokens"]}
    assert {"<a_7>", "<b_0>", "<c_39>"} <= added
    metrics = pd.read_json(folder / "evaluation" / "metrics.json")
    assert "language_model" in set(metrics.query("task == 'retrieval'")["recommender"])


def test_embeddings_are_kept_when_the_quantiser_changes_and_made_when_the_texts_do(start, tmp_path):
    kept = tmp_path / "tiny" / "identifiers" / "content.npz"
    assert start("prepare", *SEMANTIC).code == 0
    before = np.load(kept)["embeddings"]
    ended = start("prepare", *SEMANTIC, "identifiers.quantiser=lsh")
    assert "identifiers: again" in ended.output
    np.testing.assert_array_equal(np.load(kept)["embeddings"], before)
    start("prepare", *SEMANTIC, "identifiers.dimensions=5")
    assert np.load(kept)["embeddings"].shape[1] == 5


def test_vectors_of_the_user_s_own_belong_to_the_stage_s_inputs(start, tmp_path):
    own = tmp_path / "own.npy"
    wanted = (*SEMANTIC, f"identifiers.content={own}")
    assert "no such" in start("prepare", *wanted).output.lower()
    assert not (tmp_path / "tiny" / "identifiers").exists()
    np.save(own, np.random.default_rng(0).normal(size=(7, 3)))
    ended = start("prepare", *wanted)
    items = len(load_split(tmp_path / "tiny" / "data")[1])
    assert ended.code == 2 and f"shape (7, 3), and there are {items} items" in ended.output
    assert not (tmp_path / "tiny" / "identifiers").exists()
    np.save(own, np.random.default_rng(0).normal(size=(items, 3)))
    assert start("prepare", *wanted).code == 0
    assert "identifiers: nothing to do" in start("prepare", *wanted).output
    np.save(own, np.random.default_rng(1).normal(size=(items, 3)))
    assert f"identifiers: again, since input {own} changed" in start("prepare", *wanted).output


@pytest.mark.parametrize(
    ("setting", "fact"),
    [
        ("identifiers.codes=999", "999 codes a level, and only"),
        ("identifiers.last_codes=1", "last code tells 1 apart"),
        ("identifiers.levels=26", "identifiers.levels"),
        ("identifiers.quantiser=rqvae", "did you mean 'rq_vae'"),
        ("identifiers.content=no/such", "sentence-transformers"),
    ],
)
def test_bad_settings_end_with_one_error_and_leave_nothing(start, tmp_path, setting, fact):
    ended = start("prepare", *SEMANTIC, "identifiers.codes=2", setting)
    assert ended.code == 2 and fact in ended.output and "Traceback" not in ended.output
    assert not (tmp_path / "tiny" / "identifiers").exists()


def test_the_verb_shows_the_tree_and_the_quality(start):
    ended = start("identifiers", *SEMANTIC)
    assert ended.code == 0, ended.output
    assert re.search(r"├── <a_\d>  \d+ items: ", ended.output)
    assert re.search(r"^ *2 +[\d.]+% .*%$", ended.output, re.MULTILINE)
    ended = start("identifiers")
    assert "├── #0  " in ended.output and "%" not in ended.output


def test_codes_in_a_title_are_disarmed():
    catalog = Catalog(pd.DataFrame({"item_id": ["a"], "title": ["Cord <a_12><b_3> <q> <item_4>"]}))
    clean, counts = clean_catalog(catalog)
    assert clean.titles == ["Cord (a_12)(b_3) <q> (item_4)"]
    assert counts["special tokens disarmed"] == 3
