"""The report's figures."""

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
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from recinject.data.schema import Floats
from recinject.evaluation.lists import SliceResult
from recinject.evaluation.metrics import MetricResult
from recinject.reporting.result import CodeGroup, ExpertUse, LossRow
from recinject.reporting.wording import (
    LANGUAGE_MODEL,
    lower_is_better,
    metric_label,
    number,
    recommender_label,
)

# Blue against grey stays apart in every kind of colour blindness (Okabe and Ito, 2008).
ACCENT, BASELINE, INK, QUIET, LINE = "#0072b2", "#aab2bd", "#1d2430", "#5b6675", "#d5dae1"
_FONT = ["DejaVu Sans"]
# In the page the colours follow its light or dark theme, and the font is the page's.
_THEMED = {
    f"'{_FONT[0]}'": "var(--font)",
    ACCENT: "var(--accent)",
    BASELINE: "var(--bar)",
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    LINE: "var(--line)",
}
_PANEL_WIDTH = 4.4
_MARKERS = "o^Dsv<>PX*"
_FEWEST_QUERIES = 20
_MOST_LABELS, _RANGES = 20, 10


class _Drawing(Figure):
    """A figure that notebooks show although pyplot did not make it."""

    def _repr_png_(self) -> bytes:
        stream = BytesIO()
        self.savefig(stream, format="png", dpi=110, facecolor="white")
        return stream.getvalue()


