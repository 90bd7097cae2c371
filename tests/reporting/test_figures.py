from __future__ import annotations

import time
from math import nan
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from recinject.evaluation.lists import SliceResult
from recinject.evaluation.measures import HarmResult
from recinject.evaluation.metrics import MetricResult
from recinject.reporting.figures import (
    code_figure,
    confusion_figure,
    loss_figure,
    metric_figure,
    slice_figure,
    to_png,
    to_svg,
)
from recinject.reporting.impact import harm_figure
from recinject.reporting.result import CodeGroup, LossRow

ROWS = [
    MetricResult("retrieval", "als", "hr@10", 0.2, 0.18, 0.23, 50),
    MetricResult("retrieval", "language_model", "hr@10", 0.1, nan, nan, 50),
]


def test_bars_follow_the_order_given_and_only_the_language_model_is_coloured() -> None:
    axes = metric_figure([ROWS]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ALS", "language model"]
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.1]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == ["#aab2bd", "#0072b2"]


def test_whiskers_span_the_interval_and_vanish_without_one() -> None:
    (whiskers,) = metric_figure([ROWS]).axes[0].collections
    (first, second) = [segment[:, 0].tolist() for segment in whiskers.get_segments()]
    assert first == pytest.approx([0.18, 0.23]) and second == pytest.approx([0.1, 0.1])


def test_all_zero_values_and_odd_numbers_of_panels_can_be_drawn(tmp_path: Path) -> None:
    zero = [MetricResult("rating", "language_model", "mae", 0.0, 0.0, 0.0, 5)]
    to_png(metric_figure([ROWS, zero, ROWS], columns=2), tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").width > 1000


def test_a_log_may_hold_training_losses_only_or_nothing_finite() -> None:
    (axes,) = loss_figure([LossRow(1, 2.0), LossRow(2, nan), LossRow(3, 1.0)]).axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1.0, 2.0], [3.0, 1.0]]]
    assert loss_figure([LossRow(1, nan)]).axes[0].lines[:] == []


def test_svg_is_themed_named_and_always_the_same() -> None:
    first, second = (to_svg(metric_figure([ROWS]), "hits & <misses>") for _ in range(2))
    assert first == second
    assert 'aria-label="hits &amp; &lt;misses&gt;"' in first and "var(--accent)" in first
    assert "DejaVu" not in first and "<metadata" not in first and "#0072b2" not in first


def test_a_code_is_a_bar_cut_by_the_code_after_it_with_titles_beside() -> None:
    groups = [CodeGroup("<a_3>", [5, 2, 1], ["Mug", "Cup"]), CodeGroup("<a_0>", [4], [])]
    axes = code_figure(groups).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["<a_3>", "<a_0>"]
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [
        (0, 5),
        (5, 2),
        (7, 1),
        (0, 4),
    ]
    assert [text.get_text().strip() for text in axes.texts] == ["Mug; Cup", ""]


def test_a_slice_of_a_few_queries_is_left_to_the_tables() -> None:
    def rows(*queries: int) -> list[SliceResult]:
        return [
            SliceResult("retrieval", name, "hr@10", 0.4, 0.3, 0.5, sum(queries), by, f"{n} of", n)
            for name in ("language_model", "popularity")
            for by, n in zip(
                ["history length"] * (len(queries) - 1) + ["other"], queries, strict=True
            )
        ]

    figure = slice_figure(rows(100, 3, 50))
    ticks = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert ticks == [["100 of\nn = 100"], ["50 of\nn = 50"]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "language model",
        "popularity",
    ]
    assert len(slice_figure(rows(3, 4)).axes) == 2, "where all are small, all are drawn"


def cells_of(labels: list[float], ratings: list[float]) -> tuple[list[str], list[list[str]]]:
    axes = confusion_figure(np.array(labels), np.array(ratings)).axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    texts = [text.get_text() for text in axes.texts]
    return names, [texts[n : n + len(names)] for n in range(0, len(texts), len(names))]


def test_up_to_twenty_ratings_have_a_cell_each_and_predictions_go_to_the_nearest() -> None:
    names, cells = cells_of([1, 1, 2.5, 4], [1.2, 2.4, 9, -3])
    assert names == ["1", "2.5", "4"]
    assert cells == [["50", "50", "0"], ["0", "0", "100"], ["100", "0", "0"]]
    assert len(cells_of(list(range(20)), list(range(20)))[0]) == 20


@pytest.mark.parametrize("skew", [1.0, 6.0, 60.0])
def test_of_more_ratings_ranges_are_drawn_in_seconds(skew: float) -> None:
    """With 2,400 different play counts the figure had six million cells."""
    rng = np.random.default_rng(0)
    labels = np.unique(np.ceil(rng.uniform(size=2400) ** skew * 1e6 + np.arange(2400) / 1e3))
    started = time.monotonic()
    names, cells = cells_of(labels.tolist(), (labels * 1.5).tolist())
    assert time.monotonic() - started < 10
    assert 2 <= len(names) <= 10 and len({*names}) == len(names)
    assert all(name.startswith("to ") for name in names[:-1]) and names[-1].startswith("above")
    for row in cells:
        assert 98 <= sum(map(int, row)) <= 102


def test_one_value_that_most_labels_have_does_not_hide_the_others() -> None:
    labels = [*range(30), *[30] * 400]
    names, cells = cells_of(labels, labels)
    assert names == ["to 29", "above 29"] and cells == [["100", "0"], ["0", "100"]]


def test_a_long_title_of_harm_is_within_its_figure():
    rows = [
        HarmResult("groups", "hr@10 gap", "retrieval", name, "activity", 0.1, 0.0, 0.2)
        for name in ("language_model", "language_model_blend")
    ]
    figure = harm_figure(rows, "Gap between groups on retrieval: HR@10 gap", ["language_model"])
    figure.draw_without_rendering()
    ends = figure._suptitle.get_window_extent()
    assert ends.x0 >= 0 and ends.x1 <= figure.bbox.width


@pytest.mark.parametrize("metric", ["hr@10", "ece_first", "rmse", "mae"])
def test_what_a_panel_measures_is_within_its_figure(metric: str) -> None:
    names = ("oracle", "language_model", "language_model_shuffled")
    rows = [MetricResult("rating", name, metric, 1.0, 0.9, 1.1, 10) for name in names]
    figure = metric_figure([rows])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    said = [axes.title, axes._left_title, axes._right_title, axes.xaxis.label]
    assert any(each.get_text() for each in said)
    for each in said:
        ends = each.get_window_extent()
        assert ends.x0 >= 0 and ends.x1 <= figure.bbox.width, each.get_text()
