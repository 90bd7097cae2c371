import json

import datasets
import pyarrow.parquet as pq
import pytest

from recinject.foundation.errors import RecinjectError
from recinject.foundation.storage import hash_files
from recinject.reporting.cards import dataset_card
from recinject.reporting.inputs import DataFacts, SampleRow
from recinject.samples import store
from recinject.samples.build import build_samples
from recinject.samples.store import SCHEMA, read_samples, write_samples
from recinject.tasks.bpr import BPR
from recinject.tasks.masked_item_modelling import MaskedItemModelling
from recinject.tasks.retrieval import Retrieval


def test_samples_come_back_as_they_were_built(built):
    factory, folder, _ = built
    for builder in factory.builders():
        table = read_samples(folder, builder.task.name, builder.split)
        assert table.schema == SCHEMA
        assert table.to_pylist() == [builder.sample(n)._asdict() for n in range(len(builder))]


def test_jsonl_says_what_parquet_says(built):
    _, folder, rows = built
    for row in rows:
        (parquet,) = (folder / row["task"]).glob(f"{row['split']}-*.parquet")
        lines = parquet.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == pq.read_table(parquet).to_pylist()
        assert len(lines) == row["samples"]


def test_the_number_of_workers_changes_no_byte(make, small_split, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SAMPLES_PER_SHARD", 17)
    builder = next(make(small_split, tasks=[Retrieval()]).builders())
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        assert write_samples(builder, folder, workers=workers, jsonl=True) == len(builder)
    one, two = (sorted((tmp_path / str(workers)).iterdir()) for workers in (1, 2))
    shards = -(-len(builder) // 17)
    assert shards > 2
    assert [file.name for file in one] == [file.name for file in two]
    assert [file.name for file in one if file.suffix == ".parquet"] == [
        f"train-{shard:05d}-of-{shards:05d}.parquet" for shard in range(shards)
    ]
    assert list(map(hash_files, one)) == list(map(hash_files, two))


def test_what_was_never_built_is_named(built):
    with pytest.raises(RecinjectError, match=r"no samples of the split 'test'(.|\n)*add bpr to"):
        read_samples(built[1], "bpr", "test")


def card_of(rows: list[dict[str, object]]) -> str:
    found = [
        SampleRow(row["task"], row["split"], row["samples"], len(row["templates"])) for row in rows
    ]
    return dataset_card(
        "small",
        data=DataFacts("a test", [], "leave_one_out", 50, 5, 5),
        samples=found,
        prompt_versions={},
        command="recinject build small",
        version="0",
        seed=1,
    )


def test_datasets_reads_a_folder_with_its_card(make, small_split, tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    # Nobody here has the fifty events that the third task wants.
    tasks = [Retrieval(), BPR(), MaskedItemModelling(shortest=50, longest=50)]
    rows = build_samples(make(small_split, tasks=tasks), folder, workers=1, jsonl=True)
    (folder / "README.md").write_text(card_of(rows), encoding="utf-8")
    for task, names in [
        ("retrieval", ["train", "validation", "test", "reworded"]),
        ("bpr", ["train"]),
    ]:
        loaded = datasets.load_dataset(str(folder), task, cache_dir=str(tmp_path / "cache"))
        assert list(loaded) == names
        for split, dataset in loaded.items():
            assert dataset.to_list() == read_samples(folder, task, split).to_pylist()
    assert len(read_samples(folder, "masked_item_modelling", "train")) == 0
