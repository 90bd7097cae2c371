"""The report's section on impact and harm: by family what was measured, and what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from recinject.evaluation.harm import families
from recinject.evaluation.measures import FAMILIES, HarmResult, Measure
from recinject.registry import find, names
from recinject.reporting.figures import ACCENT, BASELINE, INK, LINE, drawing, finish
from recinject.reporting.tables import Table, cell
from recinject.reporting.wording import (
    DASH,
    count,
    metric_label,
    number,
    p_value,
    recommender_label,
)

_MOST_LINES, _MOST_ROWS = 24, 30
_GRAVITY = ("warning", "note", "ok", "not measured")
_HEADER = ("Level", "Measure", "Task", "Recommender", "Of", "Why", "Value", "p", "n")


@dataclass(frozen=True)
class Family:
    """One family of measures, as the report shows it."""

    heading: str
    section: str  # under which its figure stands
    meanings: Sequence[str]  # what each measure is, and the rule of its levels
    table: Table  # the figures that speak for each measure
    others: Table  # all others


def measure_of(row: HarmResult) -> type[Measure] | None:
    """Return the registered measure of a row; None where there is none any more."""
    return find("measure", row.measure) if row.measure in names("measure") else None


def impact_of(rows: Sequence[HarmResult]) -> list[Family]:
    """Arrange what was measured of impact and harm by family; nothing where nothing was."""
    shown = []
    for family, measures in families().items():
        own = [row for row in rows if row.measure in {each.name for each in measures}]
        if not own:
            continue
        used = [each for each in measures if any(row.measure == each.name for row in own)]
        said = [f"{e.label}: {e.definition}. Level: {e.rule}." for e in used]
        main = [row for row in own if _is_main(row)]
        if len(main) > _MOST_ROWS:
            main = [row for row in main if row.level != "ok"]
        others = [row for row in own if row not in main]
        tables = (Table(FAMILIES[family], _HEADER, _lines(part), 6) for part in (main, others))
        shown.append(Family(FAMILIES[family], f"harm_{family}", said, *tables))
    return shown


def warnings_of(rows: Sequence[HarmResult], models: Sequence[str] = ()) -> list[str]:
    """Write the warnings, of some recommenders or of all, as sentences."""
    said = []
    for row in rows:
        kind = measure_of(row)
        if row.level == "warning" and kind and (not models or row.recommender in models):
            about = f" of {row.about}" if row.about else ""
            text = f"{kind.label}, {recommender_label(row.recommender)} on {row.task}{about}: "
            said.append(f"{text}{_part(row)} {number(row.value)}. {row.why}".strip().rstrip("."))
    return [f"{text}." for text in said]


def _is_main(row: HarmResult) -> bool:
    kind = measure_of(row)
    return row.level == "not measured" or (kind is not None and row.part.endswith(kind.main))


def _lines(rows: Sequence[HarmResult]) -> list[list[str]]:
    """Write rows, the gravest first; one line for all whose figure lacks for one reason."""
    lines, reasons = [], dict[tuple[str, str, str, str], list[str]]()
    for row in sorted(rows, key=lambda row: _GRAVITY.index(row.level)):
        kind = measure_of(row)
        label = kind.label if kind else row.measure
        if row.level == "not measured":
            reasons.setdefault((label, row.task, row.about, row.why), []).append(row.recommender)
            continue
        p = DASH if row.p_value is None else p_value(row.p_value).removeprefix("= ")
        what = label if kind and row.part == kind.main else f"{label}, {_part(row)}"
        who = recommender_label(row.recommender)
        lines.append(
            [row.level, what, row.task, who, row.about, row.why, cell(row), p, count(row.n)]
        )
    for (label, task, about, why), lacking in reasons.items():
        named = ", ".join(map(recommender_label, lacking[:3])) + "..." * (len(lacking) > 3)
        lines.append(["not measured", label, task, named, about, why, DASH, DASH, DASH])
    return lines


def impact_drawings(
    rows: Sequence[HarmResult], models: Sequence[str]
) -> Iterator[tuple[str, str, Figure]]:
    """Draw each family: its section, a label, and the main part of its first measure."""
    for family, measures in families().items():
        for each in measures:
            own = [r for r in rows if r.measure == each.name and _is_main(r) and _known(r)]
            if not own:
                continue
            first = own[0].task, own[0].about if each.family == "groups" else None
            part = own[0].part if each.family == "groups" else None
            own = [r for r in own if r.task == first[0] and first[1] in (None, r.about)]
            own = [r for r in own if part in (None, r.part)][:_MOST_LINES]
            label = f"{each.label} on {own[0].task}: {_part(own[0])}"
            yield f"harm_{family}", label, harm_figure(own, label, models)
            break


def _part(row: HarmResult) -> str:
    """Return which figure of a measure a row is, a metric in it as a person writes it."""
    word, _, rest = row.part.partition(" ")
    return f"{metric_label(word)} {rest}".strip() if "@" in word else row.part


def _known(row: HarmResult) -> bool:
    return row.value is not None and bool(np.isfinite(row.value))


def harm_figure(rows: Sequence[HarmResult], title: str, models: Sequence[str]) -> Figure:
    """Draw figures with their intervals, one line each, models blue."""
    figure, axes = drawing(6.4, 0.8 + 0.3 * len(rows))
    several = len({row.about for row in rows}) > 1
    labels: list[Any] = []
    for place, row in enumerate(rows):
        ends = row.ci_low, row.ci_high
        low, value, high = np.array([ends[0], row.value, ends[1]], np.float64)  # NaN for None
        colour = ACCENT if row.recommender in models else BASELINE
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot([value], [place], "o", color=colour, markersize=6)
        name = recommender_label(row.recommender)
        labels.append(f"{name}, {row.about}" if several and row.about else name)
    axes.axvline(0, color=LINE, linewidth=1)
    axes.set_yticks(range(len(rows)), labels)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    finish(axes, "")
    # Above the whole figure, for above the axes alone a long one is cut off.
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontweight="bold")
    return figure
