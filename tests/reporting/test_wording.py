from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from recinject.reporting import wording

MARKUP = st.text(st.sampled_from("ab1 |\\`*_~[](){}<>!&;#:-+.\"'"), min_size=1)


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
