"""Counts and times of the service, as Prometheus reads them."""

from __future__ import annotations

import json
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What the service counts; safe to use from several threads.

    Examples:
        >>> metrics = Metrics({})
        >>> metrics.request("/v1/rank", 200, 0.02)
        >>> print(metrics.text().splitlines()[1])
        recinject_requests_total{path="/v1/rank",status="200"} 1
    """

    def __init__(self, gauges: Mapping[str, Callable[[], Mapping[str, float]]]) -> None:
        self._lock = threading.Lock()
        self._counts = defaultdict[Labels, int](int)
        self._seconds = defaultdict[Labels, list[float]](lambda: [0.0] * (len(_SECONDS) + 2))
        self._sizes = defaultdict[Labels, list[float]](lambda: [0.0] * (len(_SIZES) + 2))
        self._gauges = gauges

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        with self._lock:
            self._counts[("path", path), ("status", str(status))] += 1
            _observe(self._seconds[(("path", path),)], _SECONDS, seconds)

    def batch(self, name: str, size: int) -> None:
        """Count a batch of requests that were answered together."""
        with self._lock:
            _observe(self._sizes[(("recommender", name),)], _SIZES, size)

    def text(self) -> str:
        """Return everything in the exposition format of Prometheus."""
        lines = ["# TYPE recinject_requests_total counter"]
        with self._lock:
            for labels, count in sorted(self._counts.items()):
                lines.append(f"recinject_requests_total{_labels(labels)} {count}")
            for name, bounds, table in (
                ("recinject_request_seconds", _SECONDS, self._seconds),
                ("recinject_batch_size", _SIZES, self._sizes),
            ):
                lines.append(f"# TYPE {name} histogram")
                for labels, row in sorted(table.items()):
                    lines += _histogram(name, bounds, labels, row)
        for name, read in self._gauges.items():
            lines.append(f"# TYPE {name} gauge")
            for own, value in read().items():
                lines.append(f"{name}{_labels((('recommender', own),))} {value:g}")
        return "\n".join(lines) + "\n"


def _observe(row: list[float], bounds: tuple[float, ...], value: float) -> None:
    """Count a value in its bucket, and add it to the sum, which stands last."""
    row[bisect_left(bounds, value)] += 1
    row[-1] += value


def _histogram(name: str, bounds: tuple[float, ...], labels: Labels, row: list[float]) -> list[str]:
    lines, total = [], 0.0
    for bound, count in zip([*map(str, bounds), "+Inf"], row[:-1], strict=True):
        total += count
        lines.append(f"{name}_bucket{_labels((*labels, ('le', bound)))} {total:g}")
    lines.append(f"{name}_sum{_labels(labels)} {row[-1]:g}")
    lines.append(f"{name}_count{_labels(labels)} {total:g}")
    return lines


def _labels(labels: Labels) -> str:
    pairs = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels)
    return "{" + ",".join(pairs) + "}"
