"""Requests a second of the service at 32 clients, decoded together, against one at a time.

    python benchmarks/serving.py [--quick] [--run FOLDER] [--size quickstart|small] [--requests N]
    python benchmarks/serving.py --memory     # of 20,000 requests: at the start and after thirds

Clients in a process of their own ask the service, another process, over HTTP; each sends its next
request when the last was answered. The model is that of a run, or a T5 of the quickstart's size or
of FLAN-T5-small's with random weights over a simulated shop: speed does not depend on the weights.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import recinject as ri

SIZES = {
    "tiny": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    "quickstart": {
        **{"d_model": 96, "d_kv": 24, "d_ff": 192, "num_layers": 1},
        **{"num_decoder_layers": 1, "num_heads": 4},
    },
    "small": {
        **{"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
        **{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    },
}


def make_run(size: str, runs: Path, log: str | None = None, users: int = 200) -> Path:
    """Make a run, over a log or a simulated shop, whose model was trained for one step."""
    shop = {"users": users, "items": 300, "events_per_user": 12}
    run = ri.run(
        "quickstart",
        runs=runs,
        name=size,
        data={"path": log, "simulator": shop},
        samples={"tasks": {"retrieval": {"history_length": 10}}, "limit": 500},
        model={"config": SIZES[size], "vocab_size": 4000},
        training={"max_steps": 1, "per_device_train_batch_size": 4, "use_cpu": True},
        evaluation={"baselines": [], "limit": 2, "resamples": 100},
    )
    return run.recipe.folder


class Served:
    """A service as a process of its own."""

    def __init__(self, run: Path, *words: str) -> None:
        command = [sys.executable, "-m", "recinject", "serve", str(run), "--port", "0", *words]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the process
        self.process = subprocess.Popen(
            command, stderr=self.log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        while True:
            self.log.seek(0)
            if found := re.search(r"at (http://\S+?),", self.log.read()):
                self.address = found[1]
                return
            if self.process.poll() is not None:
                raise SystemExit("the service did not start")
            time.sleep(0.1)

    def memory(self) -> float:
        """Return the MiB that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def cpu(self) -> float:
        """Return the seconds of processor time that the process has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait()


async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> int:
    """Send a request over a connection that stays open, read the answer; return its status."""
    head = "POST /v1/recommend HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(re.search(r"content-length: (\d+)", head)[1]))
    return int(head.split()[1])


async def load(address: str, bodies: list[dict[str, Any]], clients: int) -> dict[str, Any]:
    """Let so many clients send all bodies; return speed, latencies and statuses.

    They speak HTTP by hand, since a client's library would take longer than the service does.
    """
    waiting = iter([json.dumps(body).encode() for body in bodies])
    seconds, statuses, port = list[float](), dict[int, int](), int(address.rpartition(":")[2])

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in waiting:
            started = time.perf_counter()
            status = await send(reader, writer, body)
            seconds.append(time.perf_counter() - started)
            statuses[status] = statuses.get(status, 0) + 1
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(clients)))
    whole = time.perf_counter() - started
    p50, p95, p99 = (round(1000 * float(np.quantile(seconds, q)), 1) for q in (0.5, 0.95, 0.99))
    found = {"requests_per_s": round(len(bodies) / whole, 1), "p50_ms": p50, "p95_ms": p95}
    return {**found, "p99_ms": p99, "statuses": statuses}


def bodies_of(run: Path, count: int) -> list[dict[str, Any]]:
    """Return requests about histories of one to ten items."""
    ids, chance = ri.load(run).data.catalog.item_ids, np.random.default_rng(0)
    lengths = chance.integers(1, 11, count)
    return [{"liked": chance.choice(ids, n, replace=False).tolist(), "k": 10} for n in lengths]


def hold(run: Path, count: int, clients: int) -> dict[str, Any]:
    """Send all requests in thirds; return what memory the service held before and after each."""
    service, bodies, rows = Served(run, "--queue", "256"), bodies_of(run, count), list[Any]()
    memory = [service.memory()]
    for third in np.array_split(np.arange(count), 3):
        found = asyncio.run(load(service.address, [bodies[n] for n in third], clients))
        rows.append(found)
        memory.append(round(service.memory(), 1))
        print(f"after {third[-1] + 1:,} requests: {memory[-1]} MiB", flush=True)
    service.stop()
    result = {"benchmark": "serving", "value": memory[-1], "unit": "MiB", "reference": memory[1]}
    result |= {"ratio": round(memory[-1] / memory[1], 3), "requests": count, "clients": clients}
    return {
        **result,
        "before_mib": round(memory[0], 1),
        "after_thirds_mib": memory[1:],
        "rows": rows,
    }


def main() -> None:
    """Measure, and print one JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--run", type=Path, help="a finished run's folder")
    parser.add_argument("--size", choices=SIZES, default="quickstart")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--memory", action="store_true", help="of one service over many requests")
    parser.add_argument("--clients", type=int, nargs="*", default=[32, 64])
    asked = parser.parse_args()
    usual = 20_000 if asked.memory else 2_000
    size, count = ("tiny", 96) if asked.quick else (asked.size, asked.requests or usual)
    rows = dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        run = asked.run or make_run(size, Path(folder))
        if asked.memory:
            print(json.dumps(hold(run, count, asked.clients[0])))
            return
        bodies = bodies_of(run, count)
        for name, words in (("together", ()), ("one_at_a_time", ("--batch", "1"))):
            service = Served(run, *words, "--queue", "256")
            asyncio.run(load(service.address, bodies[:32], 8))  # warm
            for clients in asked.clients:
                before, taken = service.memory(), service.cpu()
                found = asyncio.run(load(service.address, bodies, clients))
                found["memory_grown_mib"] = round(service.memory() - before, 1)
                found["cpu_ms"] = round(1000 * (service.cpu() - taken) / count, 2)  # a request
                rows[f"{name}_{clients}"] = found
                print(name, clients, rows[f"{name}_{clients}"])
            service.stop()
        full = Served(run, "--batch", "1", "--queue", "8")
        rows["queue_of_8"] = asyncio.run(load(full.address, bodies[: min(count, 500)], 64))
        full.stop()
    first = asked.clients[0]
    fast, slow = (rows[f"{n}_{first}"]["requests_per_s"] for n in ("together", "one_at_a_time"))
    result = {"benchmark": "serving", "value": fast, "unit": "requests/s", "reference": slow}
    statuses = {status for row in rows.values() for status in row["statuses"]}
    result |= {"ratio": round(fast / slow, 2), "statuses": sorted(statuses), "model": size}
    print(json.dumps({**result, "clients": first, "rows": rows}))


if __name__ == "__main__":
    main()
