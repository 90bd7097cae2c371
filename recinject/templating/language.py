"""The sample language: literal text and ``{{ slot | filter(arguments) }}``, nothing else.

Jinja parses it, its syntax tree is checked, and what passes is lowered to a list of segments.
Rendering is then string concatenation over item phrases that were made once.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

from jinja2 import Environment, TemplateSyntaxError, nodes

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.templating.context import Context

Phrases = Mapping[str, Sequence[str]]
# Called with a context and the phrases; its arguments are a slot and the texts of its filter.
Segment = partial[str]
_PARSER = Environment(autoescape=False)  # it only parses: nothing is ever executed


class SlotKind(Enum):
    """What a slot holds, and so which filters may write it."""

    ITEM = "one item"
    ITEMS = "a list of items"
    RATED = "a list of items with ratings"
    MASKED = "a list of items, some of them masked"
    GAPPED = "a list of items whose text has gaps"
    RATING = "a rating"


@dataclass(frozen=True)
class Filter:
    """One way to write a slot.

    Attributes:
        kinds: the slots it can write.
        arguments: how many texts it takes.
        usage: an example for messages and docs.
        write: takes the slot's name, the arguments, a context and the phrases.
    """

    kinds: frozenset[SlotKind]
    arguments: int
    usage: str
    write: Callable[..., str]


def number_text(value: float) -> str:
    """Write a rating as people do.

    Examples:
        >>> number_text(4.0), number_text(4.5)
        ('4', '4.5')
    """
    return f"{value:g}"


def _literal(text: str, context: Context, phrases: Phrases) -> str:
    return text


def _item(slot: str, context: Context, phrases: Phrases) -> str:
    return phrases[slot][context.slots[slot][0]]


def _rating(slot: str, context: Context, phrases: Phrases) -> str:
    return "" if context.label is None else number_text(context.label)


def _join(slot: str, separator: str, context: Context, phrases: Phrases) -> str:
    texts = phrases[slot]
    return separator.join([texts[item] for item in context.slots[slot]])


def _lettered(slot: str, separator: str, context: Context, phrases: Phrases) -> str:
    items, texts = context.slots[slot], phrases[slot]
    return separator.join([f"({_letter(n)}) {texts[item]}" for n, item in enumerate(items)])


def _letter(number: int) -> str:
    rounds, place = divmod(number, 26)
    return string.ascii_uppercase[place] + (str(rounds + 1) if rounds else "")


def _rated(slot: str, between: str, separator: str, context: Context, phrases: Phrases) -> str:
    texts = phrases[slot]
    pairs = zip(context.slots[slot], context.ratings, strict=True)
    return separator.join([f"{texts[item]}{between}{number_text(value)}" for item, value in pairs])


def _masked(slot: str, separator: str, context: Context, phrases: Phrases) -> str:
    texts = [phrases[slot][item] for item in context.slots[slot]]
    for number, position in enumerate(context.hidden):
        texts[position] = f"<extra_id_{number}>"
    return separator.join(texts)


def _corrupted(slot: str, separator: str, context: Context, phrases: Phrases) -> str:
    words, kept, at = _join(slot, separator, context, phrases).split(), list[str](), 0
    for number, (start, length) in enumerate(context.gaps):
        kept += [*words[at:start], f"<extra_id_{number}>"]
        at = start + length
    return " ".join(kept + words[at:])


def _gaps(slot: str, separator: str, context: Context, phrases: Phrases) -> str:
    words, spans = _join(slot, separator, context, phrases).split(), list[str]()
    for number, (start, length) in enumerate(context.gaps):
        spans += [f"<extra_id_{number}>", *words[start : start + length]]
    return " ".join(spans)


_LISTS = frozenset({SlotKind.ITEMS, SlotKind.RATED})
FILTERS: dict[str, Filter] = {
    "join": Filter(_LISTS, 1, "join('; ')", _join),
    "lettered": Filter(_LISTS, 1, "lettered('; ')", _lettered),
    "rated": Filter(frozenset({SlotKind.RATED}), 2, "rated(', rated ', '; ')", _rated),
    "masked": Filter(frozenset({SlotKind.MASKED}), 1, "masked('; ')", _masked),
    "corrupted": Filter(frozenset({SlotKind.GAPPED}), 1, "corrupted('; ')", _corrupted),
    "gaps": Filter(frozenset({SlotKind.GAPPED}), 1, "gaps('; ')", _gaps),
}


def lower(source: str, slots: Mapping[str, SlotKind], place: str) -> tuple[Segment, ...]:
    """Turn one prompt or completion of a template file into segments.

    Args:
        source: the text with its slots.
        slots: the slots that the task fills, with their kinds.
        place: file and template, for messages.

    Raises:
        RecinjectError: an unknown slot or filter, a filter that cannot write the slot, more
            than one line, or any Jinja beyond slots and filters.
    """
    if "\n" in source.strip():
        raise RecinjectError(
            f"{place}: a template is one line", hint="T5's tokenizer drops newlines: join the lines"
        )
    try:
        tree = _PARSER.parse(source.strip())
    except TemplateSyntaxError as error:
        raise RecinjectError(
            f"{place}: {error.message}", hint="write slots as {{ history | join('; ') }}"
        ) from error
    return tuple(
        _segment(node, slots, place)
        for output in tree.body
        for node in (output.nodes if isinstance(output, nodes.Output) else [output])
    )


def _segment(node: nodes.Node, slots: Mapping[str, SlotKind], place: str) -> Segment:
    if isinstance(node, nodes.TemplateData):
        return partial(_literal, node.data)
    if isinstance(node, nodes.Name):
        return _plain(node.name, _kind(node.name, slots, place), place)
    if isinstance(node, nodes.Filter) and isinstance(node.node, nodes.Name):
        return _filtered(node, node.node.name, _kind(node.node.name, slots, place), place)
    raise RecinjectError(
        f"{place}: {type(node).__name__} is not part of the sample language",
        hint="only text, {{ slot }} and {{ slot | filter('text') }}; put logic into phrases:",
    )


def _kind(slot: str, slots: Mapping[str, SlotKind], place: str) -> SlotKind:
    if slot not in slots:
        raise RecinjectError(f"{place}: unknown slot {slot!r}", hint=did_you_mean(slot, slots))
    return slots[slot]


def _plain(slot: str, kind: SlotKind, place: str) -> Segment:
    if kind is SlotKind.ITEM:
        return partial(_item, slot)
    if kind is SlotKind.RATING:
        return partial(_rating, slot)
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
    arguments = [arg.value for arg in node.args if isinstance(arg, nodes.Const)]
    texts = [value for value in arguments if isinstance(value, str)]
    others = node.kwargs or node.dyn_args or node.dyn_kwargs
    if len(texts) != len(node.args) or len(texts) != legal[node.name].arguments or others:
        raise RecinjectError(
            f"{place}: filter {node.name!r} takes {legal[node.name].arguments} texts",
            hint=f"write {{{{ {slot} | {legal[node.name].usage} }}}}",
        )
    if kind is SlotKind.GAPPED and len(f"a{texts[0]}b".split()) != 2:
        raise RecinjectError(
            f"{place}: {texts[0]!r} adds words to those of the items, or joins them",
            hint=f"gaps are counted in items' words: write {{{{ {slot} | {node.name}('; ') }}}}",
        )
    return partial(legal[node.name].write, slot, *texts)
