from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from recinject.reporting.sweep import Sweep

# Over both seeds, by seed, and the p-value.
FOUND = {
    ("retrieval", "hr@10", "longer"): (0.002, (0.001, 0.003), 0.6),
    ("retrieval", "hr@10", "add_items"): (0.03, (0.02, 0.04), 0.001),
    ("retrieval", "hr@10", "add_bpr"): (-0.03, (-0.02, -0.04), 0.001),
    ("rating", "rmse", "longer"): (-0.02, (-0.01, -0.03), 0.001),
    ("rating", "rmse", "add_items"): (-0.02, (-0.01, -0.03), 0.001),
    ("rating", "rmse", "add_bpr"): (0.02, (-0.01, 0.05), 0.001),
}
STEPS = {"base": 1200, "longer": 1500, "add_items": 1500, "add_bpr": 1500}
MIXTURES = {"add_items": "{retrieval: 6, items: 2}", "add_bpr": "{retrieval: 6, bpr: 2}"}


def settings(arm: str) -> dict[str, object]:
    mixture = MIXTURES.get(arm, "{retrieval: 6}")
    return {"arm": arm, "training.max_steps": STEPS[arm], "training.mixture": mixture}


def measured(arm: str, task: str, metric: str, value: float, who: str = "language_model"):  # type: ignore[no-untyped-def]
    row = {"recommender": who, "task": task, "metric": metric, "value": value}
    return settings(arm) | row | {"ci_low": 0.9 * value, "ci_high": 1.1 * value, "n": 943}


@pytest.fixture
def swept() -> Sweep:
    values = {key: 0.1 + FOUND[key][0] for key in FOUND} | {
        ("retrieval", "hr@10", "base"): 0.1,
        ("rating", "rmse", "base"): 1.1,
    }
    pooled = [measured(arm, task, metric, value) for (task, metric, arm), value in values.items()]
    pooled.append(measured("base", "retrieval", "hr@10", 0.05, "popularity"))
    pooled.append(measured("base", "retrieval", "hr@10", 0.01, "language_model_reworded"))
    comparisons = [
        {"arm": arm, "reference": reference, "recommender": "language_model", "task": task}
        | {"metric": metric, "difference": gap, "ci_low": gap - 0.01, "ci_high": gap + 0.01}
        | {"p_value": p, "n": 943, "by_seed": list(by_seed)}
        for reference in ("base", "longer")
        for (task, metric, arm), (gap, by_seed, p) in FOUND.items()
        if arm != reference
    ]
    by_run = [row | {"seed": seed, "seconds": 120.0} for row in pooled for seed in (1, 2)]
    facts = {
        "name": "ablation",
        "command": "recinject run ablation",
        "keys": ["training.max_steps", "training.mixture"],
        "data": "a shop",
        "model": "small",
        "sampled_candidates": 99,
    }
    standing = {**comparisons[0], "arm": "base", "reference": "popularity", "difference": 0.05}
    del standing["by_seed"]
    frames = (by_run, pooled, comparisons, [standing | {"p_value": 0.01}])
    return Sweep(*map(pd.DataFrame, frames), facts)


def test_the_sentences_say_first_what_harms(swept: Sweep) -> None:
    first, second, *others = swept.sentences()
    assert first == (
        "Against base on retrieval (HR@10), add_bpr (−0.030 [−0.040, −0.020]) is worse; "
        "add_items (+0.030 [0.020, 0.040]) is better; "
        "longer (+0.002 [−0.008, 0.012]) is not shown to differ."
    )
    assert second.startswith("Against base on rating (RMSE), longer (−0.020 ")
    assert second.endswith(
        "are better; add_bpr (+0.020 [0.010, 0.030]) is better with some seeds and worse with "
        "others."
    )
    *others, standing = others
    assert len(others) == 2 and all(line.startswith("Against longer on") for line in others)
    assert standing.startswith("The language model of longer reaches HR@10 0.102 ")


