"""The first line of a report: where the language model stands, said whether it pleases or not.

Where there is no language model, it says which baseline is the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import Comparison
from recinject.reporting.wording import (
    LANGUAGE_MODEL,
    MAIN_METRICS,
    SIGNIFICANT,
    answer_of,
    counts,
    interval,
    lower_is_better,
    metric_label,
    number,
    p_value,
    recommender_label,
    signed,
)

_SIMPLE_BASELINES = ("popularity", "global_mean")


@dataclass(frozen=True)
class Standing:
    """Where the language model stands against one baseline on a task's main metric.

    Without a language model, the best baseline stands in its place.

    Attributes:
        comparison: the paired test of the two, None when none was made.
        baselines: how many baselines the task had, ``own`` not counted.
    """

    own: MetricResult
    other: MetricResult
    comparison: Comparison | None
    baselines: int

    @property
    def gain(self) -> float:
        """How much better the language model is; negative when it loses."""
        return advantage(self.own.metric, self.own.value - self.other.value)

    @property
    def is_significant(self) -> bool:
        """Whether the paired test tells the two apart."""
        return self.comparison is not None and self.comparison.p_value < SIGNIFICANT

    @property
    def verb(self) -> str:
        """What the language model does to the baseline: beats, ties with, loses to."""
        if self.gain <= 0:
            return "loses to" if self.gain < 0 else "ties with"
        return "beats" if self.is_significant else "scores above"

    @property
    def evidence(self) -> str:
        """The paired difference and its test, in words."""
        row = self.comparison
        if row is None or not isfinite(row.p_value):
            return "no paired test was made"
        doubt = "" if self.is_significant else ", not significant"
        return f"paired difference {difference(row)}, p {p_value(row.p_value)}{doubt}"


def advantage(metric: str, gap: float) -> float:
    """Turn a difference so that more is better."""
    return -gap if lower_is_better(metric) else gap


def difference(row: Comparison) -> str:
    """Write a paired difference with its interval."""
    return f"{signed(row.difference)} {interval(row.ci_low, row.ci_high)}".rstrip()


def ordered_tasks(rows: Sequence[MetricResult] | Sequence[Comparison]) -> list[str]:
    """Return the tasks that the rows speak of, the main one first."""
    found = dict.fromkeys(row.task for row in rows)
    return [t for t in MAIN_METRICS if t in found] + [t for t in found if t not in MAIN_METRICS]


def main_metric(task: str, rows: Sequence[MetricResult] | Sequence[Comparison]) -> str:
    """Return the metric that speaks for a task: the agreed one, else the first measured."""
    names = [row.metric for row in rows if row.task == task]
    agreed = MAIN_METRICS.get(answer_of(task))
    return agreed if agreed in names else names[0]


def ranked(task: str, metric: str, metrics: Sequence[MetricResult]) -> list[MetricResult]:
    """Return the recommenders' values of one metric, best first, those without a value left out."""
    rows = [r for r in metrics if (r.task, r.metric) == (task, metric) and isfinite(r.value)]
    return sorted(rows, key=lambda row: advantage(metric, row.value), reverse=True)


def leader(task: str, metrics: Sequence[MetricResult]) -> str | None:
    """Return who has the best main metric of a task, None where nobody has any."""
    known = [row for row in metrics if row.task == task]
    rows = ranked(task, main_metric(task, known), known) if known else []
    return rows[0].recommender if rows else None


def standings(
    task: str,
    metrics: Sequence[MetricResult],
    comparisons: Sequence[Comparison],
    first: str | None = LANGUAGE_MODEL,
) -> list[Standing]:
    """Hold the language model's main metric of a task against each baseline's, best first.

    ``first`` stands in the language model's place, where there is none.
    """
    metric = main_metric(task, metrics)
    rows = ranked(task, metric, metrics)
    tests = {
        row.reference: row
        for row in comparisons
        if (row.task, row.metric, row.recommender) == (task, metric, first)
    }
    # A second wording of the language model is no baseline.
    baselines = [row for row in rows if not row.recommender.startswith(LANGUAGE_MODEL)]
    others = [row for row in baselines if row.recommender != first]
    return [
        Standing(own, other, tests.get(other.recommender), len(others))
        for own in rows
        if own.recommender == first
        for other in others
    ]


