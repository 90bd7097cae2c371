"""Samples on disk: shards of Parquet that are whole or absent, their tokens beside them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recinject.foundation.errors import RecinjectError, StoppedError
from recinject.foundation.progress import track
from recinject.registry import load_plugin, plugins
from recinject.samples.builder import SCHEMA, Builder
from recinject.samples.encoding import TokenFacts, token_table

SAMPLES_PER_SHARD = 20_000
_AT_ONCE = 4_000
_FACTS, _TRIMMED = b"recinject.tokens", b"recinject.trimmed"
# What has few values repeats; texts do not, and looking for repetitions takes longest.
_DICTIONARY = ["task", "template", "split", "user_id", "target_item_id", "user", "target"]


@dataclass(frozen=True)
class Forms:
    """What is written beside Parquet: the token columns that training reads, JSON lines."""

    tokens: bool = True
    jsonl: bool = False


def write_samples(
    builder: Builder, folder: Path, forms: Forms, *, workers: int = 1
) -> tuple[TokenFacts | None, int]:
    """Write all samples of a builder as ``folder/SPLIT-00000-of-00001.parquet`` and so on.

    What stands in which shard depends on the samples' order alone, so the bytes are the same
    whatever the number of workers. Without any sample there is one shard without rows. Shards
    that are there already are left as they are.

    Returns:
        What tokenisation did to them, None where no tokens were asked for; and how many samples
        lost the oldest items of their histories to fit.
    """
    size = len(builder)
    starts = range(0, max(1, size), SAMPLES_PER_SHARD)
    names = (f"{builder.split}-{n:05d}-of-{len(starts):05d}" for n in range(len(starts)))
    files = [folder / f"{name}.parquet" for name in names]
    missing = [
        (file, range(start, min(start + SAMPLES_PER_SHARD, size)), forms)
        for file, start in zip(files, starts, strict=True)
        if not file.exists()
    ]
    title = f"Building {builder.task.name} ({builder.split})"
    done = size - sum(len(numbers) for _, numbers, _ in missing)
    for _ in track(_run(builder, missing, workers), title, size, size=int, done=done):
        pass
    found = [pq.read_schema(file).metadata for file in files]
    trimmed = sum(int(each[_TRIMMED]) for each in found)
    if not forms.tokens:
        return None, trimmed
    return TokenFacts.total([TokenFacts(**json.loads(each[_FACTS])) for each in found]), trimmed


_Job = tuple[Path, range, Forms]
_worker_builder: list[Builder] = []


def _start_worker(files: Sequence[Path], builder: bytes) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    # A task of a plug-in can be unpickled where the plug-in is loaded.
    for file in files:
        load_plugin(file)
    _worker_builder.append(pickle.loads(builder))


def _end_with_parent() -> None:
    """End this worker where the process that started it was killed: nobody would tell it."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _run(builder: Builder, jobs: list[_Job], workers: int) -> Iterator[int]:
    """Write the missing shards, and yield the number of samples of each."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield _write_shard(builder, *job)
        return
    start = _start_worker, (plugins(), pickle.dumps(builder))
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), *start) as pool:
        try:
            for done in as_completed([pool.submit(_write_shard_in_worker, job) for job in jobs]):
                yield done.result()
        except BrokenProcessPool as error:
            # They are taken in their order: the first that are missing were being written.
            torn = [str(file) for file, _, _ in jobs if not file.exists()][:workers]
            raise StoppedError(
                f"a worker died while {' and '.join(torn)} were written",
                hint="the same command goes on with the missing shards; take fewer "
                "samples.workers if the memory was full",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _write_shard_in_worker(job: _Job) -> int:
    return _write_shard(_worker_builder[0], *job)


def _write_shard(builder: Builder, file: Path, numbers: range, forms: Forms) -> int:
    """Write one shard; its Parquet file comes last, and says that the shard is whole."""
    tables, tokens, trimmed = [SCHEMA.empty_table()], [], 0
    for start in range(0, len(numbers), _AT_ONCE):
        batch = builder.batch(np.array(numbers[start : start + _AT_ONCE]))
        tables.append(builder.table(batch))
        trimmed += batch.trimmed
        if forms.tokens:
            tokens.append(builder.tokens(batch))
    table = pa.concat_tables(tables).combine_chunks()
    facts = {_TRIMMED: str(trimmed)}
    partial = file.with_suffix(".partial")
    if forms.tokens:
        encoded, counts = token_table(tokens, builder.wording.encoder.dialect, builder.limits)
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, encoded.schema) as out:
            out.write_table(encoded)
        partial.rename(file.with_suffix(".arrow"))
        facts[_FACTS] = json.dumps(asdict(counts))
    if forms.jsonl:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()]
        partial.write_text("".join(lines), encoding="utf-8")
        partial.rename(file.with_suffix(".jsonl"))
    table = table.replace_schema_metadata(facts)
    pq.write_table(table, partial, compression="zstd", use_dictionary=_DICTIONARY)
    partial.rename(file)
    return len(numbers)


def read_samples(folder: Path, task: str, split: str) -> pa.Table:
    """Read all samples of one task and split, in their order."""
    files = shards(folder, task, split, ".parquet")
    return pa.concat_tables([pq.read_table(file).cast(SCHEMA) for file in files])


def shards(folder: Path, task: str, split: str, suffix: str) -> list[Path]:
    """Return the files of one task and split in one form, in their order."""
    files = sorted((folder / task).glob(f"{split}-*{suffix}"))
    stated = files[-1].stem.rpartition("-of-")[2] if files else ""
    count = int(stated) if stated.isdigit() else 0
    wanted = [f"{split}-{n:05d}-of-{stated}{suffix}" for n in range(count)]
    if [file.name for file in files] != wanted:
        raise RecinjectError(
            f"{folder / task}: {len(files)} of {len(wanted)} {suffix} files of the split {split!r}",
            hint="build the samples again: recinject build RECIPE, or build_samples",
        )
    if not files:
        raise RecinjectError(
            f"{folder / task}: no {suffix} files of the split {split!r}",
            hint=f"add {task} to samples.tasks and run 'recinject build' again",
        )
    return files
