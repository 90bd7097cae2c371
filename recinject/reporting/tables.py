"""The tables of a report and of the cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recinject.data.cleaning import CleaningStep
from recinject.data.findings import Finding as LogFinding
from recinject.evaluation.audit import Finding
from recinject.evaluation.lists import ListResult, SliceResult
from recinject.evaluation.measures import HarmResult
from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import Comparison
from recinject.reporting.headline import (
    Standing,
    advantage,
    corrected,
    difference,
    main_metric,
    ordered_tasks,
    ranked,
)
from recinject.reporting.result import SampleRow
from recinject.reporting.wording import (
    CEILING,
    DASH,
    LANGUAGE_MODEL,
    SIGNIFICANT,
    count,
    counts,
    interval,
    markdown,
    metric_label,
    number,
    p_value,
    recommender_label,
    task_meaning,
)

_GRAVITY = {"warning": 0, "note": 1, "ok": 2}


class Markdown(str):
    """The text of a cell that is Markdown already, and is not escaped."""


@dataclass(frozen=True)
class Table:
    """A table with a header; the first ``labels`` columns are text, the others numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1
    note: str = ""

    def to_markdown(self) -> str:
        """Write the table, without title and note, in GitHub's Markdown."""
        rule = ["---" if i < self.labels else "---:" for i in range(len(self.header))]
        header, *lines = (
            [cell if isinstance(cell, Markdown) else markdown(cell) for cell in row]
            for row in (self.header, *self.rows)
        )
        return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def metric_tables(
    metrics: Sequence[MetricResult], sampled_candidates: int, seen_kept: bool = False
) -> list[Table]:
    """Make one table a task: recommenders by metrics, best recommender of the main metric first."""
    tables = []
    for task in ordered_tasks(metrics):
        own = [row for row in metrics if row.task == task]
        columns = {row.metric: metric_label(row.metric) for row in own}
        order = [*ranked(task, main_metric(task, own), own), *own]
        values = {(row.recommender, row.metric): row for row in order}
        n = f"n = {counts(row.n for row in own)} users. "
        note = (n + task_meaning(task, sampled_candidates, seen_kept)).rstrip()
        tables.append(value_table(task.capitalize(), columns, values, note))
    return tables


def slice_tables(slices: Sequence[SliceResult]) -> list[Table]:
    """Make one table a task and way of slicing: recommenders by slices of the queries."""
    tables = []
    for task, metric, by in dict.fromkeys((row.task, row.metric, row.by) for row in slices):
        own = [row for row in slices if (row.task, row.metric, row.by) == (task, metric, by)]
        columns = {row.slice: f"{row.slice} (n = {count(row.queries)})" for row in own}
        values = {(row.recommender, row.slice): row for row in own}
        tables.append(value_table(f"{metric_label(metric)} of {task} by {by}", columns, values))
    return tables


Values = Mapping[tuple[str, Any], MetricResult]


def value_table(title: str, columns: Mapping[Any, str], values: Values, note: str = "") -> Table:
    """Make a table of recommenders by what tells their values apart, each column's best bold."""
    best = {}
    for key in columns:
        own = [r for (name, column), r in values.items() if column == key and name != CEILING]
        order = (r for row in own[:1] for r in ranked(row.task, row.metric, own))
        best[key] = next((row.value for row in order), None)
    rows = [
        [recommender_label(name), *(cell(values.get((name, key)), best[key]) for key in best)]
        for name in dict.fromkeys(name for name, _ in values)
    ]
    return Table(title, ["Recommender", *columns.values()], rows, note=note)


def cell(row: MetricResult | ListResult | HarmResult | None, best: float | None = None) -> str:
    """Write a value with its interval, bold where it is the best."""
    if row is None:
        return DASH
    ends = interval(row.ci_low, row.ci_high)
    if row.value is not None and row.value == best:
        return Markdown(f"**{number(row.value)}** {ends}".rstrip())
    return f"{number(row.value)} {ends}".rstrip()


def list_table(lists: Sequence[ListResult]) -> Table:
    """Make the table of what the retrieved lists are like; none of it is better or worse."""
    values = {(row.recommender, row.measure): row for row in lists}
    measures = dict.fromkeys(row.measure for row in lists)
    rows = [
        [recommender_label(name), *(cell(values.get((name, each))) for each in measures)]
        for name in dict.fromkeys(row.recommender for row in lists)
    ]
    header = ["Recommender", *(name.partition("@")[0].capitalize() for name in measures)]
    length = next(iter(measures), "").partition("@")[2]
    return Table("What the lists are like", header, rows, note=f"The first {length} of each list.")


