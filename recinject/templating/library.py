"""The library of templates: one YAML file a task, shipped or the user's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged, side_by_side
from recinject.foundation.storage import load_yaml, shipped_folder
from recinject.templating.language import lower, splits_at_blanks
from recinject.templating.phrases import Phrasebook, Pieces
from recinject.templating.writers import USER_SLOT, Contexts, Segment, SlotKind, Writer


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[a-z0-9_]+$")
    use: Literal["training", "evaluation"] = "training"
    prompt: str
    completion: str


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
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
        return BoundTemplate(
            tuple(segment.writer(pieces) for segment in self.prompt),
            tuple(segment.writer(pieces) for segment in self.completion),
        )

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
        prompt, completion = (
            side_by_side([writer(contexts) for writer in writers])
            for writers in (self.prompt, self.completion)
        )
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
        segments = (part for each in self.templates for part in (*each.prompt, *each.completion))
        return any(segment.slot == USER_SLOT for segment in segments)

    def write_items(self, book: Phrasebook) -> dict[str, list[str]]:
        """Return the text of every item for each slot."""
        return {slot: book.write(text, self.places[slot]) for slot, text in self.phrases.items()}


def load_templates(
    task: str,
    slots: Mapping[str, SlotKind],
    folder: Path | None = None,
    phrases: Mapping[str, str] | None = None,
) -> TaskTemplates:
    """Load and check a task's templates.

    Args:
        task: the task's name, which is the file's.
        slots: the slots that the task fills; every task also has the slot ``user``.
        folder: the user's own folder; if it has no file of the task, the shipped one is used.
        phrases: phrases that replace the file's, by slot.

    Raises:
        RecinjectError: no such file, an unknown key, slot or filter, or a slot without phrase.
    """
    own_file = folder / f"{task}.yaml" if folder else None
    shipped = shipped_folder("prompts") / f"{task}.yaml"
    path = own_file if own_file and own_file.is_file() else shipped
    if not path.is_file():
        raise RecinjectError(
            f"{path}: no templates for the task {task!r}",
            hint=f"add {task}.yaml to the folder that samples.prompts names",
        )
    file = _parse(path, task)
    own = {slot: text for slot, text in (phrases or {}).items() if slot in slots}
    chosen = {**file.phrases, **own}
    item_slots = {slot for slot, kind in slots.items() if kind is not SlotKind.RATING}
    if chosen.keys() != item_slots:
        raise RecinjectError(
            f"{path}: phrases are given for {sorted(chosen)}, the task has {sorted(item_slots)}",
            hint="give exactly one phrase for each slot that holds items",
        )
    places = {s: f"samples.phrases.{s}" if s in own else f"{path}: phrases.{s}" for s in chosen}
    return TaskTemplates(file.version, chosen, places, _templates(file, slots, path), path)


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
        raise RecinjectError(
            f"{path}: every template is marked 'use: evaluation'",
            hint="leave at least one without the mark: it is what the model trains on",
        )
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
        raise RecinjectError(
            f"{path}: {uses} templates are called {name!r}",
            hint="give each a name of its own: samples and reports cite it",
        )
    if file.task != task:
        raise RecinjectError(
            f"{path}: says 'task: {file.task}'", hint=f"write 'task: {task}' or rename the file"
        )
    return file
