"""From a task, its templates and a view to any of its samples, by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from recinject.data.schema import Integers
from recinject.data.splitting import View
from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import derive_rng
from recinject.samples.tokenizer import count_tokens
from recinject.tasks.task import Task
from recinject.templating.context import Context
from recinject.templating.language import SlotKind
from recinject.templating.library import TaskTemplates, Template

# More than a letter or a rating takes; prompts near the budget by this bound are counted exactly.
_LETTER_TOKENS = 5
REWORDED = "reworded"
_NOTHING: frozenset[int] = frozenset()


class Sample(NamedTuple):
    """One row of a sample file: what a model reads and should write, and what it is about.

    Attributes:
        sample_id: task, split, user and index: the key that the sample is a function of.
        task: the task's name.
        template: the wording, with its version.
        split: ``train``, ``validation``, ``test``, or ``reworded``: the test in a wording that
            is never trained on.
        user_id: the log's own id; it never stands in the text.
        prompt: what the model reads.
        completion: what it should write.
        target_item_id: the log's own id of the item asked for, or None.
        candidate_item_ids: the slate in the prompt's order, or None.
        label: the rating asked for, or None.
    """

    sample_id: str
    task: str
    template: str
    split: str
    user_id: str
    prompt: str
    completion: str
    target_item_id: str | None
    candidate_item_ids: list[str] | None
    label: float | None


@dataclass(frozen=True, eq=False)
class Wording:
    """A task's templates with everything that is rendered once and not once a sample.

    Attributes:
        templates: the wordings.
        phrases: for each slot the text of every item.
        item_tokens: for each slot the number of tokens of every item's text.
        prompt_tokens: tokens that the longest prompt takes without its items.
        tokens_beside: the most tokens that stand beside an item in a list.
        tokenizer: what counted them.
    """

    templates: TaskTemplates
    phrases: Mapping[str, Sequence[str]]
    item_tokens: Mapping[str, Integers]
    prompt_tokens: int
    tokens_beside: int
    tokenizer: Tokenizer

    @classmethod
    def measure(
        cls,
        templates: TaskTemplates,
        phrases: Mapping[str, Sequence[str]],
        tokenizer: Tokenizer,
    ) -> Wording:
        """Count the tokens of every phrase, so that prompts can be kept within a budget."""
        counts = {slot: count_tokens(tokenizer, texts) for slot, texts in phrases.items()}
        sources = [template.source for template in templates.templates]
        segments = [segment for template in templates.templates for segment in template.prompt]
        separators = [" ".join(segment.args[1:]) for segment in segments]
        longest, beside = (int(count_tokens(tokenizer, t).max()) for t in (sources, separators))
        return cls(templates, phrases, counts, longest, beside + _LETTER_TOKENS, tokenizer)


@dataclass(frozen=True, eq=False)
class Builder:
    """Makes the samples of one task in one view; sample ``n`` is a pure function of its key.

    Attributes:
        task: the sampler.
        wording: the templates and phrases.
        view: the events in sight.
        split: the name of the split: the view's part, or ``reworded``.
        item_ids: the log's own ids.
        max_prompt_tokens: prompts are kept within it by leaving out the oldest items.
        seed: the run's seed.
    """

    task: Task
    wording: Wording
    view: View
    split: str
    item_ids: Sequence[str]
    max_prompt_tokens: int
    seed: int

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each user's samples start among all, in CSR form: shape (users + 1,)."""
        return np.concatenate([[0], np.cumsum(self.task.count(self.view))])

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def _words(self) -> Integers:
        return np.array([len(text.split()) for text in self.wording.phrases["history"]], np.int32)

    @cached_property
    def wordings(self) -> Sequence[Template]:
        """The templates that this split is written in; tests use one, to compare like with like."""
        if self.split == REWORDED:
            return self.wording.templates.held_out[:1]
        training = self.wording.templates.training
        return training if self.split == "train" else training[:1]

    def context(self, number: int) -> tuple[Context, Template]:
        """Return the integers and the wording of sample ``number``."""
        user = int(np.searchsorted(self.offsets, number, side="right")) - 1
        index = number - int(self.offsets[user])
        user_id = self.view.interactions.user_ids[user]
        rng = derive_rng(self.seed, self.task.name, self.view.part.label, user_id, index)
        context = self.task.sample(self.view, user, index, rng, self._words)
        choice = int(rng.integers(len(self.wordings))) if len(self.wordings) > 1 else 0
        self._refuse_leak(context)
        return self._within_budget(context, self.wordings[choice]), self.wordings[choice]

    def sample(self, number: int) -> Sample:
        """Return sample ``number``, in words."""
        context, template = self.context(number)
        index = number - int(self.offsets[context.user])
        prompt, completion = template.render(context, self.wording.phrases)
        user_id = self.view.interactions.user_ids[context.user]
        candidates = context.slots.get("candidates")
        return Sample(
            sample_id=f"{self.task.name}/{self.split}/{user_id}/{index}",
            task=self.task.name,
            template=template.name,
            split=self.split,
            user_id=user_id,
            prompt=prompt,
            completion=completion,
            target_item_id=None if context.target is None else self.item_ids[context.target],
            candidate_item_ids=[self.item_ids[i] for i in candidates] if candidates else None,
            label=context.label,
        )

    @cached_property
    def _held_out(self) -> dict[int, set[int]]:
        """The items of later parts that each user has not in sight, for users who have any."""
        held_out: dict[int, set[int]] = {}
        later = self.view.later
        for user, item in zip(later.users.tolist(), later.items.tolist(), strict=True):
            held_out.setdefault(user, set()).add(item)
        for user, items in held_out.items():
            items.difference_update(self.view.interactions.items_of(user).tolist())
        return held_out

    def _refuse_leak(self, context: Context) -> None:
        """Stop a sampler that names an item of a later part: no setting makes that right."""
        if leaked := self._held_out.get(context.user, _NOTHING) & context.items:
            raise RecinjectError(
                f"task {self.task.name}: a {self.split} sample of user "
                f"{self.view.interactions.user_ids[context.user]} names the held-out item "
                f"{self.item_ids[min(leaked)]}",
                hint="a sampler may draw negatives outside view.touched only",
            )

    @cached_property
    def _costs(self) -> dict[str, list[int]]:
        """For each slot the most tokens that each item takes in a prompt; lists index fastest."""
        beside = self.wording.tokens_beside
        return {slot: (n + beside).tolist() for slot, n in self.wording.item_tokens.items()}

    def _within_budget(self, context: Context, template: Template) -> Context:
        """Leave out the oldest items of a plain history until the prompt fits."""
        if self.task.slots["history"] not in (SlotKind.ITEMS, SlotKind.RATED):
            return context
        most = self.wording.prompt_tokens + sum(
            sum([self._costs[slot][item] for item in items])
            for slot, items in context.slots.items()
        )
        while most > self.max_prompt_tokens and len(context.slots["history"]) > 1:
            prompt = template.render(context, self.wording.phrases)[0]
            most = len(self.wording.tokenizer.encode(prompt).ids)
            surplus = most - self.max_prompt_tokens
            if surplus > 0:
                oldest = [self._costs["history"][item] for item in context.slots["history"]]
                dropped = int(np.searchsorted(np.cumsum(oldest), surplus, side="right"))
                context = context.without_oldest(max(1, min(dropped, len(oldest) - 1)))
        return context
