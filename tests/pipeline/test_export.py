import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import recinject as ri
from recinject.pipeline.export import export
from recinject.pipeline.handover.allowed import AllowedTokens


def lines(file):
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def exported(finished, recinject, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "here"
    ended = recinject("export", finished.folder, "-o", folder)
    assert ended.code == 0, ended.output
    return folder


@pytest.fixture(scope="module")
def run(finished):
    return ri.load(finished.folder)


@pytest.fixture(scope="module")
def allowed(exported):
    return AllowedTokens(exported / "trie.npz")


def decode(folder, prompt, k):
    """Run the exported example as it stands; return ids and scores."""
    words = [sys.executable, folder / "decode.py", prompt, str(k)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = [line.split("\t") for line in ended.stdout.splitlines()]
    return [row[1] for row in rows], [float(row[0]) for row in rows]


def test_plain_generate_lists_the_same_items(exported, run):
    history = run.data.split.interactions.items_of(3)[:5]
    liked = [run.data.catalog.item_ids[item] for item in history]
    own = run.model.recommend([liked], k=8, seen=True)
    prompt = run.model.ask([history]).prompts[0]
    ids, scores = decode(exported, prompt, 10)
    assert ids[:8] == own["item_id"].tolist()
    assert scores[:8] == pytest.approx(own["score"].tolist(), abs=1e-3)


@pytest.mark.slow
def test_a_causal_model_is_handed_over_too(recinject, tmp_path):
    (tmp_path / "causal.yaml").write_text(
        """
name: causal
data: {simulator: {users: 40, items: 30, events_per_user: 8}, k_core: 2}
samples: {tasks: {retrieval: {}}}
model:
  config: {model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2}
  vocab_size: 500
training: {max_steps: 4, per_device_train_batch_size: 4, use_cpu: true}
evaluation: {resamples: 100, beams: 10, baselines: []}
""",
        "utf-8",
    )
    ended = recinject("train", tmp_path / "causal.yaml", f"runs={tmp_path}")
    assert ended.code == 0, ended.output
    run = ri.load(tmp_path / "causal")
    folder = export(run)
    history = run.data.split.interactions.items_of(1)[:3]
    liked = [run.data.catalog.item_ids[item] for item in history]
    own = run.model.recommend([liked], k=5, seen=True)["item_id"].tolist()
    assert decode(folder, run.model.ask([history]).prompts[0], 10)[0][:5] == own


def test_every_item_and_nothing_else_is_allowed(allowed, run):
    task, _ = run.model.names
    trie, reached = run.model.trie(task), []

    def walk(tokens):
        after = allowed(tokens)
        if allowed.item(tokens) is not None:
            reached.append(allowed.item(tokens))
            assert after == []
        for token in after:
            walk([*tokens, token])

    walk([])
    assert sorted(reached) == sorted(run.data.catalog.item_ids)
    assert allowed([10**6]) == [] and allowed.item([10**6]) is None
    assert allowed.depth == trie.paths.shape[1]


def test_the_callbacks_of_others_bar_every_other_token(allowed):
    first = allowed([])
    logits = torch.randn(2, 700)
    kept = logits.clone()
    params = [{"__req__": SimpleNamespace(output_ids=ids)} for ids in ([], [first[0]])]
    found = allowed.process_batch(logits, params)
    for row, legal in enumerate((first, allowed([first[0]]))):
        assert np.flatnonzero(torch.isfinite(found[row])).tolist() == sorted(legal)
        assert torch.equal(found[row, legal], kept[row, legal])


def test_samples_stand_in_the_forms_of_other_trainers(exported, run):
    rows = lines(exported / "messages" / "retrieval-train.jsonl")
    stored = run.samples["retrieval"]["train"]
    assert [row["messages"][0]["content"] for row in rows] == stored["prompt"]
    assert [row["messages"][1]["content"] for row in rows] == stored["completion"]
    pairs, bpr = lines(exported / "preference.jsonl"), run.samples["bpr"]["train"]
    assert [row["prompt"] for row in pairs] == bpr["prompt"]
    assert [row["chosen"] for row in pairs] == bpr["completion"]
    names = {row["name"] for row in lines(exported / "items.jsonl")}
    assert all(row["rejected"] in names - {row["chosen"]} for row in pairs)


def test_a_folder_of_something_else_stays(finished, recinject, tmp_path):
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    ended = recinject("export", finished.folder, "-o", tmp_path)
    assert ended.code == 2 and "not empty" in ended.output
    assert (tmp_path / "mine.txt").read_text("utf-8") == "mine"
