from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from recinject.data.findings import Finding
from recinject.evaluation.metrics import MetricResult
from recinject.reporting.result import ModelFacts, Result

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
def bare(result: Result, change: Callable[..., Result]) -> Result:
    model = ModelFacts("google/flan-t5-small", "not trained (zero-shot)", 0, 77_000_000)
    data = replace(result.facts.data, cleaning=[], tie_rate=None, future_share=None)
    nothing = dict.fromkeys((*result.rows, "samples", "training"), ())
    return change(result, **nothing, durations={}, model=model, data=data)


def written(result: Result, folder: Path) -> tuple[str, str]:
    assert result.report(folder) == folder / "report.html"
    return tuple((folder / name).read_text("utf-8") for name in ("report.html", "report.md"))


def test_the_markdown_is_the_one_that_was_read_and_approved(result: Result, tmp_path: Path) -> None:
    assert written(result, tmp_path)[1] == GOLDEN.read_text("utf-8")


def test_every_figure_the_markdown_shows_lies_beside_it(result: Result, tmp_path: Path) -> None:
    figures = re.findall(r"\]\((figures/[^)]*)\)", written(result, tmp_path)[1])
    assert sorted(figures) == sorted(f"figures/{p.name}" for p in (tmp_path / "figures").iterdir())
    assert len(figures) == 9


def test_the_page_is_well_formed_and_needs_no_network(result: Result, tmp_path: Path) -> None:
    text = written(result, tmp_path)[0]
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    links = [value for name, value in page.attributes if name.split(":")[-1] in {"src", "href"}]
    ids = [value for name, value in page.attributes if name == "id"]
    assert links and {link.removeprefix("#") for link in links} <= set(ids)
    assert len(ids) == len(set(ids))
    assert "@import" not in text
    assert all(url.startswith("#") for url in re.findall(r"url\((.*?)\)", text))


def test_a_hostile_title_stays_text(
    result: Result, change: Callable[..., Result], tmp_path: Path
) -> None:
    page, text = written(change(result, name="<script>x</script>"), tmp_path)
    assert "<script" not in page and "<script" not in text
    assert page.count("&lt;script&gt;") >= 3


def test_tables_in_markdown_keep_their_columns(
    result: Result, change: Callable[..., Result], tmp_path: Path
) -> None:
    hostile = [replace(row, explanation="a | b\n| c `d` **e**") for row in result.rows["audit"]]
    text = written(change(result, audit=hostile), tmp_path)[1]
    html = MarkdownIt("commonmark").enable("table").render(text)
    bodies = re.findall(r"<table>(.*?)</table>", html, flags=re.DOTALL)
    assert len(bodies) == 16
    for body in bodies:
        rows = re.findall(r"<tr>(.*?)</tr>", body, flags=re.DOTALL)
        assert len({len(re.findall(r"<t[hd]\b", row)) for row in rows}) == 1


def test_the_loss_comes_before_everything_else(result: Result, tmp_path: Path) -> None:
    page, text = written(result, tmp_path)
    assert text.splitlines()[2].startswith("The language model loses to item kNN")
    assert page.index("loses to item kNN") < page.index("Results")


def test_empty_sections_say_so(bare: Result, tmp_path: Path) -> None:
    page, text = written(bare, tmp_path)
    for said in ("Nothing was measured", "There is no training log", "No audit was made"):
        assert said in page and said in text
    assert Page(page).open == [] and not (tmp_path / "figures").exists()


def test_a_report_of_baselines_alone_speaks_of_no_model(
    result: Result, change: Callable[..., Result], tmp_path: Path
) -> None:
    metrics = [row for row in result.rows["metrics"] if row.recommender != "language_model"]
    tests = [replace(row, recommender="ease") for row in result.rows["comparisons"]]
    alone = change(result, model=None, training=[], metrics=metrics, comparisons=tests)
    page, text = written(alone, tmp_path)
    assert Page(page).open == []
    assert "Item kNN, the best of 2 baselines on retrieval, scores above popularity" in text
    assert "| retrieval | HR@10 | item kNN | scores above | popularity | 0.083" in text
    assert '<td class="note">scores above</td>' in page
    for said in ("There is no language model", "Best baseline minus each other"):
        assert said in page and said in text
    for model in ("Language model is", "Language model minus", "zero-shot", "T5"):
        assert model not in page and model not in text


def test_a_run_without_rating_has_no_rating_section(
    result: Result, change: Callable[..., Result], tmp_path: Path
) -> None:
    kept = [row for row in result.rows["metrics"] if row.task != "rating"]
    tests = [row for row in result.rows["comparisons"] if row.task != "rating"]
    few = change(result, metrics=kept, comparisons=tests)
    assert "Lower is better" not in "".join(written(few, tmp_path))


def test_comparisons_may_speak_of_a_task_without_metrics(
    result: Result, change: Callable[..., Result], tmp_path: Path
) -> None:
    kept = [row for row in result.rows["metrics"] if row.task != "rating"]
    assert "| rating | RMSE |" in written(change(result, metrics=kept), tmp_path)[1]


def test_without_facts_the_report_leaves_out_what_it_does_not_know(
    metrics: list[MetricResult], tmp_path: Path
) -> None:
    page, text = written(Result.from_rows({"metrics": metrics}), tmp_path)
    assert Page(page).open == [] and "The language model loses to item kNN" in text
    for unknown in ("How to repeat it", "## Data", "**Model", "**Time", "None"):
        assert unknown not in text


def test_every_number_of_the_markdown_is_in_the_page(result: Result, tmp_path: Path) -> None:
    page, text = written(result, tmp_path)
    shown = re.sub(r"<[^>]*>", " ", re.sub(r"<svg.*?</svg>", " ", page, flags=re.DOTALL))
    prose = re.sub(r"!\[.*?\]\(.*?\)", " ", text)
    numbers = Counter(re.findall(r"\d[\d.,]*\d|\d", prose))
    assert len(numbers) > 100 and not numbers - Counter(re.findall(r"\d[\d.,]*\d|\d", shown))


def test_a_training_log_is_drawn_even_where_nothing_else_is_known(tmp_path: Path) -> None:
    facts = {"training": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]}
    assert "figures/loss.png" in written(Result.from_rows({}, facts=facts), tmp_path)[1]


def test_what_was_found_in_the_log_stands_in_the_data_section(
    result: Result, change: Callable[..., Result], tmp_path: Path
) -> None:
    data = result.facts.data
    assert data is not None
    found = Finding(
        "warning", "constant-rating", "All ratings are 1 | a|b.", ("x",), "leave it out"
    )
    change(result, data=replace(data, findings=[found])).save(tmp_path / "stored")
    page, markdown = written(Result.load(tmp_path / "stored"), tmp_path / "report")
    section = markdown.partition("## Data")[2].partition("\n## ")[0]
    assert r"All ratings are 1 \| a\|b. For example x." in section and "leave it out" in section
    assert "All ratings are 1 | a|b. For example x." in page
