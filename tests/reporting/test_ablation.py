from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from recinject.reporting.ablation import (
    AblationInputs,
    VariantRow,
    sentences,
    summary,
    verdict,
    write_ablation_report,
)
from recinject.reporting.inputs import ReportInputs

from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import SeedComparison

RATES = {"retrieval": 6.0, "rating": 2.0}
# Over both seeds, by seed, and the p-value.
FOUND = {
    ("retrieval", "hr@10", "base_longer"): (0.002, (0.001, 0.003), 0.6),
    ("retrieval", "hr@10", "add_masked_item_modelling"): (0.03, (0.02, 0.04), 0.001),
    ("retrieval", "hr@10", "add_bpr"): (-0.03, (-0.02, -0.04), 0.002),
    ("rating", "rmse", "base_longer"): (-0.02, (-0.01, -0.03), 0.01),
    ("rating", "rmse", "add_masked_item_modelling"): (-0.02, (-0.01, -0.03), 0.01),
    ("rating", "rmse", "add_bpr"): (0.02, (-0.01, 0.05), 0.01),
}


def comparison(key: tuple[str, str, str], reference: str = "base") -> SeedComparison:
    difference, by_seed, p = FOUND[key]
    row = (*key, reference, difference, difference - 0.01, difference + 0.01, p, 943, by_seed)
    return SeedComparison(*row)


class Opened(HTMLParser):
    """The tags that are left open at the end of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags += [] if tag == "meta" else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag


@pytest.fixture
def ablation(inputs: ReportInputs) -> AblationInputs:
    against_longer = [key for key in FOUND if key[2] != "base_longer"]
    values = {key: 0.1 + FOUND[key][0] for key in FOUND} | {
        ("retrieval", "hr@10", "base"): 0.1,
        ("rating", "rmse", "base"): 1.1,
    }
    return AblationInputs(
        name="ablation",
        command="recinject run ablation",
        seeds=[1, 2],
        base=inputs,
        variants=[
            VariantRow("base", RATES, 1200, [100.0, 110.0]),
            VariantRow("base_longer", RATES, 1500, [125.0, 130.0]),
            VariantRow("add_masked_item_modelling", RATES, 1500, [125.0, 130.0]),
            VariantRow("add_bpr", RATES, 1500, [125.0, 130.0]),
        ],
        metrics=[
            MetricResult(task, name, metric, value, 0.9 * value, 1.1 * value, 943)
            for (task, metric, name), value in values.items()
        ],
        comparisons=[
            *map(comparison, FOUND),
            *(comparison(key, "base_longer") for key in against_longer),
        ],
    )


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (("retrieval", "hr@10", "base_longer"), "not shown to differ"),
        (("retrieval", "hr@10", "add_masked_item_modelling"), "better"),
        (("retrieval", "hr@10", "add_bpr"), "worse"),
        (("rating", "rmse", "add_masked_item_modelling"), "better"),
        (("rating", "rmse", "add_bpr"), "seeds disagree"),
    ],
)
def test_a_verdict_needs_the_test_and_every_seed(key: tuple[str, str, str], said: str) -> None:
    assert verdict(comparison(key)) == said


def test_the_sentences_say_what_harms_first(ablation: AblationInputs) -> None:
    first, second, *others = sentences(ablation)
    assert first == (
        "Added on top of the same retrieval and rating samples, on retrieval (HR@10) "
        "BPR (−0.030 [−0.040, −0.020]) is worse; "
        "masked item modelling (+0.030 [0.020, 0.040]) is better."
    )
    assert "on rating (RMSE) masked item modelling" in second
    assert second.endswith("BPR (+0.020 [0.010, 0.030]) is better with some seeds and worse "
                           "with others.")  # fmt: skip
    assert len(others) == 2
    assert all(line.startswith("Against as many steps without an added task") for line in others)


def test_the_terminal_gets_aligned_columns(ablation: AblationInputs) -> None:
    lines = list(summary(ablation))
    tables = [line for line in lines if re.match(r"(Task|retrieval|rating) ", line)]
    assert len(tables) == 1 + 6 + 1 + 4
    for rows in (tables[:7], tables[7:]):
        starts = {line.index(name) for line in rows for name in ("HR@10", "RMSE") if name in line}
        assert starts == {rows[0].index("Metric")}
        assert {line.index("943") for line in rows[1:]} == {rows[0].rindex("n")}


def test_page_and_markdown_hold_every_comparison(ablation: AblationInputs, tmp_path: Path) -> None:
    write_ablation_report(ablation, tmp_path)
    page, text = ((tmp_path / f"report.{kind}").read_text("utf-8") for kind in ("html", "md"))
    assert Opened(page).tags == []
    assert not re.search(r'(src|href)="https?:', page)
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
    assert counts == [6, 4, 4, 4, 4]
    for said in ("nothing, but longer", "−0.010 to +0.050", "1,500", "seeds disagree"):
        assert said in page and said in text


def test_a_hostile_name_stays_text(ablation: AblationInputs, tmp_path: Path) -> None:
    write_ablation_report(replace(ablation, name="<script>x</script>"), tmp_path)
    for kind in ("html", "md"):
        assert "<script" not in (tmp_path / f"report.{kind}").read_text("utf-8")


def test_nothing_measured_is_said(ablation: AblationInputs, tmp_path: Path) -> None:
    bare = replace(ablation, metrics=[], comparisons=[])
    assert sentences(bare) == ["Nothing was measured."]
    write_ablation_report(bare, tmp_path)
    assert "Nothing was measured." in (tmp_path / "report.md").read_text("utf-8")
