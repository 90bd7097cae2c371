"""Samples on disk: shards of Parquet that are whole or absent, their tokens beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recinject.engines import Engine, map_shards
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import track
from recinject.samples.builder import SCHEMA, Builder
from recinject.samples.encoding import TokenFacts, token_table

SAMPLES_PER_SHARD = 20_000
_HERE = Engine()
_AT_ONCE = 4_000
_FACTS, _TRIMMED = b"recinject.tokens", b"recinject.trimmed"
# What has few values repeats; texts do not, and looking for repetitions takes longest.
_DICTIONARY = ["task", "template", "split", "user_id", "target_item_id", "user", "target"]


@dataclass(frozen=True)
class Forms:
    """What is written beside Parquet: the token columns that training reads, JSON lines."""

    tokens: bool = True
    jsonl: bool = False


Shard = tuple[Path, range, Forms]
"""A Parquet file, the numbers of the samples in it, and what is written beside it."""


def plan_shards(builder: Builder, folder: Path, forms: Forms) -> list[Shard]:
    """Say what :func:`write_samples` will write, a shard a row.

    What stands in which shard depends on the samples' order alone. Without any sample there is one
    shard without rows.
    """
    size, folder = len(builder), folder.absolute()  # a worker may stand in another place
    starts = range(0, max(1, size), SAMPLES_PER_SHARD)
    names = (f"{builder.split}-{n:05d}-of-{len(starts):05d}" for n in range(len(starts)))
    return [
        (folder / f"{name}.parquet", range(start, min(start + SAMPLES_PER_SHARD, size)), forms)
        for name, start in zip(names, starts, strict=True)
    ]


def write_samples(
    builder: Builder, folder: Path, forms: Forms, *, engine: Engine = _HERE
) -> tuple[TokenFacts | None, int]:
    """Write all samples of a builder as ``folder/SPLIT-00000-of-00001.parquet`` and so on.

    The bytes are the same for any engine. Shards that are there already are left as they are.

    Returns:
        What tokenisation did to them, None where no tokens were asked for; and how many samples
        lost the oldest items of their histories to fit.
    """
    shards = plan_shards(builder, folder, forms)
    write_shards(builder, shards, engine)
    found = [pq.read_schema(file).metadata for file, *_ in shards]
    trimmed = sum(int(each[_TRIMMED]) for each in found)
    if not forms.tokens:
        return None, trimmed
    return TokenFacts.total([TokenFacts(**json.loads(each[_FACTS])) for each in found]), trimmed


def write_shards(builder: Builder, shards: Sequence[Shard], engine: Engine) -> None:
    """Write those of some shards that are not there yet."""
    missing = [shard for shard in shards if not shard[0].exists()]
    size, left = (sum(len(numbers) for _, numbers, _ in some) for some in (shards, missing))
    title = f"Building {builder.task.name} ({builder.split})"
    written = (found for _, found in map_shards(_write_shard, builder, missing, engine))
    for _ in track(written, title, size, size=int, done=size - left):
        pass


def _write_shard(builder: Builder, shard: Shard) -> int:
    """Write one shard; its Parquet file comes last, and says that the shard is whole."""
    file, numbers, forms = shard
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
