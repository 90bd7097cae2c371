"""Whatever becomes of a file, reading it gives a whole log or an error with a fix in it.

RECINJECT_MUTATIONS says how many mutations a format gets, e.g. 10000 for a run by hand.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recinject.data.readers import read_log
from recinject.data.schema import Log
from recinject.foundation.errors import RecinjectError

MUTATIONS = int(os.environ.get("RECINJECT_MUTATIONS", "40"))
SEPARATORS = [b"\t", b",", b"|", b"::", b":", b";", b"\n", b"\r", b'"', b"'", b" ", b"\0"]
SPLICES = [b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\ud83d", b"1e999", b"-", b"NaN"]
SPLICES += [b"9" * 400, b"9" * 5000, b"null", b"{", b"[", b"}", b"\xe2\x80\xa8", b"\x1f", b"1e300"]

CSV = "user,item,rating,timestamp\n" + "".join(
    f'u{row % 3},"i, {row % 5}",{row % 5 + 1},2014-03-0{row + 1}T10:00:00\n' for row in range(8)
)
DAT = "".join(f"{row % 3}::{row % 5}::{row % 5}::9783007{row}0\n" for row in range(8))
FLAGS = "|".join("1000010000000000010")
REVIEWS = [
    {"reviewerID": f"u{n % 3}", "asin": f"i{n % 5}", "overall": n % 5 + 1.0, "unixReviewTime": n}
    for n in range(8)
]
NEW = [
    {"user_id": f"u{n % 3}", "parent_asin": f"i{n % 5}", "rating": 1.0, "timestamp": 10**12 + n}
    for n in range(8)
]
META = [
    {"asin": f"i{n}", "title": f"Title's {n} é", "brand": None, "categories": [["A", "B"], ["C"]]}
    for n in range(5)
]


def parquet(rows: list[dict[str, object]]) -> bytes:
    stream = io.BytesIO()
    pd.DataFrame(rows).to_parquet(stream)
    return stream.getvalue()


def lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


FORMATS: dict[str, dict[str, bytes]] = {
    "recbole": {
        "x.inter": b"user_id:token\titem_id:token\trating:float\n1\t2\t3.5\n2\t2\t1\n2\t3\t5\n",
        "x.item": "item_id:token\ttitle:token_seq\tclass:token_seq\n2\tCaf\u00e9 X\tA B\n".encode(),
    },
    "csv": {"interactions.csv": CSV.encode(), "items.tsv": b"item\ttitle\ni, 1\tOne\ni, 2\tTwo\n"},
    "csv.gz": {"interactions.csv.gz": CSV.encode()},
    "jsonl": {"interactions.jsonl": lines(REVIEWS), "items.json": lines(META)},
    "parquet": {"interactions.parquet": parquet(REVIEWS), "items.parquet": parquet(META)},
    "movielens 100K": {
        "u.data": DAT.replace("::", "\t").encode(),
        "u.item": f"1|Caf\u00e9|01-Jan-1995||u|{FLAGS}\n2|B||||{FLAGS}\n".encode("latin-1"),
        "u.genre": "".join(f"g{number}|{number}\n" for number in range(19)).encode(),
    },
    "movielens 1M": {
        "ratings.dat": DAT.encode(),
        "movies.dat": "1::Caf\u00e9 :: (1994)::A|B\n2::B::(no genres listed)\n".encode("latin-1"),
    },
    "movielens 25M": {
        "ratings.csv": f"userId,movieId,rating,timestamp\n{DAT.replace('::', ',')}".encode(),
        "movies.csv": b'movieId,title,genres\n1,"A, The ""first""",A|B\n2,B,C\n',
    },
    "amazon 2014": {
        "reviews_X_5.json.gz": lines(REVIEWS),
        "meta_X.json": "".join(f"{row!r}\n" for row in META).encode(),
    },
    "amazon 2018": {"X_5.json": lines(REVIEWS), "meta_X.json.gz": lines(META)},
    "amazon 2023": {
        "X.jsonl": lines(NEW),
        "meta_X.jsonl": lines([{**row, "parent_asin": row["asin"]} for row in META]),
    },
}


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change bytes or lines in one of the ways that files break."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice([1, 1, 2, 8, 60]))
    rows = data.split(b"\n")
    row = rng.randrange(len(rows))
    kind = rng.randrange(9)
    if kind == 0:
        flipped = bytes(byte ^ 1 << rng.randrange(8) for byte in data[start : start + 1])
        return data[:start] + flipped + data[start + 1 :]
    if kind == 1:
        return data[:start] + data[end:]
    if kind == 2:
        return data[:start]
    if kind == 3:
        return data[:start] + rng.choice(SPLICES) + data[rng.choice([start, end]) :]
    if kind == 4:
        return data.replace(rng.choice(SEPARATORS), rng.choice(SEPARATORS), rng.choice([-1, 1, 3]))
    if kind == 5:
        return data[:start] + rng.randbytes(end - start) + data[end:]
    if kind == 6:
        return b"\n".join(
            [*rows[:row], rows[row][: rng.randrange(len(rows[row]) + 1)], *rows[row + 1 :]]
        )
    if kind == 7:
        return b"\n".join([*rows[:row], rows[row], *rows[row:]])
    rng.shuffle(rows)
    return b"\n".join(rows)


