"""Samples of some data: what makes them, and what was built as a value."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field
from tokenizers import Tokenizer

import recinject
from recinject.data.cleaning import SPECIAL_TOKENS
from recinject.data.schema import Catalog
from recinject.data.splitting import Part, Split, View
from recinject.engines import Engine
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.foundation.ragged import Array
from recinject.foundation.randomness import derive_rng
from recinject.foundation.settings import MOST, Positive, Seed, expect
from recinject.foundation.storage import read_json, write_json
from recinject.identifiers.data import Data
from recinject.identifiers.table import ITEM_TOKEN, name_users, user_tokens
from recinject.registry import pick
from recinject.samples.builder import REWORDED, SHUFFLED, Builder, Wording, make_wordings
from recinject.samples.encoding import Dialect
from recinject.samples.store import (
    Forms,
    plan_shards,
    read_samples,
    write_samples,
    write_shards,
)
from recinject.samples.tokenizer import add_tokens, load_tokenizer, train_tokenizer
from recinject.tasks.task import TASKS, Task, bind_tasks
from recinject.templating.language import Phrases, TaskTemplates, check_phrases, load_templates
from recinject.templating.phrases import Attribute, Phrasebook, number_text
from recinject.templating.writers import ATTRIBUTE, SlotKind

if TYPE_CHECKING:
    from datasets import DatasetDict

MOST_RATINGS = 20
_HERE = Engine()
_UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class RatingScale:
    """The ratings of a log, ascending."""

    written: Sequence[float]  # those of any event, which samples may have to write
    answers: Sequence[float]  # those of training events, which an answer may be

    @classmethod
    def of(cls, split: Split) -> RatingScale:
        """Take the distinct ratings of a split's events; none where the log has no ratings."""
        logs = (split.interactions.ratings, split.train.ratings)
        known = (np.empty(0) if log is None else log[~np.isnan(log)] for log in logs)
        return cls(*(np.unique(log).tolist() for log in known))

    @property
    def is_scale(self) -> bool:
        """Whether they are few enough, and more than one, so that they can be answers."""
        return 1 < len(self.written) <= MOST_RATINGS

    def __str__(self) -> str:
        """Say how many there are."""
        if len(self.written) == 1:
            return f"all {number_text(self.written[0])}"
        ends = (number_text(value) for value in (self.written or [0.0])[:: len(self.written) - 1])
        return f"{len(self.written):,} different values, {' to '.join(ends)}"

    @property
    def labels(self) -> dict[str, float]:
        """The text of each answer, with its value."""
        return {number_text(value): value for value in self.answers}


def has_scale(split: Split) -> bool:
    """Whether the task rating can be asked of a log; say so where its ratings are no scale."""
    ratings = RatingScale.of(split)
    if ratings.written and not ratings.is_scale:
        say(f"  no task rating: the ratings are no scale but {ratings}")
    return ratings.is_scale


@dataclass(frozen=True)
class SampleSettings:
    """What samples are made of, beside the data; see ``samples`` in a recipe.

    Attributes:
        max_prompt_tokens: of a prompt, which loses its oldest items to fit.
        passes: how many times each training sample is drawn, with other chance each time.
        limit: how many samples of a task and split to make at most; None makes all.
        shots: how many worked examples come before each validation and test prompt.
        user_tokens: how many tokens users share, by a hash, in templates with the slot ``user``.
        prompts: the user's own folder of templates.
        phrases: phrases that stand in for the templates' own, by slot, or by task and slot; a slot
            whose words are hidden takes those of its task alone.
        placebo: tasks that only train, in which each item goes by the name of another, the same one
            everywhere: what they still teach is no knowledge of who chose what.
        vocab_size: the size of a tokenizer that is learnt.
        seed: of the samplers.
    """

    max_prompt_tokens: Positive = 512
    max_completion_tokens: Positive = 64
    passes: Positive = 1
    limit: Positive | None = None
    shots: Annotated[int, Field(ge=0, le=MOST)] = 0
    user_tokens: Positive | None = None
    prompts: Path | None = None
    phrases: Phrases = field(default_factory=dict)
    placebo: Sequence[str] = ()
    vocab_size: Positive = 8000
    seed: Seed = 1

    @property
    def limits(self) -> tuple[int, int]:
        """The most tokens of a prompt and of a completion."""
        return self.max_prompt_tokens, self.max_completion_tokens


