"""The samples stage: every task's samples of every split, with the tokenizer that reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from recinject.data.schema import Catalog
from recinject.data.splitting import Part, Split, View
from recinject.foundation.errors import RecinjectError
from recinject.identifiers.table import ITEM_TOKEN, name_users, user_tokens
from recinject.samples.builder import REWORDED, SHUFFLED, Builder, Wording, make_wordings
from recinject.samples.encoding import Dialect
from recinject.samples.store import Forms, write_samples
from recinject.samples.tokenizer import add_tokens, train_tokenizer
from recinject.tasks.task import Task
from recinject.templating.library import TaskTemplates, load_templates
from recinject.templating.phrases import Phrasebook, number_text
from recinject.templating.writers import SlotKind


@dataclass(frozen=True, eq=False)
class SampleFactory:
    """All tasks of a run, ready to give any sample; see :func:`make_factory`.

    Attributes:
        wordings: what each task is worded in, by its name.
        limits: the most tokens of a prompt and of a completion.
        passes: how many times each training sample is drawn, with other chance each time.
        limit: how many samples of a task and split to make at most; None makes all.
        shots: how many worked examples come before each validation and test prompt.
        new_tokens: what the tokenizer was made to read as one token each, users' among them.
    """

    tasks: Sequence[Task]
    wordings: Mapping[str, Wording]
    split: Split
    catalog: Catalog
    tokenizer: Tokenizer
    limits: tuple[int, int]
    passes: int
    limit: int | None
    seed: int
    shots: int
    new_tokens: Sequence[str]

    def builders(self) -> Iterator[Builder]:
        """Yield the builder of every task and split, one part of the split after another."""
        for part in Part:
            view = self.split.view(part)
            for task in self.tasks:
                if part in task.parts:
                    variants = self.variants(task) if part is Part.TEST else []
                    for split in (part.label, *variants):
                        yield self._builder(task, view, split)

    def variants(self, task: Task) -> list[str]:
        """Return the splits that ask a task's test in another way."""
        plain = task.slots["history"] in (SlotKind.ITEMS, SlotKind.RATED)
        held_out = self.wordings[task.name].numbers(REWORDED)
        return [REWORDED] * len(held_out) + [SHUFFLED] * plain

    def _builder(self, task: Task, view: View, split: str) -> Builder:
        builder = Builder(
            task,
            self.wordings[task.name],
            view,
            split,
            self.catalog.item_ids,
            self.limits,
            self.passes if view.part is Part.TRAIN else 1,
            self.limit,
            self.seed,
        )
        if view.part is Part.TRAIN or not self.shots:
            return builder
        # Every example, and the question, has its share of the prompt's limit.
        limits = self.limits[0] // (self.shots + 1), self.limits[1]
        training = self.split.view(Part.TRAIN)
        pool = replace(builder, view=training, passes=1, limit=None, limits=limits)
        return replace(builder, pool=pool, shots=self.shots)


def make_factory(
    *,
    tasks: Sequence[Task],
    split: Split,
    catalog: Catalog,
    identifiers: Sequence[str],
    prompts: Path | None,
    phrases: Mapping[str, str],
    tokenizer: Tokenizer | None,
    vocab_size: int,
    limits: tuple[int, int],
    seed: int,
    passes: int = 1,
    limit: int | None = None,
    shots: int = 0,
    new_tokens: Sequence[str] = (),
    users: int | None = None,
    causal: bool = False,
    ends: int | Sequence[int] | None = None,
) -> SampleFactory:
    """Write the items, find or learn the tokenizer, and get every task ready.

    Args:
        tasks: the samplers; those that need ratings are refused where the log has none.
        identifiers: the identifier of each item.
        prompts: the user's own folder of templates, or None.
        phrases: phrases that stand in for the templates' own, by slot.
        tokenizer: what the model reads with; None to learn one from the phrases and templates.
        vocab_size: size of a learnt tokenizer.
        new_tokens: texts that the tokenizer, given or learnt, is made to read as one token each,
            beyond ``vocab_size``.
        users: how many tokens users share, by a hash, in templates that have the slot ``user``.

    What else there is goes to :class:`SampleFactory`, or, ``causal`` and ``ends``, to
    :meth:`~recinject.samples.encoding.Dialect.of_model`.
    """
    _check_ratings(tasks, split)
    templates = {
        task.name: load_templates(task.name, task.slots, prompts, phrases) for task in tasks
    }
    named_users = _name_users(templates.values(), split, users, seed)
    book = Phrasebook(catalog, identifiers)
    if tokenizer is None:
        texts = _vocabulary(templates.values(), book, rating_labels(split))
        tokenizer = train_tokenizer(texts, vocab_size)
    new_tokens = [*new_tokens, *user_tokens(users or 0)]
    add_tokens(tokenizer, new_tokens)
    given = split.interactions.ratings
    ratings = np.empty(0) if given is None else np.unique(given)
    dialect = Dialect.of_model(tokenizer, causal, ends)
    wordings = make_wordings(templates, book, ratings, dialect, named_users)
    return SampleFactory(
        tasks, wordings, split, catalog, tokenizer, limits, passes, limit, seed, shots, new_tokens
    )


