from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from recinject.reporting.inputs import ModelFacts, ReportInputs

from recinject.reporting.report import write_report

GOLDEN = Path(__file__).parent / "golden" / "report.md"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def bare(inputs: ReportInputs) -> ReportInputs:
    names = ("samples", "training", "metrics", "comparisons", "audit", "slices")
    nothing = {name: [] for name in names} | {"confusion": None}
    model = ModelFacts("google/flan-t5-small", "not trained (zero-shot)", 0, 77_000_000)
    data = replace(inputs.data, cleaning=[], tie_rate=None, future_share=None)
    return replace(inputs, **nothing, examples=[], durations={}, model=model, data=data)


def written(inputs: ReportInputs, folder: Path) -> tuple[str, str]:
    write_report(inputs, folder)
    return tuple((folder / name).read_text("utf-8") for name in ("report.html", "report.md"))


def test_the_markdown_is_the_one_that_was_read_and_approved(
    inputs: ReportInputs, tmp_path: Path
) -> None:
    assert written(inputs, tmp_path)[1] == GOLDEN.read_text("utf-8")


def test_every_figure_the_markdown_shows_lies_beside_it(
    inputs: ReportInputs, tmp_path: Path
) -> None:
    figures = re.findall(r"\]\((figures/[^)]*)\)", written(inputs, tmp_path)[1])
    assert sorted(figures) == sorted(f"figures/{p.name}" for p in (tmp_path / "figures").iterdir())
    assert len(figures) == 6


def test_the_page_is_well_formed_and_needs_no_network(inputs: ReportInputs, tmp_path: Path) -> None:
    text = written(inputs, tmp_path)[0]
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    links = [value for name, value in page.attributes if name.split(":")[-1] in {"src", "href"}]
    ids = [value for name, value in page.attributes if name == "id"]
    assert links and {link.removeprefix("#") for link in links} <= set(ids)
    assert len(ids) == len(set(ids))
    assert "@import" not in text
    assert all(url.startswith("#") for url in re.findall(r"url\((.*?)\)", text))


def test_a_hostile_title_stays_text(inputs: ReportInputs, tmp_path: Path) -> None:
    page, text = written(replace(inputs, name="<script>x</script>"), tmp_path)
    assert "<script" not in page and "<script" not in text
    assert page.count("&lt;script&gt;") >= 3


def test_tables_in_markdown_keep_their_columns(inputs: ReportInputs, tmp_path: Path) -> None:
    hostile = [replace(row, explanation="a | b\n| c `d` **e**") for row in inputs.audit]
    text = written(replace(inputs, audit=hostile), tmp_path)[1]
    html = MarkdownIt("commonmark").enable("table").render(text)
    bodies = re.findall(r"<table>(.*?)</table>", html, flags=re.DOTALL)
    assert len(bodies) == 11
    for body in bodies:
        rows = re.findall(r"<tr>(.*?)</tr>", body, flags=re.DOTALL)
        assert len({len(re.findall(r"<t[hd]\b", row)) for row in rows}) == 1


def test_the_loss_comes_before_everything_else(inputs: ReportInputs, tmp_path: Path) -> None:
    page, text = written(inputs, tmp_path)
    assert text.splitlines()[2].startswith("The language model loses to item kNN")
    assert page.index("loses to item kNN") < page.index("Results")


def test_empty_sections_say_so(bare: ReportInputs, tmp_path: Path) -> None:
    page, text = written(bare, tmp_path)
    for said in ("Nothing was measured", "There is no training log", "No audit was made"):
        assert said in page and said in text
    assert Page(page).open == [] and list((tmp_path / "figures").iterdir()) == []


def test_a_report_of_baselines_alone_speaks_of_no_model(
    inputs: ReportInputs, tmp_path: Path
) -> None:
    metrics = [row for row in inputs.metrics if row.recommender != "language_model"]
    tests = [replace(row, recommender="ease") for row in inputs.comparisons]
    alone = replace(inputs, model=None, training=[], metrics=metrics, comparisons=tests)
    page, text = written(alone, tmp_path)
    assert Page(page).open == []
    assert "Item kNN, the best of 2 baselines on retrieval, scores above popularity" in text
    assert re.search(r"item kNN\s+<span[^>]*>scores above popularity</span>", page)
    for said in ("There is no language model", "Best baseline minus each other"):
        assert said in page and said in text
    for model in ("Language model is", "Language model minus", "zero-shot", "T5"):
        assert model not in page and model not in text


def test_a_run_without_rating_has_no_rating_section(inputs: ReportInputs, tmp_path: Path) -> None:
    kept = [row for row in inputs.metrics if row.task != "rating"]
    tests = [row for row in inputs.comparisons if row.task != "rating"]
    few = replace(inputs, metrics=kept, comparisons=tests)
    assert "Lower is better" not in "".join(written(few, tmp_path))


def test_comparisons_may_speak_of_a_task_without_metrics(
    inputs: ReportInputs, tmp_path: Path
) -> None:
    kept = [row for row in inputs.metrics if row.task != "rating"]
    assert "| rating | RMSE |" in written(replace(inputs, metrics=kept), tmp_path)[1]
