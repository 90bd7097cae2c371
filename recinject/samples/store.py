"""Samples on disk: shards of Parquet that are whole or absent, and JSONL on request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import track
from recinject.samples.builder import Builder

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("task", pa.string()),
        ("template", pa.string()),
        ("split", pa.string()),
        ("user_id", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("target_item_id", pa.string()),
        ("candidate_item_ids", pa.list_(pa.string())),
        ("label", pa.float64()),
    ]
)
SAMPLES_PER_SHARD = 20_000


def write_samples(builder: Builder, folder: Path, *, workers: int = 1, jsonl: bool = False) -> int:
    """Write all samples of a builder as ``folder/SPLIT-00000-of-00001.parquet`` and so on.

    What stands in which shard depends on the samples' order alone, so the bytes are the same
    whatever the number of workers. Without any sample there is one shard without rows.

    Args:
        builder: the samples.
        folder: the task's folder, which exists.
        workers: processes to build with.
        jsonl: write each shard as JSON lines too.

    Returns:
        How many samples were written.
    """
    shards = [
        range(start, min(start + SAMPLES_PER_SHARD, len(builder)))
        for start in range(0, max(1, len(builder)), SAMPLES_PER_SHARD)
    ]
    names = [f"{builder.split}-{n:05d}-of-{len(shards):05d}" for n in range(len(shards))]
    jobs = [(folder / name, numbers, jsonl) for name, numbers in zip(names, shards, strict=True)]
    title = f"Building {builder.task.name} ({builder.split})"
    for _ in track(_run(builder, jobs, workers), title, total=len(jobs)):
        pass
    return len(builder)


_Job = tuple[Path, range, bool]
_worker_builder: list[Builder] = []


def _start_worker(builder: Builder) -> None:
    _worker_builder.append(builder)


def _run(builder: Builder, jobs: list[_Job], workers: int) -> Iterator[None]:
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            _write_shard(builder, *job)
            yield
        return
    with ProcessPoolExecutor(
        min(workers, len(jobs)),
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(builder,),
    ) as pool:
        yield from pool.map(_write_shard_in_worker, jobs)


def _write_shard_in_worker(job: _Job) -> None:
    _write_shard(_worker_builder[0], *job)


def _write_shard(builder: Builder, stem: Path, numbers: range, jsonl: bool) -> None:
    samples = [builder.sample(number)._asdict() for number in numbers]
    partial = stem.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(samples, SCHEMA), partial, compression="zstd")
    partial.rename(stem.with_suffix(".parquet"))
    if jsonl:
        lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
        partial.write_text("".join(lines), encoding="utf-8")
        partial.rename(stem.with_suffix(".jsonl"))


def read_samples(folder: Path, task: str, split: str) -> pa.Table:
    """Read all samples of one task and split, in their order.

    Raises:
        RecinjectError: they were never built.
    """
    files = sorted((folder / task).glob(f"{split}-*.parquet"))
    if not files:
        raise RecinjectError(
            f"{folder / task}: no samples of the split {split!r}",
            hint=f"add {task} to samples.tasks and run 'recinject build' again",
        )
    return pa.concat_tables([pq.read_table(file, schema=SCHEMA) for file in files])
