"""How building samples scales: with the log, with workers here and on Ray, and simulated.

    python benchmarks/scaling.py [--quick] [--local]

Simulated logs of 1/4, 1/2, 1 and 2 times a base are built by one process; the base also by two, and
by one and two workers on Ray, where that is installed. Each is a process of its own, so that its
memory is the most that the system ever held for a worker; the seconds are those of the processor,
which others on the machine change least, and on the clock beside them. The base has 22,727 users
with 22 events each; with --quick it has 2,000. --local leaves Ray out.

The simulation, of up to 1,000 workers, takes the measured seconds and bytes a shard. A node of 32
workers reads the log once; each worker then computes shards, each 10 % more or less than the mean,
and uploads them; all transfers share the bandwidth of the store evenly. It prints the speed-up for
10^9 events.
"""

from __future__ import annotations

import argparse
import heapq
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np
import pyarrow as pa

from recinject.data.schema import Interactions
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import leave_one_out
from recinject.engines import Engine, map_shards
from recinject.identifiers.data import Data
from recinject.identifiers.table import name_items
from recinject.samples import store
from recinject.samples.builder import Builder
from recinject.samples.samples import SampleSettings, make_factory
from recinject.tasks.task import Retrieval

USERS, QUICK_USERS, LENGTH, ITEMS, SEED = 22_727, 2_000, 22, 2_000, 1
SIZES = (0.25, 0.5, 1.0, 2.0)
ENGINES = (("local", 2), ("ray", 1), ("ray", 2))
EVENTS, BYTES_AN_EVENT = 10**9, 80
BANDWIDTH, WORKERS_A_NODE = 1.25e9, 32  # of the store, in bytes a second
WORKERS = (1, 3, 10, 30, 100, 300, 1000)


def make_builder(users: int) -> Builder:
    """Make the builder of the retrieval samples of some users' training events."""
    shop = simulate_shop(users=500, items=ITEMS, events_per_user=20, seed=SEED)
    popularity = 1 / (np.arange(len(shop.catalog)) + 30.0)
    rng = np.random.default_rng(SEED)
    items = rng.choice(len(popularity), users * LENGTH, p=popularity / popularity.sum())
    log = Interactions(
        users=np.repeat(np.arange(users, dtype=np.int32), LENGTH),
        items=items.astype(np.int32),
        ratings=None,
        timestamps=None,
        user_ids=[f"A{user:07d}" for user in range(users)],
        n_items=len(popularity),
    )
    data = Data(leave_one_out(log), shop.catalog, name_items("number", shop.catalog, SEED))
    task = Retrieval(max_per_user=LENGTH)
    return next(make_factory(data, [task], SampleSettings(seed=SEED)).builders())


def write(builder: Builder, shard: store.Shard) -> tuple[int, float, float]:
    """Write a shard; return who did, in how many seconds of the processor, and its memory in GB."""
    started = time.process_time()
    store._write_shard(builder, shard)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return os.getpid(), time.process_time() - started, most * 1024 / 1e9


def measure(users: int, engine: Engine, shard: int) -> dict[str, Any]:
    """Build the samples of some users; return what it took."""
    store.SAMPLES_PER_SHARD = shard
    pa.set_cpu_count(1)
    builder = make_builder(users)
    with TemporaryDirectory() as folder:
        shards = store.plan_shards(builder, Path(folder), store.Forms())
        list(map_shards(write, builder, shards[:1], engine))  # workers start
        shards[0][0].unlink()
        started = time.perf_counter()
        found = [each for _, each in map_shards(write, builder, shards, engine)]
        clock = time.perf_counter() - started
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    seconds = sum(each[1] for each in found)
    return {
        "engine": engine.name,
        "workers": engine.workers,
        "events": users * LENGTH,
        "samples": len(builder),
        "shards": len(shards),
        "samples_a_second": round(len(builder) / seconds),
        "seconds_a_shard": round(seconds / len(shards), 4),
        "clock": round(clock, 2),
        "bytes_a_sample": round(size / len(builder), 1),
        "gb_a_worker": round(max(each[2] for each in found), 3),
    }