def standing_table(found: Mapping[str, Standing]) -> Table:
    """Make the table of how the first recommender of each task stands against the best other."""
    named = any(standing.own.recommender != LANGUAGE_MODEL for standing in found.values())
    rows = [
        [
            *(task, metric_label(standing.own.metric)),
            *([recommender_label(standing.own.recommender)] if named else []),
            *(standing.verb, standing.rival, cell(standing.own), cell(standing.other)),
            *_tested(standing.comparison),
        ]
        for task, standing in found.items()
    ]
    who = ["Recommender", "It", "Best other"] if named else ["Language model", "Best baseline"]
    header = ["Task", "Metric", *who, "Value", f"{who[-1]}'s", "Difference", "p"]
    return Table("At a glance", header, rows, labels=len(header) - 4)


def _tested(row: Comparison | None) -> tuple[str, str]:
    if row is None:
        return DASH, DASH
    return difference(row), p_value(row.p_value).removeprefix("= ")


def comparison_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """Make a table of each task's main metric, and one of all other metrics when there are any.

    The tests of main metrics are corrected for their number.
    """
    order = ordered_tasks(comparisons)
    main = {(task, main_metric(task, comparisons)) for task in order}
    parts: tuple[list[Comparison], list[Comparison]] = ([], [])
    for row in sorted(corrected(comparisons), key=lambda row: order.index(row.task)):
        parts[(row.task, row.metric) not in main].append(row)
    titles = ("Main metrics", "Other metrics")
    return [_comparison_table(t, rows) for t, rows in zip(titles, parts, strict=True) if rows]


def _comparison_table(title: str, comparisons: Sequence[Comparison]) -> Table:
    # Who is compared goes without saying where it is the language model.
    named = any(row.recommender != LANGUAGE_MODEL for row in comparisons)
    rows = [
        [
            *(row.task, metric_label(row.metric)),
            *([recommender_label(row.recommender)] if named else []),
            *(recommender_label(row.reference), verdict(row), *_tested(row), count(row.n)),
        ]
        for row in comparisons
    ]
    who = ["Recommender", "Against", "It is"] if named else ["Against", "Language model is"]
    header = ["Task", "Metric", *who, "Difference", "p", "n"]
    return Table(title, header, rows, labels=len(header) - 3)


def verdict(row: Comparison) -> str:
    """Say whether who is compared is better, worse or neither, by the paired test."""
    if not row.p_value < SIGNIFICANT:
        return "not shown to differ"
    return "better" if advantage(row.metric, row.difference) > 0 else "worse"


def cleaning_table(steps: Sequence[CleaningStep]) -> Table:
    """Make the table of what each cleaning step left."""
    rows = [[s.name, s.detail, *map(count, (s.users, s.items, s.events))] for s in steps]
    return Table("Cleaning", ["Step", "Detail", "Users", "Items", "Events"], rows, labels=2)


def finding_table(findings: Sequence[LogFinding]) -> Table:
    """Make the table of what reading the log found."""
    rows = [[own.level, str(replace(own, fix="")), own.fix] for own in findings]
    return Table("The log", ["Level", "What was found", "Fix"], rows, labels=3)


def sample_table(samples: Sequence[SampleRow]) -> Table:
    """Make the table of samples by task and part; token columns only where tokens were counted."""
    header, rows = ["Task", "Part", "Samples", "Templates"], []
    for row in samples:
        mean = None if row.mean_prompt_tokens is None else round(row.mean_prompt_tokens)
        numbers = (row.samples, row.templates, mean, row.max_prompt_tokens, row.truncated)
        rows.append([row.task, row.split, *map(count, numbers)])
    if all(row.mean_prompt_tokens is None for row in samples):
        return Table("Samples", header, [row[: len(header)] for row in rows], labels=2)
    return Table("Samples", [*header, "Mean tokens", "Longest", "Cut off"], rows, labels=2)


def audit_table(audit: Sequence[Finding]) -> Table:
    """Make the table of the audit's findings, the gravest first."""
    rows = [
        [row.verdict, row.check, _plain(row.value), row.explanation]
        for row in sorted(audit, key=lambda row: _GRAVITY.get(row.verdict, -1))
    ]
    return Table("Audit", ["Verdict", "Check", "Value", "What it means"], rows, labels=4)


def _plain(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return count(int(value)) if float(value).is_integer() else number(value)
