from __future__ import annotations

import html
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from recinject import registry
from recinject.evaluation.metrics import MetricResult
from recinject.reporting import wording
from recinject.reporting.headline import main_metric

MARKUP = st.text(st.sampled_from("ab1= |\\`*_~[](){}<>!&;#:-+.\"'"), min_size=1)


@given(MARKUP.filter(str.strip))
def test_escaped_markdown_reads_as_the_text_it_was(text: str) -> None:
    table = f"| head |\n| --- |\n| {wording.markdown(text)} |"
    page = MarkdownIt("commonmark").enable("table").render(table)
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert [html.unescape(cell) for cell in cells] == [" ".join(text.split())]


@pytest.mark.parametrize(
    ("p", "text"), [(0.0009, "< .001"), (0.001, "= .001"), (0.05, "= .050"), (float("nan"), "–")]
)
def test_p_values_read_as_in_papers(p: float, text: str) -> None:
    assert wording.p_value(p) == text


def test_numbers_keep_three_decimals_and_a_true_minus() -> None:
    assert wording.number(-0.0001) == "0.000"
    assert wording.signed(0.0) == "0.000"
    assert wording.interval(-0.0412, float("nan")) == ""
    assert wording.counts([]) == ""


def test_unknown_names_are_shown_readably() -> None:
    assert wording.recommender_label("sas_rec") == "sas rec"
    assert wording.metric_meanings(["hr@5", "hr@10", "novelty"]) == wording.metric_meanings(
        ["hr@1"]
    )
    assert wording.task_meaning("explanation", 99) == ""


def test_a_task_of_ones_own_is_worded_as_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._things["task"], "mine", SimpleNamespace(answer="rating"))
    assert wording.task_meaning("mine", 99) == wording.task_meaning("rating", 99)
    rows = [MetricResult("mine", "ease", name, 1.0, 1.0, 1.0, 5) for name in ("mae", "rmse")]
    assert main_metric("mine", rows) == "rmse"


def test_a_metric_of_ones_own_says_its_label_its_direction_and_its_meaning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Surprise:
        """How far `k` items are from what was expected.

        Not shown.
        """

        label, better = "Surprise", "lower"

    monkeypatch.setitem(registry._things["metric"], "surprise", Surprise)
    assert wording.metric_label("surprise@5") == "Surprise@5"
    assert wording.lower_is_better("surprise@5") and not wording.lower_is_better("hr@5")
    meaning = "Surprise: how far k items are from what was expected; lower is better"
    assert wording.metric_meanings(["surprise@5", "surprise@10"]) == [meaning]
    assert wording.metric_label("nobody_knows@3") == "NOBODY_KNOWS@3"


@given(MARKUP.filter(str.strip))
def test_an_escaped_paragraph_reads_as_the_text_it_was(text: str) -> None:
    page = MarkdownIt("commonmark", {"html": False}).enable("table").render(wording.markdown(text))
    (paragraph,) = re.findall(r"\A<p>(.*?)</p>\n\Z", page)
    assert html.unescape(paragraph) == " ".join(text.split())
