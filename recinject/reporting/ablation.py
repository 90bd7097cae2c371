"""What an ablation found, in sentences and tables: on the terminal, as a page and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import SeedComparison
from recinject.reporting import tables
from recinject.reporting.headline import difference, main_metric, ordered_tasks
from recinject.reporting.inputs import ReportInputs
from recinject.reporting.report import render
from recinject.reporting.tables import Cell, Table
from recinject.reporting.wording import (
    count,
    metric_label,
    metric_meanings,
    number,
    p_value,
    recommender_label,
    signed,
)
from recinject.reporting.wording import seconds as duration

BASE, LONGER, ADDED = "base", "base_longer", "add_"
_SHOWN = ("hr@10", "ndcg@10", "rmse", "mae")
_DISAGREE = "seeds disagree"
# What a sentence makes of each verdict, in its order.
_PREDICATES = {
    "worse": "worse",
    "better": "better",
    _DISAGREE: "better with some seeds and worse with others",
    "not shown to differ": "not shown to differ",
}
_TASKS = {"bpr": "BPR"}
_OPENINGS = {
    BASE: "Added on top of the same {tasks} samples",
    LONGER: "Against as many steps without an added task",
}
_MEANINGS = {
    BASE: "Against {tasks} alone for {steps} steps: the same samples of them, one task on top",
    LONGER: "Against {tasks} alone for {steps} steps: as many steps as with an added task",
}
_NOTES = {
    "test": "Variant minus reference, with a 95 % interval. The answers of all seeds are tested "
    "together, paired over users; a user's answers of all seeds are drawn together, so n counts "
    'users. "By seed" spans what each seed gives alone. "Better" and "worse" mean p < .05 with '
    "every seed on the same side, not corrected for the number of comparisons.",
    "equal": "With each seed all variants share log, identifiers, samples, tokenizer and first "
    "weights; only the mixture differs. An added task comes on top: the samples of the other "
    "tasks are the same, and each is seen as often. That takes more steps and time, which base "
    "longer spends on the other tasks alone.",
    "metrics": "Variants over all seeds, baselines with the first; brackets are 95 % intervals "
    "over users; the best value of a column is bold.",
    "repeat": "Each training is a run of its own in the same folder, with its recipe beside it.",
}
_NOT_ASSESSED = (
    "Other rates, longer trainings and larger models: what a task adds may change with each.",
    "Chance in training beyond these seeds: intervals and p-values are over users.",
    "Several tasks added together.",
)


@dataclass(frozen=True)
class VariantRow:
    """What one variant was trained on.

    Attributes:
        name: ``base``, ``base_longer``, or ``add_`` and a task.
        rates: the relative rates of its tasks.
        steps: optimizer steps of each of its trainings.
        seconds: how long each of its trainings took, in the seeds' order.
    """

    name: str
    rates: Mapping[str, float]
    steps: int
    seconds: Sequence[float]


@dataclass(frozen=True)
class AblationInputs:
    """Everything that is said of an ablation.

    Attributes:
        command: the command line that repeats it.
        seeds: the seeds that each variant was trained with.
        base: what the base's run with the first seed says of itself.
        variants: what was trained, the base first.
        metrics: figures of each variant over all seeds, and of the baselines.
        comparisons: each variant with ``base``, and with ``base_longer`` where there is one.
    """

    name: str
    command: str
    seeds: Sequence[int]
    base: ReportInputs
    variants: Sequence[VariantRow]
    metrics: Sequence[MetricResult]
    comparisons: Sequence[SeedComparison]

    def compared_with(self, reference: str) -> list[SeedComparison]:
        """Return the comparisons with a reference that are worth a line, the main task's first."""
        metrics = dict.fromkeys(row.metric for row in self.comparisons)
        own = [row for row in self.comparisons if row.reference == reference]
        return [
            row
            for task in ordered_tasks(own)
            for metric in metrics
            for row in own
            if (row.task, row.metric) == (task, metric)
            and metric in (*_SHOWN, main_metric(task, self.comparisons))
        ]

    @property
    def references(self) -> list[str]:
        """What the variants are compared with."""
        return list(dict.fromkeys(row.reference for row in self.comparisons))

    def meaning(self, reference: str, of: Mapping[str, str]) -> str:
        """Fill in which tasks a reference was trained on, and for how many steps."""
        row = next(row for row in self.variants if row.name == reference)
        return of[reference].format(tasks=_listed(row.rates), steps=count(row.steps))


