"""The sample language, and the library of template files written in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeAlias

import yaml
from jinja2 import Environment, TemplateSyntaxError, nodes
from pydantic import BaseModel, Field, ValidationError

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.ragged import Ragged, side_by_side
from recinject.foundation.storage import load_yaml, shipped_folder
from recinject.registry import pick
from recinject.templating.phrases import Phrasebook, Pieces
from recinject.templating.writers import (
    ATTRIBUTE,
    FILTERS,
    USER_SLOT,
    Contexts,
    Segment,
    SlotKind,
    Writer,
    cut_at_blank,
)

Phrases: TypeAlias = Mapping[str, str | Mapping[str, str]]
"""How items are written: by slot, for all tasks that have it, or by task and then by slot. A slot
whose words are hidden takes those of its task alone."""

_PARSER = Environment(autoescape=False)  # only parses, never executes
_UP_TO_WORD = re.compile(r"\S*\s*")


def lower(source: str, slots: Mapping[str, SlotKind], place: str) -> tuple[Segment, ...]:
    """Turn one prompt or completion of a template file into segments."""
    if len(source.strip().splitlines()) > 1:
        hint = "T5's tokenizer drops newlines: join the lines"
        raise RecinjectError(f"{place}: a template is one line", hint=hint)
    try:
        tree = _PARSER.parse(source.strip())
    except TemplateSyntaxError as error:
        hint = "write slots as {{ history | join('; ') }}"
        raise RecinjectError(f"{place}: {error.message}", hint=hint) from error
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
    glued = [text for text in inner if not cut_at_blank(text)[0]]
    return not glued and all(end[-1:].isspace() for end in ends[:-1])


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
    if isinstance(node, nodes.Getattr) and getattr(node.node, "name", "") == ATTRIBUTE[:-1]:
        return Segment(f"{ATTRIBUTE}{node.attr}")
    if isinstance(node, nodes.Filter) and isinstance(node.node, nodes.Name):
        slot = pick(node.node.name, slots, f"{place}: unknown slot")
        return _filtered(node, slot, slots[slot], place)
    raise RecinjectError(
        f"{place}: {type(node).__name__} is not part of the sample language",
        hint="only text, {{ slot }}, {{ slot | filter('text') }} and {{ attribute.NAME }} of the "
        "user; put logic into phrases:",
    )


def _plain(slot: str, kind: SlotKind, place: str) -> Segment:
    if kind in (SlotKind.ITEM, SlotKind.RATING, SlotKind.USER):
        return Segment(slot)
    legal = " or ".join(f.usage for f in FILTERS.values() if kind in f.kinds)
    fact = f"{place}: {slot!r} is {kind.value} and needs a filter"
    raise RecinjectError(fact, hint=f"write {{{{ {slot} | {legal} }}}}")


def _filtered(node: nodes.Filter, slot: str, kind: SlotKind, place: str) -> Segment:
    legal = {name: found for name, found in FILTERS.items() if kind in found.kinds}
    if node.name not in legal:
        fact = f"{place}: filter {node.name!r} cannot write {slot!r}, {kind.value}"
        raise RecinjectError(fact, hint=did_you_mean(node.name, legal))
    chosen = legal[node.name]
    values = [argument.value for argument in node.args if isinstance(argument, nodes.Const)]
    texts = [value for value in values if isinstance(value, str)]
    others = node.kwargs or node.dyn_args or node.dyn_kwargs
    if not len(texts) == len(node.args) == chosen.arguments or others:
        fact = f"{place}: filter {node.name!r} takes {chosen.arguments} texts"
        raise RecinjectError(fact, hint=f"write {{{{ {slot} | {chosen.usage} }}}}")
    if kind is SlotKind.GAPPED and (len(f"a{texts[0]}".split()) > 1 or not texts[0][-1:].isspace()):
        raise RecinjectError(
            f"{place}: {texts[0]!r} adds words to those of the items, or joins them",
            hint=f"gaps are counted in items' words: write {{{{ {slot} | {node.name}('; ') }}}}",
        )
    return Segment(slot, node.name, tuple(texts))


class _Entry(BaseModel, extra="forbid"):
    name: str = Field(pattern=r"^[a-z0-9_]+$")
    use: Literal["training", "evaluation"] = "training"
    prompt: str
    completion: str


class _File(BaseModel, extra="forbid"):
    task: str
    version: int = Field(ge=1)
    phrases: dict[str, str]
    templates: list[_Entry] = Field(min_length=1)


@dataclass(frozen=True)
class Template:
    """One wording of a task."""

    name: str  # with the file's version, such as ``next_item@1``
    held_out: bool  # whether it is never trained on, to measure generalisation over wordings
    source: str  # the prompt as it stands in the file
    prompt: tuple[Segment, ...]
    completion: tuple[Segment, ...]

    def bind(self, pieces: Pieces) -> BoundTemplate:
        """Make the pieces that the template needs."""
        sides = (self.prompt, self.completion)
        return BoundTemplate(*(tuple(each.writer(pieces) for each in side) for side in sides))

    @property
    def splits_at_blanks(self) -> bool:
        """Whether no word spans two of its pieces."""
        return splits_at_blanks(self.prompt) and splits_at_blanks(self.completion)


@dataclass(frozen=True)
class BoundTemplate:
    """A wording whose pieces are made: it only chooses among them."""

    prompt: tuple[Writer, ...]
    completion: tuple[Writer, ...]

    def write(self, contexts: Contexts) -> tuple[Ragged, Ragged]:
        """Return the numbers of the pieces of each sample's prompt and completion."""
        sides = (self.prompt, self.completion)
        prompt, completion = (side_by_side([write(contexts) for write in side]) for side in sides)
        return prompt, completion


