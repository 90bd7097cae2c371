from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recinject.data.cleaning import CleaningStep
from recinject.evaluation.audit import Finding
from recinject.evaluation.examples import Example
from recinject.evaluation.lists import ListResult, SliceResult
from recinject.evaluation.measures import HarmResult
from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import Comparison
from recinject.reporting.result import DataFacts, Facts, LossRow, ModelFacts, Result, SampleRow

VALUES = {
    ("retrieval", "hr@10"): {"language_model": 0.052, "item_knn": 0.083, "popularity": 0.031},
    ("retrieval", "ndcg@10"): {"language_model": 0.027, "item_knn": 0.044, "popularity": 0.016},
    ("ranking", "hr@10"): {"language_model": 0.512, "item_knn": 0.433, "popularity": 0.391},
    ("rating", "rmse"): {"language_model": 0.981, "item_mean": 1.012, "global_mean": 1.102},
}

SLICES = {
    "history length": {"1 to 5": 1200, "6 to 20": 800},
    "item popularity": {"tail": 400, "head": 1600},
}


@pytest.fixture
def metrics() -> list[MetricResult]:
    return [
        MetricResult(task, name, metric, value, 0.9 * value, 1.1 * value, 2000)
        for (task, metric), values in VALUES.items()
        for name, value in values.items()
    ]


@pytest.fixture
def comparisons() -> list[Comparison]:
    rows = []
    for (task, metric), values in VALUES.items():
        for name, value in list(values.items())[1:]:
            gap = values["language_model"] - value
            row = (task, metric, "language_model", name, gap, gap - 0.01, gap + 0.01, 0.0002, 2000)
            rows.append(Comparison(*row))
    return rows


@pytest.fixture
def rated() -> pd.DataFrame:
    """Answers to rating queries: of 10 true ratings of 1 two are predicted as 1, and so on."""
    counts = np.array([[2, 7, 1], [0, 300, 40], [0, 60, 190]])
    true, predicted = (index.ravel() for index in np.indices(counts.shape))
    values = np.array([1.0, 4.0, 5.0])
    frame = pd.DataFrame({"label": values[true], "rating": values[predicted]})
    return frame.loc[frame.index.repeat(counts.ravel())].reset_index(drop=True)


@pytest.fixture
def facts() -> Facts:
    return Facts(
        name="quickstart",
        command="recinject run quickstart",
        started="2026-01-02 10:00",
        finished="2026-01-02 10:02",
        version="0.1.0",
        seed=13,
        durations={"data": 1.2, "training": 95.0, "evaluation": 20.0},
        data=DataFacts(
            source="simulated shop, 600 users",
            split="leave_one_out",
            train=7520,
            validation=590,
            test=590,
            cleaning=[
                CleaningStep("as read", "all rows", 600, 300, 9000),
                CleaningStep("five_core", "users and items with 5 events", 590, 280, 8700),
            ],
            tie_rate=0.012,
            future_share=0.21,
        ),
        samples=[
            SampleRow("retrieval", "train", 7000, 10, 84.2, 211, 3),
            SampleRow("retrieval", "test", 590, 3, 84.9, 190, 0),
        ],
        model=ModelFacts("T5 built here, d_model=64", "full", 1_200_000, 1_200_000),
        training=[LossRow(10, 5.1), LossRow(20, 4.0), LossRow(20, None, 4.2), LossRow(30, 3.4)],
    )


@pytest.fixture
def result(
    metrics: list[MetricResult], comparisons: list[Comparison], rated: pd.DataFrame, facts: Facts
) -> Result:
    title = 'Cup <script>alert("tea")</script> | a *big* one'
    rows = {
        "metrics": metrics,
        "comparisons": comparisons,
        "audit": [
            Finding("duplicate titles", 4, "note", "four items share a title with another"),
            Finding("identifier leak", 0.0, "ok", "the next number is never the next item"),
            Finding("truncated prompts", 0.131, "warning", "13 % of prompts were cut"),
        ],
        "slices": [
            SliceResult("rating", name, "rmse", v, v - 0.1, v + 0.1, 900, by, each, queries)
            for by, slices in SLICES.items()
            for name, shift in (("language_model", 0.0), ("item_mean", 0.05))
            for (each, queries), v in zip(slices.items(), (1.0 + shift, 0.9 + shift), strict=True)
        ],
        "lists": [
            ListResult("language_model", "coverage@10", 0.62),
            ListResult("language_model", "novelty@10", 8.2, 8.1, 8.35),
            ListResult("popularity", "coverage@10", 0.04),
        ],
        "harm": [
            HarmResult("overlap", "overlap", "retrieval", "popularity", "", 0.94, 0.93, 0.95, None,
                       2000, "warning", ""),
            HarmResult("overlap", "overlap", "retrieval", "language_model", "", 0.1, 0.09, 0.11,
                       None, 2000, "ok", ""),
            HarmResult("groups", "hr@10 gap", "retrieval", "language_model", "sex", 0.2, 0.1, 0.3,
                       0.001, 2000, "warning", "served worst: f"),
            HarmResult("groups", "hr@10", "retrieval", "language_model", "sex: f", 0.1, 0.0, 0.2,
                       None, 900, "ok", ""),
            *(HarmResult("provider_exposure", "divergence", "retrieval", name,
                         level="not measured", why="evaluation.provider names no column")
              for name in ("language_model", "popularity")),
        ],
        "examples": [
            Example("retrieval", f"Bought {title}. What next?", "Mug", ["Pot", "Mug"],
                       "hit at rank 2", True),
            Example("rating", f"How much would she like {title}?", title, [],
                       "predicted 3.7, true 2", False),
        ],
    }  # fmt: skip
    return Result.from_rows(rows, {("rating", "language_model"): rated}, facts)


def changed(result: Result, **given: object) -> Result:
    """Return a result with other rows of some kinds, or with other facts."""
    rows = {name: given.pop(name) for name in list(given) if name in result.rows}
    facts = replace(result.facts, **given)
    return replace(result, rows={**result.rows, **rows}, facts=facts)


@pytest.fixture
def change() -> Callable[..., Result]:
    return changed
