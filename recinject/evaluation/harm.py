"""Impact and harm: which measures there are, and what they find of everybody who answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter

import numpy as np

import recinject.evaluation.fairness
import recinject.evaluation.robustness  # noqa: F401 (each registers its measures)
from recinject.evaluation.measures import (
    FAMILIES,
    HarmResult,
    Measure,
    Scope,
    Subject,
    level_of,
)
from recinject.evaluation.memory import Cost
from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import holm
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.foundation.randomness import derive_rng
from recinject.identifiers.data import Data
from recinject.recommenders.protocol import Prediction, Queries, Recommender
from recinject.registry import find, names, pick
from recinject.samples.samples import Samples

EVERYTHING = "all"


def asked_measures(asked: Sequence[str]) -> list[str]:
    """Return the measures that ask again, of names of theirs, of families, or ``all``.

    Raises:
        RecinjectError: nothing has one of the names.

    Examples:
        >>> asked_measures(["order", "memory"])[:2]
        ['order', 'memorisation']
    """
    known = {name: find("measure", name) for name in names("measure")}
    again = {name: each.family for name, each in known.items() if each.times}
    found: list[str] = []
    for name in asked:
        pick(name, [*again, *again.values(), EVERYTHING], "evaluation.harm: no measure is called")
        own = [each for each, family in again.items() if name in (each, family, EVERYTHING)]
        found += [name] if name in again else own
    return list(dict.fromkeys(found))


def check_scope(scope: Scope, asked: Sequence[str], data: Data) -> None:
    """Refuse attributes, a provider or measures that there are not.

    Raises:
        RecinjectError: one is unknown; the message names what there is.
    """
    asked_measures(asked)
    data.refuse_unknown(scope.groups, scope.provider)


@dataclass(frozen=True, eq=False)
class Harm:
    """Measures everybody who answered: from lists alone, and, where it is asked for, again."""

    data: Data
    samples: Samples
    scope: Scope
    asked: Sequence[str] = ()  # see :func:`asked_measures`

    @cached_property
    def _all(self) -> list[Measure]:
        return [find("measure", name)() for name in names("measure")]

    @property
    def _again(self) -> list[Measure]:
        asked = asked_measures(self.asked)
        return [each for each in self._all if each.name in asked]

    @cached_property
    def _samples(self) -> Samples:
        own = self.samples
        return own if own.data is not None else replace(own, data=self.data)

    def of_lists(self, predictions: Sequence[Prediction], queries: Queries) -> Iterator[HarmResult]:
        """Measure answers as they are."""
        for prediction in predictions if len(queries) else ():
            subject = Subject(prediction, queries, self.data, self.scope)
            for each in self._all:
                if not each.times and queries.kind in each.kinds:
                    yield from each.measure(subject)

    def of_asking(
        self, recommenders: dict[str, Recommender], queries: Queries, k: int
    ) -> Iterator[HarmResult]:
        """Ask recommenders again, those that read prompts; say before how long it takes."""
        measures = [each for each in self._again if queries.kind in each.kinds]
        if not measures or not len(queries):
            return
        rng = derive_rng(self.scope.seed, "harm", "queries")
        count = min(self.scope.queries, len(queries))
        own = queries.take(np.sort(rng.choice(len(queries), count, replace=False)))
        subjects = [self._asked(name, each, own, k) for name, each in recommenders.items()]
        asked = [(each, s) for s in subjects for each in measures if _can(each, s)]
        total = sum(each.times * s.seconds * len(own) for each, s in asked)
        say(f"  impact and harm of {queries.task}: about {total:,.0f} s of asking again")
        started = perf_counter()
        for subject in subjects:
            for each in measures:
                if not _can(each, subject):
                    yield each.missing(subject, "it reads no prompts")
                    continue
                try:
                    yield from list(each.measure(subject))
                except RecinjectError as error:
                    yield each.missing(subject, error.message)
        say(f"  it took {perf_counter() - started:,.0f} s")

    def _asked(self, name: str, recommender: Recommender, queries: Queries, k: int) -> Subject:
        started = perf_counter()
        found = replace(recommender.predict(queries, k), recommender=name)
        seconds = (perf_counter() - started) / len(queries)
        more = self.scope, recommender, self._samples, seconds
        return Subject(found, queries, self.data, *more)


def _can(measure: Measure, subject: Subject) -> bool:
    recommender = subject.recommender
    return recommender is not None and (recommender.reads_prompts or not measure.reads)


def corrected(rows: Sequence[HarmResult]) -> list[HarmResult]:
    """Correct the p-values of rows for how many there are (Holm), and lower levels accordingly.

    A level that rests on a p-value is a note below .05 and a warning below .01; ``why`` keeps the
    p-value of the test alone.
    """
    tested = [place for place, row in enumerate(rows) if row.p_value is not None]
    found, given = list(rows), [rows[place].p_value or 0.0 for place in tested]
    for place, alone, p in zip(tested, given, holm(given), strict=True):
        row = rows[place]
        level = level_of(row.level == "warning" and p < 0.01, row.level != "ok" and p < 0.05)
        why = f"{row.why}; p {alone:.2g} alone, of {len(tested)} tests"
        found[place] = replace(row, p_value=p, level=level, why=why)
    return found


def cost_of_gain(
    rows: Sequence[HarmResult], metrics: Sequence[MetricResult], filters: Sequence[str]
) -> list[HarmResult]:
    """Relate the seconds that an answer takes to what is gained over the best of some filters.

    ``rows`` and ``metrics`` are of one task. Nothing is returned where no NDCG or no seconds were
    measured, or where there is nobody but filters.
    """
    named = [row.metric for row in metrics if row.metric.startswith("ndcg@")]
    values = {row.recommender: row.value for row in metrics if named and row.metric == named[-1]}
    known = [name for name in filters if name in values]
    found = list[HarmResult]()
    for row in rows:
        own = values.get(row.recommender)
        if row.part != Cost.main or row.value is None or row.recommender in filters:
            continue
        if own is None or not known:
            continue
        best = max(known, key=values.__getitem__)
        gain, part = own - values[best], "seconds for .01 NDCG gained"
        if gain > 0:
            why = f"over the best filter, {best}"
            found.append(replace(row, part=part, value=row.value / gain / 100, why=why))
        else:
            why = f"nothing is gained over the best filter, {best}"
            found.append(replace(row, part=part, value=None, n=0, level="not measured", why=why))
    return found


def families() -> dict[str, list[type[Measure]]]:
    """Return the registered measures by family, in the families' order.

    Raises:
        RecinjectError: a measure is of no family.
    """
    known: list[type[Measure]] = [find("measure", name) for name in names("measure")]
    for each in known:
        if each.family not in FAMILIES:
            fact = f"the measure {each.name}: {each.family!r} is no family"
            raise RecinjectError(fact, hint=f"write one of {', '.join(FAMILIES)}")
    found = {family: [e for e in known if e.family == family] for family in FAMILIES}
    return {family: own for family, own in found.items() if own}
