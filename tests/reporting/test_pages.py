from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from recinject.reporting.pages import write_pages
from recinject.reporting.wording import markdown

HOSTILE = [
    "</details>",
    "<details><summary>x</summary>",
    "<script>x</script>",
    "![x](http://x)",
    "[x](javascript:x)",
    "<http://x>",
    "a | b ` c",
    "# x",
    "[x]: http://x",
]


def page(text: str, folder: Path, **figures: Figure) -> str:
    return write_pages(folder, "report", "title", text, figures).read_text("utf-8")


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_stays_text(text: str, tmp_path: Path) -> None:
    shown = page(f"# {markdown(text)}\n\n{markdown(text)}\n\n## A\n", tmp_path)
    body = shown[shown.index("<main>") : shown.index("<footer>")].replace('<a href="#a">', "")
    for tag in ("<details", "<script", "<img", "<a ", "<code", "<h1>\n", "<table"):
        assert tag not in body
    assert body.count("<h1>") == 1


def test_unescaped_html_stays_text_but_for_details(tmp_path: Path) -> None:
    text = "# a\n\n<b>b</b>\n\n<details><summary>*c* <i></summary>\n\nd\n\n</details>\n"
    shown = page(text, tmp_path)
    assert "&lt;b&gt;b&lt;/b&gt;" in shown
    assert "<details><summary><em>c</em> &lt;i&gt;</summary>\n<p>d</p>\n</details>" in shown


def test_the_contents_are_the_sections(tmp_path: Path) -> None:
    shown = page("# t\n\nsaid\n\n## What, and why\n\n### no\n\n## Audit\n", tmp_path)
    header = shown[: shown.index("</header>")]
    assert '<a href="#what-and-why">What, and why</a><a href="#audit">Audit</a>' in header
    assert "said" in header and '<h2 id="audit">Audit</h2>' in shown
    assert "<nav" not in page("# t\n", tmp_path)


def test_figures_stand_in_the_page_and_lie_beside_it(tmp_path: Path) -> None:
    narrow, wide = Figure((4, 3)), Figure((8, 3))
    text = "![one](figures/one.png)\n![two](figures/two.png)\n\n![far](http://far/away.png)\n"
    shown = page(text, tmp_path, one=narrow, two=wide)
    assert shown.count("<svg") == 2 and 'aria-label="one"' in shown
    assert shown.count('<figure class="wide"') == 1
    assert "http://far" not in shown and "far" in shown
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"one.png", "two.png"}


def test_words_and_intervals_in_cells_have_a_look(tmp_path: Path) -> None:
    table = (
        "| a | b |\n| --- | ---: |\n| worse | 0.1 [\u22120.2, 0.3] |\n| language model, x | 1 |\n"
    )
    shown = page(table, tmp_path)
    assert '<td class="warning">worse</td>' in shown and '<td class="own">' in shown
    assert "0.1 <small>[\u22120.2, 0.3]</small>" in shown
