"""The figures of a report, drawn without pyplot: as SVG for the page, as PNG for Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from math import ceil
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
    """Draw one panel a metric: horizontal bars with 95 % intervals.

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
    ends = values + whiskers[1]
    reach = max(float(ends.max()), 1e-9)
    for place, label in enumerate(axes.get_yticklabels()):
        weight = "bold" if own[place] else "normal"
        label.set(color=ACCENT if own[place] else INK, fontweight=weight)
        text, spot = number(values[place]), (ends[place] + 0.02 * reach, place)
        axes.annotate(text, spot, va="center", color=INK, fontweight=weight)
    axes.set_xlim(0, 1.2 * reach)
    axes.invert_yaxis()
    metric = rows[0].metric
    finish(axes, metric_label(metric) + (" (lower is better)" if metric in LOWER_IS_BETTER else ""))


def loss_figure(log: Sequence[LossRow]) -> Figure:
    """Draw training and validation loss by step, each named at its end."""
    figure, axes = _by_step("Loss a token")
    steps, training, validation = np.array([(r.step, r.loss, r.eval_loss) for r in log], float).T
    known = np.isfinite(training)
    if known.any():
        axes.plot(steps[known], training[known], color=QUIET, linewidth=1.4, label="training")
    known = np.isfinite(validation)
    if known.any():
        points = steps[known], validation[known]
        axes.plot(*points, "o-", color=ACCENT, linewidth=2, markersize=5, label="validation")
    if axes.lines:
        axes.legend(frameon=False, labelcolor=INK)
    return figure


def scale_figure(log: Sequence[LossRow]) -> Figure:
    """Draw by how much steps were scaled down, and the share that was, by step."""
    rows = [
        (r.step, r.clip_scale_mean, r.clip_scale_min, r.clip_share)
        for r in log
        if r.clip_share is not None
    ]
    steps, mean, least, share = np.array(rows, float).T
    figure, axes = _by_step("Scale of a tensor's step")
    axes.plot(steps, mean, color=ACCENT, linewidth=2, label="mean")
    axes.plot(steps, least, color=INK, linewidth=1.2, label="smallest")
    axes.plot(steps, share, "--", color=QUIET, linewidth=1.4, label="share below 1")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def _by_step(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("step", color=QUIET)
    finish(axes, title, grid=True)
    return figure, axes


def finish(axes: Axes, title: str, *, grid: bool = False) -> None:
    """Give axes a title, leave of their frame what is needed to read them, and a grid if asked."""
    axes.set_title(title, loc="left", color=INK, fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="x", color=LINE, labelcolor=QUIET, labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        axes.tick_params(axis="y", labelcolor=QUIET, labelsize=9)


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
