"""Which form a path has and which of its files are read; forms that packages offer."""

from __future__ import annotations

from pathlib import Path

import pytest

from recinject import registry
from recinject.data.formats import find_formats
from recinject.data.readers import read_log
from recinject.data.schema import Log
from recinject.data.splitting import split_by
from recinject.foundation.errors import RecinjectError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def pairs(log: Log) -> list[tuple[str, str]]:
    events = log.interactions
    return [
        (events.user_ids[user], log.catalog.item_ids[item])
        for user, item in zip(events.users, events.items, strict=True)
    ]


def test_several_event_files_are_a_question(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path / f"ml.{part}.inter", INTER + "1\t2\t3\t4\n")
    with pytest.raises(RecinjectError, match=r"2 files match.*one is needed"):
        read_log(tmp_path, columns={})
    write(tmp_path / f"{tmp_path.name}.inter", INTER + "7\t8\t3\t4\n")
    assert pairs(read_log(tmp_path, columns={})) == [("7", "8")]


def test_several_item_tables_are_a_question_that_a_setting_answers(tmp_path: Path) -> None:
    write(tmp_path / "interactions.csv", "user,item\n1,2\n")
    for kind in ("csv", "tsv"):
        write(
            tmp_path / f"items.{kind}", "item{}title\n2{}Two\n".replace("{}", ",\t"[kind == "tsv"])
        )
    with pytest.raises(RecinjectError, match=r"2 files match.*items.KIND\n.*data.items"):
        read_log(tmp_path, columns={})
    log = read_log(tmp_path, columns={}, items=tmp_path / "items.tsv")
    assert log.catalog.titles == ["Two"]


READER = """
from recinject.data.formats import Format
from recinject.data.tables import Block
import pandas as pd

def read(path, wanted):
    lines = path.read_text().splitlines()
    frame = pd.DataFrame([line.split(" likes ") for line in lines], columns=["user", "item"])
    return Block(frame, range(1, len(lines) + 1))

def files(path):
    return [path] if path.suffix == ".likes" else []

LIKES = Format("sentences", "a .likes file", files, lambda events: None, read)
"""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    for kind in ("reader", "split"):
        registry.names(kind)
        monkeypatch.setitem(registry._things, kind, dict(registry._things[kind]))


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    """Put a package on the path that offers a reader by an entry point."""
    package = f"likes_{folder.name}"
    write(folder / f"{package}.py", READER)
    write(folder / "own-1.0.dist-info" / "METADATA", "Name: own\nVersion: 1.0\n")
    points = f"[recinject.reader]\nlikes = {entry.replace('likes', package)}\n"
    write(folder / "own-1.0.dist-info" / "entry_points.txt", points)
    monkeypatch.syspath_prepend(str(folder))


def test_a_packages_own_reader_is_guessed_and_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "package", monkeypatch, "likes:LIKES")
    path = write(tmp_path / "log.likes", "Ann likes tea\nBob likes \n")
    with pytest.raises(RecinjectError, match=r"log.likes, line 2: item_id '' is empty"):
        read_log(path, columns={})
    write(path, "Bob likes tea\nAnn likes tea\n")
    for name in (None, "likes"):
        log = read_log(path, columns={}, format=name)
        assert pairs(log) == [("Ann", "tea"), ("Bob", "tea")]
        assert log.source.startswith("sentences log.likes")
    with pytest.raises(RecinjectError, match=r"did you mean 'likes'"):
        read_log(path, columns={}, format="like")


@pytest.mark.parametrize("entry", ["likes:READER", "likes:NONE", "likes_of_nobody:X"])
def test_a_packages_reader_that_is_none_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    install(tmp_path / "package", monkeypatch, entry)
    path = write(tmp_path / "log.csv", "user,item\n1,2\n")
    with pytest.raises(RecinjectError, match=r"the reader 'likes' of .* is no Format"):
        read_log(path, columns={})


def test_formats_are_known_by_name() -> None:
    assert list(find_formats()) == [
        *("recbole", "movielens", "amazon", "mind", "netflix", "pairs", "lists", "counted"),
        "table",
    ]


PLUGIN = """
import numpy as np
import pandas as pd
from recinject.data.formats import Format
from recinject.data.splitting import Part, Split
from recinject.registry import register

def read(path, wanted):
    rows = [line.split(" likes ") for line in path.read_text().splitlines()]
    return pd.DataFrame(rows, columns=["user", "item"])

register("reader", "likes")(
    Format(
        name="sentences",
        expects="a .likes file",
        events=lambda path: [path] if path.suffix == ".likes" else [],
        items=lambda events: None,
        read=read,
    )
)

@register("split", "every_third")
def every_third(interactions, share, seed):
    return Split(interactions, np.arange(len(interactions), dtype=np.int8) % 3)
"""


def test_a_file_may_register_a_reader_and_a_split(tmp_path: Path) -> None:
    registry.load_plugin(write(tmp_path / "own.py", PLUGIN))
    path = write(tmp_path / "log.likes", "Ann likes tea\nAnn likes milk\nAnn likes rum\n")
    log = read_log(path)
    assert log.findings[0].fact == "The format was detected: sentences log.likes."
    assert pairs(log) == [("Ann", "tea"), ("Ann", "milk"), ("Ann", "rum")]
    assert split_by("every_third", log.interactions).parts.tolist() == [0, 1, 2]
    with pytest.raises(RecinjectError, match=r"data.split.*'every_thrid'\n.*'every_third'"):
        split_by("every_thrid", log.interactions)


@pytest.mark.parametrize(
    ("name", "text"),
    [("shop 2024.csv", "user,item\na,i\nb,j\n"), ("train.txt", "1 4 5 6\n2 4\n")],
)
def test_a_folder_with_one_table_is_a_log_of_it(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "README.txt").write_text("about", "utf-8")
    assert read_log(tmp_path).findings[0].fact.endswith(f"{name}.")
    (tmp_path / "items.csv").write_text("item,title\ni,Tea\n4,Mug\n", "utf-8")
    log = read_log(tmp_path, partial_items=True)
    assert set(log.catalog.titles) <= {"Tea", "Mug", ""} and any(log.catalog.titles)
    (tmp_path / "other.csv").write_text("user,item\na,i\n", "utf-8")
    with pytest.raises(RecinjectError, match="is no log of a known form") as found:
        read_log(tmp_path)
    assert f"set data.path={tmp_path / 'other.csv'}" in found.value.hint


@pytest.mark.parametrize(
    ("name", "text", "item"),
    [
        ("behaviors.tsv", "1\tU1\t11/12/2019 2:14:46 PM\tN1 N2\tN3-1 N4-0\n", "N1"),
        ("combined_data_1.txt", "1:\n7,3,2005-09-06\n8,4,2005-09-07\n", "1"),
        ("log.txt", "3 1 2 3\n2 1 3\n", "1"),
    ],
)
def test_a_table_of_items_of_another_kind_is_read_as_what_it_is(
    tmp_path: Path, name: str, text: str, item: str
) -> None:
    log = write(tmp_path / name, text)
    items = write(tmp_path / "about.csv", f'item,title\n{item},"Tea, green"\n')
    assert "Tea, green" in read_log(log, items=items, partial_items=True).catalog.titles
