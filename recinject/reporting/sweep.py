"""What a sweep found: frames, sentences, a figure and a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.api.types import is_numeric_dtype

import recinject
from recinject.evaluation.metrics import MetricResult
from recinject.foundation.storage import read_json, write_json
from recinject.reporting import tables, wording
from recinject.reporting.figures import ACCENT, BASELINE, INK, QUIET, directed, drawing, finish
from recinject.reporting.headline import difference, main_metric, ordered_tasks
from recinject.reporting.pages import render, write_pages
from recinject.reporting.tables import Table

_SHOWN = ("hr@10", "ndcg@10", "rmse", "mae")
_NOT_SHOWN = ("_reworded", "_shuffled")
_NAMED = 4
_DISAGREE = "seeds disagree"
# What a sentence makes of each verdict, in its order.
_PREDICATES = {
    "worse": "worse",
    "better": "better",
    _DISAGREE: "better with some seeds and worse with others",
    "not shown to differ": "not shown to differ",
}
_MARKERS, _DASHES = "os^DvPX*", ("-", "--", ":", "-.")
_FRAMES = ("metrics", "pooled", "comparisons")


@dataclass(frozen=True, eq=False)
class Sweep:
    """What runs of one recipe with other settings and seeds scored, and how they compare.

    Attributes:
        metrics: one row a run and metric: ``arm``, the arm's value of each key that varies,
            ``seed``, ``task``, ``recommender``, ``metric``, ``value``, ``ci_low``, ``ci_high``
            (95 %, over users), ``n`` (users) and ``seconds`` (of the training).
        pooled: the same without seeds: the answers of all of them are measured together.
        comparisons: the recommenders of each ``arm`` less the same ones under the settings of a
            ``reference``: ``task``, ``recommender``, ``metric``, ``difference``, ``ci_low``,
            ``ci_high``, ``p_value``, ``n``, and ``by_seed``, the difference of each seed.
        facts: name and command; the keys that vary; data and model in words.
    """

    metrics: pd.DataFrame
    pooled: pd.DataFrame
    comparisons: pd.DataFrame
    facts: Mapping[str, Any]

    def save(self, folder: str | Path) -> None:
        """Write the frames as Parquet, and the facts as JSON."""
        for name in _FRAMES:
            getattr(self, name).to_parquet(Path(folder) / f"{name}.parquet", index=False)
        write_json(Path(folder) / "facts.json", dict(self.facts))

    @classmethod
    def load(cls, folder: str | Path) -> Sweep:
        """Read what :meth:`save` wrote."""
        files = (Path(folder) / f"{name}.parquet" for name in _FRAMES)
        metrics, pooled, comparisons = map(pd.read_parquet, files)
        return cls(metrics, pooled, comparisons, read_json(Path(folder) / "facts.json"))

    def report(self, folder: str | Path) -> Path:
        """Write ``report.html``, ``report.md`` and figures; return the path of the page."""
        drawn = {f"sweep_{task}": self.plot(task) for task in ordered_tasks(self._results)}
        content = {
            "facts": self.facts,
            "seeds": list(self.metrics["seed"].unique()),
            "version": recinject.__version__,
            "headline": self.sentences(),
            "figures": list(drawn),
            "comparison_tables": [self._comparison_table(name) for name in self._references],
            "arm_table": self._arm_table(),
            "metric_tables": self._metric_tables(),
            "meanings": wording.metric_meanings(row.metric for row in self._results),
        }
        text = render("sweep.md.j2", content)
        return write_pages(Path(folder), "report", self.facts["name"], text, drawn)

    def summary(self) -> Iterator[str]:
        """Yield the lines that a terminal shows: the sentences and the comparisons."""
        yield from self.sentences()
        for table in map(self._comparison_table, self._references):
            yield f"\n{table.title}:\n"
            lines = [table.header, *table.rows]
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            for line in lines:
                yield "  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip()

    def sentences(self) -> list[str]:
        """Say by each task's main metric which arms are better or worse than a reference."""
        said = []
        for reference in self._references:
            rows = self._compared_with(reference)
            for task in ordered_tasks(rows):
                metric = main_metric(task, rows)
                found = _found([row for row in rows if (row.task, row.metric) == (task, metric)])
                of = f"Against {reference} on {task} ({wording.metric_label(metric)})"
                said.append(f"{of}, {found}.")
        return said or ["Nothing was compared."]

    def plot(self, task: str, metric: str | None = None) -> Figure:
        """Draw a metric of a task, the main one if none is given, with 95 % intervals.

        Where a key with numbers varies beside every other setting, its values are the horizontal
        axis, with a curve for each recommender and other setting. Elsewhere each arm is a point.
        """
        name = metric or main_metric(task, self._results)
        rows = self._rows(task, name)
        figure, axes = drawing(8.0, 4.2 if self._axis else 1 + 0.3 * len(rows))
        finish(axes, directed(name), grid=bool(self._axis))
        if self._axis is None:
            _draw_points(axes, rows)
        else:
            _draw_curves(axes, rows, self._axis)
        return figure

    @cached_property
    def _arms(self) -> pd.DataFrame:
        times = self.metrics.groupby("arm")["seconds"].mean()
        arms = self.metrics[["arm", *self.facts["keys"]]].drop_duplicates()
        return arms.assign(seconds=arms["arm"].map(times))

    @cached_property
    def _axis(self) -> str | None:
        # The first key with numbers that takes several values beside each other setting.
        for key in self.facts["keys"]:
            others, values = self._beside(key), self._arms[key]
            groups = values.groupby([self._arms[k] for k in others]) if others else values
            if is_numeric_dtype(values) and np.min(groups.nunique()) > 1:
                return str(key)
        return None

    def _beside(self, axis: str) -> list[str]:
        """Return the keys whose values do not follow from that of the axis."""
        counts = self._arms.groupby(axis).nunique().max()
        return [key for key in self.facts["keys"] if key != axis and counts[key] > 1]

    @cached_property
    def _labelled(self) -> pd.DataFrame:
        """The pooled figures that are shown, each with a ``label``, the language model's first."""
        rows = self.pooled[~self.pooled["recommender"].str.endswith(_NOT_SHOWN)]
        own = rows["recommender"].str.startswith(wording.LANGUAGE_MODEL)
        keys = self._beside(self._axis) if self._axis else ["arm"]
        labels = [self._label(row, keys) for row in rows.to_dict("records")]
        frame = rows.assign(label=labels, own=own)[np.isfinite(rows["value"])]
        ordered: pd.DataFrame = frame.sort_values("own", ascending=False, kind="stable")
        return ordered

    def _label(self, row: Mapping[Any, Any], keys: Sequence[str]) -> str:
        """Name a recommender by its arm, or by its name and those of these keys that vary."""
        if row["recommender"] == wording.LANGUAGE_MODEL and keys == ["arm"]:
            return str(row["arm"])
        same = self.pooled[self.pooled["recommender"] == row["recommender"]]
        words = [str(row[key]) for key in keys if len(set(same[key])) > 1]
        return ", ".join([wording.recommender_label(row["recommender"]), *words])

    @cached_property
    def _results(self) -> list[MetricResult]:
        return _as_results(self._labelled)

    def _rows(self, task: str, metric: str) -> pd.DataFrame:
        frame = self._labelled
        return frame[(frame["task"] == task) & (frame["metric"] == metric)]

    @cached_property
    def _references(self) -> list[str]:
        return list(dict.fromkeys(self.comparisons.get("reference", ())))

    def _compared_with(self, reference: str) -> list[Any]:
        # By the usual metrics, the main task's first.
        own = self.comparisons[self.comparisons["reference"] == reference]
        own = own[~own["recommender"].str.endswith(_NOT_SHOWN)]
        labels = [self._label(row, ["arm"]) for row in own.to_dict("records")]
        rows: list[Any] = list(own.assign(label=labels).itertuples())
        kept = [row for row in rows if row.metric in (*_SHOWN, main_metric(row.task, rows))]
        order, metrics = ordered_tasks(rows), list(own["metric"].unique())
        return sorted(kept, key=lambda row: (order.index(row.task), metrics.index(row.metric)))

    def _comparison_table(self, reference: str) -> Table:
        rows = [
            [
                *(row.task, wording.metric_label(row.metric), row.label, verdict(row)),
                *(difference(row), wording.p_value(row.p_value).removeprefix("= ")),
                f"{wording.signed(min(row.by_seed))} to {wording.signed(max(row.by_seed))}",
                wording.count(row.n),
            ]
            for row in self._compared_with(reference)
        ]
        header = ["Task", "Metric", "Arm", "It is", "Difference", "p", "By seed", "n"]
        return Table(f"Against {reference}", header, rows, labels=4)

    def _arm_table(self) -> Table:
        keys = self.facts["keys"]
        rows = [
            [
                row["arm"],
                *(row[key] if isinstance(row[key], str) else f"{row[key]:g}" for key in keys),
                wording.seconds(row["seconds"]) if row["seconds"] > 0 else wording.DASH,
            ]
            for row in self._arms.to_dict("records")
        ]
        return Table("Arms", ["Arm", *keys, "Mean time"], rows, labels=1 + len(keys))

    def _metric_tables(self) -> list[Table]:
        if self._axis is None:
            return tables.metric_tables(self._results, self.facts["sampled_candidates"])
        return [self._axis_table(task, self._axis) for task in ordered_tasks(self._results)]

    def _axis_table(self, task: str, axis: str) -> Table:
        metric = main_metric(task, self._results)
        rising = wording.lower_is_better(metric)
        rows = self._rows(task, metric).sort_values([axis, "value"], ascending=[False, rising])
        found = zip(_as_results(rows), rows[axis], strict=True)
        values = {(row.recommender, x): row for row, x in found}
        columns = {x: f"{x:g}" for x in sorted(rows[axis].unique())}
        title = f"{wording.metric_label(metric)} of {task} by {axis}"
        return tables.value_table(title, columns, values)


