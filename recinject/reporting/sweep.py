"""What a sweep found: frames, sentences, a figure and a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import SeedComparison
from recinject.foundation.storage import read_json, write_json
from recinject.reporting import tables
from recinject.reporting.figures import ACCENT, BASELINE, INK, LINE, QUIET, finish
from recinject.reporting.headline import difference, main_metric, ordered_tasks
from recinject.reporting.inputs import LANGUAGE_MODEL
from recinject.reporting.pages import render, write_pages
from recinject.reporting.tables import Cell, Table
from recinject.reporting.wording import (
    LOWER_IS_BETTER,
    count,
    metric_label,
    metric_meanings,
    number,
    p_value,
    recommender_label,
    seconds,
    signed,
)

_SHOWN = ("hr@10", "ndcg@10", "rmse", "mae")
_NAMED = 4
_DISAGREE = "seeds disagree"
# What a sentence makes of each verdict, in its order.
_PREDICATES = {
    "worse": "worse",
    "better": "better",
    _DISAGREE: "better with some seeds and worse with others",
    "not shown to differ": "not shown to differ",
}
_MARKERS = "os^DvPX*"


@dataclass(frozen=True, eq=False)
class Sweep:
    """What runs of one recipe with other settings and seeds scored, and how they compare.

    Attributes:
        arms: one row an arm: its name, its value of each key that varies, and the mean ``seconds``
            of its trainings.
        metrics: one row a run and metric: ``arm``, the keys, ``seed``, ``recommender``, ``task``,
            ``metric``, ``value``, ``ci_low``, ``ci_high`` (95 %, over users) and ``n`` (users).
        pooled: the same without ``seed``: the answers of all seeds are measured together.
        comparisons: each arm's recommenders less the same under a reference's settings:
            ``arm``, ``reference``, ``recommender``, ``task``, ``metric``, ``difference``,
            ``ci_low``, ``ci_high``, ``p_value``, ``n``, and the difference of each seed, ``by_seed``.
        facts: name, command and version; seeds; data and model in words.
    """

    arms: pd.DataFrame
    metrics: pd.DataFrame
    pooled: pd.DataFrame
    comparisons: pd.DataFrame
    facts: Mapping[str, Any]

    def save(self, folder: str | Path) -> None:
        """Write the frames as Parquet into a folder, and the facts as JSON."""
        for name in ("arms", "metrics", "pooled", "comparisons"):
            getattr(self, name).to_parquet(Path(folder) / f"{name}.parquet", index=False)
        write_json(Path(folder) / "facts.json", dict(self.facts))

    @classmethod
    def load(cls, folder: str | Path) -> Sweep:
        """Read what :meth:`save` wrote."""
        names = [field.name for field in fields(cls) if field.name != "facts"]
        frames = {name: pd.read_parquet(Path(folder) / f"{name}.parquet") for name in names}
        return cls(**frames, facts=read_json(Path(folder) / "facts.json"))

    def report(self, folder: str | Path) -> Path:
        """Write ``report.html``, ``report.md`` and figures; return the path of the page."""
        drawn = {f"sweep_{task}": self.plot(task) for task in ordered_tasks(self._results)}
        content = {
            "facts": self.facts,
            "headline": self.sentences(),
            "figures": list(drawn),
            "comparison_tables": [self._comparison_table(name) for name in self._references],
            "arm_table": self._arm_table(),
            "metric_tables": self._metric_tables(),
            "meanings": metric_meanings(row.metric for row in self._results),
        }
        text = render("sweep.md.j2", content)
        return write_pages(Path(folder), "report", self.facts["name"], text, drawn)

    def summary(self) -> Iterator[str]:
        """Yield the lines that a terminal shows: the sentences and the comparisons."""
        yield from self.sentences()
        for table in map(self._comparison_table, self._references):
            yield f"\n{table.title}:\n"
            lines = [[f"{c.text} {c.aside}".rstrip() for c in row] for row in table.rows]
            columns = list(zip(table.header, *lines, strict=True))
            widths = [max(map(len, column)) for column in columns]
            for line in (table.header, *lines):
                yield "  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip()

    def sentences(self) -> list[str]:
        """Say for each task, by its main metric, which arms are better than a reference or worse."""
        said = []
        for reference in self._references:
            rows = self._compared_with(reference)
            for task in ordered_tasks(rows):
                metric = main_metric(task, rows)
                found = _found([row for row in rows if (row.task, row.metric) == (task, metric)])
                of = f"Against {_plain(reference)} on {task} ({metric_label(metric)})"
                said.append(f"{of}, {found}.")
        return said or ["Nothing was compared."]

    def plot(self, task: str, metric: str | None = None) -> Figure:
        """Draw a metric of a task, the main one if none is given, with 95 % intervals.

        Where a key with numbers varies within every other setting, its values are the horizontal
        axis of one curve a recommender and other setting; elsewhere each arm is a point.
        """
        chosen = metric or main_metric(task, self._results)
        rows = self._labelled[lambda all: (all["task"] == task) & (all["metric"] == chosen)]
        title = metric_label(chosen) + (" (lower is better)" if chosen in LOWER_IS_BETTER else "")
        figure = Figure(figsize=(8.0, 4.2 if self._axis else 1 + 0.28 * len(rows)), layout="constrained")
        axes = figure.subplots()
        if self._axis:
            _draw_curves(axes, rows, self._axis)
        else:
            _draw_points(axes, rows)
        finish(axes, title, grid=bool(self._axis))
        return figure

    @cached_property
    def _keys(self) -> list[str]:
        return [name for name in self.arms.columns if name not in ("arm", "seconds")]

    @cached_property
    def _axis(self) -> str | None:
        """The first key with numbers that takes several values beside each other setting."""
        for key in self._keys:
            values, beside = self.arms[key], self._beside(key)
            if is_numeric_dtype(values) and not is_bool_dtype(values):
                groups = self.arms.groupby(beside)[key] if beside else values
                if np.min(groups.nunique()) > 1:
                    return key
        return None

    def _beside(self, axis: str) -> list[str]:
        """Return the keys whose values do not follow from that of the axis."""
        varied = self.arms.groupby(axis)[self._keys].nunique().max() > 1
        return [key for key in self._keys if varied[key]]

    def _label(self, arm: str, recommender: str) -> str:
        """Name a recommender of an arm: the language model by its arm, others by their names."""
        if recommender == LANGUAGE_MODEL:
            return _plain(arm)
        own = self.pooled.loc[self.pooled["recommender"] == recommender, "arm"]
        name = recommender_label(recommender)
        return name if own.nunique() == 1 and len(self.arms) > 1 else f"{name}, {_plain(arm)}"

    def _line(self, row: Mapping[str, Any]) -> str:
        """Name the curve that a row is a point of."""
        beside = self._beside(str(self._axis))
        own = self.pooled[self.pooled["recommender"] == row["recommender"]]
        varied = [key for key in beside if own[key].nunique() > 1]
        words = [f"{key.rpartition('.')[2]} {row[key]}" for key in varied]
        return ", ".join([recommender_label(row["recommender"]), *words])

    @cached_property
    def _labelled(self) -> pd.DataFrame:
        """The pooled figures, each with its ``label`` and ``line``, the language model's first."""
        rows = self.pooled.to_dict("records")
        labels = [self._label(row["arm"], row["recommender"]) for row in rows]
        frame = self.pooled.assign(
            label=labels,
            line=[self._line(row) for row in rows] if self._axis else labels,
            own=self.pooled["recommender"].str.startswith(LANGUAGE_MODEL),
        )
        return frame[np.isfinite(frame["value"])].sort_values("own", ascending=False, kind="stable")

    @cached_property
    def _results(self) -> list[MetricResult]:
        names = ["task", "line", "metric", "value", "ci_low", "ci_high", "n"]
        return [MetricResult(*row) for row in self._labelled[names].itertuples(index=False)]

    @cached_property
    def _references(self) -> list[str]:
        return list(self.comparisons["reference"].unique()) if len(self.comparisons) else []

    def _compared_with(self, reference: str) -> list[SeedComparison]:
        """Return the comparisons with a reference by the usual metrics, the main task's first."""
        own = self.comparisons[self.comparisons["reference"] == reference]
        rows = [
            SeedComparison(**row | {"recommender": self._label(arm, row["recommender"])})
            for arm, row in zip(own["arm"], own.drop(columns="arm").to_dict("records"), strict=True)
        ]
        kept = [row for row in rows if row.metric in (*_SHOWN, main_metric(row.task, rows))]
        order, metrics = ordered_tasks(rows), list(dict.fromkeys(row.metric for row in rows))
        return sorted(kept, key=lambda row: (order.index(row.task), metrics.index(row.metric)))

    def _comparison_table(self, reference: str) -> Table:
        values = self._labelled.set_index(["task", "metric", "label"])["value"]
        rows = [
            [
                Cell(row.task),
                Cell(metric_label(row.metric)),
                Cell(row.recommender),
                Cell(verdict(row), kind=tables.LOOKS.get(verdict(row), "note")),
                Cell(number(values[row.task, row.metric, row.recommender])),
                Cell(difference(row)),
                Cell(p_value(row.p_value).removeprefix("= ")),
                Cell(f"{signed(min(row.by_seed))} to {signed(max(row.by_seed))}"),
                Cell(count(row.n)),
            ]
            for row in self._compared_with(reference)
        ]
        header = ["Task", "Metric", "Arm", "It is", "Value", "Difference", "p", "By seed", "n"]
        return Table(f"Against {_plain(reference)}", header, rows, labels=4)

    def _arm_table(self) -> Table:
        keys = [key for key in self._keys]
        rows = [
            [
                Cell(_plain(row["arm"])),
                *(Cell(row[k] if isinstance(row[k], str) else f"{row[k]:g}") for k in keys),
                Cell(seconds(row["seconds"]) if np.isfinite(row["seconds"]) else DASH),
            ]
            for row in self.arms.to_dict("records")
        ]
        return Table("Arms", ["Arm", *keys, "Mean time"], rows, labels=1 + len(keys))

    def _metric_tables(self) -> list[Table]:
        """Make a table a task: arms by metrics, or curves by the values of the axis."""
        if not self._axis:
            return tables.metric_tables(self._results, self.facts["sampled_candidates"])
        made = []
        for task in ordered_tasks(self._results):
            metric = main_metric(task, self._results)
            own = self._labelled[lambda all: (all["task"] == task) & (all["metric"] == metric)]
