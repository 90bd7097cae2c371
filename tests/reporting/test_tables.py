from __future__ import annotations

from dataclasses import replace
from math import nan

from recinject.evaluation.audit import Finding
from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import Comparison
from recinject.reporting import tables
from recinject.reporting.result import Result, SampleRow


def test_the_best_value_of_each_metric_is_bold_lower_being_better_for_errors(
    metrics: list[MetricResult],
) -> None:
    retrieval, ranking, rating = tables.metric_tables(metrics, 49)
    assert [row[0] for row in retrieval.rows] == ["item kNN", "language model", "popularity"]
    assert [cell.startswith("**") for cell in retrieval.rows[0]] == [False, True, True]
    assert rating.rows[0][1] == "**0.981** [0.883, 1.079]"
    assert "1 positive and 49 sampled candidates" in ranking.note


def test_equal_best_values_are_both_bold_and_holes_are_dashes(metrics: list[MetricResult]) -> None:
    rows = [replace(row, value=0.5) for row in metrics[:2]] + metrics[3:4]
    (table,) = tables.metric_tables(rows, 99)
    assert [row[1].startswith("**") for row in table.rows] == [True, True]
    assert table.to_markdown().splitlines()[-1] == "| item kNN | **0.500** [0.075, 0.091] | – |"


def test_comparisons_are_judged_by_the_test_and_the_metrics_direction(
    comparisons: list[Comparison],
) -> None:
    noisy = [replace(comparisons[0], p_value=0.2), *comparisons[1:]]
    main, other = tables.comparison_tables(noisy)
    verdicts = {(row[0], row[2]): row[3] for row in main.rows}
    assert verdicts == {
        ("retrieval", "item kNN"): "not shown to differ",
        ("retrieval", "popularity"): "better",
        ("ranking", "item kNN"): "better",
        ("ranking", "popularity"): "better",
        ("rating", "item mean"): "better",
        ("rating", "global mean"): "better",
    }
    assert {row[1] for row in other.rows} == {"NDCG@10"}


def test_without_a_model_comparisons_name_the_best_baseline(
    comparisons: list[Comparison],
) -> None:
    (main,) = tables.comparison_tables([replace(comparisons[0], recommender="ease")])
    assert main.header[:5] == ["Task", "Metric", "Recommender", "Against", "It is"]
    assert main.rows[0][2:5] == ["EASE", "item kNN", "worse"]
    assert main.labels == 5 and len(main.rows[0]) == len(main.header)


def test_the_gravest_finding_comes_first_and_an_unknown_verdict_before_all(
    result: Result,
) -> None:
    table = tables.audit_table([*result.rows["audit"], Finding("new", "x", "broken", "?")])
    assert [row[0] for row in table.rows] == ["broken", "warning", "note", "ok"]


def test_where_nobody_has_a_value_nobody_is_best(result: Result) -> None:
    rows = [
        replace(row, value=nan) if row.slice == "tail" else row for row in result.rows["slices"]
    ]
    table = tables.slice_tables(rows)[1]
    assert [[cell.startswith("**") for cell in row[1:]] for row in table.rows] == [
        [False, True],
        [False, False],
    ]


def test_samples_without_token_counts_have_no_token_columns() -> None:
    assert tables.sample_table([SampleRow("rating", "train", 5, 2)]).header[-1] == "Templates"