@dataclass(frozen=True)
class TaskTemplates:
    """All wordings of one task, and how an item is written in each slot."""

    version: int  # the file's, raised whenever a wording changes
    phrases: Mapping[str, str]  # of each slot that holds items
    places: Mapping[str, str]  # where each phrase was given, for messages
    templates: tuple[Template, ...]  # in the file's order
    path: Path

    @property
    def names_users(self) -> bool:
        """Whether a wording has the slot ``user``."""
        return any(segment.slot == USER_SLOT for segment in self._segments)

    @property
    def attributes(self) -> list[str]:
        """What of users the wordings tell, by the names of slots such as ``attribute.age``."""
        slots = dict.fromkeys(segment.slot for segment in self._segments)
        return [slot for slot in slots if slot.startswith(ATTRIBUTE)]

    @property
    def _segments(self) -> list[Segment]:
        return [part for each in self.templates for part in (*each.prompt, *each.completion)]

    def write_items(self, book: Phrasebook) -> dict[str, list[str]]:
        """Return the text of every item for each slot."""
        return {slot: book.write(text, self.places[slot]) for slot, text in self.phrases.items()}


def load_templates(
    task: str,
    slots: Mapping[str, SlotKind],
    folder: Path | None = None,
    phrases: Phrases | None = None,
) -> TaskTemplates:
    """Load and check a task's templates; every task also has the slot ``user``.

    If the user's own folder has no file of the task, the shipped one is used. ``phrases`` replace
    the file's.
    """
    own_file = folder / f"{task}.yaml" if folder else None
    shipped = shipped_folder("prompts") / f"{task}.yaml"
    path = own_file if own_file and own_file.is_file() else shipped
    if not path.is_file():
        fact = f"{path}: no templates for the task {task!r}"
        raise RecinjectError(fact, hint=f"add {task}.yaml to the folder that samples.prompts names")
    file = _parse(path, task)
    own = _own_phrases(task, slots, phrases or {})
    chosen = {**file.phrases, **{slot: text for slot, (text, _) in own.items()}}
    item_slots = {slot for slot, kind in slots.items() if kind is not SlotKind.RATING}
    if chosen.keys() != item_slots:
        fact = f"{path}: phrases are given for {sorted(chosen)}, the task has {sorted(item_slots)}"
        raise RecinjectError(fact, hint="give exactly one phrase for each slot that holds items")
    places = {s: own[s][1] if s in own else f"{path}: phrases.{s}" for s in chosen}
    return TaskTemplates(file.version, chosen, places, _templates(file, slots, path), path)


def _own_phrases(
    task: str, slots: Mapping[str, SlotKind], phrases: Phrases
) -> dict[str, tuple[str, str]]:
    """Return the phrases given for a task's slots, with their places."""
    # A text whose words are hidden is read as text: it takes phrases of its task alone.
    common = {slot for slot, kind in slots.items() if kind is not SlotKind.GAPPED}
    own = {
        slot: (text, f"samples.phrases.{slot}")
        for slot, text in phrases.items()
        if slot in common and isinstance(text, str)
    }
    given = phrases.get(task)
    named = given.items() if isinstance(given, Mapping) else ()
    return own | {slot: (text, f"samples.phrases.{task}.{slot}") for slot, text in named}


def check_phrases(phrases: Phrases, slots: Mapping[str, Iterable[str]]) -> None:
    """Refuse phrases of a slot that no task has; ``slots`` are those of each task."""
    everywhere = {slot for own in slots.values() for slot in own}
    for name, given in phrases.items():
        if isinstance(given, str):
            pick(name, everywhere, "samples.phrases: no task has a slot")
            continue
        own = slots[pick(name, slots, "samples.phrases: no task is called")]
        for slot in given:
            pick(slot, own, f"samples.phrases.{name}: the task has no slot")


def _templates(file: _File, slots: Mapping[str, SlotKind], path: Path) -> tuple[Template, ...]:
    legal = {USER_SLOT: SlotKind.USER, **slots}
    templates = tuple(
        Template(
            name=f"{entry.name}@{file.version}",
            held_out=entry.use == "evaluation",
            source=entry.prompt,
            prompt=lower(entry.prompt, legal, f"{path}: {entry.name}.prompt"),
            completion=lower(entry.completion, legal, f"{path}: {entry.name}.completion"),
        )
        for entry in file.templates
    )
    if all(template.held_out for template in templates):
        hint = "leave at least one without the mark: it is what the model trains on"
        raise RecinjectError(f"{path}: every template is marked 'use: evaluation'", hint=hint)
    return templates


def _parse(path: Path, task: str) -> _File:
    try:
        file = _File.model_validate(load_yaml(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise RecinjectError(f"{path}: not YAML: {error}", hint="mend the line it names") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecinjectError(
            f"{path}: {where}: {first['msg'].lower()}",
            hint="a file has task, version, phrases, templates; a template name, prompt, "
            "completion and perhaps use",
        ) from error
    [(name, uses)] = Counter(entry.name for entry in file.templates).most_common(1)
    if uses > 1:
        fact = f"{path}: {uses} templates are called {name!r}"
        raise RecinjectError(fact, hint="give each a name of its own: samples and reports cite it")
    if file.task != task:
        hint = f"write 'task: {task}' or rename the file"
        raise RecinjectError(f"{path}: says 'task: {file.task}'", hint=hint)
    return file
