from __future__ import annotations

from pathlib import Path

import pytest

from recinject.data.formats import FORMATS
from recinject.data.readers import read_log
from recinject.foundation.errors import RecinjectError

READER = """
from recinject.data.formats import Format
from recinject.data.table import Table, numbered
import pandas as pd

def read(path, used):
    lines = path.read_text().splitlines()
    frame = pd.DataFrame([line.split(" likes ") for line in lines], columns=["user", "item"])
    return Table(path, frame, numbered(range(1, len(lines) + 1)))

def files(path):
    return [path] if path.suffix == ".likes" else []

LIKES = Format("sentences", "a .likes file", files, lambda events: None, read)
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    """Put a package on the path that offers a reader by an entry point."""
    package = f"likes_{folder.name}"
    folder.mkdir()
    (folder / f"{package}.py").write_text(READER)
    (folder / "own-1.0.dist-info").mkdir()
    (folder / "own-1.0.dist-info" / "METADATA").write_text("Name: own\nVersion: 1.0\n")
    points = f"[recinject.readers]\nlikes = {entry.replace('likes', package)}\n"
    (folder / "own-1.0.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(folder))


def test_a_packages_own_reader_is_guessed_and_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "package", monkeypatch, "likes:LIKES")
    path = tmp_path / "log.likes"
    path.write_text("Ann likes tea\nBob likes \n")
    with pytest.raises(RecinjectError, match=r"log.likes, line 2: item_id '' is empty"):
        read_log(path, columns={})
    path.write_text("Bob likes tea\nAnn likes tea\n")
    for name in (None, "likes"):
        log = read_log(path, columns={}, format=name)
        assert log.interactions.user_ids == ["Ann", "Bob"] and log.catalog.item_ids == ["tea"]
        assert log.source.startswith("sentences log.likes")
    with pytest.raises(RecinjectError, match=r"did you mean 'likes'"):
        read_log(path, columns={}, format="like")


@pytest.mark.parametrize("entry", ["likes:READER", "likes:NONE", "likes_of_nobody:X"])
def test_a_packages_reader_that_is_none_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    install(tmp_path / "package", monkeypatch, entry)
    path = tmp_path / "log.csv"
    path.write_text("user,item\n1,2\n")
    with pytest.raises(RecinjectError, match=r"the reader 'likes' of .* is no Format"):
        read_log(path, columns={})


def test_formats_are_known_by_name() -> None:
    assert list(FORMATS) == ["recbole", "movielens", "amazon", "table"]
