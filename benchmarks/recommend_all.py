"""Users a second of ``recommend --all``, by EASE and by a language model, against a call a user.

    python benchmarks/recommend_all.py [--quick] [--log FOLDER] [--users N]

The log is a simulated shop of 2,000 users, or one of your own, such as MovieLens-1M's folder. The
model is a T5 of the quickstart's size with random weights, for speed does not depend on them, which
searches in double precision as the command does. ``--users`` asks for the first so many alone; the
calls one by one are made for 100 of them, whose lists must have the same items.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1"}

import pandas as pd
from serving import make_run

import recinject as ri
from recinject.pipeline.recommend import read_people, recommend_all, recommender_of
from recinject.pipeline.run import Run

ALONE, K = 100, 10


def measure(name: str, run: Run, users: int | None, folder: Path) -> dict[str, Any]:
    """Recommend to everybody, then to some one by one; return users a second of the processor."""
    recommender = recommender_of(run, name, exact=True)
    people = read_people(run, everybody=True)[0][:users]
    recommender.recommend(users=[people[0]["user_id"]], k=K)  # warm
    started, clock = time.process_time(), time.perf_counter()
    file = recommend_all(recommender, people, folder / f"{name}.parquet", K)
    took, clock = time.process_time() - started, time.perf_counter() - clock
    some = [str(person["user_id"]) for person in people[:ALONE]]
    started = time.process_time()
    lists = [recommender.recommend(users=[user], k=K) for user in some]
    alone = (time.process_time() - started) / len(some)
    together = pd.read_parquet(file)
    together = together[together["user_id"].isin(some)]
    same = together["item_id"].tolist() == pd.concat(lists)["item_id"].tolist()
    row = {"recommender": name, "users": len(people), "users_per_cpu_s": round(len(people) / took)}
    row |= {
        "clock_s": round(clock, 1),
        "one_by_one": round(1 / alone, 1),
        "same_items": float(same),
    }
    return row


def main() -> None:
    """Measure both, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small shop")
    parser.add_argument("--log", help="a log's folder or file")
    parser.add_argument("--users", type=int)
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        run = ri.load(make_run("quickstart", folder, asked.log, 200 if asked.quick else 2_000))
        rows = [measure(each, run, asked.users, folder) for each in ("ease", "language_model")]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    model = rows[-1]
    result = {"benchmark": "recommend_all", "value": model["users_per_cpu_s"], "unit": "users/s"}
    result |= {"reference": model["one_by_one"], "same_items": min(r["same_items"] for r in rows)}
    result["ratio"] = round(model["users_per_cpu_s"] / model["one_by_one"], 2)
    print(json.dumps({**result, "rows": rows}))


if __name__ == "__main__":
    main()
