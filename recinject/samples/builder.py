"""From a task, its templates and a view to any of its samples, by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandas.util import hash_array

from recinject.data.schema import Integers
from recinject.data.splitting import View
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged, is_among, one_below_another, side_by_side
from recinject.foundation.randomness import Chance, combine, derive_bits
from recinject.samples.demonstrations import draw_demonstrations
from recinject.samples.encoding import Tokens
from recinject.samples.sample import SCHEMA, SHUFFLED, Sample
from recinject.samples.wording import Wording
from recinject.tasks.task import Keys, Task
from recinject.templating.context import Contexts, SlotKind


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples, as the integers and the pieces that they are made of.

    Attributes:
        contexts: what the sampler chose.
        indices: which of its user's samples each is, shape (n,).
        wordings: which of the task's templates each is written in, shape (n,).
        prompts: the numbers of the prompts' pieces; ``completions`` likewise.
    """

    contexts: Contexts
    indices: Array
    wordings: Array
    prompts: Ragged
    completions: Ragged


@dataclass(frozen=True, eq=False)
class Builder:
    """Makes the samples of one task in one view; a sample is a pure function of its key.

    Attributes:
        split: the name of the split: the view's part, ``reworded`` or ``shuffled``.
        item_ids: the log's own ids.
        limits: the most tokens of a prompt, which is kept within them by leaving out the oldest
            items, and of a completion.
        passes: how many times each sample is drawn, with other chance each time; ``limit``: how
            many are made at most.
        pool: gives the worked examples before each prompt, ``shots`` of them; None for none. They
            alone make a sample depend on other users.
    """

    task: Task
    wording: Wording
    view: View
    split: str
    item_ids: Sequence[str]
    limits: tuple[int, int]
    passes: int
    limit: int | None
    seed: int
    pool: Builder | None = None
    shots: int = 0

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return self.task.count(self.view)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each user's samples of one pass start among all, shape (users + 1,)."""
        return np.concatenate([[0], np.cumsum(self._counts)])

    def __len__(self) -> int:
        total = int(self.offsets[-1]) * self.passes
        return total if self.limit is None else min(total, self.limit)

    def batch(self, numbers: Array) -> Batch:
        """Make some samples.

        Args:
            numbers: which ones, from 0 to below the builder's length, shape (n,).

        Raises:
            RecinjectError: a sampler names a held-out item, or a sample cannot be made to fit.
        """
        passes, places = np.divmod(numbers, max(1, int(self.offsets[-1])))
        users = np.searchsorted(self.offsets, places, side="right") - 1
        indices = places - self.offsets[users]
        drawn = indices + passes * self._counts[users]
        bits = combine(self._bits(users), drawn)
        chance = Chance(bits)
        keys = Keys(users, indices, chance)
        contexts = self.task.sample(self.view, keys, self.wording.item_words)
        self._refuse_leak(contexts)
        legal = np.array(self.wording.numbers(self.split))
        wordings = legal[chance.below(len(legal))]
        if self.split == SHUFFLED:
            contexts = contexts.with_history_in(chance.orders(contexts.slots["history"].lengths))
        examples = None
        if self.pool is not None:
            examples = draw_demonstrations(self.pool, self.shots, users, bits)
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
        }
        if contexts.targets is not None:
            columns["target_item_id"] = self._item_ids.take(pa.array(contexts.targets))
        if (candidates := contexts.slots.get("candidates")) is not None:
            ids = self._item_ids.take(pa.array(candidates.values))
            offsets = pa.array(candidates.offsets, pa.int32())
            columns["candidate_item_ids"] = pa.ListArray.from_arrays(offsets, ids)
        if contexts.labels is not None:
            columns["label"] = pa.array(contexts.labels, pa.float64())
        return pa.table(columns, schema=SCHEMA)

    def tokens(self, batch: Batch) -> Tokens:
        """Return the tokens of the prompts and of the completions, and the ratings asked for."""
        encoder = self.wording.encoder
        completions = encoder.encode(batch.completions, completions=True)
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
        """Return the random bits that belong to this task, this part and each user."""
        stream = derive_bits(self.seed, self.task.name, self.view.part.label)
        ids = self._user_ids.take(pa.array(users)).to_numpy(zero_copy_only=False)
        return combine(stream, hash_array(ids, categorize=True))

    def _refuse_leak(self, contexts: Contexts) -> None:
        """Stop a sampler that names an item of a later part: no setting makes that right."""
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

    def _write(self, contexts: Contexts, wordings: Array) -> tuple[Ragged, Ragged]:
        """Choose the pieces of each sample by the template that it is written in."""
        parts = [
            self.wording.bound[number].write(contexts.take(np.flatnonzero(wordings == number)))
            for number in self.wording.numbers(self.split)
        ]
        back = np.argsort(np.argsort(wordings, kind="stable"))
        prompts, completions = (
            one_below_another(side).take(back) for side in zip(*parts, strict=True)
        )
        return prompts, completions

    def _within_limits(
        self, contexts: Contexts, indices: Array, wordings: Array, examples: Ragged | None
    ) -> Batch:
        """Leave out the oldest items of a history until prompt and completion fit."""
        while True:
            pieces, encoder = self._write(contexts, wordings), self.wording.encoder
            if examples is not None:
                pieces = side_by_side([examples, pieces[0]]), pieces[1]
            lengths = encoder.lengths(pieces[0]), encoder.lengths(pieces[1], completions=True)
            over = (length - most for length, most in zip(lengths, self.limits, strict=True))
            surplus = np.maximum(*over)
            counts = self._dispensable(contexts, surplus)
            if not counts.any():
                break
            contexts = contexts.without_oldest(counts, self._gapped_words)
        if contexts.hidden is None and (surplus > 0).any():
            row = int(np.argmax(surplus))
            user = self.view.interactions.user_ids[contexts.users[row]]
            raise RecinjectError(
                f"task {self.task.name}: a {self.split} sample of user {user} takes "
                f"{lengths[0][row]} + {lengths[1][row]} tokens with one item of history, "
                f"{self.limits[0]} + {self.limits[1]} are allowed",
                hint="raise samples.max_prompt_tokens or samples.max_completion_tokens, lower "
                "samples.shots, or write items shorter, as in "
                "samples.phrases.candidates='{{ identifier }}'",
            )
        return Batch(contexts, indices, wordings, *pieces)

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