def headline(
    metrics: Sequence[MetricResult], comparisons: Sequence[Comparison], subject: str | None
) -> list[str]:
    """Say where the language model stands against the best baseline and against a simple one.

    It speaks of retrieval, else of ranking, else of rating. A loss to any baseline on this
    task stands in the first sentence, losses on other tasks in the last.

    Args:
        metrics: all metrics of the run.
        comparisons: language model minus baseline, paired over users; without a language model
            the best baseline minus each other.
        subject: how to call the language model, at the start of a sentence; None if there is none.

    Returns:
        The sentences.
    """
    if subject is None:
        return _without_a_model(metrics, comparisons)
    by_task = {task: standings(task, metrics, comparisons) for task in ordered_tasks(metrics)}
    measured = {task: found for task, found in by_task.items() if found}
    if not measured:
        return [_alone(metrics, subject)]
    task, (best, *others) = next(iter(measured.items()))
    simple = [s for s in others if s.other.recommender in _SIMPLE_BASELINES]
    said = [_against_best(task, best, subject), *map(_against_simple, simple[:1])]
    elsewhere = [(name, found[0]) for name, found in measured.items() if name != task]
    losses = [_loss(name, standing) for name, standing in elsewhere if standing.gain < 0]
    if losses:
        said.append(f"It {'also ' if best.gain < 0 else ''}loses {' and '.join(losses)}.")
    return said


def _without_a_model(
    metrics: Sequence[MetricResult], comparisons: Sequence[Comparison]
) -> list[str]:
    said = []
    for task in ordered_tasks(metrics):
        if (first := leader(task, metrics)) is not None:
            order = standings(task, metrics, comparisons, first)
            name = recommender_label(first)
            name = name[0].upper() + name[1:]
            said.append(_best_of_all(name, order[0]) if order else _only(name, task, metrics))
    return [*said, "No language model was asked." if said else "Nothing was measured in this run."]


def _best_of_all(name: str, best: Standing) -> str:
    return (
        f"{name}, the best of {best.baselines + 1} baselines on {best.own.task}, {best.verb} "
        f"{recommender_label(best.other.recommender)}: {_evidence(best)}."
    )


def _only(name: str, task: str, metrics: Sequence[MetricResult]) -> str:
    row = ranked(task, main_metric(task, metrics), metrics)[0]
    return (
        f"{name} reaches {metric_label(row.metric)} {_with_interval(row)} on {task} "
        f"(n = {counts([row.n])} users); no other recommender was measured, so it proves "
        "nothing yet."
    )


def _against_best(task: str, best: Standing, subject: str) -> str:
    name = recommender_label(best.other.recommender)
    rank = f", the best of {best.baselines} baselines," if best.baselines > 1 else ""
    return f"{subject} {best.verb} {name}{rank} on {task}: {_evidence(best)}."


def _evidence(standing: Standing) -> str:
    n = counts([standing.own.n, standing.other.n])
    return (
        f"{metric_label(standing.own.metric)} {_with_interval(standing.own)} against "
        f"{_with_interval(standing.other)} (n = {n} users; {standing.evidence})"
    )


def _against_simple(standing: Standing) -> str:
    name = recommender_label(standing.other.recommender)
    return f"It {standing.verb} {name} ({_with_interval(standing.other)}; {standing.evidence})."


def _loss(task: str, best: Standing) -> str:
    doubt = "" if best.is_significant else ", not significantly"
    return (
        f"on {task} to {recommender_label(best.other.recommender)} "
        f"({metric_label(best.own.metric)} {number(best.own.value)} against "
        f"{number(best.other.value)}{doubt})"
    )


def _alone(metrics: Sequence[MetricResult], subject: str) -> str:
    for task in ordered_tasks(metrics):
        own = [row for row in metrics if (row.task, row.recommender) == (task, LANGUAGE_MODEL)]
        if leader(task, own):
            return _only(subject, task, own)
    return f"{subject} was not measured in this run."


def _with_interval(row: MetricResult) -> str:
    return f"{number(row.value)} {interval(row.ci_low, row.ci_high)}".rstrip()
