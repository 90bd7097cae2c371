"""Two runs side by side: their metrics, tested where they answered the same, and their settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.markup import escape
from rich.table import Column, Table

from recinject.evaluation.statistics import compare as test_paired
from recinject.evaluation.statistics import holm, is_paired, load_answers
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import plain
from recinject.pipeline.run import Run
from recinject.reporting.headline import main_metric, ordered_tasks
from recinject.reporting.result import Result
from recinject.reporting.wording import (
    DASH,
    interval,
    metric_label,
    number,
    p_value,
    recommender_label,
    signed,
)

_KEYS = ["task", "recommender", "metric"]
_TEST = ["difference", "ci_low", "ci_high", "p_value"]
_NOT_SETTINGS = ("name", "runs")


class Compared(NamedTuple):
    """What two runs found and how they were made, in tidy frames.

    ``metrics`` has a row a task, recommender and metric that both measured: the value of each run,
    and the ``difference``, the second's less the first's. Where both answered the same queries it
    has a 95 % interval and the p-value of a paired bootstrap over the ``n`` users; those of main
    metrics (``main``) are corrected for their number (Holm). ``settings`` has a row a setting that
    differs.
    """

    metrics: pd.DataFrame
    settings: pd.DataFrame


def compare(first: str | Path | Run, second: str | Path | Run) -> Compared:
    """Set two finished runs beside each other.

    Args:
        first: a run's folder, its name below ``runs/``, or what :func:`recinject.run` returned.
        second: the one whose gain or loss is measured.

    Raises:
        RecinjectError: there is no such run, it is not finished, or they share no metric.

    Examples:
        >>> compare("runs/quickstart", "runs/longer").metrics  # doctest: +SKIP
    """
    one, two = (each if isinstance(each, Run) else Run.open(each) for each in (first, second))
    folders = [run.sealed("evaluation") for run in (one, two)]
    values = [Result.load(folder).metrics for folder in folders]
    frame = values[0].merge(values[1], on=_KEYS, suffixes=("_1", "_2"))
    if not len(frame):
        raise RecinjectError(
            f"{one.recipe.name} and {two.recipe.name}: nothing was measured in both",
            hint="compare runs that share a task and a recommender",
        )
    frame = frame.rename(columns={"value_1": "first", "value_2": "second"})
    rows: list[Any] = list(frame.itertuples())
    main = {task: main_metric(task, rows) for task in frame["task"].unique()}
    frame["main"] = frame["metric"] == frame["task"].map(main)
    drawn = one.recipe.evaluation.resamples, one.recipe.seed
    groups = frame.groupby(_KEYS[:2])
    tests = [row for keys, own in groups for row in _test(keys, own, folders, drawn)]
    tested = pd.DataFrame(tests, columns=[*_KEYS, *_TEST, "n"])
    frame = frame[[*_KEYS, "main", "first", "second"]].merge(tested, on=_KEYS, how="left")
    frame["difference"] = frame["second"] - frame["first"]
    p_values = frame["p_value"].to_numpy(copy=True)
    p_values[frame["main"]] = holm(p_values[frame["main"]])
    return Compared(frame.assign(p_value=p_values), _differences(one, two))


def _test(
    keys: Any, own: pd.DataFrame, folders: list[Path], drawn: tuple[int, int]
) -> Iterator[list[Any]]:
    """Yield the paired tests of one recommender's metrics; none where the queries differ."""
    task, who = keys
    files = [folder / "predictions" / f"{task}.{who}.parquet" for folder in folders]
    if not all(file.is_file() for file in files):
        return
    one, two = (load_answers([file], who) for file in files)
    if is_paired(one, two):
        for row in test_paired(two[0], [one[0]], two[1], own["metric"].tolist(), *drawn):
            test = [getattr(row, name) for name in _TEST]
            yield [task, who, row.metric, *test, row.n]


def _differences(one: Run, two: Run) -> pd.DataFrame:
    """Return the settings in which two recipes differ, by dotted key."""
    first, second = (dict(_flat(run.resolved.model_dump(mode="json"))) for run in (one, two))
    rows = [
        (key, first.get(key), second.get(key))
        for key in first | second
        if first.get(key) != second.get(key) and key not in _NOT_SETTINGS
    ]
    return pd.DataFrame(rows, columns=["setting", "first", "second"])


def _flat(content: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def tables(found: Compared) -> Iterator[Table]:
    """Lay out the settings that differ, and the main metric of each task."""
    settings = Table("setting", "first", "second", title="Settings that differ")
    for values in found.settings.itertuples(index=False):
        settings.add_row(*(escape(plain(str(value))) for value in values))
    yield settings
    main = found.metrics[found.metrics["main"]]
    rows: list[Any] = list(main.itertuples())
    for task in ordered_tasks(rows):
        own = [row for row in rows if row.task == task]
        numeric = ("first", "second", "second less first", "p", "n")
        columns = [Column(name, justify="right") for name in numeric]
        table = Table("recommender", *columns, title=f"{metric_label(own[0].metric)} of {task}")
        for row in own:
            tested = isfinite(row.p_value)
            ends = interval(row.ci_low, row.ci_high) if tested else "(not the same queries)"
            shown = [number(row.first), number(row.second), f"{signed(row.difference)} {ends}"]
            test = [p_value(row.p_value).removeprefix("= "), str(int(row.n)) if tested else DASH]
            table.add_row(recommender_label(row.recommender), *shown, *test)
        yield table
