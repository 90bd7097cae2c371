"""Recommend: the model or a baseline of a finished run answers a person, or everybody at once."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import recinject
from recinject.engines import Engine, EngineName, map_shards
from recinject.evaluation.evaluate import EvaluationSettings, fit_recommenders
from recinject.evaluation.fitting import fit_baselines
from recinject.evaluation.fusion import Fusion
from recinject.foundation.errors import RecinjectError, pick
from recinject.foundation.progress import say, track
from recinject.foundation.storage import MANIFEST_NAME, hash_value
from recinject.foundation.stores import Store, is_url
from recinject.pipeline.evaluate import model_of
from recinject.pipeline.run import Run
from recinject.recommenders.protocol import Recommender, make_recommender

Person = Mapping[str, Any]
"""Somebody to recommend to: ``user_id`` of the log, or ``liked``, titles or ids, oldest first."""
PEOPLE_PER_SHARD = 1000
_HERE = Engine()
_SCORE_DIGITS = 6  # what double precision leaves the same, whatever the batch


def recommender_of(
    run: Run, name: str | None = None, *, batch_size: int | None = None, exact: bool = False
) -> Recommender:
    """Return a finished run's model, or the baseline of a name, which is fitted now.

    Args:
        run: whose evaluation need not be there.
        name: of a baseline, such as ``ease``; the model if not given.
        batch_size: how many prompts the model searches together; the recipe's if not given.
        exact: whether the model decodes in double precision, so that its answers do not depend on
            ``batch_size``; slower, by half on a CPU and by far on most GPUs.
    """
    if name is not None and name != "language_model":
        every = [make_recommender(asked) for asked in run.recipe.evaluation.baselines]
        made = next((each for each in every if each.name == name), None) or make_recommender(name)
        if not isinstance(made, Fusion):
            return fit_recommenders([made], run.data, run.recipe.seed)[0]
        model, settings = model_of(run, batch_size), EvaluationSettings(seed=run.recipe.seed)
        asked = [model.exactly() if exact else model] if model else []
        return fit_baselines([made], run.data, run.samples, settings, asked)[0][0]
    if run.recipe.training is None or not (run.folder("model") / MANIFEST_NAME).is_file():
        raise RecinjectError(
            f"{run.recipe.folder}: no trained model in it",
            hint="finish the run with recinject run RECIPE, its training not null; or ask a "
            "baseline with --recommender ease",
        )
    if not any(task.answer == "retrieval" for task in run.samples.bound_tasks()):
        raise RecinjectError(
            f"{run.recipe.folder}: its model was never asked what comes next: it lacks the task "
            "retrieval",
            hint="run it again with samples.tasks.retrieval={}",
        )
    model = model_of(run, batch_size)
    assert model is not None
    return model.exactly() if exact else model


def fingerprint_of(run: Run, *, exact: bool = False) -> str:
    """Return a hash of what a run's recommenders are made of, and of how they compute."""
    stages = ("data", "identifiers", "samples", "model")
    made = [stage for stage in stages if (run.folder(stage) / MANIFEST_NAME).is_file()]
    return hash_value([run.fingerprints(*made), exact])


def engine_of(run: Run, name: str | None = None, workers: int | None = None) -> Engine:
    """Return where a run's recommenders are asked: by a name and a number, or by its recipe."""
    own = run.recipe.evaluation
    named: Any = pick(name or run.recipe.engine, get_args(EngineName), "--engine: there is no")
    return Engine(named, workers or own.workers, own.gpus)