def _as_results(rows: pd.DataFrame) -> list[MetricResult]:
    names = ["task", "label", "metric", "value", "ci_low", "ci_high", "n"]
    return [MetricResult(*row) for row in rows[names].itertuples(index=False)]


def verdict(row: Any) -> str:
    """Say whether an arm is better, worse or neither, by its test and by each of the seeds."""
    found, agree = tables.verdict(row), min(row.by_seed) > 0 or max(row.by_seed) < 0
    return _DISAGREE if found in ("better", "worse") and not agree else found


def _found(rows: Sequence[Any]) -> str:
    """Say which arms each verdict is about; of many, name those furthest off."""
    parts = []
    for found, predicate in _PREDICATES.items():
        own = [row for row in rows if verdict(row) == found]
        more = [f"{len(own) - _NAMED} more"] if len(own) > _NAMED else []
        if more:
            own.sort(key=lambda row: -abs(row.difference))
        named = [f"{row.label} ({difference(row)})" for row in own[:_NAMED]] + more
        if own:
            listed = " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
            parts.append(f"{listed} {'is' if len(own) == 1 else 'are'} {predicate}")
    return "; ".join(parts)


def _draw_points(axes: Axes, rows: pd.DataFrame) -> None:
    places, colours = np.arange(len(rows)), [ACCENT if own else BASELINE for own in rows["own"]]
    axes.hlines(places, rows["ci_low"], rows["ci_high"], colors=colours)
    axes.scatter(rows["value"], places, c=colours)
    axes.axvline(rows["value"].iloc[0], color=QUIET, linestyle="--", linewidth=0.8, zorder=0)
    axes.set_yticks(places, rows["label"], color=INK)
    axes.invert_yaxis()


def _draw_curves(axes: Axes, rows: pd.DataFrame, axis: str) -> None:
    """Draw a curve with intervals a label, side by side so that no interval hides another."""
    values = np.sort(rows[axis].unique())
    is_wide = values[0] > 0 and values[-1] >= 10 * values[0]
    step = 1.03 if is_wide else 0.01 * (values[-1] - values[0])
    for turn, (label, own) in enumerate(rows.groupby("label", sort=False)):
        own, is_own = own.sort_values(axis), bool(own["own"].iloc[0])
        places = own[axis] * step**turn if is_wide else own[axis] + turn * step
        colour, width = (ACCENT, 2.0) if is_own else (BASELINE, 1.3)
        look = _DASHES[turn % len(_DASHES)] + _MARKERS[turn % len(_MARKERS)]
        axes.plot(places, own["value"], look, color=colour, linewidth=width, label=label)
        axes.vlines(places, own["ci_low"], own["ci_high"], colors=colour, linewidth=1)
    axes.set_xscale("log" if is_wide else "linear")
    axes.set_xlabel(axis, color=QUIET)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.legend(frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1))