@dataclass(frozen=True, eq=False)
class SampleFactory:
    """All tasks of some data, ready to give any sample; see :func:`make_factory`."""

    data: Data
    tasks: Sequence[Task]
    wordings: Mapping[str, Wording]  # what each task is worded in, by its name
    dialect: Dialect  # how the model that the samples are for reads and writes
    ratings: RatingScale
    settings: SampleSettings
    new_tokens: Sequence[str]  # what the tokenizer reads as one token each, users' among them

    @property
    def tokenizer(self) -> Tokenizer:
        """What the model reads with."""
        return self.dialect.tokenizer

    def builders(self) -> Iterator[Builder]:
        """Yield the builder of every task and split, one part of the split after another."""
        for part in Part:
            view = self.data.split.view(part)
            for task in self.tasks:
                splits = [part.label] * (part in task.parts)
                if splits and part is Part.TEST:
                    has_order = task.slots["history"] in (SlotKind.ITEMS, SlotKind.RATED)
                    splits += [REWORDED] * len(self.wordings[task.name].numbers(REWORDED))
                    splits += [SHUFFLED] * has_order
                for split in splits:
                    yield self._builder(task, view, split)

    def retitled(self, titles: Mapping[int, str]) -> SampleFactory:
        """Return the same with other titles of some items in the prompts.

        What names an item in an answer stays. Only questions may be asked of it.
        """
        frame, texts = self.data.catalog.frame.copy(), list(self.data.identifiers.texts)
        own = frame["title"].tolist()
        for item, title in titles.items():
            if own[item] and self.data.identifiers.numbers is None:
                texts[item] = texts[item].replace(own[item], title)
            own[item] = title
        frame["title"] = own
        found = {name: wording.templates for name, wording in self.wordings.items()}
        count, seed = self.settings.user_tokens, self.settings.seed
        named = _name_users(found.values(), self.data.split, count, seed)
        book, written = Phrasebook(Catalog(frame), texts), np.array(self.ratings.written)
        told = _attributes(found.values(), self.data)
        wordings = make_wordings(found, book, written, self.dialect, named, {}, told)
        return replace(self, wordings=wordings)

    def asker(self, name: str, split: str = Part.TEST.label) -> Builder:
        """Return the builder of a task's test samples, to ask about histories of one's own."""
        task = next(task for task in self.tasks if task.name == name)
        return self._builder(task, self.data.split.view(Part.TEST), split)

    def _builder(self, task: Task, view: View, split: str) -> Builder:
        settings, wording, ids = self.settings, self.wordings[task.name], self.data.catalog.item_ids
        passes = settings.passes if view.part is Part.TRAIN else 1
        view = view.rated() if task.needs_ratings else view
        own = settings.limits, passes, settings.limit, settings.seed
        builder = Builder(task, wording, view, split, ids, *own)
        if view.part is Part.TRAIN or not settings.shots:
            return builder
        # Every example, and the question, has its share of the prompt's limit.
        limits = settings.max_prompt_tokens // (settings.shots + 1), settings.max_completion_tokens
        training = self.data.split.view(Part.TRAIN)
        training = training.rated() if task.needs_ratings else training
        pool = replace(
            builder, view=training, passes=1, limit=None, limits=limits, shares=settings.shots + 1
        )
        return replace(builder, pool=pool, shots=settings.shots)


def make_factory(
    data: Data,
    tasks: Sequence[Task],
    settings: SampleSettings,
    tokenizer: Tokenizer | None = None,
    causal: bool = False,
    ends: int | Sequence[int] | None = None,
) -> SampleFactory:
    """Write the items, find or learn the tokenizer, and get every task ready.

    Without a tokenizer one is learnt from the phrases and templates. Tokens of the identifiers and
    of users are added to it. For ``causal`` and ``ends`` see
    :meth:`~recinject.samples.encoding.Dialect.of_model`.
    """
    split, ratings = data.split, RatingScale.of(data.split)
    for task in tasks:
        if task.needs_ratings and split.interactions.ratings is None:
            raise RecinjectError(
                f"samples.tasks: the task {task.name} needs ratings, and the log has none",
                hint=f"leave {task.name} out with samples.tasks.{task.name}=null, or name the "
                "column with data.columns.rating=COLUMN",
            )
        # Of one event nothing can be said.
        if task.needs_ratings and len(split.parts) > 1 and not ratings.is_scale:
            raise RecinjectError(
                f"samples.tasks: the task {task.name} needs a scale of 2 to {MOST_RATINGS} "
                f"ratings, and those of the log are {ratings}",
                hint=f"leave {task.name} out with samples.tasks.{task.name}=null, or make a scale "
                "with data.rating_of={column: COLUMN, as: bins}",
            )
    known: list[Any] = [*TASKS.values(), *tasks]
    check_phrases(settings.phrases, {task.name: task.slots for task in known})
    templates = {
        task.name: load_templates(task.name, task.slots, settings.prompts, settings.phrases)
        for task in tasks
    }
    named_users = _name_users(templates.values(), split, settings.user_tokens, settings.seed)
    book = Phrasebook(data.catalog, data.identifiers.texts)
    told = _attributes(templates.values(), data)
    if tokenizer is None:
        texts = _vocabulary(templates.values(), book, ratings.answers, told)
        tokenizer = train_tokenizer(texts, settings.vocab_size)
    new_tokens = [*data.identifiers.tokens, *user_tokens(settings.user_tokens or 0)]
    add_tokens(tokenizer, new_tokens)
    dialect = Dialect.of_model(tokenizer, causal, ends)
    shown = _shown_items(tasks, settings, len(data.identifiers.texts))
    written = np.array(ratings.written)
    wordings = make_wordings(templates, book, written, dialect, named_users, shown, told)
    for task in tasks:
        if task.answer in ("retrieval", "ranking"):
            _refuse_alike(data, wordings[task.name].phrases["target"], dialect)
        _refuse_several(task, wordings[task.name], causal)
    return SampleFactory(data, tasks, wordings, dialect, ratings, settings, new_tokens)