def recommend(
    recommender: Recommender,
    people: Sequence[Person],
    k: int,
    *,
    explain: bool = False,
    **filters: Any,
) -> list[list[dict[str, Any]]]:
    """Return the recommended items of each person, best first, as plain rows.

    Where fewer than ``k`` items are left beside a history, that is said.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in people]
    records: Any = _lists(recommender, people, k, explain, filters).to_dict("records")
    for row in records:
        found[int(row["query"])].append({str(n): v for n, v in row.items() if n != "query"})
    for query, listed in enumerate(found):
        if len(listed) < k:
            say(f"list {query + 1}: {len(listed)} items, for no more are left beside the history")
        for row in listed:
            if "why" in row:
                row["why"] = [{"text": text, "value": value} for text, value in row["why"]]
    return found


def _lists(
    recommender: Recommender,
    people: Sequence[Person],
    k: int,
    explain: bool,
    filters: Mapping[str, Any],
) -> pd.DataFrame:
    """Return a row an item, with the position of its person as ``query``."""
    if not people or "liked" in people[0]:
        histories = [person["liked"] for person in people]
        return recommender.recommend(histories, k, explain=explain, **filters)
    users = [person["user_id"] for person in people]
    frame = recommender.recommend(k=k, users=users, explain=explain, **filters)
    starts = (frame["rank"] == 1).to_numpy()
    known = {user: number for number, user in enumerate(users)}
    numbers = [known[user] for user in frame["user_id"][starts]]
    frame["query"] = pd.Series(numbers, index=frame.index[starts]).reindex(frame.index).ffill()
    return frame.drop(columns="user_id")


def recommend_all(
    recommender: Recommender,
    people: Sequence[Person],
    output: str | Path,
    k: int = 10,
    *,
    explain: bool = False,
    fingerprint: str = "",
    engine: Engine = _HERE,
    **filters: Any,
) -> Path | str:
    """Write the lists of many people into one file, shard by shard.

    Interrupted, the same call goes on at its first missing shard. A shard is 1,000 people whatever
    the batch size, and scores are rounded to six digits, so that the bytes depend on what is asked
    alone where the recommender's scores do, see :func:`recommender_of`.

    Args:
        recommender: fitted, with data.
        people: different users of the log, or persons with histories, all of them of one kind.
        output: ``.parquet`` has a row an item, with its person's ``user_id``, or position as
            ``query``; ``.jsonl`` a line a person, with their items under ``recommended``. A URL,
            such as ``s3://bucket/lists.parquet``, becomes a folder: a file a shard, and last
            ``manifest.json``, which names them in their order.
        k: items a list.
        explain: whether to say why, see :meth:`~recinject.Recommender.explain`.
        fingerprint: of what the recommender was made of; shards of another one are made again.
        engine: whose workers, each with a recommender of its own, share the shards.
        filters: see :class:`~recinject.recommenders.filters.Filters`.

    Raises:
        RecinjectError: the file's form is unknown, or the recommender refuses a person.
    """
    suffix, stem = Path(str(output)).suffix, Path(str(output)).stem
    if suffix not in (".parquet", ".jsonl"):
        raise RecinjectError(
            f"{output}: lists are written as .parquet or .jsonl", hint=f"name it {stem}.parquet"
        )
    asked = [recinject.__version__, recommender.name, fingerprint, k, explain, filters, people]
    held = recommender, k, explain, filters
    if is_url(output):
        _recommend_to_store(held, people, Store(str(output)), hash_value(asked), engine)
        return output
    file = Path(output).absolute()
    parts = file.with_name(f".{file.name}.{hash_value(asked)}.partial")
    for left in file.parent.glob(f".{file.name}.*.partial"):
        if left != parts:  # of other questions, never finished
            shutil.rmtree(left, ignore_errors=True)
    parts.mkdir(parents=True, exist_ok=True)
    starts = range(0, max(1, len(people)), PEOPLE_PER_SHARD)
    shards = {parts / f"{start:09d}{file.suffix}": start for start in starts}
    missing = [path for path in shards if not path.exists()]
    blocks = {path: people[start : start + PEOPLE_PER_SHARD] for path, start in shards.items()}
    done = len(people) - sum(len(blocks[path]) for path in missing)
    if done:
        say(f"going on after {done:,} people, whose lists lie in {parts}")
    jobs = [(path, blocks[path]) for path in missing]
    _run_shards(_recommend_shard, held, jobs, engine, (len(people), done))
    _join(list(shards), file)
    shutil.rmtree(parts)
    return file


_Held = tuple[Recommender, int, bool, Mapping[str, Any]]


def _run_shards(
    work: Callable[[Any, Any], int],
    held: _Held,
    jobs: Sequence[Any],
    engine: Engine,
    sizes: tuple[int, int],
) -> None:
    """Work on shards, and show how many of all people are done, some of them before."""
    written = (found for _, found in map_shards(work, held, jobs, engine))
    for _ in track(written, f"Recommending: {held[0].name}", sizes[0], int, sizes[1]):
        pass


def _recommend_to_store(
    held: _Held, people: Sequence[Person], store: Store, key: str, engine: Engine
) -> None:
    """Upload a file a shard, then the manifest; shards of the same question stay as they are."""
    suffix, starts = Path(store.url).suffix, range(0, max(1, len(people)), PEOPLE_PER_SHARD)
    shards = {f"{start:09d}-{key}{suffix}": start for start in starts}
    there = store.names()
    jobs = [
        (store, name, start, people[start : start + PEOPLE_PER_SHARD])
        for name, start in shards.items()
        if name not in there
    ]
    if jobs:
        store.remove(MANIFEST_NAME)
    done = len(people) - sum(len(block) for *_, block in jobs)
    _run_shards(_recommend_to, held, jobs, engine, (len(people), done))
    for name in there - shards.keys():  # of another question
        store.remove(name)
    store.write(MANIFEST_NAME, json.dumps({"people": len(people), "files": list(shards)}).encode())


def _recommend_to(held: _Held, job: tuple[Store, str, int, Sequence[Person]]) -> int:
    store, name, start, people = job
    with TemporaryDirectory(prefix="recinject-") as scratch:
        file = Path(scratch) / name
        recommender, k, explain, filters = held
        _write_shard(file, people, _lists(recommender, people, k, explain, filters), start)
        store.write(name, file.read_bytes())
    return len(people)


def _recommend_shard(held: _Held, job: tuple[Path, Sequence[Person]]) -> int:
    recommender, k, explain, filters = held
    path, people = job
    _write_shard(path, people, _lists(recommender, people, k, explain, filters))
    return len(people)


def _write_shard(path: Path, people: Sequence[Person], frame: pd.DataFrame, first: int = 0) -> None:
    """Write one shard, whole or not at all; its people are numbered from ``first``."""
    temporary = path.with_suffix(".writing")
    frame["score"] = frame["score"].round(_SCORE_DIGITS)
    numbers = frame.pop("query").astype(int).tolist()
    if path.suffix == ".parquet":
        pq.write_table(_table(people, numbers, frame, first), temporary, compression="zstd")
    else:
        lists: list[list[dict[str, Any]]] = [[] for _ in people]
        for number, row in zip(numbers, frame.to_dict("records"), strict=True):
            if "why" in row:
                row["why"] = _reasons(row["why"])
            lists[number].append({str(name): value for name, value in row.items()})
        rows = [{**own, "recommended": found} for own, found in zip(people, lists, strict=True)]
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(path)


def _reasons(why: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"text": text, "value": round(value, _SCORE_DIGITS)} for text, value in why]


def _table(
    people: Sequence[Person], numbers: Sequence[int], frame: pd.DataFrame, first: int
) -> pa.Table:
    columns: dict[str, Any] = {"query": pa.array([first + n for n in numbers], pa.int64())}
    if people and "user_id" in people[0]:
        columns = {"user_id": pa.array([people[n]["user_id"] for n in numbers], pa.string())}
    types = {"rank": pa.int32(), "item_id": pa.string(), "title": pa.string()}
    for name, kind in {**types, "score": pa.float64()}.items():
        columns[name] = pa.array(frame[name].tolist(), kind)
    if "why" in frame:
        kind = pa.list_(pa.struct({"text": pa.string(), "value": pa.float64()}))
        columns["why"] = pa.array([_reasons(why) for why in frame["why"]], kind)
    return pa.table(columns)


def _join(shards: Sequence[Path], file: Path) -> None:
    """Make one file of all shards, one after another."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    if file.suffix == ".parquet":
        with pq.ParquetWriter(temporary, pq.read_schema(shards[0]), compression="zstd") as out:
            for number, path in enumerate(shards):
                table = pq.read_table(path)
                if "query" in table.column_names:
                    shift = pa.array([number * PEOPLE_PER_SHARD], pa.int64())[0]
                    moved = pc.add(table["query"], shift)
                    table = table.set_column(0, "query", moved)
                out.write_table(table)
    else:
        with temporary.open("wb") as sink:
            for path in shards:
                sink.write(path.read_bytes())
    temporary.replace(file)


