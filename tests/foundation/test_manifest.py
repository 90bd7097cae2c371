from dataclasses import replace

import pytest

from recinject.foundation.storage import MANIFEST_NAME, RunManifest

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