def _refuse_several(task: Task, wording: Wording, causal: bool) -> None:
    """Refuse a task that a model of the kind cannot learn, or whose items need an end to each."""
    place = f"samples.tasks.{task.name}"
    if task.is_causal and not causal:
        raise RecinjectError(
            f"{place}: the model reads a prompt both ways, and the task is for causal ones",
            hint="give the model a config such as {model_type: gpt2, ...}; or take "
            "samples.tasks.retrieval={targets: 4}",
        )
    if task.names_several and not wording.is_token:
        raise RecinjectError(
            f"{place}: several items follow one another, and they are no tokens of their own",
            hint="set identifiers.kind=token, and name targets by '{{ identifier }}'",
        )


def _refuse_alike(data: Data, texts: Sequence[str], dialect: Dialect) -> None:
    """Refuse items whose texts are the same tokens: no answer of a model could mean one of them."""
    rows = dialect.completions(texts)
    _, places, counts = np.unique(rows.to_grid(-1), axis=0, return_inverse=True, return_counts=True)
    alike = np.flatnonzero(counts[places] > 1)
    if not alike.size:
        return
    first = alike[0]
    second = alike[places[alike] == places[first]][1]
    ids, read = data.catalog.item_ids, dialect.tokenizer.decode(rows[first].tolist(), False)
    raise RecinjectError(
        f"identifiers.kind={data.identifiers.kind}: the tokenizer cannot tell {len(alike):,} of "
        f"{len(texts):,} items apart: {texts[first]!r} ({ids[first]}) and {texts[second]!r} "
        f"({ids[second]}) are both read as {read!r}",
        hint="set samples.phrases.target='{{ identifier }}'"
        if texts[first] == texts[second]
        else "set identifiers.kind=number, or take a model or model.tokenizer that can spell them",
    )


def _shown_items(tasks: Sequence[Task], settings: SampleSettings, n_items: int) -> dict[str, Array]:
    """Return for each placebo the item that each item is written as, never itself."""
    trained = [task.name for task in tasks if task.answer is None]
    order = derive_rng(settings.seed, "placebo").permutation(n_items)
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    place = "samples.placebo: no task that only trains is called"
    return {pick(name, trained, place): others for name in settings.placebo}


def _name_users(
    templates: Iterable[TaskTemplates], split: Split, count: int | None, seed: int
) -> list[str]:
    """Return the token of each user and of a stranger; none where no template has any."""
    naming = [found for found in templates if found.names_users]
    if naming and not count:
        fact = f"{naming[0].path}: {{{{ user }}}} needs tokens that users share"
        raise RecinjectError(fact, hint="set samples.user_tokens=2000, or leave the slot out")
    if count and not naming:
        raise RecinjectError(
            f"samples.user_tokens={count}: no template has the slot user",
            hint="write {{ user }} into one, as in samples.prompts=prompts/tiger_users",
        )
    return name_users([*split.interactions.user_ids, ""], count, seed) if count else []


def _attributes(templates: Iterable[TaskTemplates], data: Data) -> dict[str, Attribute]:
    """Return what of users the templates tell; a stranger's, and what is missing, is unknown."""
    found = {}
    for own in templates:
        for slot in own.attributes:
            name = slot.removeprefix(ATTRIBUTE)
            pick(name, data.attributes, f"{own.path}: {{{{ {slot} }}}}: the log knows of users no")
            assert data.users is not None
            values = data.users[name]
            written = [_UNKNOWN if pd.isna(v) or v == "" else _written(v) for v in values]
            texts, of_user = np.unique([*written, _UNKNOWN], return_inverse=True)
            found[slot] = Attribute(texts.tolist(), of_user.astype(np.int32))
    return found


