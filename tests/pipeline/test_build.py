import json
import re
import shlex

import datasets
import pytest
from tokenizers import Tokenizer

from recinject.pipeline.recipe import load_recipe

OWN = """task: retrieval
version: 7
phrases: {history: "{{ title }}", target: "{{ identifier }}"}
templates:
  - {name: own, prompt: "After {{ history | join(', ') }}?", completion: "{{ target }}"}
"""


def test_samples_load_with_datasets(finished):
    samples = finished.folder / "samples"
    loaded = datasets.load_dataset(str(samples / "retrieval"), cache_dir=str(samples.parent.parent))
    assert {"train", "validation", "test"} <= loaded.keys()
    row = loaded["test"][0]
    assert row["sample_id"] == "retrieval/test/U00000/0" and row["task"] == "retrieval"
    assert {"prompt", "completion", "target_item_id"} <= row.keys()


def test_the_card_beside_the_samples_counts_them(finished):
    card = (finished.folder / "samples" / "README.md").read_text("utf-8")
    facts = json.loads((finished.folder / "samples" / "manifest.json").read_text("utf-8"))["facts"]
    for row in facts["rows"]:
        assert row["task"] in card and row["split"] in card
    assert facts["prompt_versions"].keys() == {row["task"] for row in facts["rows"]}
    assert finished.folder.name in card


def test_the_card_repeats_the_command_so_that_a_shell_understands_it(again, copied):
    phrase = "{{ title }} ({{ brand }})"
    again("build", f"samples.phrases.history={phrase}")
    card = (copied / "samples" / "README.md").read_text("utf-8")
    verb, recipe = shlex.split(re.search(r"recinject (run .*)", card)[1])
    assert verb == "run" and load_recipe(recipe).samples.phrases == {"history": phrase}


def test_the_tokenizer_lies_beside_the_samples(finished):
    tokenizer = Tokenizer.from_file(str(finished.folder / "samples" / "tokenizer.json"))
    text = "A customer chose these items"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.get_vocab_size() <= 600


def test_own_prompts_are_used_and_a_change_of_them_is_seen(again, copied, tmp_path):
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "retrieval.yaml").write_text(OWN, "utf-8")
    setting = f"samples.prompts={prompts}"
    assert again("build", setting) == ["samples"]
    table = datasets.Dataset.from_parquet(
        str(next(copied.glob("samples/retrieval/test-*.parquet"))),
        cache_dir=str(tmp_path / "cache"),
    )
    assert table[0]["template"] == "own@7" and table[0]["prompt"].startswith("After ")
    assert again("build", setting) == []
    (prompts / "retrieval.yaml").write_text(OWN.replace("After", "Behind"), "utf-8")
    assert again("build", setting) == ["samples"]


def test_a_mistake_in_a_template_is_found_before_the_log_is_read(start, tmp_path):
    (tmp_path / "retrieval.yaml").write_text(OWN.replace("history |", "histroy |"), "utf-8")
    ended = start("build", f"samples.prompts={tmp_path}")
    assert ended.code == 2 and "unknown slot 'histroy'" in ended.output
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize("setting", ["samples.phrases.history={{ titel }}", "model.vocab_size=100"])
def test_what_the_catalogue_or_the_tokenizer_refuses_leaves_no_samples(start, tmp_path, setting):
    assert start("build", setting).code == 2
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {
        *("data", "identifiers", "recipe.yaml"),
    }