def test_of_many_arms_the_furthest_are_named(swept: Sweep) -> None:
    row = swept.comparisons.query("arm == 'add_items'").iloc[:1]
    many = pd.concat([row.assign(arm=f"n{n}", difference=n / 100) for n in range(1, 8)])
    pooled = pd.concat([swept.pooled.iloc[:1].assign(arm=f"n{n}") for n in range(1, 8)])
    said, *_ = replace(swept, comparisons=many, pooled=pooled).sentences()
    assert re.findall(r"n\d", said) == ["n7", "n6", "n5", "n4"] and said.endswith(
        "and 3 more are better."
    )


def test_the_terminal_gets_aligned_columns(swept: Sweep) -> None:
    lines = list(swept.summary())
    tables = [line for line in lines if re.match(r"(Task|retrieval|rating) ", line)]
    assert len(tables) == 1 + 6 + 1 + 4
    for rows in (tables[:7], tables[7:]):
        starts = {line.index(name) for line in rows for name in ("HR@10", "RMSE") if name in line}
        assert starts == {rows[0].index("Metric")}
        assert {line.index("943") for line in rows[1:]} == {rows[0].rindex("n")}


def test_page_and_markdown_hold_every_comparison(swept: Sweep, tmp_path: Path) -> None:
    assert swept.report(tmp_path) == tmp_path / "report.html"
    page, text = ((tmp_path / f"report.{kind}").read_text("utf-8") for kind in ("html", "md"))
    bodies = re.findall(
        r"<table>(.*?)</table>",
        MarkdownIt("commonmark").enable("table").render(text),
        flags=re.DOTALL,
    )
    counts = []
    for body in bodies:
        rows = re.findall(r"<tr>(.*?)</tr>", body, flags=re.DOTALL)
        assert len({len(re.findall(r"<t[hd]\b", row)) for row in rows}) == 1
        counts.append(len(rows) - 1)
    assert counts == [6, 4, 4, 5, 4]
    for said in ("−0.010 to +0.050", "1500", "seeds disagree", "2 min 0 s", "popularity"):
        assert said in page and said in text
    assert "new wording" not in text


def test_a_number_that_varies_beside_other_settings_is_an_axis(swept: Sweep) -> None:
    arms = {"small": (0.1, "a"), "large": (1.0, "a"), "small_b": (0.1, "b"), "large_b": (1.0, "b")}
    rows = [
        measured("base", "rating", "rmse", 1.0 + n / 10)
        | {"arm": arm, "share": share, "head": head}
        for n, (arm, (share, head)) in enumerate(arms.items())
    ]
    rows += [rows[0] | {"recommender": "item_mean"}, rows[1] | {"recommender": "item_mean"}]
    pooled = pd.DataFrame(rows)
    facts = {**swept.facts, "keys": ["head", "share"]}
    by_run = pooled.assign(seed=1, seconds=1.0)
    axes = replace(swept, metrics=by_run, pooled=pooled, facts=facts).plot("rating").axes[0]
    assert axes.get_xlabel() == "share" and axes.get_xscale() == "log"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["language model, a", "language model, b", "item mean"]
    points = swept.plot("retrieval").axes[0]
    assert [text.get_text() for text in points.get_yticklabels()] == [
        *("longer", "add_items", "add_bpr", "base"),
        "popularity",
    ]


def test_a_sweep_is_saved_and_loaded(swept: Sweep, tmp_path: Path) -> None:
    swept.save(tmp_path)
    assert Sweep.load(tmp_path).sentences() == swept.sentences()


def test_a_hostile_name_stays_text(swept: Sweep, tmp_path: Path) -> None:
    replace(swept, facts={**swept.facts, "name": "<script>x</script>"}).report(tmp_path)
    for kind in ("html", "md"):
        assert "<script" not in (tmp_path / f"report.{kind}").read_text("utf-8")


def test_a_single_arm_is_held_against_the_others_in_it(swept: Sweep, tmp_path: Path) -> None:
    frames = {name: getattr(swept, name).query("arm == 'base'") for name in ("metrics", "pooled")}
    alone = replace(swept, **frames, comparisons=pd.DataFrame())
    (said,) = alone.sentences()
    assert said.startswith("The language model beats popularity on retrieval: HR@10 0.100 ")
    assert "p = .010" in said
    alone.report(tmp_path)
    assert said in (tmp_path / "report.md").read_text("utf-8")
    (said,) = replace(alone, standings=pd.DataFrame()).sentences()
    assert "no paired test was made" in said
