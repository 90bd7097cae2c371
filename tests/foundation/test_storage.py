import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.foundation.errors import RecinjectError
from recinject.foundation.storage import (
    MANIFEST_NAME,
    RunManifest,
    atomic_folder,
    hash_files,
    hash_value,
    read_json,
    shipped_folder,
    write_json,
)


def test_a_folder_appears_whole_and_takes_the_old_ones_place(tmp_path):
    target = tmp_path / "deep" / "samples"
    with atomic_folder(target) as folder:
        (folder / "old").write_text("1")
        assert not target.exists()
    with atomic_folder(target) as folder:
        (folder / "new").write_text("2")
        assert (target / "old").exists()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in target.parent.iterdir()] == ["samples"]


@pytest.mark.parametrize("existed", [False, True])
def test_nothing_half_written_stays_when_the_block_raises(tmp_path, existed):
    target = tmp_path / "samples"
    if existed:
        target.mkdir()
        (target / "old").write_text("1")
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as folder:
        (folder / "half").write_text("2")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.rglob("*")] == (["samples", "old"] if existed else [])


def test_folders_made_on_the_way_go_too(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(KeyError), atomic_folder(tmp_path / "runs" / "new" / "samples"):
        raise KeyError
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
    left = tmp_path / f".samples.{os.getpid()}.partial"
    left.mkdir()
    (left / "half").write_text("1")
    with atomic_folder(tmp_path / "samples") as folder:
        (folder / "whole").write_text("2")
    assert [p.name for p in tmp_path.rglob("*")] == ["samples", "whole"]


def test_an_interrupted_folder_with_a_key_is_gone_on_with(tmp_path):
    target = tmp_path / "samples"
    with pytest.raises(KeyboardInterrupt), atomic_folder(target, "abc") as folder:
        (folder / "half").write_text("1")
        raise KeyboardInterrupt
    assert not target.exists()
    with atomic_folder(target, "abc") as folder:
        assert (folder / "half").read_text() == "1"
        (folder / "rest").write_text("2")
    assert {p.name for p in tmp_path.rglob("*")} == {"samples", "half", "rest"}


@pytest.mark.parametrize("key", [None, "other"])
def test_nobody_goes_on_with_another_keys_folder(tmp_path, key):
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "samples", "abc"):
        raise KeyboardInterrupt
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_folder(tmp_path / "samples", key) as folder:
        assert [p.name for p in tmp_path.iterdir()] == [folder.name] and not list(folder.iterdir())
    assert [p.name for p in tmp_path.rglob("*")] == ["samples"]


def test_what_failed_is_not_gone_on_with(tmp_path):
    with pytest.raises(KeyError), atomic_folder(tmp_path / "samples", "abc"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(RecinjectError, match=r"samples: cannot be written \(Not a directory\)"),
        atomic_folder(tmp_path / "file" / "samples"),
    ):
        pytest.fail("the block must not run")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30)
@given(value=json_values)
def test_json_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert [p.name for p in path.parent.iterdir()] == ["value.json"]


def test_hashes_of_values_depend_on_content_alone():
    assert hash_value({"a": 1, "b": [2]}) == hash_value({"b": [2], "a": 1})
    assert hash_value({"a": 1}) != hash_value({"a": 2})
    assert hash_value([1, 2]) != hash_value([2, 1])


def test_hashes_of_files_depend_on_names_and_content(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / "inner" / "a.csv").write_bytes(b"x" * 3_000_000)
        (tmp_path / folder / "b.csv").write_text("y")
    one, two = tmp_path / "one", tmp_path / "two"
    assert hash_files(one) == hash_files(two)
    assert hash_files(one / "b.csv") == hash_files(two / "b.csv") != hash_files(one)
    (two / "b.csv").write_text("z")
    assert hash_files(one) != hash_files(two)
    (two / "b.csv").rename(two / "c.csv")
    (two / "c.csv").write_text("y")
    assert hash_files(one) != hash_files(two)


@pytest.mark.parametrize(("name", "file"), [("prompts", "bpr"), ("recipes", "quickstart")])
def test_words_ship_with_the_package(name, file):
    assert (shipped_folder(name) / f"{file}.yaml").is_file()


DONE = RunManifest(
    stage="samples",
    version="1.0",
    settings={"seed": 1, "tasks": {"bpr": {"history_length": 20}, "rating": {}}, "phrases": {}},
    inputs={"data": "abc", "identifiers": "def"},
    facts={"rows": 3},
)


def test_a_manifest_comes_back_from_its_folder(tmp_path):
    assert RunManifest.read(tmp_path) is None
    DONE.write(tmp_path)
    assert RunManifest.read(tmp_path) == DONE
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST_NAME]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"facts": {"rows": 4}}, ""),
        ({"version": "1.1", "settings": {}}, "version 1.0 became 1.1"),
        ({"inputs": {"data": "abc", "identifiers": "new"}}, "input identifiers changed"),
        (
            {"settings": {**DONE.settings, "tasks": {"bpr": {"history_length": 5}, "rating": {}}}},
            "tasks.bpr.history_length changed",
        ),
        ({"settings": {**DONE.settings, "tasks": {"rating": {}}}}, "tasks.bpr changed"),
        (
            {"settings": {"seed": 2, "extra": None, "jsonl": True}},
            "jsonl changed, phrases changed, seed changed and more",
        ),
    ],
)
def test_the_difference_is_told_in_words(changes, words):
    new = replace(DONE, **changes)
    assert new.difference(DONE) == words
    # What the difference is silent about does not make a stage run again, and the other way.
    assert (new.fingerprint == DONE.fingerprint) == (not words)
