"""Built samples as a value: datasets by task and split, with what made them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tokenizers import Tokenizer

import recinject
from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError
from recinject.foundation.settings import bind
from recinject.foundation.storage import read_json, write_json
from recinject.identifiers.data import Data
from recinject.samples.build import RatingScale, SampleFactory, SampleSettings, make_factory
from recinject.samples.encoding import Dialect
from recinject.samples.store import Forms, read_samples, write_samples
from recinject.samples.tokenizer import load_tokenizer
from recinject.tasks.shipped import task_type
from recinject.tasks.task import Task

if TYPE_CHECKING:
    from datasets import DatasetDict

FACTS = "samples.json"


@dataclass(frozen=True, eq=False)
class Samples(Mapping[str, "DatasetDict"]):
    """The samples of some tasks, stored in a folder.

    ``samples["retrieval"]["train"]`` is a ``datasets.Dataset`` with the columns of
    :data:`~recinject.samples.builder.SCHEMA`, read when it is asked for.

    Attributes:
        folder: where they lie; ``datasets.load_dataset(folder, task)`` reads them too.
        facts: what made them; see :func:`build_samples`.
        data: the data that they were made of, or None where that is not at hand.
    """

    folder: Path
    facts: Mapping[str, Any]
    data: Data | None = None
    _kept: Any = field(default=None, repr=False)  # a temporary folder goes when this goes

    @classmethod
    def load(cls, folder: str | Path, data: Data | None = None) -> Samples:
        """Open stored samples.

        Args:
            folder: what :meth:`save`, or the stage ``samples`` of a run, wrote.
            data: what they were made of; found in the folder, or beside it in a run, if not given.

        Raises:
            RecinjectError: no samples are there.
        """
        folder = Path(folder)
        if not (folder / FACTS).is_file():
            raise RecinjectError(
                f"{folder}: no samples in it, for there is no {FACTS}",
                hint="give the folder that samples.save(folder), or recinject build, wrote",
            )
        homes = [home for home in (folder, folder.parent) if (home / "identifiers").is_dir()]
        if data is None and homes:
            data = Data.load(homes[0])
        return cls(folder, read_json(folder / FACTS), data)

    def save(self, folder: str | Path) -> None:
        """Copy the samples into a new folder, with their data where that is at hand.

        Raises:
            RecinjectError: the folder exists.
        """
        target = Path(folder)
        if target.exists() and any(target.iterdir()):
            raise RecinjectError(f"{target}: exists already", hint="choose another folder")
        shutil.copytree(self.folder, target, dirs_exist_ok=True)
        if self.data is not None and not (target / "data").is_dir():
            self.data.save(target)

    def __getitem__(self, task: str) -> DatasetDict:
        from datasets import Dataset, DatasetDict  # half a second, for those who ask for it

        if task not in self.tasks:
            raise KeyError(task)
        return DatasetDict(
            {
                row["split"]: Dataset(read_samples(self.folder, task, row["split"]))
                for row in self.rows
                if row["task"] == task
            }
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def to_pandas(self, task: str, split: str = "train") -> pd.DataFrame:
        """Return the samples of one task and split as a frame, a sample a row."""
        frame: pd.DataFrame = read_samples(self.folder, task, split).to_pandas()
        return frame

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a task and split; see :func:`build_samples`."""
        return list(self.facts["rows"])

    @property
    def tasks(self) -> dict[str, Mapping[str, Any]]:
        """The tasks with their settings."""
        return dict(self.facts["tasks"])

    @property
    def settings(self) -> SampleSettings:
        """What the samples were made of, beside the data."""
        stored = self.facts["settings"]
        prompts = stored["prompts"] and Path(stored["prompts"])
        return SampleSettings(**{**stored, "prompts": prompts})

    @property
    def sizes(self) -> dict[str, int]:
        """How many training samples each task has; tasks without any are left out."""
        training = (row for row in self.rows if row["split"] == Part.TRAIN.label)
        return {row["task"]: row["samples"] for row in training if row["samples"]}

    @property
    def ratings(self) -> RatingScale:
        """The log's ratings."""
        return RatingScale(**self.facts["ratings"])

    @property
    def new_tokens(self) -> Sequence[str]:
        """What the tokenizer was made to read as one token each."""
        return list(self.facts["new_tokens"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the samples were made with."""
        return load_tokenizer(self.folder / "tokenizer.json")

    @cached_property
    def dialect(self) -> Dialect:
        """How the model that the samples are for reads and writes."""
        return Dialect(self.tokenizer, **self.facts["dialect"])

    def bound_tasks(self) -> list[Task]:
        """Return the samplers with their settings."""
        folder = self.settings.prompts
        return [
            bind(task_type(name, folder), settings, f"samples.tasks.{name}")
            for name, settings in self.tasks.items()
        ]

    @cached_property
    def factory(self) -> SampleFactory:
        """What gives any sample anew, such as a prompt about a history of one's own.

        Raises:
            RecinjectError: the data are not at hand.
        """
        if self.data is None:
            raise RecinjectError(
                f"{self.folder}: the data of these samples are not at hand",
                hint="give them: load_samples(folder, data=recinject.Data.load(...))",
            )
        own, tasks = (self.tokenizer, self.dialect.causal, self.dialect.end), self.bound_tasks()
        return make_factory(self.data, tasks, self.settings, *own)


def build_samples(factory: SampleFactory, folder: Path, forms: Forms, *, workers: int) -> Samples:
    """Write every sample of every task, the tokenizer beside them, and what made them.

    Tokens are written of the splits that training reads, whatever ``forms`` says of the others.
    ``samples.json`` holds all that opens the samples without a recipe: the version, the tasks with
    their settings, :class:`SampleSettings`, the dialect, the new tokens, the rating scale, and a
    row a task and split: its number of samples, its wordings, what tokenisation did, and how many
    histories lost items to fit.
    """
    factory.tokenizer.save(str(folder / "tokenizer.json"))
    rows: list[dict[str, Any]] = []
    for builder in factory.builders():
        own = folder / builder.task.name
        own.mkdir(exist_ok=True)
        is_read = builder.split in (Part.TRAIN.label, Part.VALIDATION.label)
        asked = replace(forms, tokens=forms.tokens and is_read)
        tokens, trimmed = write_samples(builder, own, asked, workers=workers)
        templates = builder.wording.templates.templates
        rows.append(
            {
                "task": builder.task.name,
                "split": builder.split,
                "samples": len(builder),
                "templates": [templates[n].name for n in builder.wording.numbers(builder.split)],
                "tokens": tokens and asdict(tokens),
                "trimmed": trimmed,
            }
        )
    prompts = factory.settings.prompts
    facts = {
        "version": recinject.__version__,
        "tasks": {task.name: asdict(task) for task in factory.tasks},
        "settings": asdict(factory.settings) | {"prompts": prompts and str(prompts.absolute())},
        "dialect": {"causal": factory.dialect.causal, "end": factory.dialect.end},
        "new_tokens": list(factory.new_tokens),
        "ratings": asdict(factory.ratings),
        "rows": rows,
    }
    write_json(folder / FACTS, facts)
    return Samples(folder, read_json(folder / FACTS), factory.data)
