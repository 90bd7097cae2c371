"""A log reads the same in every dressing: separator, quoting, encoding, units, names, packing.

RECINJECT_DRESSINGS says how many dressings are tried; the slow test tries 2,000.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recinject.data.readers import read_log
from recinject.data.tables import GUESSES

DRESSINGS = int(os.environ.get("RECINJECT_DRESSINGS", "60"))
TITLES = {
    "utf-8": ["Schindler’s List — €", "视频电影", "Жизнь", 'Tea, hot; "very"', "a|b"],
    "utf-8-sig": ["Café", "Жизнь", "plain"],
    "utf-16": ["Schindler’s List", "视频电影", "Ünï"],
    "cp1252": ["Schindler’s List", "Amélie is here", "Señor — €", "plain"],
    "gbk": ["视频电影", "红楼梦是小说", "plain", "活着的人们"],
    "cp1251": ["Война и мир", "Преступление и наказание", "plain", "Мастер"],
    "shift_jis": ["となりのトトロ", "千と千尋の神隠し", "plain", "もののけ姫"],
}
UNITS = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}
DATES = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S UTC", "%Y/%m/%d %H:%M:%S"]
DATES += ["%m/%d/%Y %I:%M:%S %p", "%a %b %d %H:%M:%S +0000 %Y", "%d.%m.%Y %H:%M:%S"]
DATES += ["%b %d, %Y %H:%M:%S", "%Y-%m-%d %H:%M:%S+02:00", "%Y%m%d%H%M%S"]


def draw(rng: random.Random) -> tuple[list[tuple[str, str, float, int]], dict[str, str]]:
    """Draw events, of at least two users and all days of a month, and titles."""
    users = [f"{rng.choice(['u', '', '00'])}{number}" for number in range(1, rng.randint(3, 9))]
    items = [f"{rng.choice(['i', 'x-', ''])}{number}" for number in range(1, rng.randint(3, 9))]
    rows = []
    for number in range(rng.randint(30, 60)):
        time = 1_500_000_000 + number * 86_400 + rng.randrange(86_000)
        rows.append((rng.choice(users), rng.choice(items), rng.randint(2, 10) / 2, time))
    rng.shuffle(rows)
    return rows, dict.fromkeys(items, "")


def spelled(rng: random.Random, time: int, form: str) -> str:
    if form in UNITS:
        return str(time * UNITS[form])
    offset = 7200 if "+02:00" in form else 0
    return dt.datetime.fromtimestamp(time + offset, dt.UTC).strftime(form)


def as_csv(rows: list[list[Any]], separator: str, quoting: int, end: str) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=separator, quoting=quoting, lineterminator=end).writerows(rows)
    return stream.getvalue()


def dress(folder: Path, rng: random.Random) -> tuple[Path, Path, list[Any], dict[str, str]]:
    """Write a log and its items in a random dressing; return the paths, the rows, the titles."""
    rows, titles = draw(rng)
    encoding = rng.choice(list(TITLES))
    titles = {item: rng.choice(TITLES[encoding]) for item in titles}
    names = {
        ours: rng.choice([name for name in GUESSES[ours] if name != "userid" or ours == "user_id"])
        for ours in ("user_id", "item_id", "rating", "timestamp")
    }
    order = rng.sample(list(names), 4)
    times, comma = rng.choice([*UNITS, *DATES]), False
    kind = rng.choice(["csv", "csv", "csv", "tsv", "dat", "jsonl", "json", "parquet"])
    separator = {"tsv": "\t", "dat": rng.choice(["\t", ";", "|"])}.get(kind, rng.choice(",;\t|"))
    if kind in ("csv", "dat") and separator == ";":
        comma = rng.random() < 0.5
    written = []
    for user, item, rating, time in rows:
        shown = f"{rating}".replace(".", ",") if comma else f"{rating}"
        own = {"user_id": user, "item_id": item, "rating": shown}
        own["timestamp"] = spelled(rng, time, times)
        written.append([own[name] for name in order])
    header = [rng.choice([str.upper, str.title, str.lower])(names[name]) for name in order]
    path = folder / f"log.{kind}"
    if kind in ("jsonl", "json"):
        records = [dict(zip(header, row, strict=True)) for row in written]
        lines = (
            "\n".join(map(json.dumps, records))
            if kind == "jsonl"
            else json.dumps(records, indent=rng.choice([None, 1]))
        )
        data = lines.encode()
    elif kind == "parquet":
        stream = io.BytesIO()
        pd.DataFrame(written, columns=header).to_parquet(stream)
        data = stream.getvalue()
    else:
        quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        end = rng.choice(["\n", "\r\n"])
        data = as_csv([header, *written], separator, quoting, end).encode()
    packing = rng.choice(["", "", ".gz", ".zst", ".zip"])
    if packing == ".gz":
        data = gzip.compress(data)
    elif packing == ".zst":
        data = pa.compress(data, codec="zstd", asbytes=True)
    elif packing == ".zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr(path.name, data)
        data = stream.getvalue()
    path = path.with_name(path.name + packing)
    path.write_bytes(data)
    about = [["item_id", "title"], *([item, title] for item, title in titles.items())]
    items = folder / "items.csv"
    text = as_csv(about, rng.choice(",;\t"), csv.QUOTE_MINIMAL, "\n")
    items.write_bytes(text.encode(encoding))
    return path, items, rows, titles


def check(folder: Path, seed: int) -> None:
    path, items, rows, titles = dress(folder, random.Random(seed))
    log = read_log(path, items=items)
    events = log.interactions
    expected = sorted(
        (user, time, place, item, rating) for place, (user, item, rating, time) in enumerate(rows)
    )
    users = [events.user_ids[user] for user in events.users]
    assert users == [user for user, *_ in expected]
    assert [log.catalog.item_ids[item] for item in events.items] == [row[3] for row in expected]
    assert events.ratings is not None and events.timestamps is not None
    assert events.ratings.tolist() == [row[4] for row in expected]
    np.testing.assert_array_equal(events.timestamps, [row[1] for row in expected])
    used = {item: title for item, title in titles.items() if item in log.catalog.item_ids}
    assert dict(zip(log.catalog.item_ids, log.catalog.titles, strict=True)) == used


@pytest.mark.parametrize("seed", range(DRESSINGS))
def test_a_log_reads_the_same_in_every_dressing(tmp_path: Path, seed: int) -> None:
    check(tmp_path, seed)


@pytest.mark.slow
def test_2000_dressings(tmp_path: Path) -> None:
    for seed in range(2000):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            check(folder, seed)
        except BaseException as error:
            raise AssertionError(f"dressing {seed} in {folder}") from error
