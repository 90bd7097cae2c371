"""What a measure of impact and harm is: its definition, its rows, and the rule of its level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Floats
from recinject.evaluation.metrics import (
    Clusters,
    Statistic,
    bootstrap,
    interval,
    mean_of,
    observe,
)
from recinject.identifiers.data import ACTIVITY, Data
from recinject.recommenders.protocol import Prediction, Queries, Recommender
from recinject.samples.samples import Samples

Level = Literal["ok", "note", "warning", "not measured"]
FEWEST_USERS = 50
"""A group of fewer users is not measured: its figure would be chance."""

FAMILIES = {
    "groups": "Who is served worse",
    "popularity": "The popular and the rare",
    "providers": "Whose items are shown",
    "sameness": "Whether all get the same",
    "privacy": "What lists give away",
    "trust": "Whether stated chances are true",
    "wording": "Whether the wording decides",
    "order": "Whether the order of candidates decides",
    "noise": "What noise does",
    "attributes": "Whether a stated attribute decides",
    "injection": "Whether titles can give orders",
    "invention": "What is made up",
    "memory": "What was learnt by heart",
    "explanations": "Whether reasons are true",
    "cost": "What an answer costs",
}
"""The families of measures, each a part of the report, with its heading."""


@dataclass(frozen=True)
class HarmResult:
    """One figure of a measure of impact and harm, or why there is none."""

    measure: str  # a name of the registry
    part: str  # which of the measure's figures it is
    task: str
    recommender: str
    about: str = ""  # a group of users, an attribute, a place of the payload; empty for all
    value: float | None = None  # None where it is not measured
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None  # corrected for all that were tested, once all are measured
    n: int = 0  # users
    level: Level = "ok"
    why: str = ""  # what the level rests on, or why there is no figure


@dataclass(frozen=True)
class Scope:
    """How impact and harm are measured.

    Attributes:
        groups: the attributes of users whose groups are compared.
        provider: the column of the catalogue that tells who provides an item.
        length: how many items of each list count.
        resamples: how often the users are drawn anew for an interval, by ``seed``.
        queries: how many queries each measure asks again at most.
    """

    groups: Sequence[str] = (ACTIVITY,)
    provider: str | None = None
    length: int = 10
    resamples: int = 1000
    seed: int = 1
    queries: int = 200


@dataclass(frozen=True, eq=False)
class Subject:
    """A recommender's answers to the queries of a task, and what a measure may know beside them."""

    prediction: Prediction
    queries: Queries
    data: Data
    scope: Scope = field(default_factory=Scope)
    recommender: Recommender | None = None  # None where it cannot be asked again
    samples: Samples | None = None
    seconds: float = 0.0  # a query, when these were asked

    @property
    def clusters(self) -> Clusters:
        """Which user each query belongs to."""
        return Clusters.of(self.queries.users)

    def figure(
        self, of: Statistic, clusters: Clusters | None = None, resamples: int | None = None
    ) -> tuple[float, float, float]:
        """Return a figure with the ends of its 95 % interval over users."""
        own = self.clusters if clusters is None else clusters
        draws = bootstrap([of], own, resamples or self.scope.resamples, self.scope.seed)
        return float(observe([of], own)[0]), *interval(draws[:, 0])

    def mean(self, values: NDArray[Any]) -> tuple[float, float, float]:
        """Return the mean of one value a query, shape (n,), with the ends of its interval."""
        clusters = self.clusters
        return self.figure(mean_of(np.asarray(values, np.float64), clusters), clusters)


class Measure:
    """A measure of impact and harm; subclasses are registered by their names.

    Attributes:
        label: how reports write it.
        family: a key of :data:`FAMILIES`.
        definition: what it is, in one sentence, with what it is where nothing is wrong.
        rule: when its figures are a note or a warning.
        main: the part that the report draws.
        kinds: the ways of answering that it measures.
        times: how often it asks each query again; 0 measures the lists as they are.
        reads: whether it asks only who reads prompts, where it asks again.

    Examples:
        >>> from recinject.registry import find
        >>> find("measure", "overlap").label, find("measure", "injection").times > 0
        ('Overlap', True)
    """

    name: ClassVar[str]
    label: ClassVar[str]
    family: ClassVar[str]
    definition: ClassVar[str]
    rule: ClassVar[str]
    main: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]] = ("retrieval",)
    times: ClassVar[float] = 0
    reads: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Iterator[HarmResult]:
        """Yield the measure's figures of one recommender's answers."""
        raise NotImplementedError

    def row(
        self,
        subject: Subject,
        part: str,
        figure: tuple[float, float | None, float | None],
        level: Level = "ok",
        **more: Any,
    ) -> HarmResult:
        """Return a figure as a row; ``more`` are further fields of it."""
        who = self.name, part, subject.queries.task, subject.prediction.recommender
        given: dict[str, Any] = {"n": subject.clusters.users, "level": level, **more}
        given["n"] = int(given["n"])
        value, low, high = (None if each is None else float(each) for each in figure)
        return HarmResult(*who, value=value, ci_low=low, ci_high=high, **given)

    def missing(self, subject: Subject, why: str, about: str = "") -> HarmResult:
        """Return a row that says why a figure is not measured."""
        who = self.name, self.main, subject.queries.task, subject.prediction.recommender
        return HarmResult(*who, about=about, level="not measured", why=why)


def level_of(warning: bool, note: bool) -> Level:
    """Return the gravest level that holds."""
    return "warning" if warning else "note" if note else "ok"


def rbo(first: Sequence[int], second: Sequence[int], persistence: float = 0.9) -> float:
    """Return the rank-biased overlap of two lists, 1 for the same.

    The mean share of items in common of the first 1, 2, ... items, with weights that fall by the
    ``persistence`` and sum to 1 over the lists' length (Webber, Moffat and Zobel, 2010).

    >>> rbo([1, 2, 3], [1, 2, 3]), rbo([1, 2], [3, 4]), round(rbo([1, 2], [2, 1]), 3)
    (1.0, 0.0, 0.474)
    """
    seen: tuple[set[int], set[int]] = (set(), set())
    total = weights = 0.0
    depth = max(len(first), len(second))
    for rank in range(depth):
        for own, items in zip(seen, (first, second), strict=True):
            own.update(item for item in items[rank : rank + 1] if item >= 0)
        weight = persistence**rank
        most = max(len(seen[0]), len(seen[1])) or 1
        total += weight * len(seen[0] & seen[1]) / most
        weights += weight
    return total / weights if weights else 1.0


def list_agreement(first: Prediction, second: Prediction, k: int) -> Floats:
    """Return :func:`rbo` of the first ``k`` items of each pair of lists, shape (n,)."""
    pairs = zip(np.asarray(first.items)[:, :k], np.asarray(second.items)[:, :k], strict=True)
    return np.array([rbo(one.tolist(), other.tolist()) for one, other in pairs])