def read_people(
    run: Run,
    *,
    everybody: bool = False,
    users: Path | None = None,
    questions: Path | None = None,
    liked: Sequence[str] | None = None,
) -> tuple[list[Person], list[str]]:
    """Read whom to recommend to: everybody, users by id, JSON lines, or one history.

    Args:
        run: whose users everybody are.
        everybody: all users of the log, as cleaning left it.
        users: a file with the id of a user a line.
        questions: see :func:`read_questions`.
        liked: one history of titles or ids, oldest first.

    Returns:
        The people, and what is wrong with the lines of a file that name nobody.

    Raises:
        RecinjectError: none or several of them are given, a file cannot be read, or no line of it
            names anybody.
    """
    ways = {"--all": everybody, "--users": users, "--input": questions, "--liked": liked}
    given = [name for name, value in ways.items() if value]
    if len(given) != 1:
        names = " and ".join(given)
        raise RecinjectError(
            f"recommend: {f'both {names}' if given else 'nobody is named'}",
            hint='say for whom by one of --liked "Title", --all, --users FILE, --input FILE',
        )
    if everybody:
        return [{"user_id": str(user)} for user in run.data.split.interactions.user_ids], []
    if users is not None:
        return [{"user_id": line} for line in dict.fromkeys(read_lines(users))], []
    if questions is None:
        return [{"liked": list(liked or ())}], []
    return read_questions(questions, run.data.find_items)


