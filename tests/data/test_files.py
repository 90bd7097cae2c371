"""Broken files and values: each is refused with its place, the fact and the fix."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from recinject.data.readers import read_log
from recinject.foundation.errors import RecinjectError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


HOSTILE: dict[str, tuple[str, str | bytes, list[str]]] = {
    "letters for a rating": (
        "log.csv",
        "user,item,rating\n1,2,5\n\n1,3,good\n",
        ["log.csv, line 4", "rating 'good'", "data.columns.rating=''"],
    ),
    "an empty rating": ("log.csv", "user,item,stars\n1,2,5\n1,3,\n", ["line 3", "rating ''"]),
    "an infinite rating": ("log.csv", "user,item,rating\n1,2,inf\n", ["line 2", "rating 'inf'"]),
    "a rating in RecBole": (
        "x.inter",
        INTER + "1\t2\t5\t1\n1\t3\tx\t2\n",
        ["x.inter, line 3", "rating 'x'"],
    ),
    "a row after quoted lines": (
        "log.csv",
        'user,item,rating\n1,"a\nb",5\n1,c,x\n',
        ["log.csv, line 4", "rating 'x'"],
    ),
    "a bad time": (
        "log.csv",
        "user,item,time\n1,2,\n1,2,2014-13-01\n",
        ["log.csv, line 3", "timestamp '2014-13-01'", "2014-03-01"],
    ),
    "an infinite time": ("log.csv", "user,item,time\n1,2,-inf\n", ["line 2", "timestamp '-inf'"]),
    "a bad position": (
        "log.jsonl",
        '{"user": 1, "item": 2, "position": 1}\n\n{"user": 1, "item": 3}\n',
        ["log.jsonl, line 3", "position ''"],
    ),
    "no user": ("log.csv", "user,item\n1,2\n ,3\n", ["log.csv, line 3", "user_id '' is empty"]),
    "no item": (
        "log.jsonl",
        '{"user": 1, "item": 2}\n{"user": 1, "item": null}\n',
        ["log.jsonl, line 2", "item_id '' is empty"],
    ),
    "a short row": ("log.csv", "user,item\n1,2\n1\n", ["line 3", "1 columns", "header has 2"]),
    "a long row": ("log.tsv", "user\titem\n1\t2\t3\n", ["log.tsv, line 2", "3 columns"]),
    "a long RecBole row": ("x.inter", INTER + "1\t2\t3\t4\t5\n", ["x.inter, line 2", "5 columns"]),
    "an open quote": (
        "log.csv",
        'user,item\n1,2\n1,"3\n2,4\n5,6\n',
        ["log.csv, line 3", "never closes"],
    ),
    "a long open quote": (
        "log.csv",
        'user,item,time\n1,2,3\n1,"3,4\n' + "2,4,5\n" * 300_000,
        ["log.csv, line 3", "columns where the header has 3"],
    ),
    "no header": (
        "log.csv",
        "1,2,5\n1,3,4\n",
        [
            "log.csv, line 1: the first line looks like a row",
            "data.header=[user_id,item_id,rating]",
        ],
    ),
    "a column twice": ("log.csv", "user,item,item\n1,2,3\n", ["'item'", "more than once"]),
    "a RecBole column twice": (
        "x.inter",
        "user_id:token\titem_id:token\titem_id:float\n1\t2\t3\n",
        ["x.inter", "'item_id'", "more than once"],
    ),
    "only a header": ("log.csv", "user,item\n", ["log.csv", "no events"]),
    "only a header, no line end": ("log.csv", "user,item", ["log.csv", "no events"]),
    "an empty file": ("log.csv", "", ["log.csv", "is empty"]),
    "white space": ("log.jsonl", "\n \n", ["log.jsonl", "is empty"]),
    "nothing but a mark": ("log.csv", "\ufeff\n", ["log.csv", "is empty"]),
    "broken gzip": ("log.csv.gz", b"\x1f\x8b\x08rubbish", ["log.csv.gz", "cannot be read"]),
    "gzip that is none": ("log.csv.gz", "user,item\n1,2\n", ["log.csv.gz", "cannot be read"]),
    "gzip cut off": (
        "log.csv.gz",
        gzip.compress(b"user,item\n1,2\n" * 99)[:-12],
        ["log.csv.gz", "cut off"],
    ),
    "gzip of nothing": ("log.csv.gz", gzip.compress(b""), ["log.csv.gz", "is empty"]),
    "zero bytes": ("log.csv", b"user,item\n1,\0\n", ["log.csv", "UTF-8"]),
    "broken JSON": (
        "log.jsonl",
        '{"user": 1, "item": 2}\n\n{"user": 1, "it\n',
        ["log.jsonl, line 3", "is not JSON"],
    ),
    "JSON but no object": ("log.jsonl", "[1, 2]\n", ["log.jsonl, line 1", "no object"]),
    "deep JSON": ("log.jsonl", "[" * 100_000, ["log.jsonl, line 1", "is not JSON"]),
    "a huge JSON number": ("log.jsonl", "9" * 5000, ["log.jsonl, line 1", "is not JSON"]),
    "broken Parquet": ("log.parquet", b"PAR1 rubbish PAR1", ["log.parquet", "Parquet"]),
    "RecBole without types": ("x.inter", "user_id\titem_id\n1\t2\n", ["line 1", "'user_id'"]),
    "an unknown kind": (
        "log.xlsx",
        b"PK\3\4\0\0\0\0",
        ["log.xlsx", "is not text"],
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_with_place_fact_and_fix(tmp_path: Path, case: str) -> None:
    name, content, fragments = HOSTILE[case]
    with pytest.raises(RecinjectError) as caught:
        read_log(write(tmp_path / name, content), columns={})
    message = str(caught.value)
    assert all(fragment in message for fragment in fragments), message
    assert "\n  fix: " in message and "Traceback" not in message


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ("item,title\n1,a\n,b\n", ["items.csv, line 3", "item_id '' is empty"]),
        ('item,title\n1,"a\n2,b\n', ["items.csv, line 2", "never closes"]),
        ("name,price\n1,a\n", ["items.csv", "no column looks like item_id"]),
    ],
)
def test_hostile_item_tables_are_refused(
    tmp_path: Path, content: str, fragments: list[str]
) -> None:
    write(tmp_path / "interactions.csv", "user,item\n1,1\n")
    write(tmp_path / "items.csv", content)
    with pytest.raises(RecinjectError) as caught:
        read_log(tmp_path, columns={})
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


BROKEN: dict[str, tuple[dict[str, str | bytes], list[str]]] = {
    "every kind at once": (
        {
            "log.csv": "user,item,rating,time\nu,i,5,1\nu,i,good,2\n,i,3,3\nu,i\n\n"
            "u, ,inf,soon\nu,i,bad,never\nu,i,1,3,4\nu,i,,\n"
        },
        [
            "log.csv, line 3: rating 'good' is not a number (4 such lines: 3, 7, 8, 10)",
            "log.csv, line 4: user_id '' is empty",
            "log.csv, line 5: 2 columns where the header has 4 (2 such lines: 5, 9)",
            "log.csv, line 7: item_id '' is empty",
            "log.csv, line 7: timestamp 'soon' is neither seconds since 1970 nor a date such as "
            "2014-03-01T10:00:00 (2 such lines: 7, 8)",
        ],
    ),
    "many": (
        {"log.csv": "user,item\n" + ",i\n" * 9},
        ["log.csv, line 2: user_id '' is empty (9 such lines: 2, 3, 4, 5, 6, ...)"],
    ),
    "an open quote": (
        {"log.csv": 'user,item\nu\nu,"i\nv,j\n'},
        ["line 2: 1 columns where the header has 2", "line 3: a quote opens and never closes"],
    ),
    "no header at all": (
        {"log.csv": "My log of 2014\nuser,item\nu,i\n"},
        ["log.csv, line 2: 2 columns where the header has 1 (2 such lines: 2, 3)"],
    ),
    "JSON": (
        {"log.jsonl": '{"user": 1, "item": 2}\nx\n{"user": 1}\n[1]\n'},
        ["line 2: is not JSON (", "(2 such lines: 2, 4)", "line 3: item_id '' is empty"],
    ),
    "RecBole": (
        {"x.inter": INTER + "1\t2\tx\t1\n1\t2\n1\t3\t4\tsoon\n"},
        ["x.inter, line 2: rating 'x'", "line 3: 2 columns", "line 4: timestamp 'soon'"],
    ),
    "MovieLens": (
        {"u.data": "1\t2\t3\t4\n", "u.item": "1|a\n\n2|b|c\n"},
        ["u.item, line 1: 2 fields where there must be 24 (2 such lines: 1, 3)"],
    ),
    "items": (
        {"interactions.csv": "user,item\n1,1\n", "items.csv": "item,title\n,a\n1\n,b\n"},
        ["items.csv, line 2: item_id '' is empty (2 such lines: 2, 4)", "line 3: 1 columns"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_everything_that_is_wrong_with_a_file_is_said_at_once(tmp_path: Path, case: str) -> None:
    files, said = BROKEN[case]
    paths = [write(tmp_path / name, content) for name, content in files.items()]
    with pytest.raises(RecinjectError) as caught:
        read_log(paths[0] if len(paths) == 1 else tmp_path, columns={})
    lines = caught.value.message.splitlines()
    assert all(any(fragment in line for line in lines) for fragment in said), lines
    assert len(lines) <= len(said) and caught.value.hint
