"""Two runs side by side: the same answers differ by nothing, others by what was measured."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

import recinject as ri
from recinject.foundation.errors import RecinjectError


@pytest.fixture(scope="module")
def other(finished, recinject, tiny_recipe, tmp_path_factory):
    """The same run, but for its baselines and how its report looks: it answers the same queries."""
    runs = tmp_path_factory.mktemp("other")
    shutil.copytree(finished.folder, runs / "tiny")
    settings = ["evaluation.baselines=[{ease: {regularization: 1.0}}]", "report.examples=2"]
    ended = recinject("run", tiny_recipe, f"runs={runs}", *settings)
    assert ended.code == 0, ended.output
    return runs / "tiny"


def test_a_run_differs_from_itself_by_nothing(finished):
    found = ri.compare(finished.folder, finished.folder)
    known = found.metrics.dropna(subset="ci_low")
    assert len(known) and (known["difference"] == 0).all() and (known["p_value"] == 1).all()
    assert (known["ci_low"] == 0).all() and len(found.settings) == 0


def test_the_difference_is_the_seconds_less_the_firsts(finished, other):
    found = ri.compare(finished.folder, other)
    ends = [json.loads((folder / "evaluation" / "metrics.json").read_text("utf-8"))
            for folder in (finished.folder, other)]  # fmt: skip
    keys = ["task", "recommender", "metric"]
    one, two = (pd.DataFrame(rows).set_index(keys)["value"] for rows in ends)
    for row in found.metrics.itertuples():
        key = row.task, row.recommender, row.metric
        assert row.first == pytest.approx(one[key], nan_ok=True)
        assert row.difference == pytest.approx(two[key] - one[key], nan_ok=True)
    assert set(found.metrics["recommender"]) >= {"language_model", "ease"}


def test_who_answered_the_same_queries_is_tested_in_pairs(finished, other):
    found = ri.compare(finished.folder, other).metrics
    ease = found[(found["recommender"] == "ease") & (found["metric"] == "ndcg@10")]
    assert (ease["ci_low"] <= ease["difference"]).all()
    assert (ease["difference"] <= ease["ci_high"]).all() and (ease["n"] > 0).all()


def test_p_values_of_main_metrics_are_corrected_for_their_number(finished, other):
    main = ri.compare(finished.folder, other).metrics.query("main")
    assert set(main["metric"]) == {"hr@10", "rmse"}
    assert np.nanmax(main["p_value"]) <= 1


def test_the_settings_that_differ_are_named(finished, other):
    settings = ri.compare(finished.folder, other).settings.set_index("setting")
    assert set(settings.index) == {"evaluation.baselines", "report.examples"}
    assert tuple(settings.loc["report.examples"]) == (10, 2)


def test_the_command_prints_both(finished, other, recinject, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    ended = recinject("compare", finished.folder, other, "-o", tmp_path / "all.csv")
    assert ended.code == 0, ended.output
    assert "report.examples" in ended.output and "HR@10 of retrieval" in ended.output
    assert len(pd.read_csv(tmp_path / "all.csv")) == len(ri.compare(finished.folder, other).metrics)


def test_a_run_that_is_not_finished_is_refused(built, finished):
    with pytest.raises(RecinjectError, match="has not been finished"):
        ri.compare(finished.folder, built)