def read_lines(source: Path) -> list[str]:
    """Read the lines of a text file that are not blank, or of standard input where it is ``-``."""
    lines = _read_text(source).split("\n")  # a title may hold U+2028
    return [line.strip() for line in lines if line.strip()]


def _read_text(source: Path) -> str:
    try:
        return sys.stdin.read() if str(source) == "-" else source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "give a text file that you may read, or -"
        raise RecinjectError(f"{source}: cannot be read ({error})", hint=hint) from error


def read_questions(
    source: Path, find: Callable[[list[str]], object]
) -> tuple[list[Person], list[str]]:
    """Read JSON lines, each with a list of titles or ids under ``liked``; other keys are kept.

    The ``source`` ``-`` is standard input. ``find`` raises an error for titles that no item has.

    Returns:
        What the good lines hold, and what is wrong with each of the others.

    Raises:
        RecinjectError: the file cannot be read, or has no good line.
    """
    people, wrong = list[Person](), list[RecinjectError]()
    for number, line in enumerate(_read_text(source).split("\n"), 1):  # a title may hold U+2028
        if not line.strip():
            continue
        try:
            row = _question(line)
            find(row["liked"])
        except RecinjectError as error:
            place = f"{source}, line {number}: {error.message}"
            wrong.append(RecinjectError(place, hint=error.hint))
        else:
            people.append(row)
    if wrong and not people:
        raise wrong[0]
    return people, list(map(str, wrong))


def _question(line: str) -> dict[str, Any]:
    try:
        row: Any = json.loads(line)
        fact = "no list of titles or ids under 'liked'"
    except (ValueError, RecursionError) as error:  # such as a number of thousands of digits
        row, fact = None, f"not JSON: {error}"
    if isinstance(row, dict):
        liked = row.get("liked")
        if isinstance(liked, list) and liked and all(isinstance(text, str) for text in liked):
            return row
    hint = 'write one object a line: {"liked": ["Title", "Other title"]}'
    raise RecinjectError(fact, hint=hint)
