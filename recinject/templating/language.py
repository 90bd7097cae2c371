"""The sample language: literal text and ``{{ slot | filter(arguments) }}``, nothing else.

Jinja parses a template, its syntax tree is checked and lowered to segments. No sample is rendered:
segments choose among pieces of text that were made once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from jinja2 import Environment, TemplateSyntaxError, nodes

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.registry import pick
from recinject.templating.writers import FILTERS, Segment, SlotKind, cut_at_blank

_PARSER = Environment(autoescape=False)  # only parses, never executes
_UP_TO_WORD = re.compile(r"\S*\s*")


def lower(source: str, slots: Mapping[str, SlotKind], place: str) -> tuple[Segment, ...]:
    """Turn one prompt or completion of a template file into segments.

    Raises:
        RecinjectError: an unknown slot or filter, a filter that cannot write the slot, more
            than one line, or any Jinja beyond slots and filters.
    """
    if len(source.strip().splitlines()) > 1:
        raise RecinjectError(
            f"{place}: a template is one line", hint="T5's tokenizer drops newlines: join the lines"
        )
    try:
        tree = _PARSER.parse(source.strip())
    except TemplateSyntaxError as error:
        raise RecinjectError(
            f"{place}: {error.message}", hint="write slots as {{ history | join('; ') }}"
        ) from error
    found = [
        _segment(node, slots, place)
        for output in tree.body
        for node in (output.nodes if isinstance(output, nodes.Output) else [output])
    ]
    if glued := _glued(found):
        return glued
    raise RecinjectError(f"{place}: is empty", hint="write text, {{ slots }}, or both")


def splits_at_blanks(segments: Sequence[Segment]) -> bool:
    """Whether every piece but the last ends with a blank, so that no word spans two pieces."""
    ends = [segment.arguments[0] if segment.is_text else segment.after for segment in segments]
    inner = [text for segment in segments if segment.filter for text in segment.arguments]
    return all(end[-1:].isspace() for end in ends[:-1]) and all(
        cut_at_blank(text)[0] for text in inner
    )


def _glued(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Attach to each slot the text beside it, up to the nearest blank."""
    glued: list[Segment] = []
    before = ""
    for is_text, neighbours in groupby(segments, lambda segment: segment.is_text):
        if is_text:
            # Jinja cuts a text at a comment and at ``raw``.
            text = "".join(segment.arguments[0] for segment in neighbours)
            if glued:
                after = _UP_TO_WORD.findall(text)[0]
                glued[-1], text = replace(glued[-1], after=after), text.removeprefix(after)
            middle, before = cut_at_blank(text)
            glued += [Segment("", arguments=(middle,))] if middle else []
        else:
            first, *others = neighbours
            glued += [replace(first, before=before), *others]
            before = ""
    return (*glued, Segment("", arguments=(before,))) if before else tuple(glued)


def _segment(node: nodes.Node, slots: Mapping[str, SlotKind], place: str) -> Segment:
    if isinstance(node, nodes.TemplateData):
        return Segment("", arguments=(node.data,))
    if isinstance(node, nodes.Name):
        return _plain(node.name, slots[pick(node.name, slots, f"{place}: unknown slot")], place)
    if isinstance(node, nodes.Filter) and isinstance(node.node, nodes.Name):
        slot = pick(node.node.name, slots, f"{place}: unknown slot")
        return _filtered(node, slot, slots[slot], place)
    raise RecinjectError(
        f"{place}: {type(node).__name__} is not part of the sample language",
        hint="only text, {{ slot }} and {{ slot | filter('text') }}; put logic into phrases:",
    )


def _plain(slot: str, kind: SlotKind, place: str) -> Segment:
    if kind in (SlotKind.ITEM, SlotKind.RATING, SlotKind.USER):
        return Segment(slot)
    legal = " or ".join(f.usage for f in FILTERS.values() if kind in f.kinds)
    raise RecinjectError(
        f"{place}: {slot!r} is {kind.value} and needs a filter",
        hint=f"write {{{{ {slot} | {legal} }}}}",
    )


def _filtered(node: nodes.Filter, slot: str, kind: SlotKind, place: str) -> Segment:
    legal = {name: found for name, found in FILTERS.items() if kind in found.kinds}
    if node.name not in legal:
        raise RecinjectError(
            f"{place}: filter {node.name!r} cannot write {slot!r}, {kind.value}",
            hint=did_you_mean(node.name, legal),
        )
    chosen = legal[node.name]
    values = [argument.value for argument in node.args if isinstance(argument, nodes.Const)]
    texts = [value for value in values if isinstance(value, str)]
    others = node.kwargs or node.dyn_args or node.dyn_kwargs
    if not len(texts) == len(node.args) == chosen.arguments or others:
        raise RecinjectError(
            f"{place}: filter {node.name!r} takes {chosen.arguments} texts",
            hint=f"write {{{{ {slot} | {chosen.usage} }}}}",
        )
    if kind is SlotKind.GAPPED and (len(f"a{texts[0]}".split()) > 1 or not texts[0][-1:].isspace()):
        raise RecinjectError(
            f"{place}: {texts[0]!r} adds words to those of the items, or joins them",
            hint=f"gaps are counted in items' words: write {{{{ {slot} | {node.name}('; ') }}}}",
        )
    return Segment(slot, node.name, tuple(texts))
