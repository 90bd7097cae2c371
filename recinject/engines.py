"""One function that maps work over shards: here, in processes of this machine, or on Ray."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Literal, TypeVar

from recinject.foundation.errors import RecinjectError, StoppedError
from recinject.registry import load_plugin, plugins

Held = TypeVar("Held")
Job = TypeVar("Job")
Found = TypeVar("Found")
EngineName = Literal["local", "ray"]
_RETRIES = 3


@dataclass(frozen=True)
class Engine:
    """Where shards are worked on.

    Attributes:
        name: ``local`` for this machine, or ``ray`` for the cluster at ``RAY_ADDRESS``; without
            that address Ray starts on this machine. All workers see the same file system.
        workers: how many shards are worked on at once, each by a process with one CPU.
        gpus: how many GPUs each worker on Ray has, or which fraction of one.
    """

    name: EngineName = "local"
    workers: int = 1
    gpus: float = 0.0


def map_shards(
    work: Callable[[Held, Job], Found], held: Held, jobs: Sequence[Job], engine: Engine
) -> Iterator[tuple[Job, Found]]:
    """Yield each job with ``work(held, job)``, in the order in which they are done.

    Each worker process receives ``held``, a builder or a model, once for all of its jobs. No more
    jobs are started than there are workers. Ray does the job of a lost worker again, on another
    one, three times at most; so ``work`` must be a function of its arguments, and write whole files
    or none.

    Raises:
        StoppedError: a worker process of this machine died; what is done stays.
        RecinjectError: Ray is not installed, or its workers die of one job again and again.
    """
    if engine.name == "ray":
        yield from _on_ray(work, held, jobs, engine)
    elif engine.workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, work(held, job)
    else:
        yield from _in_processes(work, held, jobs, engine.workers)


_held: dict[Any, Any] = {}  # what this worker process holds, by what it is known by


def _in_processes(
    work: Callable[[Held, Job], Found], held: Held, jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, Found]]:
    start = _start_worker, (plugins(), pickle.dumps(held))
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), *start) as pool:
        asked = {pool.submit(_in_process, work, job): job for job in jobs}
        try:
            for done in as_completed(asked):
                yield asked[done], done.result()
        except BrokenProcessPool as error:
            # They are taken in their order: the first that have no result were worked on.
            torn = [job for future, job in asked.items() if future.exception()][:workers]
            named = (str(job[0] if isinstance(job, tuple) else job) for job in torn)
            raise StoppedError(
                f"a worker died while {' and '.join(named)} were written",
                hint="the same command goes on with what is missing; take fewer workers if the "
                "memory was full",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(files: Sequence[Path], held: bytes) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    # A task of a plug-in can be unpickled where the plug-in is loaded.
    for file in files:
        load_plugin(file)
    _held[None] = pickle.loads(held)


def _end_with_parent() -> None:
    """End this worker where the process that started it was killed: nobody would tell it."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _in_process(work: Callable[[Any, Job], Found], job: Job) -> Found:
    return work(_held[None], job)


def _on_ray(
    work: Callable[[Held, Job], Found], held: Held, jobs: Sequence[Job], engine: Engine
) -> Iterator[tuple[Job, Found]]:
    ray = _connected(engine)
    # Ray's processes serve one task after another, and so hold a model as an actor would.
    options = {"num_gpus": engine.gpus, "max_retries": _RETRIES, "max_calls": 0}
    remote = ray.remote(**options)(_in_ray_process)
    kept, files = ray.put(held), plugins()
    waiting, running = iter(jobs), dict[Any, Job]()
    try:
        while True:
            for job in islice(waiting, engine.workers - len(running)):
                running[remote.remote(work, [kept], files, job)] = job
            if not running:
                return
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            found = _result(ray, done)
            yield running.pop(done), found
    finally:
        for left in running:
            with suppress(Exception):  # it may have ended just now
                ray.cancel(left, force=True)


def _in_ray_process(
    work: Callable[[Any, Job], Found], kept: list[Any], files: Sequence[Path], job: Job
) -> Found:
    import ray

    (reference,) = kept  # in a list, or Ray would unpack it for every job anew
    if reference not in _held:
        _held.clear()
        for file in files:
            load_plugin(file)
        _held[reference] = ray.get(reference)
    return work(_held[reference], job)


def _connected(engine: Engine) -> Any:
    """Return Ray, connected to the cluster at ``RAY_ADDRESS``, or started on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to strangers
    try:
        import ray
    except ModuleNotFoundError as error:
        hint = "pip install 'recinject[ray]', or set engine=local"
        raise RecinjectError("engine: ray is not installed", hint=hint) from error
    if not ray.is_initialized():
        here: dict[str, Any] = {"address": "local", "include_dashboard": False}
        here |= {"num_cpus": engine.workers, "log_to_driver": False, "logging_level": "warning"}
        try:
            ray.init(**({} if os.environ.get("RAY_ADDRESS") else here))
        except Exception as error:  # Ray raises plain ones, too
            fact = f"engine: ray: the cluster cannot be reached or started ({error})"
            raise RecinjectError(fact, hint="mend RAY_ADDRESS, or leave it unset") from error
    if engine.gpus > ray.cluster_resources().get("GPU", 0):
        fact = f"engine: ray: each worker should have {engine.gpus:g} GPUs: the cluster has fewer"
        raise RecinjectError(fact, hint="set evaluation.gpus=0, or start Ray where GPUs are")
    return ray


def _result(ray: Any, done: Any) -> Any:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise RecinjectError(
            f"engine: ray: workers died of one shard {_RETRIES + 1} times ({type(error).__name__})",
            hint="give each more memory, or start fewer workers; the same command goes on",
        ) from error