def drawing(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of a size in inches, and its axes."""
    figure = _Drawing(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def metric_figure(
    panels: Sequence[Sequence[MetricResult]],
    columns: int = 1,
    models: Sequence[str] = (LANGUAGE_MODEL,),
) -> Figure:
    """Draw one panel a metric: bars with 95 % intervals, in the order of the rows, models blue."""
    lines = ceil(len(panels) / columns)
    height = 0.62 + 0.31 * max(len(rows) for rows in panels)
    figure = _Drawing(
        figsize=(_PANEL_WIDTH * columns, height * lines),
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1),
    )
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, rows in zip(grid, panels, strict=False):
        _draw_metric(axes, rows, models)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _draw_metric(axes: Axes, rows: Sequence[MetricResult], models: Sequence[str]) -> None:
    values = np.array([row.value for row in rows])
    whiskers = _whiskers(rows)
    own = [row.recommender in models for row in rows]
    positions = np.arange(len(rows))
    colours = [ACCENT if flag else BASELINE for flag in own]
    axes.barh(positions, values, height=0.68, color=colours)
    axes.errorbar(values, positions, xerr=whiskers, fmt="none", ecolor=INK, elinewidth=1.1)
    axes.set_yticks(positions, [recommender_label(row.recommender) for row in rows])
    ends = values + whiskers[1]
    reach = max(float(ends.max()), 1e-9)
    for row, label in enumerate(axes.get_yticklabels()):
        weight = "bold" if own[row] else "normal"
        label.set(color=ACCENT if own[row] else INK, fontweight=weight)
        text, spot = number(values[row]), (ends[row] + 0.02 * reach, row)
        axes.annotate(text, spot, va="center", color=INK, fontweight=weight)
    axes.set_xlim(0, 1.2 * reach)
    axes.invert_yaxis()
    finish(axes, metric_label(rows[0].metric))
    if lower_is_better(rows[0].metric):  # in the title it would be cut off
        axes.set_xlabel("lower is better", loc="left", color=QUIET, fontsize=9)


def directed(metric: str) -> str:
    """Write a metric's name, and whether less of it is better."""
    return metric_label(metric) + (" (lower is better)" if lower_is_better(metric) else "")


def loss_figure(log: Sequence[LossRow]) -> Figure:
    """Draw training and validation loss by step."""
    figure, axes = _by_step("Loss a token")
    steps, training, validation = np.array([(r.step, r.loss, r.eval_loss) for r in log], float).T
    if (known := np.isfinite(training)).any():
        axes.plot(steps[known], training[known], color=QUIET, linewidth=1.4, label="training")
    if (known := np.isfinite(validation)).any():
        points = steps[known], validation[known]
        axes.plot(*points, "o-", color=ACCENT, linewidth=2, markersize=5, label="validation")
    if axes.lines:
        axes.legend(frameon=False, labelcolor=INK)
    return figure


def scale_figure(log: Sequence[LossRow]) -> Figure:
    """Draw by how much steps were scaled down, and the share that was, by step."""
    rows = [(r.step, r.clip_scale_mean, r.clip_scale_min, r.clip_share) for r in log]
    steps, mean, least, share = np.array([row for row in rows if row[-1] is not None], float).T
    figure, axes = _by_step("Scale of a tensor's step")
    axes.plot(steps, mean, color=ACCENT, linewidth=2, label="mean")
    axes.plot(steps, least, color=INK, linewidth=1.2, label="smallest")
    axes.plot(steps, share, "--", color=QUIET, linewidth=1.4, label="share below 1")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def _by_step(title: str) -> tuple[Figure, Axes]:
    figure, axes = drawing(8.0, 3.2)
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

    The label says what it shows, to those who hear the page. The ids inside the element are
    derived from it, so no two figures of a page share one.
    """
    stream = BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.sans-serif": _FONT}):
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    svg = stream.getvalue().decode()
    # matplotlib's names of groups come again in each figure of a page.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])
    for drawn, themed in _THEMED.items():
        svg = svg.replace(drawn, themed)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def slice_figure(rows: Sequence[SliceResult], models: Sequence[str] = (LANGUAGE_MODEL,)) -> Figure:
    """Draw one metric by slice, one panel a way of slicing, one line a recommender.

    Slices of fewer than 20 queries are left to the tables: their whiskers would set the scale.
    """
    rows = [row for row in rows if row.queries >= _FEWEST_QUERIES] or rows
    kinds = list(dict.fromkeys(row.by for row in rows))
    figure = _Drawing(figsize=(_PANEL_WIDTH * len(kinds) + 1.6, 3.2), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    recommenders = list(dict.fromkeys(row.recommender for row in rows))
    for axes, by in zip(panels, kinds, strict=True):
        own = [row for row in rows if row.by == by]
        queries = {row.slice: row.queries for row in own}
        names = list(queries)
        for turn, name in enumerate(recommenders):
            found = [row for row in own if row.recommender == name and isfinite(row.value)]
            # Side by side, so that no whisker hides another.
            positions = [names.index(row.slice) + 0.06 * turn for row in found]
            is_own = name in models
            axes.errorbar(
                positions,
                [row.value for row in found],
                yerr=_whiskers(found),
                color=ACCENT if is_own else BASELINE,
                marker=_MARKERS[turn % len(_MARKERS)],
                markersize=5,
                linewidth=2 if is_own else 1.3,
                elinewidth=1,
                label=recommender_label(name),
            )
        finish(axes, f"{metric_label(rows[0].metric)} by {by}", grid=True)
        axes.set_xticks(range(len(queries)), [f"{k}\nn = {n:,}" for k, n in queries.items()])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, frameon=False, labelcolor=INK, fontsize=9, loc="outside right center"
    )
    return figure


def confusion_figure(labels: Floats, ratings: Floats) -> Figure:
    """Draw how often each true rating was predicted as each: each row's shares, dark where most.

    ``labels`` are the true ratings, shape (n,); above 20 different ones, ranges of about equally
    many take their places. Each of ``ratings`` counts for the nearest of them, or its range.
    """
    values, true = np.unique(labels, return_inverse=True)
    names = [f"{value:g}" for value in values]
    if len(values) > _MOST_LABELS:
        # Of values that there are, so that no range is empty.
        ends = np.quantile(labels, np.linspace(0, 1, _RANGES + 1)[1:-1], method="lower")
        ends = np.unique(ends[ends < values[-1]]) if ends[0] < values[-1] else values[-2:-1]
        true, predicted = (np.searchsorted(ends, column) for column in (labels, ratings))
        names = [*(f"to {end:g}" for end in ends), f"above {ends[-1]:g}"]
    else:
        predicted = np.abs(ratings[:, None] - values).argmin(1)
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (true, predicted), 1)
    totals = counts.sum(1)
    rows = [f"{name}  (n = {n:,})" for name, n in zip(names, totals, strict=True)]
    figure, axes = _grid(counts / totals[:, None], rows, names, "Per cent of each true rating")
    axes.set_xlabel("predicted rating, to the nearest", color=QUIET)
    axes.set_ylabel("true rating", color=QUIET)
    return figure


def expert_figure(use: ExpertUse) -> Figure:
    """Draw the experts' weights: one row a task, dark where most."""
    shares, names = np.array(use.shares), [name.replace("_", " ") for name in use.tasks]
    experts = [str(number + 1) for number in range(shares.shape[1])]
    figure, axes = _grid(shares, names, experts, "Per cent of each task's experts")
    axes.set_xlabel("expert", color=QUIET)
    return figure


def code_figure(groups: Sequence[CodeGroup]) -> Figure:
    """Draw the items of each first code, cut by the code after it, with titles beside them."""
    figure, axes = drawing(8.6, 0.6 + 0.42 * len(groups))
    for row, group in enumerate(groups):
        starts = np.cumsum([0, *group.items[:-1]])
        axes.barh(row, group.items, 0.6, starts, color=ACCENT, edgecolor="#ffffff", lw=0.6)
        text = "  " + "; ".join(group.titles)
        axes.text(sum(group.items), row, text, va="center", color=INK, fontsize=8)
    axes.set_yticks(range(len(groups)), [group.code for group in groups])
    axes.invert_yaxis()
    axes.set_xlim(0, 2.6 * max(sum(group.items) for group in groups))
    axes.set_xlabel("items, cut by their second code", color=QUIET)
    finish(axes, "The largest groups of items")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return figure


def _grid(
    shares: Floats, rows: Sequence[str], columns: Sequence[str], title: str
) -> tuple[Figure, Axes]:
    figure, axes = drawing(4.6, 4.0)
    colours = LinearSegmentedColormap.from_list("", ["#ffffff", ACCENT])
    positions = [np.arange(size) for size in reversed(shares.shape)]
    # An image would be a bitmap inside the page.
    axes.pcolormesh(*positions, shares, cmap=colours, vmin=0, shading="nearest")
    axes.invert_yaxis()
    for row, column in np.ndindex(*shares.shape):
        colour = "#ffffff" if shares[row, column] > shares.max() / 2 else INK
        text = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(positions[0], columns)
    axes.set_yticks(positions[1], rows)
    axes.tick_params(length=0, labelcolor=QUIET, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", color=INK, fontweight="bold")
    return figure, axes


def _whiskers(rows: Sequence[MetricResult]) -> Floats:
    """Return how far each interval reaches below and above its value, shape (2, rows)."""
    ends = [[row.value, row.ci_low, row.ci_high] for row in rows]
    values, low, high = np.array(ends, np.float64).T  # NaN where there is no interval
    reach: Floats = np.nan_to_num(np.stack([values - low, high - values])).clip(0)
    return reach