def rating_labels(split: Split) -> list[float]:
    """Return the distinct ratings of the training part, ascending: what an answer may be."""
    ratings = split.train.ratings
    return [] if ratings is None else [float(value) for value in np.unique(ratings)]


def _name_users(
    templates: Iterable[TaskTemplates], split: Split, count: int | None, seed: int
) -> list[str]:
    """Return the token of each user, and last that of a stranger; none where no template has any.

    Raises:
        RecinjectError: a template names users and there are no tokens, or the other way round.
    """
    naming = [found for found in templates if found.names_users]
    if naming and not count:
        raise RecinjectError(
            f"{naming[0].path}: {{{{ user }}}} needs tokens that users share",
            hint="set samples.user_tokens=2000, or leave the slot out",
        )
    if count and not naming:
        raise RecinjectError(
            f"samples.user_tokens={count}: no template has the slot user",
            hint="write {{ user }} into one, as in samples.prompts=prompts/tiger_users",
        )
    return name_users([*split.interactions.user_ids, ""], count, seed) if count else []


def _check_ratings(tasks: Iterable[Task], split: Split) -> None:
    for task in tasks:
        if task.needs_ratings and split.interactions.ratings is None:
            raise RecinjectError(
                f"samples.tasks: the task {task.name} needs ratings, and the log has none",
                hint=f"leave {task.name} out with samples.tasks.{task.name}=null, or name the "
                "column with data.columns.rating=COLUMN",
            )


def _vocabulary(
    templates: Collection[TaskTemplates], book: Phrasebook, ratings: Iterable[float]
) -> Iterator[str]:
    """Yield every text that prompts are made of, once."""
    yield from (template.source for found in templates for template in found.templates)
    written = (texts for found in templates for texts in found.write_items(book).values())
    # Item tokens are one piece each already: their letters are not worth learning.
    yield from dict.fromkeys(ITEM_TOKEN.sub("", text) for texts in written for text in texts)
    yield from map(number_text, ratings)


def build_samples(
    factory: SampleFactory, folder: Path, forms: Forms, *, workers: int
) -> list[dict[str, Any]]:
    """Write every sample of every task, and the tokenizer beside them.

    Tokens are written of the splits that training reads, whatever ``forms`` says of the others.

    Returns:
        One row a task and split: its number of samples, its wordings, and what tokenisation did.
    """
    factory.tokenizer.save(str(folder / "tokenizer.json"))
    rows: list[dict[str, Any]] = []
    for builder in factory.builders():
        own = folder / builder.task.name
        own.mkdir(exist_ok=True)
        is_read = builder.split in (Part.TRAIN.label, Part.VALIDATION.label)
        asked = replace(forms, tokens=forms.tokens and is_read)
        facts = write_samples(builder, own, asked, workers=workers)
        templates = builder.wording.templates.templates
        rows.append(
            {
                "task": builder.task.name,
                "split": builder.split,
                "samples": len(builder),
                "templates": [templates[n].name for n in builder.wording.numbers(builder.split)],
                "tokens": None if facts is None else asdict(facts),
            }
        )
    return rows