def _written(value: object) -> str:
    plain = number_text(float(value)) if isinstance(value, int | float) else str(value)
    return " ".join(SPECIAL_TOKENS.sub(r"(\1)", plain).split()) or _UNKNOWN


def _vocabulary(
    templates: Collection[TaskTemplates],
    book: Phrasebook,
    ratings: Iterable[float],
    told: Mapping[str, Attribute],
) -> Iterator[str]:
    """Yield every text that prompts are made of, once."""
    yield from (template.source for found in templates for template in found.templates)
    written = (texts for found in templates for texts in found.write_items(book).values())
    # Item tokens are one piece each already: their letters are not worth learning.
    yield from dict.fromkeys(ITEM_TOKEN.sub("", text) for texts in written for text in texts)
    yield from map(number_text, ratings)
    yield from (text for own in told.values() for text in own.texts)


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

    Examples:
        >>> from recinject import build_samples, prepare
        >>> from recinject.data.simulator import simulate_shop
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> samples = build_samples(data, ["retrieval", "rating"])
        >>> len(samples["retrieval"]["train"]), samples["rating"]["test"][0]["completion"]
        (24, '3')
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
            hint = "give the folder that samples.save(folder), or recinject build, wrote"
            raise RecinjectError(f"{folder}: no samples in it, for there is no {FACTS}", hint=hint)
        if data is not None:
            expect(data, Data, "load_samples: data", "give what recinject.prepare returned")
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
        splits = [row["split"] for row in self.rows if row["task"] == task]
        return DatasetDict({s: Dataset(read_samples(self.folder, task, s)) for s in splits})

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
        return bind_tasks(self.tasks, self.settings.prompts, "samples.tasks")

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

    @property
    def open_tasks(self) -> list[str]:
        """The tasks that ask for the next item by a token of its own; none without the data."""
        if self.data is None:
            return []
        return [task.name for task in self.factory.tasks if self.factory.asker(task.name).is_open]

    @property
    def item_tokens(self) -> list[int]:
        """The number of each item's token, where an item is one."""
        known = self.tokenizer.get_vocab()
        return [known[text] for text in self.factory.data.identifiers.texts]


def build_part(
    factory: SampleFactory, folder: Path, forms: Forms, part: tuple[int, int], engine: Engine
) -> int:
    """Write one part of the shards that :func:`build_samples` writes, and nothing else.

    ``part`` is its number, from 1, and how many there are. Returns the number of its shards.
    """
    number, count = part
    before, written = 0, 0
    for builder, own, asked in _planned(factory, folder, forms):
        shards = plan_shards(builder, own, asked)
        mine = shards[(number - 1 - before) % count :: count]
        write_shards(builder, mine, engine)
        before, written = before + len(shards), written + len(mine)
    return written


def _planned(
    factory: SampleFactory, folder: Path, forms: Forms
) -> Iterator[tuple[Builder, Path, Forms]]:
    """Yield each builder with its folder, which is made, and what is written of its samples."""
    for builder in factory.builders():
        own = folder / builder.task.name
        own.mkdir(exist_ok=True)
        is_read = builder.split in (Part.TRAIN.label, Part.VALIDATION.label)
        yield builder, own, replace(forms, tokens=forms.tokens and is_read)


def build_samples(
    factory: SampleFactory, folder: Path, forms: Forms, *, engine: Engine = _HERE
) -> Samples:
    """Write every sample of every task, the tokenizer beside them, and what made them.

    Tokens are written of the splits that training reads, whatever ``forms`` says of the others.
    ``samples.json`` holds all that opens the samples without a recipe: the version, the tasks with
    their settings, :class:`SampleSettings`, the dialect, the new tokens, the rating scale, and a
    row a task and split: its number of samples, its wordings, what tokenisation did, and how many
    histories lost items to fit.
    """
    factory.tokenizer.save(str(folder / "tokenizer.json"))
    rows: list[dict[str, Any]] = []
    for builder, own, asked in _planned(factory, folder, forms):
        tokens, trimmed = write_samples(builder, own, asked, engine=engine)
        templates = builder.wording.templates.templates
        named = [templates[number].name for number in builder.wording.numbers(builder.split)]
        row = {"task": builder.task.name, "split": builder.split, "samples": len(builder)}
        counts = {"tokens": tokens and asdict(tokens), "trimmed": trimmed}
        rows.append(row | {"templates": named} | counts)
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
