import importlib
import json
import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recinject.engines import Engine
from recinject.foundation.errors import RecinjectError, StoppedError
from recinject.foundation.storage import atomic_folder
from recinject.samples import store
from recinject.samples.builder import SCHEMA
from recinject.samples.samples import build_samples
from recinject.samples.store import Forms, read_samples, shards, write_samples
from recinject.tasks.task import BPR, MaskedItemModelling, Retrieval

BOTH = Forms(tokens=True, jsonl=True)


@pytest.fixture
def datasets():
    """The library; workers, which import this file too, have no use for it."""
    return importlib.import_module("datasets")


@pytest.fixture
def token_columns():
    """As in :mod:`recinject.samples.mixture`, which imports datasets, too."""
    return importlib.import_module("recinject.samples.mixture").token_columns


def files_of(folder):
    """The content of every file, hidden ones too."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(store, "SAMPLES_PER_SHARD", 17)
    monkeypatch.setattr(store, "_AT_ONCE", 5)


@pytest.fixture
def builder(make, small_split, small_shards):
    found = next(make(small_split, tasks=[Retrieval()]).builders())
    assert len(found) > 2 * 17
    return found


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


def test_tokens_are_those_of_the_texts_beside_them(token_columns, built):
    factory, folder, rows = built
    n_read = 0
    for row in rows:
        if row["split"] not in ("train", "validation"):
            assert not list((folder / row["task"]).glob(f"{row['split']}-*.arrow"))
            assert row["tokens"] is None
            continue
        texts = read_samples(folder, row["task"], row["split"]).to_pylist()
        tokens = token_columns(folder, row["task"], row["split"]).to_list()
        plain = [
            [factory.tokenizer.encode(text[side]).ids for side in ("prompt", "completion")]
            for text in texts
        ]
        assert [[own["input_ids"], own["labels"]] for own in tokens] == plain
        lengths = [len(prompt) for prompt, _ in plain]
        assert [own["length"] for own in tokens] == lengths
        assert row["tokens"] == {
            "samples": len(texts),
            "prompt_tokens": sum(lengths),
            "max_prompt_tokens": max(lengths),
            "truncated": 0,
            "unknown_tokens": 0,
        }
        n_read += 1
    assert n_read == 6 + 3


def test_the_number_of_workers_changes_no_byte(builder, tmp_path):
    n_shards = -(-len(builder) // 17)
    for workers in (1, 2, 4):
        folder = tmp_path / str(workers)
        folder.mkdir()
        facts = write_samples(builder, folder, BOTH, engine=Engine(workers=workers))
        assert facts[0].samples == len(builder)
    one, two, four = (files_of(tmp_path / str(workers)) for workers in (1, 2, 4))
    assert [name for name in one if name.endswith(".parquet")] == [
        f"train-{shard:05d}-of-{n_shards:05d}.parquet" for shard in range(n_shards)
    ]
    assert {name.rpartition(".")[2] for name in one} == {"parquet", "arrow", "jsonl"}
    assert one == two == four


def test_how_many_are_made_at_once_changes_no_byte(builder, tmp_path, monkeypatch):
    for at_once in (1, 5, 17, 4000):
        monkeypatch.setattr(store, "_AT_ONCE", at_once)
        (tmp_path / str(at_once)).mkdir()
        write_samples(builder, tmp_path / str(at_once), BOTH)
    first, *others = (files_of(tmp_path / str(n)) for n in (1, 5, 17, 4000))
    assert all(other == first for other in others)


def test_a_limit_gives_the_first_rows_and_whole_shards_as_they_are(
    make, small_split, small_shards, tmp_path
):
    found = {}
    for limit in (None, 40):
        builder = next(make(small_split, tasks=[Retrieval()], limit=limit).builders())
        folder = tmp_path / str(limit) / "retrieval"
        folder.mkdir(parents=True)
        write_samples(builder, folder, BOTH)
        found[limit] = files_of(folder)
    for suffix in ("parquet", "arrow", "jsonl"):
        whole, limited = (
            [content for name, content in files.items() if name.endswith(suffix)]
            for files in found.values()
        )
        assert len(limited) == 3 and limited[:2] == whole[:2]  # 17 + 17 + 6
    whole, limited = (
        read_samples(tmp_path / name, "retrieval", "train").to_pylist() for name in ("None", "40")
    )
    assert len(limited) == 40 and limited == whole[:40]


@pytest.mark.parametrize("forms", [Forms(False), Forms(), Forms(False, True), BOTH])
def test_only_the_forms_that_are_asked_for_are_written(builder, tmp_path, forms):
    (tmp_path / "retrieval").mkdir()
    facts, _ = write_samples(builder, tmp_path / "retrieval", forms)
    suffixes = {name.rpartition(".")[2] for name in files_of(tmp_path)}
    wanted = {"parquet", *["arrow"] * forms.tokens, *["jsonl"] * forms.jsonl}
    assert suffixes == wanted and (facts is not None) == forms.tokens
    rows = read_samples(tmp_path, "retrieval", "train").to_pylist()
    assert rows == [builder.sample(number)._asdict() for number in range(len(builder))]


def stop_at(monkeypatch, name, calls, error):
    """Let a function of the store raise at its last call of so many."""
    original, count = getattr(store, name), []

    def stopping(*args, **kwargs):
        count.append(1)
        if len(count) == calls:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(store, name, stopping)


def inodes(folder):
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["_write_shard", "token_table"])
def test_an_interrupted_build_goes_on_where_it_was(builder, tmp_path, monkeypatch, name):
    (tmp_path / "whole").mkdir()
    facts = write_samples(builder, tmp_path / "whole", BOTH)
    target = tmp_path / "samples"
    with monkeypatch.context() as patch:
        stop_at(patch, name, 3, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt), atomic_folder(target, "key") as folder:
            write_samples(builder, folder, BOTH)
    assert not target.exists()
    done = inodes(folder)
    assert sum(file.endswith(".parquet") for file in done) == 2
    with atomic_folder(target, "key") as again:
        assert again == folder
        resumed = write_samples(builder, again, BOTH)
    kept = {file: stat for file, stat in inodes(target).items() if file in done}
    assert kept == done
    assert resumed == facts
    assert files_of(target) == files_of(tmp_path / "whole")


def test_a_shard_torn_by_the_interruption_is_made_anew(builder, tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    write_samples(builder, tmp_path / "whole", BOTH)

    def tear(table, path, **settings):
        path.write_bytes(b"PAR1 half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.pq, "write_table", tear)
        with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "a", "key") as folder:
            write_samples(builder, folder, BOTH)
    # The tokens and the lines of the first shard are there, and its rows are not.
    assert not list(folder.glob("*.parquet")) and list(folder.glob("*.partial"))
    with atomic_folder(tmp_path / "a", "key") as folder:
        write_samples(builder, folder, BOTH)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "whole")


def test_a_build_of_several_tasks_resumes_within_the_second(
    make, small_split, small_shards, tmp_path, monkeypatch
):
    factory = make(small_split, tasks=[BPR(), Retrieval()])
    with atomic_folder(tmp_path / "whole") as folder:
        rows = list(build_samples(factory, folder, BOTH).rows)
    bpr_shards = len(shards(tmp_path / "whole", "bpr", "train", ".parquet"))
    with monkeypatch.context() as patch:
        stop_at(patch, "_write_shard", bpr_shards + 2, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "a", "key") as folder:
            build_samples(factory, folder, BOTH)
    assert len(list(folder.rglob("*.parquet"))) == bpr_shards + 1
    done = inodes(folder)
    with atomic_folder(tmp_path / "a", "key") as folder:
        assert list(build_samples(factory, folder, BOTH).rows) == rows
    now = inodes(tmp_path / "a")
    assert all(now[file] == stat for file, stat in done.items() if file != "tokenizer.json")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "whole")


@dataclass(frozen=True)
class Failing(Retrieval):
    """Retrieval whose sampler gives up at one user."""

    last_user: int = 2

    def sample(self, view, keys, words):
        if (keys.users > self.last_user).any():
            raise RecinjectError("no more", hint="nothing helps")
        return super().sample(view, keys, words)


@pytest.mark.parametrize(
    ("workers", "key"),
    [
        (1, None),
        (1, "key"),
        (2, "key"),
    ],
)
def test_a_mistake_in_the_middle_leaves_nothing_behind(
    make, small_split, tmp_path, monkeypatch, small_shards, workers, key
):
    builder = next(make(small_split, tasks=[Failing()]).builders())
    written = []
    monkeypatch.setattr(store, "track", lambda sizes, *a, **k: map(written.append, sizes))
    with (
        pytest.raises(RecinjectError, match="no more"),
        atomic_folder(tmp_path / "new" / "samples", key) as folder,
    ):
        write_samples(builder, folder, BOTH, engine=Engine(workers=workers))
    assert written  # shards were made before it
    assert not list(tmp_path.rglob("*"))


@dataclass(frozen=True)
class Dying(Retrieval):
    """Retrieval whose sampler is killed at one user, while a file is there."""

    file: str = ""

    def sample(self, view, keys, words):
        if (keys.users > 2).any() and Path(self.file).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(view, keys, words)


def test_a_worker_that_dies_ends_the_build_and_the_next_one_goes_on(
    make, small_split, tmp_path, monkeypatch, small_shards
):
    (file := tmp_path / "kill").touch()
    builder = next(make(small_split, tasks=[Dying(file=str(file))]).builders())
    target = tmp_path / "samples"
    with (
        pytest.raises(StoppedError, match=r"train-0000\d-of-\d+\.parquet .*were written") as died,
        atomic_folder(target, "key") as folder,
    ):
        write_samples(builder, folder, BOTH, engine=Engine(workers=2))
    assert died.value.exit_code == 1 and not multiprocessing.active_children()
    file.unlink()
    with atomic_folder(target, "key") as again:
        assert again == folder and again.is_dir()
        write_samples(builder, again, BOTH, engine=Engine(workers=2))
    (tmp_path / "whole").mkdir()
    write_samples(builder, tmp_path / "whole", BOTH)
    assert files_of(target) == files_of(tmp_path / "whole")


def test_what_was_never_built_is_named(token_columns, built):
    with pytest.raises(
        RecinjectError, match=r"no \.parquet files of the split 'test'(.|\n)*add bpr to"
    ):
        read_samples(built[1], "bpr", "test")
    with pytest.raises(RecinjectError, match=r"no \.arrow files of the split 'test'"):
        token_columns(built[1], "retrieval", "test")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_other_programs_read_the_files_as_they_are(builder, tmp_path, datasets, suffix):
    folder = tmp_path / "retrieval"
    folder.mkdir()
    write_samples(builder, folder, BOTH)
    files = [str(file) for file in sorted(folder.glob(f"*{suffix}"))]
    kind = {".parquet": "parquet", ".jsonl": "json"}[suffix]
    loaded = datasets.load_dataset(
        kind, data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    rows = [builder.sample(number)._asdict() for number in range(len(builder))]
    assert loaded.to_list() == rows
    # What trainers of prompts and completions look for: two columns of plain, filled text.
    for column in ("prompt", "completion"):
        assert loaded.features[column] == datasets.Value("string")
        assert all(text.strip() == text != "" for text in loaded[column])


def test_tokens_are_mapped_with_the_smallest_kind_of_integer(
    token_columns, builder, tmp_path, datasets
):
    (tmp_path / "retrieval").mkdir()
    write_samples(builder, tmp_path / "retrieval", Forms())
    columns = token_columns(tmp_path, "retrieval", "train")
    lists = datasets.List(datasets.Value("uint16"))
    assert columns.features == {
        "input_ids": lists,
        "labels": lists,
        "length": datasets.Value("int32"),
    }


def card_of(rows: list[dict[str, object]]) -> str:
    from recinject.reporting.report import dataset_card
    from recinject.reporting.result import DataFacts, SampleRow

    found = [
        SampleRow(row["task"], row["split"], row["samples"], len(row["templates"])) for row in rows
    ]
    return dataset_card(
        "small",
        data=DataFacts("a test", "leave_one_out", 50, 5, 5),
        samples=found,
        prompt_versions={},
        command="recinject build small",
        version="0",
        seed=1,
    )


def test_datasets_reads_a_folder_with_its_card(
    token_columns, make, small_split, tmp_path, datasets
):
    folder = tmp_path / "samples"
    folder.mkdir()
    # Nobody here has the fifty events that the third task wants.
    tasks = [Retrieval(), BPR(), MaskedItemModelling(shortest=50, longest=50)]
    rows = list(build_samples(make(small_split, tasks=tasks), folder, BOTH).rows)
    (folder / "README.md").write_text(card_of(rows), encoding="utf-8")
    for task, names in [
        ("retrieval", ["train", "validation", "test", "reworded", "shuffled"]),
        ("bpr", ["train"]),
    ]:
        loaded = datasets.load_dataset(str(folder), task, cache_dir=str(tmp_path / "cache"))
        assert list(loaded) == names
        for split, dataset in loaded.items():
            assert dataset.to_list() == read_samples(folder, task, split).to_pylist()
    assert len(read_samples(folder, "masked_item_modelling", "train")) == 0
    assert len(token_columns(folder, "masked_item_modelling", "train")) == 0
