"""Pages: one Markdown text, written as it is and as one HTML file that opens offline."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape
from matplotlib.figure import Figure

import recinject
from recinject.reporting import wording
from recinject.reporting.figures import to_png, to_svg

# How cells look that hold these words, alone or before a comma.
_LOOKS = {
    **dict.fromkeys(("better", "beats", "ok"), "ok"),
    **dict.fromkeys(("worse", "loses to", "warning"), "warning"),
    **dict.fromkeys(("not shown to differ", "scores above", "ties with", "note"), "note"),
    **dict.fromkeys(("seeds disagree", "not measured"), "note"),
    wording.recommender_label(wording.LANGUAGE_MODEL): "own",
}
_DETAILS = re.compile(r"<details><summary>(.*)</summary>|</details>")
_INTERVAL = re.compile(r" (\[[\u2212\d.,]+, [\u2212\d.,]+\])(?=</td>)")


def write_pages(
    folder: Path, name: str, title: str, markdown: str, figures: Mapping[str, Figure]
) -> Path:
    """Write ``NAME.md``, ``NAME.html`` and ``figures/*.png`` into a folder.

    The HTML holds its style and its figures, so that the one file can be mailed. Its contents are
    the headings of level 2; what stands before the first of them is the page's header.

    ``markdown`` is CommonMark with tables, in which foreign text was escaped by
    :func:`~recinject.reporting.wording.markdown`. HTML in it stays text, except
    ``<details><summary>...</summary>`` and ``</details>`` as paragraphs of their own. It shows
    figures as ``![label](figures/NAME.png)``. ``name`` is also the kind of page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if figures:
        (folder / "figures").mkdir(exist_ok=True)
    for key, figure in figures.items():
        to_png(figure, folder / "figures" / f"{key}.png")
        figure.set_layout_engine(None)  # it is laid out now, and stays so in the page
    (folder / f"{name}.md").write_text(markdown, encoding="utf-8")
    page = folder / f"{name}.html"
    page.write_text(_page(name, title, markdown, figures), encoding="utf-8")
    return page


def render(template: str, content: Mapping[str, Any]) -> str:
    """Fill one of this room's templates; HTML is escaped, Markdown by its filter ``md``."""
    environment = Environment(
        loader=PackageLoader("recinject.reporting"),
        autoescape=select_autoescape(["html.j2"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "md": wording.markdown,
        "count": wording.count,
        "large": wording.large,
        "seconds": wording.seconds,
        "literal": repr,
    }
    return environment.get_template(template).render(content)


def _page(kind: str, title: str, markdown: str, figures: Mapping[str, Figure]) -> str:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    rules: dict[str, Any] = {
        "image": lambda tokens, at, *_: _drawn(tokens[at], figures),
        "table_open": lambda *_: '<div class="scroll"><table>\n',
        "table_close": lambda *_: "</table></div>\n",
    }
    parser.renderer.rules |= rules  # type: ignore[attr-defined]
    tokens = parser.parse(wording.unbroken(markdown))
    contents = list(_decorated(parser, tokens))
    start = next((at for at, token in enumerate(tokens) if token.tag == "h2"), len(tokens))
    halves = (tokens[:start], tokens[start:])
    drawn = (parser.renderer.render(half, parser.options, {}) for half in halves)
    header, body = (Markup(_INTERVAL.sub(r" <small>\1</small>", half)) for half in drawn)
    content = {"kind": kind, "title": title, "header": header, "contents": contents, "body": body}
    return render("pages.html.j2", content | {"version": recinject.__version__})


def _drawn(token: Token, figures: Mapping[str, Figure]) -> str:
    name = Path(str(token.attrs["src"])).stem
    if name not in figures:  # an image from elsewhere: its label alone
        return str(escape(token.content))
    look = ' class="wide"' if figures[name].get_figwidth() > 5 else ""  # inches
    return f"<figure{look}>{to_svg(figures[name], token.content)}</figure>"


def _decorated(parser: MarkdownIt, tokens: Sequence[Token]) -> Iterator[tuple[str, str]]:
    """Give tokens the looks that Markdown has no sign for; yield id and title of each section."""
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if token.type != "inline":
            continue
        if before.tag == "h2":
            slug = re.sub(r"[^a-z0-9]+", "-", token.content.lower()).strip("-")
            before.attrSet("id", slug)
            yield slug, token.content
        elif before.tag == "td" and (look := _LOOKS.get(token.content.partition(",")[0])):
            before.attrSet("class", look)
        elif before.tag == "p" and (details := _DETAILS.fullmatch(token.content)):
            label = parser.renderInline(details[1] or "")
            opened = f"<details><summary>{label}</summary>\n"
            before.type = after.type = "html_block"
            before.content = opened if details[1] else "</details>\n"
            token.children = []
        elif all(child.type in ("image", "softbreak") for child in token.children or [token]):
            before.tag = after.tag = "div"
            before.attrSet("class", "figures")
