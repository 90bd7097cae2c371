from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import datasets
import pandas as pd
import pytest
import yaml

from recinject.reporting.report import dataset_card, model_card
from recinject.reporting.result import Facts, Result, SampleRow


def front_matter(card: str) -> dict[str, object]:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def card_of(facts: Facts, name: str = "quickstart") -> str:
    return dataset_card(
        name,
        data=facts.data,
        samples=facts.samples,
        prompt_versions={"retrieval": "1.2"},
        command="recinject samples quickstart",
        version="0.1.0",
        seed=13,
    )


def test_the_dataset_card_lets_datasets_read_the_folder(facts: Facts, tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    (folder / "retrieval").mkdir(parents=True)
    for part in ("train", "test"):
        rows = pd.DataFrame({"sample_id": ["a", "b"], "prompt": [part, part], "label": [1.0, None]})
        rows.to_parquet(folder / "retrieval" / f"{part}-00000.parquet")
    (folder / "README.md").write_text(card_of(facts), encoding="utf-8")
    loaded = datasets.load_dataset(str(folder), "retrieval", cache_dir=str(tmp_path / "cache"))
    assert {part: rows["prompt"][0] for part, rows in loaded.items()} == {
        "train": "train",
        "test": "test",
    }


def test_the_dataset_card_tells_what_is_in_it(facts: Facts) -> None:
    card = card_of(facts, name="a: 'hostile' | name\n---")
    front = front_matter(card)
    assert front["size_categories"] == ["1K<n<10K"]
    assert front["configs"] == [
        {
            "config_name": "retrieval",
            "data_files": [
                {"split": "train", "path": "retrieval/train-*.parquet"},
                {"split": "test", "path": "retrieval/test-*.parquet"},
            ],
        }
    ]
    assert "prompts version 1.2" in card and "`candidate_item_ids`" in card


def test_a_task_without_samples_is_no_configuration(facts: Facts) -> None:
    rows = [SampleRow("retrieval", "train", 5, 2), SampleRow("bpr", "train", 0, 2)]
    card = dataset_card(
        "x", data=facts.data, samples=rows, prompt_versions={}, command="", version="", seed=1
    )
    names = [config["config_name"] for config in front_matter(card)["configs"]]
    assert names == ["retrieval"]


def test_the_card_loads_a_task_that_has_samples(facts: Facts) -> None:
    rows = [SampleRow("bpr", "train", 0, 2), SampleRow("rating", "train", 5, 2)]
    assert 'load_dataset("path/to/this/folder", "rating")' in card_of(replace(facts, samples=rows))


@pytest.mark.parametrize(
    ("count", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9_999_999, "1M<n<10M"),
     (10_000_000, "10M<n<100M"), (100_000_000, "100M<n<1B"), (10**9, "1B<n<10B")],
)  # fmt: skip
def test_the_hub_knows_the_size(facts: Facts, count: int, category: str) -> None:
    card = card_of(replace(facts, samples=[SampleRow("rating", "train", count, 2)]))
    assert front_matter(card)["size_categories"] == [category]


def test_the_model_card_names_its_library_and_its_snippet_parses(result: Result) -> None:
    card = model_card(result, prompt_versions={"retrieval": "1.2"}, base_model="a/b")
    front = front_matter(card)
    assert (front["library_name"], front["base_model"]) == ("transformers", "a/b")
    (entry,) = front["model-index"]
    (retrieval, ranking, rating) = entry["results"]
    assert [row["metrics"][0]["value"] for row in (retrieval, ranking, rating)] == [
        0.052,
        0.512,
        0.981,
    ]
    assert (rating["task"]["name"], rating["metrics"][0]["name"]) == ("rating", "RMSE")
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    imported = [n.module for n in ast.parse(snippet).body if isinstance(n, ast.ImportFrom)]
    assert imported == ["transformers"]
    assert "loses to item kNN" in card and "0.083 [0.075, 0.091]" in card
    assert "manipulate" in card and "<script" not in card.split("```")[2]
