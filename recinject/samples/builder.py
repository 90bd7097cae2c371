"""From a task, its templates and a view to any of its samples, by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandas.util import hash_array

from recinject.data.schema import Floats, Integers
from recinject.data.splitting import Part, View
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged, is_among, one_below_another, side_by_side
from recinject.foundation.randomness import Bits, Chance, combine, derive_bits
from recinject.samples.encoding import Dialect, Encoder, Tokens
from recinject.tasks.task import Keys, Task
from recinject.templating.language import BoundTemplate, TaskTemplates
from recinject.templating.phrases import Attribute, Phrasebook, PieceKind, Pieces
from recinject.templating.writers import Contexts, SlotKind

REWORDED = "reworded"
SHUFFLED = "shuffled"
# Between prompt and completion, and after an example: a tokenizer such as T5's reads either as
# one blank, and others read the second as the end of a paragraph.
BETWEEN, AFTER = " ", "\n\n"
_IDENTIFIER = "{{ identifier }}"
_BESIDE = 4  # tokens that blanks and line ends around a completion take at most
# More than an item's own words take when it comes to stand first in a list and not later.
_FIRST_TOKENS = 5
_TEXTS = ("sample_id", "task", "template", "split", "user_id", "prompt", "completion")
SCHEMA = pa.schema(
    {
        **dict.fromkeys((*_TEXTS, "target_item_id"), pa.string()),
        "candidate_item_ids": pa.list_(pa.string()),
        "label": pa.float64(),
        **dict.fromkeys(("user", "event", "target"), pa.int32()),
        "candidates": pa.list_(pa.int32()),
    }
)


class Sample(NamedTuple):
    """One row of a sample file: what a model reads and should write, and what it is about.

    ``split`` is ``train``, ``validation``, ``test``; ``reworded``: the test in a wording that is
    never trained on; or ``shuffled``: the test with its histories in random order.
    """

    sample_id: str  # task, split, user and index: the key that the sample is a function of
    task: str
    template: str  # the wording, with its version
    split: str
    user_id: str  # the log's own id; it never stands in the text
    prompt: str
    completion: str
    target_item_id: str | None  # the log's own id of the item asked for
    candidate_item_ids: list[str] | None  # the slate in the prompt's order
    label: float | None  # the rating asked for
    user: int  # the user's index in the log, as in ``data/users.parquet``
    event: int | None  # index of the event asked for, as in ``data/interactions.parquet``
    target: int | None  # index of the item asked for, as in ``data/items.parquet``
    candidates: list[int] | None  # those of the slate


@dataclass(frozen=True, eq=False)
class Wording:
    """A task's templates, with what is rendered once and not once a sample."""

    templates: TaskTemplates
    bound: Sequence[BoundTemplate]  # the same, choosing among pieces
    encoder: Encoder  # gives the tokens of what is put together from the pieces

    @property
    def phrases(self) -> Mapping[str, Sequence[str]]:
        """For each slot the text of every item."""
        return self.encoder.pieces.phrases

    @cached_property
    def item_costs(self) -> NDArray[np.int64]:
        """The most tokens that each item takes in a history, shape (items,)."""
        beside = sum(
            int(self.encoder.most_tokens(kind).max(initial=0))
            for kind in (PieceKind.LETTERS, PieceKind.RATINGS)
        )
        return self.encoder.most_tokens("history") + beside + _FIRST_TOKENS

    @cached_property
    def item_words(self) -> Integers:
        """How many words each item has in a history, shape (items,)."""
        return np.array([len(text.split()) for text in self.phrases["history"]], np.int32)

    @cached_property
    def is_token(self) -> bool:
        """Whether each item that is asked for is a token of its own, which needs no end."""
        return self.encoder.dialect.item_tokens(self.phrases.get("target", ())) is not None

    def numbers(self, split: str) -> Sequence[int]:
        """Return which templates a split is written in: a test in one, so that like meets like."""
        found = range(len(self.bound))
        if split == REWORDED:
            return [n for n in found if self.templates.templates[n].held_out][:1]
        training = [n for n in found if not self.templates.templates[n].held_out]
        return training if split == Part.TRAIN.label else training[:1]