def write(folder: Path, files: dict[str, bytes], rng: random.Random) -> None:
    broken = rng.choice(list(files))
    for name, content in files.items():
        # A packed file breaks in its packing or in what is packed.
        packed, inside = name.endswith(".gz"), rng.random() < 0.8
        mutations = rng.choice([1, 1, 2, 4]) if name == broken else 0
        for _ in range(mutations if inside or not packed else 0):
            content = mutate(content, rng)
        data = gzip.compress(content, mtime=0) if packed else content
        for _ in range(mutations if packed and not inside else 0):
            data = mutate(data, rng)
        (folder / name).write_bytes(data)


def check_whole(log: Log) -> None:
    events, frame = log.interactions, log.catalog.frame
    count = len(events)
    assert count and len(events.items) == count and (np.diff(events.users) >= 0).all()
    assert set(events.users) == set(range(events.n_users))
    assert set(events.items) == set(range(len(log.catalog))) and events.n_items == len(frame)
    assert len({*events.user_ids}) == events.n_users and len({*log.catalog.item_ids}) == len(frame)
    assert events.ratings is None or np.isfinite(events.ratings).all()
    assert events.timestamps is None or not np.isinf(events.timestamps).any()
    assert all(isinstance(title, str) for title in frame["title"]) and frame.columns.is_unique
    for name in frame.columns:
        for value in frame[name]:
            assert value is None or (
                isinstance(value, list) if name == "categories" else value != 0
            )
    "".join([*events.user_ids, *map(str, frame.to_numpy().ravel()), log.source]).encode()
    frame.to_parquet(io.BytesIO())


@pytest.mark.parametrize("name", FORMATS)
def test_a_mutated_file_gives_a_log_or_an_error_with_a_fix(tmp_path: Path, name: str) -> None:
    for seed in range(MUTATIONS):
        write(tmp_path, FORMATS[name], random.Random(f"{name} {seed}"))
        try:
            log = read_log(tmp_path, columns={})
        except RecinjectError as error:
            assert error.hint and str(tmp_path) in error.message
            str(error).encode()
        except Exception as error:
            raise AssertionError(f"mutation {seed} of {name} in {tmp_path}") from error
        else:
            check_whole(log)


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_are_read(tmp_path: Path, name: str) -> None:
    for file, content in FORMATS[name].items():
        (tmp_path / file).write_bytes(gzip.compress(content) if file.endswith(".gz") else content)
    check_whole(read_log(tmp_path, columns={}, partial_items=True))
