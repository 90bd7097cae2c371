"""A run measures impact and harm as its recipe says, reports it, and can be simulated on."""

import json

import pytest


@pytest.mark.slow
def test_a_run_asks_again_and_goes_on_in_rounds(tiny_recipe, tmp_path, recinject):
    words = [f"runs={tmp_path}", "samples.tasks.masked_language_modelling=null"]
    harm = ["evaluation.harm=[all]", "evaluation.harm_queries=12", "evaluation.provider=brand"]
    less = ["evaluation.baselines=[popularity, item_mean]", "evaluation.limit=40"]
    ended = recinject("run", tiny_recipe, *words, *harm, *less)
    assert ended.code == 0, ended.output
    assert "s of asking again" in ended.output
    rows = json.loads((tmp_path / "tiny" / "evaluation" / "harm.json").read_text())
    measured = {row["measure"] for row in rows}
    assert {"groups", "overlap", "wording", "order", "injection", "membership"} <= measured
    known = {row["level"] for row in rows}
    assert known <= {"ok", "note", "warning", "not measured"}
    constrained = [row["value"] for row in rows if row["part"] == "constrained"]
    assert constrained and set(constrained) == {0.0}
    assert all(row["why"] for row in rows if row["value"] is None)
    report = (tmp_path / "tiny" / "report" / "report.md").read_text()
    assert "## Impact and harm" in report and "Whether titles can give orders" in report
    warned = any(r["level"] == "warning" and r["recommender"] == "language_model" for r in rows)
    card = (tmp_path / "tiny" / "model" / "README.md").read_text()
    assert ("- Impact and harm." in card) == warned
    ended = recinject("simulate", tmp_path / "tiny", "rounds=2", "users=10")
    assert ended.code == 0, ended.output
    rounds = json.loads((tmp_path / "tiny" / "simulation" / "rounds.json").read_text())
    names = {row["recommender"] for row in rounds}
    assert names == {"language_model", "item_knn", "random", "popularity"}
    assert recinject("simulate", tmp_path / "tiny", "round=2").code == 2


def test_mistakes_are_told_before_anything_is_fitted(tiny_recipe, tmp_path, recinject):
    words = ("run", tiny_recipe, f"runs={tmp_path}")
    for setting in (
        "evaluation.groups=[sex]",
        "evaluation.harm=[ordr]",
        "evaluation.provider=mark",
    ):
        ended = recinject(*words, setting)
        assert ended.code == 2 and "fix:" in ended.output, ended.output
        assert "fitting" not in ended.output and "samples: starting" not in ended.output
