"""Jinja for phrases: it can neither run for long, write much, nor reach what is no text."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import wraps
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST = 10_000
"""Characters of a text, elements of a list, and the largest number that a function is given."""
_MOST_SOURCE, _MOST_NUMBER, _MOST_POWER = 4_000, 10**18, 64
_PATIENCE, _SECONDS_AN_ITEM = 20.0, 0.01  # of processor time; then no item may take longer
# What could grow from line to line, or call itself, needs one of these.
_STATEMENTS: tuple[type[nodes.Node], ...] = (
    *(nodes.Assign, nodes.AssignBlock, nodes.Macro, nodes.CallBlock, nodes.Block),
    *(nodes.With, nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends),
)
_LEFT_OUT = ("format", "random")


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """A sandbox for expressions, conditions, and loops that do not stand within each other."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(autoescape=False)
        self.globals = {"range": range}
        kept = {name: own for name, own in self.filters.items() if name not in _LEFT_OUT}
        self.filters = {name: _bounded(own) for name, own in kept.items()}

    def parse_bounded(self, source: str) -> nodes.Template:
        """Parse a phrase.

        Raises:
            TemplateError: it is no Jinja, or has a statement that could take any time.
        """
        if len(source) > _MOST_SOURCE:
            raise TemplateError(f"a phrase of more than {_MOST_SOURCE:,} characters")
        tree = self.parse(source)
        loops = list(tree.find_all(nodes.For))
        nested = any(inner for each in loops for inner in each.find_all(nodes.For))
        found = next(tree.find_all(_STATEMENTS), None)
        if found or nested or any(each.recursive for each in loops):
            what = type(found).__name__ if found else "a loop within a loop"
            raise TemplateError(f"{what} is no part of a phrase, which must end soon")
        return tree

    def write(self, source: str, rows: Sequence[Mapping[Any, Any]]) -> list[str]:
        """Render a phrase for each row.

        Raises:
            TemplateError: a text is too long, or it takes too long.
        """
        template, texts, began = self.from_string(source), list[str](), time.process_time()
        for row in rows:
            parts, size = list[str](), 0
            for part in template.generate(row):
                parts.append(part)
                size += len(part)
                _refuse_large(size, 10 * MOST)
            texts.append("".join(parts))
            spent = time.process_time() - began
            if spent > _PATIENCE and spent > _SECONDS_AN_ITEM * len(texts):
                raise TemplateError(f"it takes {spent / len(texts):.2g} s for an item")
        return texts

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute what could become large only if it does not."""
        if operator == "%" and isinstance(left, str):
            raise TemplateError("'%' of a text is no part of a phrase: join texts by ~")
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, Sized) and isinstance(times, int):
                    _refuse_large(len(text) * times)
        if operator == "**" and isinstance(right, int):
            _refuse_large(right, _MOST_POWER)
        return _checked(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function of a text or list, with small numbers alone."""
        if getattr(__obj, "__name__", "") in ("format", "format_map"):
            raise TemplateError("format is no part of a phrase: join texts by ~")
        _refuse_numbers((__obj, *args), kwargs)
        return _checked(super().call(__context, __obj, *args, **kwargs))


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # it keeps the marks of what Jinja passes to it
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _refuse_numbers(args, kwargs)
        return _checked(function(*args, **kwargs))

    return bounded


def _refuse_numbers(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    for value in (*args[1:], *kwargs.values()):  # the first is what it is done to
        if isinstance(value, int):
            _refuse_large(value)


def _checked(value: Any) -> Any:
    if isinstance(value, Sized):
        _refuse_large(len(value))
    elif isinstance(value, int):
        _refuse_large(abs(value), _MOST_NUMBER)
    return value


def _refuse_large(size: int, most: int = MOST) -> None:
    if size > most:
        raise TemplateError(f"a text, list or number of more than {most:,}")
