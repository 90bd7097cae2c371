"""Hooks of mkdocs: the repository's own pages and its notebooks become pages of the site."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PROJECT = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside the folder of the docs."""
    for name in PROJECT:
        text = (ROOT / name).read_text("utf-8")
        files.append(File.generated(config, f"project/{name}", content=text))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, page, content=notebook_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Let links between files of the repository lead to pages; of others their text alone stays."""
    generated = page.file.src_uri.startswith(("project/", "notebooks/"))
    home = ROOT if generated else ROOT / "docs" / Path(page.file.src_uri).parent

    def mend(found: re.Match[str]) -> str:
        target = (home / found[1]).resolve() if found[1] else None
        if target is None or not target.is_relative_to(ROOT):
            return found[0]
        name = target.relative_to(ROOT).as_posix()
        uri = f"project/{name}" if name in PROJECT else name.removeprefix("docs/")
        uri = f"{uri.removesuffix('.ipynb')}.md" if uri.endswith(".ipynb") else uri
        if files.get_file_from_path(uri) is None:
            return "]"
        up = "../" * page.file.src_uri.count("/")
        return f"]({up}{uri}{found[2] or ''})"

    return _LINK.sub(mend, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Show the roles of docstrings, such as ``:func:``, by the last name alone."""
    return re.sub(r":(?:func|class|meth|data|attr):<code>~?(?:[\w.]+\.)?(\w+)</code>", _ROLE, html)


_ROLE = r"<code>\1</code>"


def notebook_page(path: Path) -> str:
    """Write a notebook's cells and outputs as Markdown."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _parts(cell)) + "\n"


def _parts(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    shown = [_shown(output["data"]) for output in cell["outputs"] if "data" in output]
    return [f"```python\n{source}\n```", *shown]


def _shown(data: dict[str, Any]) -> str:
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f'<img alt="The figure that the cell draws" src="data:image/png;base64,{picture}">'
    if "text/html" in data:
        html = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.S)
        # The theme styles plain tables, and lets wide ones scroll.
        return re.sub(r"\n\s*", "", html).replace('<table border="1" class="dataframe">', "<table>")
    return f"```text\n{''.join(data['text/plain'])}\n```"
