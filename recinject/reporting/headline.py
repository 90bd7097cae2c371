"""The first lines of a report: where the language model stands, losses first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from recinject.evaluation.metrics import MAIN_METRICS, MetricResult
from recinject.evaluation.metrics import main_metric as main_of
from recinject.evaluation.statistics import Comparison
from recinject.reporting.wording import (
    LANGUAGE_MODEL,
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
    """Where one recommender stands against another on a task's main metric."""

    own: MetricResult  # of the language model; where there is none, of the best baseline
    other: MetricResult
    comparison: Comparison | None  # the paired test of the two, None when none was made
    baselines: int  # how many baselines the task had, ``own`` not counted

    @property
    def gain(self) -> float:
        """How much better ``own`` is; negative when it loses."""
        return advantage(self.own.metric, self.own.value - self.other.value)

    @property
    def is_significant(self) -> bool:
        """Whether the paired test tells the two apart."""
        return self.comparison is not None and self.comparison.p_value < SIGNIFICANT

    @property
    def verb(self) -> str:
        """What ``own`` does to the other: beats, scores above, ties with, loses to."""
        if self.gain <= 0:
            return "loses to" if self.gain < 0 else "ties with"
        return "beats" if self.is_significant else "scores above"

    @property
    def rival(self) -> str:
        """The other's name as a person writes it."""
        return recommender_label(self.other.recommender)

    @property
    def test(self) -> str:
        """The paired difference and its test, in words."""
        row = self.comparison
        if row is None or not isfinite(row.p_value):
            return "no paired test was made"
        doubt = "" if self.is_significant else ", not significant"
        return f"paired difference {difference(row)}, p {p_value(row.p_value)}{doubt}"

    @property
    def evidence(self) -> str:
        """Both values, how many users they rest on, and the test, in words."""
        n = counts([self.own.n, self.other.n])
        values = f"{with_interval(self.own)} against {with_interval(self.other)}"
        return f"{metric_label(self.own.metric)} {values} (n = {n} users; {self.test})"


def advantage(metric: str, gap: float) -> float:
    """Turn a difference so that more is better."""
    return -gap if lower_is_better(metric) else gap


def difference(row: Comparison) -> str:
    """Write a paired difference with its interval."""
    return f"{signed(row.difference)} {interval(row.ci_low, row.ci_high)}".rstrip()


def with_interval(row: MetricResult) -> str:
    """Write a value with its interval."""
    return f"{number(row.value)} {interval(row.ci_low, row.ci_high)}".rstrip()


def is_variant(name: str, models: Sequence[str]) -> bool:
    """Whether a model goes by this name when it is asked otherwise, such as in another wording."""
    return name not in models and name.startswith(tuple(f"{model}_" for model in models))


def ordered_tasks(rows: Sequence[MetricResult] | Sequence[Comparison]) -> list[str]:
    """Return the tasks that the rows speak of, the main one first."""
    found = dict.fromkeys(row.task for row in rows)
    return [t for t in MAIN_METRICS if t in found] + [t for t in found if t not in MAIN_METRICS]


def main_metric(task: str, rows: Sequence[MetricResult] | Sequence[Comparison]) -> str:
    """Return the metric that speaks for a task: the usual one, else the first measured."""
    return main_of(answer_of(task), [row.metric for row in rows if row.task == task])


def ranked(task: str, metric: str, metrics: Sequence[MetricResult]) -> list[MetricResult]:
    """Return the recommenders' values of one metric, best first, those without a value left out."""
    rows = [r for r in metrics if (r.task, r.metric) == (task, metric) and isfinite(r.value)]
    return sorted(rows, key=lambda row: advantage(metric, row.value), reverse=True)


def leader(task: str, metrics: Sequence[MetricResult]) -> str | None:
    """Return who has the best main metric of a task, None where nobody has any."""
    measured = any(row.task == task for row in metrics)
    rows = ranked(task, main_metric(task, metrics), metrics) if measured else []
    return rows[0].recommender if rows else None


def standings(
    task: str,
    metrics: Sequence[MetricResult],
    comparisons: Sequence[Comparison],
    first: str | None = LANGUAGE_MODEL,
) -> list[Standing]:
    """Hold the main metric of ``first`` against that of each baseline, best first."""
    metric = main_metric(task, metrics)
    rows = ranked(task, metric, metrics)
    tests = {
        row.reference: row
        for row in comparisons
        if (row.task, row.metric, row.recommender) == (task, metric, first)
    }
    # A second wording of the language model is no baseline.
    names = {row.recommender for row in rows if not row.recommender.startswith(LANGUAGE_MODEL)}
    others = [row for row in rows if row.recommender in names - {first}]
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
    task stands in the first sentence, losses on other tasks in the last. ``subject`` is how the
    language model is called at the start of a sentence; None if there is none.
    """
    if subject is None:
        return _without_a_model(metrics, comparisons)
    by_task = {task: standings(task, metrics, comparisons) for task in ordered_tasks(metrics)}
    measured = {task: found for task, found in by_task.items() if found}
    if not measured:
        own = [row for row in metrics if row.recommender == LANGUAGE_MODEL]
        alone = [task for task in ordered_tasks(own) if leader(task, own)]
        if not alone:
            return [f"{subject} was not measured in this run."]
        return [_only(subject, alone[0], own)]
    task, (best, *others) = next(iter(measured.items()))
    rank = f", the best of {best.baselines} baselines," if best.baselines > 1 else ""
    simple = [each for each in others if each.other.recommender in _SIMPLE_BASELINES]
    losses = [found[0] for found in measured.values() if found[0].gain < 0 and found[0] is not best]
    return [
        f"{subject} {best.verb} {best.rival}{rank} on {task}: {best.evidence}.",
        *(f"It {s.verb} {s.rival} ({with_interval(s.other)}; {s.test})." for s in simple[:1]),
        *([_losses(losses, "also " if best.gain < 0 else "")] if losses else []),
    ]


def _losses(losses: Sequence[Standing], also: str) -> str:
    said = [
        f"on {each.own.task} to {each.rival} ({metric_label(each.own.metric)} "
        f"{number(each.own.value)} against {number(each.other.value)}"
        f"{'' if each.is_significant else ', not significantly'})"
        for each in losses
    ]
    return f"It {also}loses {' and '.join(said)}."


def _without_a_model(
    metrics: Sequence[MetricResult], comparisons: Sequence[Comparison]
) -> list[str]:
    said = []
    for task in ordered_tasks(metrics):
        if (first := leader(task, metrics)) is not None:
            name = recommender_label(first)
            name = name[0].upper() + name[1:]
            if order := standings(task, metrics, comparisons, first):
                best, count = order[0], order[0].baselines + 1
                place = f"{name}, the best of {count} baselines on {task}"
                said.append(f"{place}, {best.verb} {best.rival}: {best.evidence}.")
            else:
                said.append(_only(name, task, metrics))
    return [*said, "No language model was asked." if said else "Nothing was measured in this run."]


def _only(name: str, task: str, metrics: Sequence[MetricResult]) -> str:
    row = ranked(task, main_metric(task, metrics), metrics)[0]
    return (
        f"{name} reaches {metric_label(row.metric)} {with_interval(row)} on {task} "
        f"(n = {counts([row.n])} users); no other recommender was measured, so it proves "
        "nothing yet."
    )
