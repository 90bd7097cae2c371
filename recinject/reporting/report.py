"""Writing report.html (one file that opens offline) and report.md from the same content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.slices import SliceResult
from recinject.reporting import tables, wording
from recinject.reporting.curves import (
    code_figure,
    confusion_figure,
    expert_figure,
    share_figure,
    slice_figure,
)
from recinject.reporting.figures import loss_figure, metric_figure, scale_figure, to_png, to_svg
from recinject.reporting.headline import (
    Standing,
    leader,
    main_metric,
    ordered_tasks,
    ranked,
    sentences,
    standings,
)
from recinject.reporting.inputs import LANGUAGE_MODEL, ModelFacts, ReportInputs, SharePoint

_LINES = 3


def write_report(inputs: ReportInputs, folder: Path) -> None:
    """Write ``report.html``, ``report.md`` and ``figures/*.png`` into a folder.

    Args:
        inputs: everything the report shows.
        folder: where to write; made when absent.
    """
    drawings = folder / "figures"
    drawings.mkdir(parents=True, exist_ok=True)
    content = content_of(inputs)
    figures = _png_figures(inputs)
    for name, figure in figures.items():
        to_png(figure, drawings / f"{name}.png")
    page = render("report.html.j2", content | {"figures": _svg_figures(inputs)})
    text = render("report.md.j2", content | {"figures": list(figures)})
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "report.md").write_text(text, encoding="utf-8")


def render(template: str, content: Mapping[str, Any]) -> str:
    """Fill one of this room's templates; HTML is escaped, Markdown by its filter ``md``."""
    environment = Environment(
        loader=PackageLoader("recinject.reporting"),
        autoescape=select_autoescape(["html.j2"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "md": wording.markdown,
        "count": wording.count,
        "share": wording.share,
        "large": wording.large,
        "seconds": wording.seconds,
        "number": wording.number,
        "metric": wording.metric_label,
        "recommender": wording.recommender_label,
        "unbroken": wording.unbroken,
        "literal": repr,
    }
    environment.filters.update(filters)
    return environment.get_template(template).render(content)


def subject(model: ModelFacts | None) -> str | None:
    """Call the language model what it is: trained or not, or nothing where there is none."""
    if model is None:
        return None
    return "The language model" if model.trainable else "The untrained (zero-shot) language model"


def content_of(inputs: ReportInputs) -> dict[str, Any]:
    """Work out what the report and the model card say: sentences, tables and totals."""
    verdicts = [row.verdict for row in inputs.audit]
    return {
        "run": inputs,
        "headline": sentences(inputs.metrics, inputs.comparisons, subject(inputs.model)),
        "standings": _standings(inputs),
        "metric_tables": tables.metric_tables(inputs.metrics, inputs.sampled_candidates),
        "meanings": wording.metric_meanings(row.metric for row in inputs.metrics),
        "share_tables": tables.share_tables(inputs.shares),
        "slice_tables": tables.slice_tables(inputs.slices),
        "comparison_tables": tables.comparison_tables(inputs.comparisons),
        "cleaning_table": tables.cleaning_table(inputs.data.cleaning),
        "sample_table": tables.sample_table(inputs.samples),
        "audit_table": tables.audit_table(inputs.audit),
        "time_note": wording.time_note(inputs.data.tie_rate, inputs.data.future_share),
        "comparison_note": wording.comparison_note(inputs.model is not None),
        "not_assessed": wording.NOT_ASSESSED,
        "warnings": verdicts.count("warning"),
        "total_samples": sum(row.samples for row in inputs.samples),
        "total_seconds": sum(inputs.durations.values()),
    }


def _standings(inputs: ReportInputs) -> list[tuple[str, Standing]]:
    """Return for each task how the language model stands against the best baseline.

    Where there is no language model, the best baseline stands against the second.
    """
    metrics, found = inputs.metrics, {}
    for task in ordered_tasks(metrics):
        first = LANGUAGE_MODEL if inputs.model else leader(task, metrics)
        found[task] = standings(task, metrics, inputs.comparisons, first)
    return [(task, order[0]) for task, order in found.items() if order]


def _panels(inputs: ReportInputs) -> list[list[MetricResult]]:
    """Return the rows of each panel, best first, one panel a task and metric."""
    found = dict.fromkeys((row.task, row.metric) for row in inputs.metrics)
    order = ordered_tasks(inputs.metrics)
    pairs = sorted(found, key=lambda pair: order.index(pair[0]))
    panels = [ranked(task, metric, inputs.metrics) for task, metric in pairs]
    return [rows for rows in panels if rows]


def _sliced(inputs: ReportInputs) -> dict[str, list[SliceResult]]:
    """Return what is drawn of each task's slices: the model and the best of the others."""
    found: dict[str, list[SliceResult]] = {}
    for task in ordered_tasks(inputs.metrics):
        best = [
            r.recommender for r in ranked(task, main_metric(task, inputs.metrics), inputs.metrics)
        ]
        own = [name for name in best if name == LANGUAGE_MODEL]
        others = [name for name in best if not name.startswith(LANGUAGE_MODEL)][:_LINES]
        rows = [
            row
            for name in (*own, *others)
            for row in inputs.slices
            if (row.task, row.recommender) == (task, name)
        ]
        if rows:
            found[task] = rows
    return found


def _studied(inputs: ReportInputs) -> dict[str, list[SharePoint]]:
    """Return what is drawn of each task's study: its main metric."""
    results = [point.result for point in inputs.shares]
    wanted = {task: main_metric(task, results) for task in ordered_tasks(results)}
    return {
        task: [p for p in inputs.shares if (p.result.task, p.result.metric) == (task, metric)]
        for task, metric in wanted.items()
    }


def _png_figures(inputs: ReportInputs) -> dict[str, Figure]:
    by_task = groupby(_panels(inputs), key=lambda rows: rows[0].task)
    figures = {f"metrics_{task}": metric_figure(list(panels), 2) for task, panels in by_task}
    figures |= {f"slices_{task}": slice_figure(rows) for task, rows in _sliced(inputs).items()}
    figures |= {f"shares_{task}": share_figure(rows) for task, rows in _studied(inputs).items()}
    if inputs.confusion and "metrics_rating" in figures:
        figures["confusion"] = confusion_figure(inputs.confusion)
    if inputs.training:
        figures["loss"] = loss_figure(inputs.training)
    if inputs.scaled:
        figures["scales"] = scale_figure(inputs.training)
    if inputs.training and inputs.experts:
        figures["experts"] = expert_figure(inputs.experts)
    if inputs.codes:
        figures["codes"] = code_figure(inputs.codes)
    return figures


def _svg_figures(inputs: ReportInputs) -> dict[str, list[Markup]]:
    figures: dict[str, list[Markup]] = {}
    for rows in _panels(inputs):
        label = f"{rows[0].task}: {wording.metric_label(rows[0].metric)} by recommender"
        figures.setdefault(rows[0].task, []).append(to_svg(metric_figure([rows]), label))
    for task, sliced in _sliced(inputs).items():
        figures[task].append(to_svg(slice_figure(sliced), f"{task}: by slice of the queries"))
    for task, points in _studied(inputs).items():
        label = f"{task}: by share of the training events"
        figures.setdefault("shares", []).append(to_svg(share_figure(points), label))
    if inputs.confusion and "rating" in figures:
        figures["rating"].append(to_svg(confusion_figure(inputs.confusion), "Ratings confused"))
    if inputs.training:
        figures["training"] = [to_svg(loss_figure(inputs.training), "Loss by training step")]
    if inputs.scaled:
        figures["training"] += [to_svg(scale_figure(inputs.training), "Scale by training step")]
    if inputs.training and inputs.experts:
        figures["training"] += [to_svg(expert_figure(inputs.experts), "Experts by task")]
    if inputs.codes:
        figures["codes"] = [to_svg(code_figure(inputs.codes), "Items by first code")]
    return figures
