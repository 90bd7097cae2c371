from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from recinject.evaluation.metrics import MetricResult
from recinject.foundation.errors import RecinjectError
from recinject.reporting.result import ROWS, Result


def test_each_kind_of_rows_is_a_frame(result: Result) -> None:
    for name in ROWS:
        frame = getattr(result, name)
        assert frame.to_dict("records") == pd.DataFrame(map(asdict, result.rows[name])).to_dict(
            "records"
        ) or frame.isna().any(axis=None)
        assert len(frame) == len(result.rows[name]) > 0


def test_without_rows_a_frame_has_its_columns_all_the_same() -> None:
    empty = Result.from_rows({})
    assert list(empty.metrics) == list(MetricResult.__annotations__)
    assert list(empty.slices)[-3:] == ["by", "slice", "queries"]
    assert empty.headline == "Nothing was measured in this run."


def test_it_cannot_be_changed(result: Result) -> None:
    with pytest.raises(FrozenInstanceError):
        result.facts = None  # type: ignore[misc,assignment]
    frame = result.metrics
    frame["value"] = 0.0
    assert result.metrics["value"].min() > 0


def test_what_is_saved_is_loaded(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "result")
    found = Result.load(tmp_path / "result")
    assert found.facts.model == result.facts.model
    assert found.headline == result.headline
    for name in ROWS:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(result, name))
    assert found.predictions.keys() == result.predictions.keys()
    for key, frame in result.predictions.items():
        pd.testing.assert_frame_equal(found.predictions[key], frame)
    pages = [each.report(tmp_path / name).read_text("utf-8") for name, each in
             (("one", result), ("two", found))]  # fmt: skip
    assert pages[0] == pages[1]


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecinjectError, match=r"no result, metrics\.json is missing"):
        Result.load(tmp_path)


def test_unknown_rows_and_facts_are_refused() -> None:
    with pytest.raises(RecinjectError, match="did you mean 'metrics'"):
        Result.from_rows({"metric": []})
    with pytest.raises(RecinjectError, match=r"facts\.comand: unknown key\n.*'command'"):
        Result.from_rows({}, facts={"comand": "x"})


def test_a_plot_shows_one_metric_or_all_of_a_task(result: Result) -> None:
    (axes,) = result.plot("retrieval", "ndcg@10").axes
    assert axes.get_title("left") == "NDCG@10"
    assert [each.get_title("left") for each in result.plot().axes] == ["HR@10", "NDCG@10"]
    (rmse,) = result.plot("rating").axes[:1]
    assert (rmse.get_title("left"), rmse.get_xlabel()) == ("RMSE", "lower is better")
    assert axes.get_xlabel() == ""
    assert result.plot("rating")._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(RecinjectError, match="'retreival'"):
        result.plot("retreival")
    with pytest.raises(RecinjectError, match="'mrr'"):
        result.plot("rating", "mrr")


def test_a_notebook_shows_headline_and_metrics(result: Result) -> None:
    # Small enough to stay below .001 once Holm has corrected them.
    compared = [replace(row, p_value=1e-6) for row in result.rows["comparisons"]]
    shown = replace(result, rows={**result.rows, "comparisons": compared})._repr_html_()
    assert shown.startswith("<p>The language model loses to item kNN")
    assert "p &lt; .001" in shown and shown.count("<tr") == 1 + len(result.metrics)


def test_language_models_of_other_names_are_told_apart_from_baselines() -> None:
    values = {"flan": 1.0, "flan_reworded": 0.9, "gemma": 1.3, "item_mean": 1.1}
    rows = [MetricResult("rating", k, "rmse", v, v, v, 50) for k, v in values.items()]
    facts = {"language_models": ["flan", "gemma"]}
    said = Result.from_rows({"metrics": rows}, facts=facts).sentences
    assert said[0].startswith("flan scores above item mean on rating: RMSE 1.000")
    assert said[1].startswith("gemma loses to item mean on rating: RMSE 1.300")
    assert len(said) == 2
    assert "No language model was asked" in Result.from_rows({"metrics": rows}).headline
    bars = Result.from_rows({"metrics": rows}, facts=facts).plot("rating").axes[0].patches
    colours = [to_hex(bar.get_facecolor()) for bar in bars]
    assert colours == ["#aab2bd", "#0072b2", "#aab2bd", "#0072b2"]
