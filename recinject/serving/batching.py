"""Requests that come together are answered together."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from recinject.foundation.errors import RecinjectError

Answer = Callable[[Any, Sequence[Any]], Sequence[Any]]


class QueueFullError(Exception):
    """As many requests wait as may."""


@dataclass(frozen=True)
class _Job:
    key: Hashable  # jobs with equal keys are answered by one call
    question: Any
    future: Future[Any] = field(default_factory=Future)


class Batcher:
    """A queue before one recommender, and the one thread that asks it.

    While a batch is answered, requests queue up, and the next batch takes all of them that fit.
    Every job that was taken in is answered, also while the service stops.

    Args:
        answer: gets a key and the questions of all jobs that have it; returns as many answers.
        most: how many jobs a batch has at most; 1 answers them one by one.
        wait: how many seconds the first job of a batch waits for others.
        room: how many jobs may wait.
        observe: is told the size of every batch.

    Examples:
        >>> doubler = Batcher(lambda key, numbers: [key * number for number in numbers])
        >>> doubler.ask(2, 21).result()
        42
        >>> doubler.close()
    """

    def __init__(
        self,
        answer: Answer,
        most: int = 32,
        wait: float = 0.002,
        room: int = 256,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._answer, self._most, self._wait, self._observe = answer, most, wait, observe
        self._jobs: queue.Queue[_Job | None] = queue.Queue(room)
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="recinject-batcher", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return self._jobs.qsize()

    def ask(self, key: Hashable, question: Any) -> Future[Any]:
        """Put a question into the queue.

        Raises:
            QueueFullError: there is no room in it, or it is closed.
        """
        job = _Job(key, question)
        with self._lock:
            if self._closed:
                raise QueueFullError
            try:
                self._jobs.put_nowait(job)
            except queue.Full as error:
                raise QueueFullError from error
        return job.future

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._lock:
            self._closed = True
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            jobs, ended = self._take()
            groups = defaultdict[Hashable, list[_Job]](list)
            for job in jobs:
                if job.future.set_running_or_notify_cancel():  # nobody waits for it any more
                    groups[job.key].append(job)
            for key, group in groups.items():
                self._observe(len(group))
                self._settle(key, group)
            if ended:
                return

    def _take(self) -> tuple[list[_Job], bool]:
        """Wait for a job, and take those that come with it; also say whether that is the end."""
        first = self._jobs.get()
        if first is None:
            return [], True
        jobs, until = [first], time.monotonic() + self._wait
        while len(jobs) < self._most:
            left = until - time.monotonic()
            try:
                job = self._jobs.get(timeout=left) if left > 0 else self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _settle(self, key: Hashable, group: Sequence[_Job]) -> None:
        try:
            answers = list(self._answer(key, [job.question for job in group]))
            pairs = list(zip(group, answers, strict=True))
        except Exception as error:
            if len(group) > 1 and isinstance(error, RecinjectError):
                for job in group:  # one of them is at fault, and the others are not
                    self._settle(key, [job])
                return
            for job in group:
                job.future.set_exception(error)
            return
        for job, answer in pairs:
            job.future.set_result(answer)