def make_wordings(
    templates: Mapping[str, TaskTemplates],
    book: Phrasebook,
    ratings: Floats,
    dialect: Dialect,
    users: Sequence[str],
    shown: Mapping[str, Array],
    attributes: Mapping[str, Attribute] | None = None,
) -> dict[str, Wording]:
    """Write every piece that a sample of some tasks may need, and tokenise it.

    For ``ratings``, ``users`` and ``attributes`` see
    :class:`~recinject.templating.phrases.Pieces`; ``shown`` has, for some tasks, the item in whose
    words each item is written, shape (items,).
    """
    pieces = []
    for name, found in templates.items():
        texts = found.write_items(book)
        if name in shown:
            texts = {slot: [own[item] for item in shown[name]] for slot, own in texts.items()}
        pieces.append(Pieces(texts, ratings, users, attributes))
    bound = [
        [template.bind(own) for template in found.templates]
        for found, own in zip(templates.values(), pieces, strict=True)
    ]
    for own in pieces:
        own.literal(BETWEEN)
        own.literal(AFTER)
    splits = [all(t.splits_at_blanks for t in found.templates) for found in templates.values()]
    encoders = Encoder.make_all(dialect, pieces, splits)
    return {
        name: Wording(found, own, encoder)
        for (name, found), own, encoder in zip(templates.items(), bound, encoders, strict=True)
    }


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples, as the integers and the pieces that they are made of."""

    contexts: Contexts  # what the sampler chose
    indices: Array  # which of its user's samples each is, shape (n,)
    wordings: Array  # which of the task's templates each is written in, shape (n,)
    prompts: Ragged  # the numbers of the prompts' pieces
    completions: Ragged  # those of the completions' pieces
    trimmed: int  # how many of them lost the oldest items of their histories to fit


@dataclass(frozen=True, eq=False)
class Builder:
    """Makes the samples of one task in one view; a sample is a pure function of its key.

    A ``pool`` gives the worked examples before each prompt, ``shots`` of them. They, and
    negatives by popularity, alone make a sample depend on other users. The limit of a whole prompt
    is divided among ``shares`` examples and questions.
    """

    task: Task
    wording: Wording
    view: View
    split: str  # the view's part, ``reworded`` or ``shuffled``
    item_ids: Sequence[str]  # the log's own
    limits: tuple[int, int]  # most tokens of a prompt, which loses old items, and of a completion
    passes: int  # how many times each sample is drawn, with other chance each time
    limit: int | None  # how many samples are made at most
    seed: int
    pool: Builder | None = None
    shots: int = 0
    shares: int = 1  # among how many examples and questions the limit of a prompt is divided

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return self.task.count(self.view)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each user's samples of one pass start among all, shape (users + 1,)."""
        return np.concatenate([[0], np.cumsum(self._counts)])

    @property
    def is_open(self) -> bool:
        """Whether completions have no end token: of retrieval, where each item is one token."""
        return self.task.answer == "retrieval" and self.wording.is_token

    def __len__(self) -> int:
        total = int(self.offsets[-1]) * self.passes
        return total if self.limit is None else min(total, self.limit)

    def batch(self, numbers: Array) -> Batch:
        """Make the samples of some numbers, from 0 to below the builder's length, shape (n,)."""
        passes, places = np.divmod(numbers, max(1, int(self.offsets[-1])))
        users = np.searchsorted(self.offsets, places, side="right") - 1
        indices = places - self.offsets[users]
        drawn = indices + passes * self._counts[users]
        bits = combine(self._bits(users), drawn)
        keys = Keys(users, indices, chance := Chance(bits))
        contexts = self.task.sample(self.view, keys, self.wording.item_words)
        self._refuse_leak(contexts)
        legal = np.array(self.wording.numbers(self.split))
        wordings = legal[chance.below(len(legal))]
        if self.split == SHUFFLED:
            contexts = contexts.with_history_in(chance.orders(contexts.slots["history"].lengths))
        pool = self.pool
        examples = None if pool is None else pool.demonstrations(self.shots, users, bits)
        return self._within_limits(contexts, drawn, wordings, examples)

    def table(self, batch: Batch) -> pa.Table:
        """Return samples in words, as rows of :data:`SCHEMA`."""
        contexts, pieces = batch.contexts, self.wording.encoder.pieces
        n, users = len(contexts), self._user_ids.take(pa.array(contexts.users))
        prefix = pa.scalar(f"{self.task.name}/{self.split}")
        indices = pa.array(batch.indices).cast(pa.string())
        templates = pa.array([template.name for template in self.wording.templates.templates])
        columns = {field.name: pa.nulls(n, field.type) for field in SCHEMA}
        columns |= {
            "sample_id": pc.binary_join_element_wise(prefix, users, indices, "/"),
            "task": pa.repeat(self.task.name, n),
            "template": templates.take(pa.array(batch.wordings)),
            "split": pa.repeat(self.split, n),
            "user_id": users,
            "prompt": pieces.write(batch.prompts),
            "completion": pieces.write(batch.completions),
            "user": pa.array(contexts.users, pa.int32()),
        }
        if contexts.events is not None:
            columns["event"] = pa.array(self.view.event_numbers[contexts.events])
        if contexts.targets is not None:
            columns["target"] = pa.array(contexts.targets, pa.int32())
            columns["target_item_id"] = self._item_ids.take(columns["target"])
        if (candidates := contexts.slots.get("candidates")) is not None:
            offsets = pa.array(candidates.offsets, pa.int32())
            items = pa.array(candidates.values, pa.int32())
            columns["candidates"] = pa.ListArray.from_arrays(offsets, items)
            ids = self._item_ids.take(items)
            columns["candidate_item_ids"] = pa.ListArray.from_arrays(offsets, ids)
        if contexts.labels is not None:
            columns["label"] = pa.array(contexts.labels, pa.float64())
        return pa.table(columns, schema=SCHEMA)

    def tokens(self, batch: Batch) -> Tokens:
        """Return the tokens of the prompts and of the completions, and the ratings asked for."""
        encoder = self.wording.encoder
        completions = encoder.encode(batch.completions, completions=True)
        if self.is_open:
            completions = encoder.dialect.without_end(completions)
        return Tokens(encoder.encode(batch.prompts), completions, batch.contexts.labels)

    def sample(self, number: int) -> Sample:
        """Return sample ``number``, in words."""
        return Sample(**self.table(self.batch(np.array([number]))).to_pylist()[0])

    @cached_property
    def _user_ids(self) -> pa.StringArray:
        return pa.array(self.view.interactions.user_ids, pa.string())

    @cached_property
    def _item_ids(self) -> pa.StringArray:
        return pa.array(self.item_ids, pa.string())

    def _bits(self, users: Array) -> NDArray[np.uint64]:
        stream = derive_bits(self.seed, self.task.name, self.view.part.label)
        ids = self._user_ids.take(pa.array(users)).to_numpy(zero_copy_only=False)
        return combine(stream, hash_array(ids, categorize=True))

    def _refuse_leak(self, contexts: Contexts) -> None:
        # No setting makes it right that a sampler names an item of a later part.
        users, rows = np.unique(contexts.users, return_inverse=True)
        n_items = len(self.item_ids)
        later, seen = (
            np.sort(own.rows * n_items + own.values)
            for log in (self.view.later, self.view.interactions)
            for own in [log.by_user.take(users)]
        )
        barred = later[~is_among(later, seen)]
        for items in contexts.slots.values():
            leaked = is_among(rows[items.rows] * n_items + items.values, barred)
            if leaked.any():
                user = contexts.users[items.rows[leaked][0]]
                raise RecinjectError(
                    f"task {self.task.name}: a {self.split} sample of user "
                    f"{self.view.interactions.user_ids[user]} names the held-out item "
                    f"{self.item_ids[items.values[leaked][0]]}",
                    hint="a sampler may draw negatives outside view.touched only",
                )

    def _write(
        self, contexts: Contexts, wordings: Array, among: Sequence[int]
    ) -> tuple[Ragged, Ragged]:
        parts = [
            self.wording.bound[number].write(contexts.take(np.flatnonzero(wordings == number)))
            for number in among
        ]
        back = np.argsort(np.argsort(wordings, kind="stable"))
        prompts, completions = (
            one_below_another(side).take(back) for side in zip(*parts, strict=True)
        )
        return prompts, completions

    def _within_limits(
        self,
        contexts: Contexts,
        indices: Array,
        wordings: Array,
        examples: Ragged | None,
        among: Sequence[int] | None = None,
    ) -> Batch:
        """Leave out the oldest items of a history until prompt and completion fit.

        The wordings are ``among`` some, those of the split if not given.
        """
        whole = contexts.slots["history"].lengths
        among, encoder = among or self.wording.numbers(self.split), self.wording.encoder
        while True:
            pieces = self._write(contexts, wordings, among)
            if examples is not None:
                pieces = side_by_side([examples, pieces[0]]), pieces[1]
            completions = encoder.lengths(pieces[1], completions=True) - self.is_open
            lengths = encoder.lengths(pieces[0]), completions
            over = (length - most for length, most in zip(lengths, self.limits, strict=True))
            surplus = np.maximum(*over)
            counts = self._dispensable(contexts, surplus)
            if not counts.any():
                break
            contexts = contexts.without_oldest(counts, self._gapped_words)
        if contexts.hidden is None and (surplus > 0).any():
            row = int(np.argmax(surplus))
            user = [*self.view.interactions.user_ids, "(none)"][contexts.users[row]]
            raise RecinjectError(
                f"task {self.task.name}: a {self.split} sample of user {user} takes "
                f"{lengths[0][row]} + {lengths[1][row]} tokens with one item of history, "
                f"{self.limits[0]} + {self.limits[1]} are allowed",
                hint=self._fix(self._needed(contexts.take(np.array([row])))),
            )
        trimmed = int((contexts.slots["history"].lengths < whole).sum())
        return Batch(contexts, indices, wordings, *pieces, trimmed)

    def _needed(self, one: Contexts) -> tuple[int, int]:
        """Return the most tokens that a prompt of the task and a completion can take.

        With one item of history, that is: the longest items fill the slots of a sample, as many
        as the task's settings ask for, in every wording.
        """
        encoder, slots = self.wording.encoder, {}
        most = 1 + max(getattr(self.task, name, 0) for name in ("negatives", "train_negatives"))
        for slot, items in one.slots.items():
            count = max(most, len(items.values)) if slot == "candidates" else len(items.values)
            longest = int(encoder.most_tokens(slot).argmax())
            slots[slot] = Ragged.from_columns(np.full((1, count), longest, np.int32))
        sides = [template.write(replace(one, slots=slots)) for template in self.wording.bound]
        prompts = max(int(encoder.lengths(prompt)[0]) for prompt, _ in sides)
        completions = max(int(encoder.lengths(own, completions=True)[0]) for _, own in sides)
        rating = int(encoder.most_tokens(PieceKind.RATINGS).max(initial=0))
        prompts, completions = prompts + rating, completions + rating
        # Of worked examples each has its share of the limit, and its completion beside it.
        shots = max(self.shots, self.shares - 1)
        return (shots + 1) * (prompts + shots * (completions + _BESIDE)), completions

    def _fix(self, needed: tuple[int, int]) -> str:
        """Say which settings let the longest sample of the task fit, or make it shorter."""
        names = ("samples.max_prompt_tokens", "samples.max_completion_tokens")
        told = zip(names, needed, self.limits, strict=True)
        raised = " ".join(f"{name}={most}" for name, most, limit in told if most > limit)
        phrases = self.wording.templates.phrases
        long = [slot for slot in phrases if phrases[slot].split() != _IDENTIFIER.split()]
        shorter = [f"samples.phrases.{slot}='{_IDENTIFIER}'" for slot in long]
        shorter += ["fewer samples.shots"] * (max(self.shots, self.shares - 1) > 0)
        return f"set {raised}" + (f", or try {' '.join(shorter)}" if shorter else "")

    def ask(
        self,
        histories: Sequence[Sequence[int] | Array],
        users: Integers | None = None,
        **asked: Any,
    ) -> list[str]:
        """Word what comes next after histories, oldest item first, as test samples are worded.

        The users are strangers if not given. The oldest items are left out where a prompt is too
        long. For what else may be asked see :meth:`ask_about`.
        """
        n = len(histories)
        # The target stands in the completion, which nobody reads here.
        last = np.array([history[-1] for history in histories], np.int32)
        if users is None:
            users = np.full(n, self.view.interactions.n_users, np.int32)
        given = {name: value for name, value in asked.items() if value is not None}
        return self.ask_about(histories, users, **{"targets": last, **given})

    def ask_about(
        self,
        histories: Sequence[Sequence[int] | Array],
        users: Integers,
        targets: Integers,
        candidates: Integers | None = None,
        ratings: Sequence[Sequence[float] | Array] | None = None,
        labels: Floats | None = None,
        wording: int | None = None,
    ) -> list[str]:
        """Word questions of one's own as test samples are worded.

        Args:
            histories: items, oldest first.
            users: whose they are, shape (n,).
            targets: the item that is asked for, or about, shape (n,).
            candidates: the slates, shape (n, c), for tasks that have some.
            ratings: of the histories, for tasks that show them.
            labels: the true ratings, for tasks that ask for them; they stand in the completion,
                which nobody reads here, so that any will do.
            wording: which of the task's templates; the test's if not given.
        """
        n, shown = len(histories), Ragged.from_rows(histories)
        rated = None if ratings is None else Ragged.from_rows(ratings, np.float64)
        if rated is not None and labels is None:
            labels = np.full(n, self.wording.encoder.pieces.ratings[0])
        if (longest := getattr(self.task, "history_length", None)) is not None:
            shown, rated = shown.last(longest), rated and rated.last(longest)
        slots = {"history": shown, "target": Ragged.from_columns(targets)}
        if candidates is not None:
            slots["candidates"] = Ragged.from_columns(candidates)
        number = self.wording.numbers(self.split)[0] if wording is None else wording
        contexts, numbers = Contexts(users, slots, rated, labels=labels), np.full(n, number)
        batch = self._within_limits(contexts, np.arange(n), numbers, None, [number])
        texts: list[str] = self.wording.encoder.pieces.write(batch.prompts).to_pylist()
        return texts

    @property
    def _gapped_words(self) -> Integers | None:
        is_gapped = self.task.slots["history"] is SlotKind.GAPPED
        return self.wording.item_words if is_gapped else None

    def _dispensable(self, contexts: Contexts, surplus: Array) -> NDArray[np.int64]:
        """Say how many of the oldest items to leave out: none too many, and none where all fits.

        At least one item stays, and at least one that is masked or has words cut out.
        """
        history = contexts.slots["history"]
        if contexts.hidden is None:
            costs = self.wording.item_costs[history.values]
            so_far = history.sums_before(costs) + costs
            counts = np.maximum(1, history.sums(so_far <= surplus[history.rows]))
            most = np.maximum(0, history.lengths - 1)
        else:
            # What an item gives back that is hidden in part is not known: one at a time.
            counts = np.ones(len(contexts), np.int64)
            most = self._before_last_hidden(history, contexts.hidden)
        return np.where(surplus > 0, np.minimum(counts, most), 0)

    def _before_last_hidden(self, history: Ragged, hidden: Ragged) -> NDArray[np.int64]:
        """Count the items that end before the last item or word that is hidden."""
        ends, words = history.places + 1, self._gapped_words
        if words is not None:
            own = words[history.values]
            ends = history.sums_before(own) + own
        last = np.zeros(len(history), np.int64)
        np.maximum.at(last, hidden.rows, np.where(hidden.values, hidden.places, 0))
        return history.sums(ends <= last[history.rows])

    def demonstrations(self, shots: int, users: Array, bits: Bits) -> Ragged:
        """Return the pieces of the worked examples of some questions, by the question's key alone.

        An example is a training sample of another user in the question's wording: its prompt, a
        blank, its completion and an empty line. It may name items that are held out from the user
        who is asked, since other users' training events do; it never tells of that user's events.
        ``bits`` are chance that belongs to each question, shape (n,), as ``users``.
        """
        chance = Chance(combine(derive_bits("demonstrations"), bits))
        starts = self.offsets[users]
        own = self.offsets[users + 1] - starts
        others = int(self.offsets[-1]) - own
        if (others < shots).any():
            raise RecinjectError(
                f"samples.shots: {shots} examples of the task {self.task.name} are asked for, and "
                f"other users have {others.min()} training samples",
                hint="lower samples.shots",
            )
        drawn = chance.distinct(others, shots)
        order = chance.orders(np.full(len(users), shots))
        chosen = Ragged.from_columns(drawn).at(order).values
        # Numbers count the samples of the others: those after the user's own come later by these.
        skipped = np.repeat(own, shots) * (chosen >= np.repeat(starts, shots))
        batch, literal = self.batch(chosen + skipped), self.wording.encoder.pieces.literal
        texts = (np.full(len(chosen), literal(text)) for text in (BETWEEN, AFTER))
        between, after = map(Ragged.from_columns, texts)
        rows = side_by_side([batch.prompts, between, batch.completions, after])
        return Ragged(rows.values, rows.offsets[::shots])