def write_ablation_report(inputs: AblationInputs, folder: Path) -> None:
    """Write ``report.html`` and ``report.md`` into a folder."""
    content = {
        "ablation": inputs,
        "run": inputs.base,
        "headline": sentences(inputs),
        "comparison_tables": [_comparison_table(inputs, name) for name in inputs.references],
        "variant_table": _variant_table(inputs.variants),
        "metric_tables": tables.metric_tables(inputs.metrics, inputs.base.sampled_candidates),
        "meanings": metric_meanings(row.metric for row in inputs.metrics),
        "total_seconds": sum(sum(row.seconds) for row in inputs.variants),
        "notes": _NOTES,
        "not_assessed": _NOT_ASSESSED,
    }
    for kind in ("html", "md"):
        text = render(f"ablation.{kind}.j2", content)
        (folder / f"report.{kind}").write_text(text, encoding="utf-8")


def summary(inputs: AblationInputs) -> Iterator[str]:
    """Yield the lines that say on a terminal what each added task is worth."""
    yield from sentences(inputs)
    for reference in inputs.references:
        table = _comparison_table(inputs, reference)
        yield f"\n{table.title}:\n"
        lines = [[f"{c.text} {c.aside}".rstrip() for c in row] for row in table.rows]
        columns = list(zip(table.header, *lines, strict=True))
        widths = [max(map(len, column)) for column in columns]
        for line in (table.header, *lines):
            yield "  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip()


def sentences(inputs: AblationInputs) -> list[str]:
    """Say for each task which added tasks help and which harm, by its main metric."""
    said = []
    for reference in inputs.references:
        rows = [r for r in inputs.compared_with(reference) if r.recommender.startswith(ADDED)]
        for task in ordered_tasks(rows):
            metric = main_metric(task, rows)
            found = _found([row for row in rows if (row.task, row.metric) == (task, metric)])
            opening = inputs.meaning(reference, _OPENINGS)
            said.append(f"{opening}, on {task} ({metric_label(metric)}) {found}.")
    return said or ["Nothing was measured."]


def verdict(row: SeedComparison) -> str:
    """Say whether a variant is better, worse or neither, by its test and by each of the seeds."""
    found = tables.verdict(row)
    return _DISAGREE if found in ("better", "worse") and not row.seeds_agree else found


def _found(rows: Sequence[SeedComparison]) -> str:
    parts = []
    for found, predicate in _PREDICATES.items():
        if own := [row for row in rows if verdict(row) == found]:
            named = [f"{_added(row.recommender)} ({difference(row)})" for row in own]
            parts.append(f"{_listed(named)} {'is' if len(own) == 1 else 'are'} {predicate}")
    return "; ".join(parts)


def _comparison_table(inputs: AblationInputs, reference: str) -> Table:
    values = {(row.task, row.metric, row.recommender): row.value for row in inputs.metrics}
    rows = [
        [
            Cell(row.task),
            Cell(metric_label(row.metric)),
            Cell(_added(row.recommender)),
            Cell(verdict(row), kind=tables.LOOKS.get(verdict(row), "note")),
            Cell(number(values[row.task, row.metric, row.recommender])),
            Cell(difference(row)),
            Cell(p_value(row.p_value).removeprefix("= ")),
            Cell(f"{signed(min(row.by_seed))} to {signed(max(row.by_seed))}"),
            Cell(count(row.n)),
        ]
        for row in inputs.compared_with(reference)
    ]
    header = ["Task", "Metric", "Added", "It is", "Value", "Difference", "p", "By seed", "n"]
    return Table(inputs.meaning(reference, _MEANINGS), header, rows, labels=4)


def _variant_table(variants: Sequence[VariantRow]) -> Table:
    rows = [
        [
            Cell(recommender_label(row.name)),
            Cell(", ".join(f"{task} {rate:g}" for task, rate in row.rates.items())),
            Cell(count(row.steps)),
            Cell(duration(sum(row.seconds) / len(row.seconds))),
        ]
        for row in variants
    ]
    return Table("Variants", ["Variant", "Tasks and rates", "Steps", "Mean time"], rows, labels=2)


def _added(variant: str) -> str:
    return _listed([variant.removeprefix(ADDED)]) if variant != LONGER else "nothing, but longer"


def _listed(names: Iterable[str]) -> str:
    """Join names, or whatever is said of them, as a sentence does."""
    *others, last = (_TASKS.get(name, name.replace("_", " ")) for name in names)
    return f"{', '.join(others)} and {last}" if others else last
