"""Identifiers: what the codes that name items mean, shown by the titles behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table
from rich.tree import Tree

from recinject.pipeline.run import Run
from recinject.reporting.result import CodeGroup

_TOKEN = re.compile(r"<[a-z]+_\d+>|[^\s<]+")
_CODE = re.compile(r"<[a-z]_\d+>|c\d+")
_BRANCHES = (6, 2)
_GROUPS, _EXAMPLES = 12, 2
_TITLE = 40
_SHARES = ("used", "error", "neighbours")
Item = tuple[tuple[str, ...], str]


def view_identifiers(run: Run) -> Group:
    """Show the tree of a run's identifiers, and how good its codes are where it has codes.

    Raises:
        RecinjectError: the items have not been named.
    """
    run.manifest("identifiers")
    items = run.data.identifiers
    tree, rows = identifier_tree(items.texts, run.data.catalog.titles), items.describe()
    return Group(tree, *([quality_table(rows)] if rows else []))


def identifier_tree(
    texts: Sequence[str], titles: Sequence[str], branches: Sequence[int] = _BRANCHES
) -> Tree:
    """Show items by the words or tokens of their identifiers, those of most items first.

    What an identifier ends with tells items apart and means nothing, so it is no level.

    Args:
        texts: the identifier of each item.
        titles: the title of each item.
        branches: how many are shown below the root and each level after; the last number goes
            for all deeper ones.
    """
    tree = Tree(f"{len(texts):,} items")
    _grow(tree, _sorted(texts, titles), 0, branches)
    return tree


def _sorted(texts: Sequence[str], titles: Sequence[str]) -> list[Item]:
    paths = [tuple(_TOKEN.findall(text)) for text in texts]
    return sorted(zip(paths, titles, strict=True))


def code_groups(
    texts: Sequence[str], titles: Sequence[str], most: int = _GROUPS
) -> list[CodeGroup]:
    """Group items by the first code or word of their identifiers, ``most`` groups at most.

    Returns:
        Those of most items first; none where identifiers have no codes to share, as numbers and
        titles have not.
    """
    items = _sorted(texts, titles)
    if not all(len(path) > 1 and _CODE.fullmatch(path[0]) for path, _ in items):
        return []
    by_code: dict[str, dict[str, list[str]]] = {}
    for path, title in items:
        by_code.setdefault(path[0], {}).setdefault(path[1], []).append(title)
    groups = []
    for code, by_next in by_code.items():
        parts = sorted(by_next.values(), key=len, reverse=True)
        named = [next(filter(None, part), "") for part in parts]
        shown = [_cut(title) for title in named if title][:_EXAMPLES]
        groups.append(CodeGroup(code, [len(part) for part in parts], shown))
    return sorted(groups, key=lambda group: -sum(group.items))[:most]


def _grow(tree: Tree, items: list[Item], level: int, branches: Sequence[int]) -> None:
    by_word = groupby(items, key=lambda item: item[0][level : level + 1])
    groups = sorted(((word, list(group)) for word, group in by_word), key=lambda g: -len(g[1]))
    shown = branches[min(level, len(branches) - 1)]
    for word, group in groups[:shown]:
        if len(group) == 1:
            path, title = group[0]
            tree.add(f"[bold]{escape(''.join(path[level:]))}[/]  {escape(_cut(title))}")
            continue
        # The titles at the group's ends differ the most.
        ends = "; ".join(escape(_cut(group[place][1])) for place in (0, -1))
        branch = tree.add(f"[bold]{escape(''.join(word))}[/]  {len(group):,} items: {ends}")
        if any(len(path) > level + 2 for path, _ in group):
            _grow(branch, group, level + 1, branches)
    if len(groups) > shown:
        hidden = sum(len(group) for _, group in groups[shown:])
        tree.add(f"[dim]{len(groups) - shown:,} more, items in them: {hidden:,}[/]")


def _cut(title: str) -> str:
    return title if len(title) <= _TITLE else f"{title[: _TITLE - 1].rstrip()}…"


def quality_table(rows: Sequence[Mapping[str, float | int | None]]) -> Table:
    """Lay out what :meth:`~recinject.identifiers.table.Identifiers.describe` measured."""
    names = [name for name in rows[0] if name != "entropy"]  # perplexity says the same
    columns = [Column(name, justify="right") for name in names]
    table = Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in names))
    return table


def _cell(name: str, value: float | int | None) -> str:
    if value is None:
        return "-"
    if name in _SHARES:
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
