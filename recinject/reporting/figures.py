"""The figures of a report, drawn without pyplot: as SVG for the page, as PNG for Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from math import ceil, isfinite
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from recinject.evaluation.metrics import MetricResult
from recinject.reporting.inputs import LANGUAGE_MODEL, LossRow
from recinject.reporting.wording import LOWER_IS_BETTER, metric_label, number, recommender_label

# Blue against grey stays apart in every kind of colour blindness (Okabe and Ito, 2008).
ACCENT, BASELINE, INK, QUIET, LINE = "#0072b2", "#aab2bd", "#1d2430", "#5b6675", "#d5dae1"
# In the page the colours follow its light or dark theme.
_THEMED = {
    ACCENT: "var(--accent)",
    BASELINE: "var(--bar)",
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    LINE: "var(--line)",
}
_PANEL_WIDTH = 4.4


def metric_figure(panels: Sequence[Sequence[MetricResult]], columns: int = 1) -> Figure:
    """Draw one panel a metric: horizontal bars, the best on top, with 95 % intervals.

    Args:
        panels: for each panel the rows of one metric, best first.
        columns: how many panels stand side by side.
    """
    lines = ceil(len(panels) / columns)
    height = 0.62 + 0.31 * max(len(rows) for rows in panels)
    figure = Figure(
        figsize=(_PANEL_WIDTH * columns, height * lines),
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1),
    )
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, rows in zip(grid, panels, strict=False):
        _draw_metric(axes, rows)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _draw_metric(axes: Axes, rows: Sequence[MetricResult]) -> None:
    values = np.array([row.value for row in rows])
    whiskers = np.nan_to_num([[r.value - r.ci_low, r.ci_high - r.value] for r in rows]).T.clip(0)
    own = [row.recommender == LANGUAGE_MODEL for row in rows]
    places = np.arange(len(rows))
    colours = [ACCENT if flag else BASELINE for flag in own]
    axes.barh(places, values, height=0.68, color=colours)
    axes.errorbar(values, places, xerr=whiskers, fmt="none", ecolor=INK, elinewidth=1.1)
    axes.set_yticks(places, [recommender_label(row.recommender) for row in rows])
    for label, flag in zip(axes.get_yticklabels(), own, strict=True):
        label.set(color=ACCENT if flag else INK, fontweight="bold" if flag else "normal")
    ends = values + whiskers[1]
    reach = max(float(ends.max()), 1e-9)
    for place, end, row, flag in zip(places, ends, rows, own, strict=True):
        weight = "bold" if flag else "normal"
        spot = (end + 0.02 * reach, place)
        axes.annotate(number(row.value), spot, va="center", color=INK, fontweight=weight)
    axes.set_xlim(0, 1.2 * reach)
    axes.invert_yaxis()
    metric = rows[0].metric
    better = " (lower is better)" if metric in LOWER_IS_BETTER else ""
    axes.set_title(metric_label(metric) + better, loc="left", color=INK, fontweight="bold")
    quieten(axes)


def loss_figure(log: Sequence[LossRow]) -> Figure:
    """Draw training and validation loss by step, each named at its end."""
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    axes = figure.subplots()
    train = [(r.step, r.loss) for r in log if r.loss is not None and isfinite(r.loss)]
    validation = [
        (r.step, r.eval_loss) for r in log if r.eval_loss is not None and isfinite(r.eval_loss)
    ]
    if train:
        axes.plot(*zip(*train, strict=True), color=QUIET, linewidth=1.4, label="training")
    if validation:
        points = list(zip(*validation, strict=True))
        axes.plot(*points, "o-", color=ACCENT, linewidth=2, markersize=5, label="validation")
    axes.set_xlabel("step", color=QUIET)
    axes.set_title("Loss a token", loc="left", color=INK, fontweight="bold")
    if train or validation:
        axes.legend(frameon=False, labelcolor=INK)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.tick_params(axis="y", labelcolor=QUIET, labelsize=9)
    quieten(axes)
    return figure


def scale_figure(log: Sequence[LossRow]) -> Figure:
    """Draw by how much steps were scaled down, and the share that was, by step."""
    rows = [
        (r.step, r.clip_scale_mean, r.clip_scale_min, r.clip_share)
        for r in log
        if r.clip_share is not None
    ]
    steps, mean, least, share = np.array(rows, float).T
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, mean, color=ACCENT, linewidth=2, label="mean")
    axes.plot(steps, least, color=INK, linewidth=1.2, label="smallest")
    axes.plot(steps, share, "--", color=QUIET, linewidth=1.4, label="share below 1")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("step", color=QUIET)
    axes.set_title("Scale of a tensor's step", loc="left", color=INK, fontweight="bold")
    axes.legend(frameon=False, labelcolor=INK)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.tick_params(axis="y", labelcolor=QUIET, labelsize=9)
    quieten(axes)
    return figure


def quieten(axes: Axes) -> None:
    """Leave of an axes' frame what is needed to read it."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="x", color=LINE, labelcolor=QUIET, labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)


def to_png(figure: Figure, path: Path) -> None:
    """Write a figure on white, dense enough for a sharp screen."""
    figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})


def to_svg(figure: Figure, label: str) -> Markup:
    """Return a figure as an SVG element to stand inside a page, in the page's font and colours.

    Args:
        figure: the figure.
        label: what it shows, for those who hear the page; no two figures of a page share one,
            since the ids inside the element are derived from it.
    """
    stream = BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue().decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*;", "", svg)
    svg = re.sub(r"font: ((?:bold |\d+ )?[\d.]+px)[^;\"]*", r"font: \1 var(--font)", svg)
    for colour, variable in _THEMED.items():
        svg = svg.replace(colour, variable)
    size = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg {size[0] if size else ""} role="img" aria-label="{escape(label)}"'
    return Markup(head + ' xmlns:xlink="http://www.w3.org/1999/xlink"' + svg[svg.index(">") :])