def apart(users: int, name: str, workers: int, shard: int) -> dict[str, Any]:
    """Call :func:`measure` in a process of its own."""
    words = [sys.executable, __file__, "--one", f"{users},{name},{workers},{shard}"]
    ended = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def simulate(workers: int, shards: int, seconds: float, size: float, log: float) -> float:
    """Return the seconds that workers take for shards, with transfers that share the bandwidth.

    A transfer of ``size`` bytes ends when the bytes that each open transfer got, which grow by the
    bandwidth over their number, have grown by its size.
    """
    chance, number = np.random.default_rng(SEED), count()
    computing: list[tuple[float, int]] = []
    open_until = [(log, next(number)) for _ in range(workers)]  # by bytes; each reads its share
    now, got, left = 0.0, 0.0, shards
    while computing or open_until:
        rate = BANDWIDTH / max(1, len(open_until))
        arrives = now + (open_until[0][0] - got) / rate if open_until else np.inf
        if computing and computing[0][0] <= arrives:
            ended, _ = heapq.heappop(computing)
            now, got = ended, got + (ended - now) * rate
            heapq.heappush(open_until, (got + size, next(number)))
            continue
        now, (got, _) = arrives, heapq.heappop(open_until)
        if left:
            left -= 1
            took = seconds * (1 + 0.1 * chance.uniform(-1, 1))
            heapq.heappush(computing, (now + took, next(number)))
    return float(now)


def curve(found: dict[str, Any]) -> list[dict[str, float]]:
    """Simulate 10^9 events for some numbers of workers, with shards of 20,000 samples."""
    samples = EVENTS * found["samples"] / found["events"]
    each, shards = 20_000 / found["samples_a_second"], round(samples / 20_000)
    size = 20_000 * found["bytes_a_sample"]
    rows = []
    for n in WORKERS:
        log = (
            EVENTS * BYTES_AN_EVENT * -(-n // WORKERS_A_NODE) / n
        )  # a worker's share of its node's
        rows.append((n, simulate(n, shards, each, size, log)))
    alone = rows[0][1]
    return [
        {"workers": n, "hours": round(took / 3600, 3), "speed_up": round(alone / took, 1)}
        for n, took in rows
    ]


def main() -> None:
    """Measure, simulate, and print two tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller base")
    parser.add_argument("--local", action="store_true", help="without Ray")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        users, name, workers, shard = asked.one.split(",")
        engine = Engine(name, int(workers))  # type: ignore[arg-type]
        print(json.dumps(measure(int(users), engine, int(shard))))
        return
    base, shard = (QUICK_USERS, 2_000) if asked.quick else (USERS, store.SAMPLES_PER_SHARD)
    has_ray = not asked.local and importlib.util.find_spec("ray") is not None
    here = [(base, *pair) for pair in ENGINES if pair[0] == "local" or has_ray]
    columns = ("engine", "workers", "events", "samples_a_second", "clock", "gb_a_worker")
    print(" ".join(f"{name:>16}" for name in columns))
    rows = []
    for configuration in [*((round(base * size), "local", 1) for size in SIZES), *here]:
        rows.append(apart(*configuration, shard))
        print(" ".join(f"{rows[-1][name]!s:>16}" for name in columns), flush=True)
    least, most = rows[0], rows[len(SIZES) - 1]
    curved = curve(most)
    for point in curved:
        print("  ".join(f"{name} {value:,}" for name, value in point.items()))
    speed, slow = most["samples_a_second"], least["samples_a_second"]
    result = {"benchmark": "scaling", "value": speed, "unit": "samples/s", "reference": slow}
    result["ratio"] = round(speed / slow, 2)  # of the largest log against the smallest
    print(json.dumps({**result, "measured": rows, "simulated": curved}))


if __name__ == "__main__":
    main()
