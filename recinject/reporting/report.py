"""Writing report.html (one file that opens offline) and report.md from the same content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from recinject.evaluation.lists import SliceResult
from recinject.evaluation.metrics import MetricResult
from recinject.reporting import tables, wording
from recinject.reporting.figures import (
    code_figure,
    confusion_figure,
    expert_figure,
    loss_figure,
    metric_figure,
    scale_figure,
    share_figure,
    slice_figure,
    to_png,
    to_svg,
)
from recinject.reporting.headline import (
    Standing,
    headline,
    leader,
    main_metric,
    ordered_tasks,
    ranked,
    standings,
)
from recinject.reporting.inputs import LANGUAGE_MODEL, ModelFacts, ReportInputs, SharePoint
from recinject.reporting.pages import render as render

_LINES = 3


def write_report(inputs: ReportInputs, folder: Path) -> None:
    """Write ``report.html``, ``report.md`` and ``figures/*.png`` into a folder."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    content, panels = content_of(inputs), _panels(inputs)
    files, figures = {}, defaultdict(list)
    for task, own in groupby(panels, key=lambda rows: rows[0].task):
        files[f"metrics_{task}"] = metric_figure(list(own), 2)
    for rows in panels:
        label = f"{rows[0].task}: {wording.metric_label(rows[0].metric)} by recommender"
        figures[rows[0].task].append(to_svg(metric_figure([rows]), label))
    for drawing in _drawings(inputs):
        files[drawing.name] = drawing.figure
        figures[drawing.section].append(to_svg(drawing.figure, drawing.label))
    for name, figure in files.items():
        to_png(figure, folder / "figures" / f"{name}.png")
    page = render("report.html.j2", content | {"figures": figures})
    text = render("report.md.j2", content | {"figures": list(files)})
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "report.md").write_text(text, encoding="utf-8")


def subject(model: ModelFacts | None) -> str | None:
    """Call the language model what it is: trained or not, or nothing where there is none."""
    if model is None:
        return None
    return "The language model" if model.trainable else "The untrained (zero-shot) language model"


def content_of(inputs: ReportInputs) -> dict[str, Any]:
    """Work out what the report and the model card say: sentences, tables and totals."""
    return {
        "run": inputs,
        "headline": headline(inputs.metrics, inputs.comparisons, subject(inputs.model)),
        "standings": _standings(inputs),
        "metric_tables": tables.metric_tables(inputs.metrics, inputs.sampled_candidates),
        "meanings": wording.metric_meanings(row.metric for row in inputs.metrics),
        "share_tables": tables.share_tables(inputs.shares),
        "slice_tables": tables.slice_tables(inputs.slices),
        "list_table": tables.list_table(inputs.lists),
        "list_meanings": wording.list_meanings(row.measure for row in inputs.lists),
        "comparison_tables": tables.comparison_tables(inputs.comparisons),
        "cleaning_table": tables.cleaning_table(inputs.data.cleaning),
        "sample_table": tables.sample_table(inputs.samples),
        "audit_table": tables.audit_table(inputs.audit),
        "time_note": wording.time_note(inputs.data.tie_rate, inputs.data.future_share),
        "comparison_note": wording.comparison_note(inputs.model is not None),
        "not_assessed": wording.NOT_ASSESSED,
        "warnings": sum(row.verdict == "warning" for row in inputs.audit),
        "total_samples": sum(row.samples for row in inputs.samples),
        "total_seconds": sum(inputs.durations.values()),
    }


def _standings(inputs: ReportInputs) -> list[tuple[str, Standing]]:
    """Return for each task how the language model stands against the best baseline.

    Where there is no language model, the best baseline stands against the second.
    """
    found, metrics = [], inputs.metrics
    for task in ordered_tasks(metrics):
        first = LANGUAGE_MODEL if inputs.model else leader(task, metrics)
        if order := standings(task, metrics, inputs.comparisons, first):
            found.append((task, order[0]))
    return found


def _panels(inputs: ReportInputs) -> list[list[MetricResult]]:
    """Return the rows of each panel, best first, one panel a task and metric."""
    found = dict.fromkeys((row.task, row.metric) for row in inputs.metrics)
    order = ordered_tasks(inputs.metrics)
    pairs = sorted(found, key=lambda pair: order.index(pair[0]))
    panels = [ranked(task, metric, inputs.metrics) for task, metric in pairs]
    return [rows for rows in panels if rows]


def _sliced(inputs: ReportInputs) -> dict[str, list[SliceResult]]:
    """Return what is drawn of each task's slices: the model and the best of the others."""
    found = {}
    for task in ordered_tasks(inputs.metrics):
        order = ranked(task, main_metric(task, inputs.metrics), inputs.metrics)
        names = [row.recommender for row in order]
        own = [name for name in names if name == LANGUAGE_MODEL]
        others = [name for name in names if not name.startswith(LANGUAGE_MODEL)]
        shown = [*own, *others[:_LINES]]
        rows = [row for row in inputs.slices if row.task == task and row.recommender in shown]
        if rows:
            found[task] = sorted(rows, key=lambda row: shown.index(row.recommender))
    return found


def _studied(inputs: ReportInputs) -> dict[str, list[SharePoint]]:
    """Return what is drawn of each task's study: its main metric."""
    results = [point.result for point in inputs.shares]
    wanted = {task: main_metric(task, results) for task in ordered_tasks(results)}
    return {
        task: [p for p in inputs.shares if (p.result.task, p.result.metric) == (task, metric)]
        for task, metric in wanted.items()
    }


class _Drawing(NamedTuple):
    """A figure, the section of the page that it stands in, what it shows, and its file's name."""

    section: str
    label: str
    name: str
    figure: Figure


def _drawings(inputs: ReportInputs) -> Iterator[_Drawing]:
    """Yield what page and files show alike; metrics stand alone in the page, together in files."""
    for task, rows in _sliced(inputs).items():
        label = f"{task}: by slice of the queries"
        yield _Drawing(task, label, f"slices_{task}", slice_figure(rows))
    for task, points in _studied(inputs).items():
        label = f"{task}: by share of the training events"
        yield _Drawing("shares", label, f"shares_{task}", share_figure(points))
    if inputs.confusion and any(rows[0].task == "rating" for rows in _panels(inputs)):
        figure = confusion_figure(inputs.confusion)
        yield _Drawing("rating", "Ratings confused", "confusion", figure)
    if inputs.training:
        figure = loss_figure(inputs.training)
        yield _Drawing("training", "Loss by training step", "loss", figure)
    if inputs.scaled:
        figure = scale_figure(inputs.training)
        yield _Drawing("training", "Scale by training step", "scales", figure)
    if inputs.training and inputs.experts:
        yield _Drawing("training", "Experts by task", "experts", expert_figure(inputs.experts))
    if inputs.codes:
        yield _Drawing("codes", "Items by first code", "codes", code_figure(inputs.codes))
