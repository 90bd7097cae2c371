"""The language model as a recommender: it answers the same stored queries as the baselines."""

from __future__ import annotations

import copy
import inspect
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GenerationConfig

from recinject.data.schema import Flags, Floats, Integers, Interactions
from recinject.data.splitting import Part
from recinject.decoding.beam_search import (
    Normalised,
    constrained_beam_search,
    path_scores,
    score_candidates,
    score_next,
)
from recinject.decoding.trie import Trie
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import track
from recinject.foundation.ragged import Ragged
from recinject.foundation.randomness import derive_rng
from recinject.foundation.settings import expect
from recinject.models.adapters import RatingModel, answering, without_wrapper
from recinject.models.storing import load_trained, save_trained
from recinject.recommenders.baselines import mean_rating
from recinject.recommenders.protocol import (
    Prediction,
    Queries,
    RatingsByLabel,
    Recommender,
    Why,
    WrittenRatings,
    places,
    rank_candidates,
    top_k,
)
from recinject.samples.builder import SHUFFLED, Builder
from recinject.samples.encoding import Dialect
from recinject.samples.samples import Samples
from recinject.training.networks import global_chance

Rows = NDArray[np.int64]
_NUMBERS_AT_ONCE = 4_000_000
_GREEDY = {"max_new_tokens": 8, "do_sample": False, "num_beams": 1}


class LanguageModel(Recommender):
    """Reads a query's prompt and says which items, in what order, or which rating.

    Retrieval searches the identifiers of the whole catalogue, in one step where each is a token of
    its own, whose end is then left out; ranking scores the candidates'
    identifiers; a rating is the mean of the labels' values, weighted by how likely the model
    finds each label.

    Args:
        model: a trained encoder-decoder or causal model, LoRA's wrapper allowed; or one with a
            head, which answers ratings alone.
        tokenizer: the tokenizer that it was trained with.
        identifier_texts: the completion that names each item; or, where tasks name items
            differently, these by the task's name.
        rating_labels: the completions that are ratings, and their values.
        max_prompt_tokens: longer prompts are cut at the end, as in training.
        beams: how many paths to follow in retrieval, at least.
        rows_at_once: how many beams, candidates or labels share a batch, which bounds the memory.
        scores: see :func:`~recinject.decoding.beam_search.constrained_beam_search`.
        name: in the results.

    Raises:
        RecinjectError: two items, or two labels, cannot be told apart by their tokens.

    Examples:
        >>> from recinject import build_samples, fine_tune, prepare
        >>> from recinject.data.simulator import simulate_shop
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> tiny_t5 = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
        >>> model = fine_tune(tiny_t5, build_samples(data, ["rating"]), max_steps=1, use_cpu=True)
        >>> sorted(model.tasks)
        ['ranking', 'rating', 'retrieval']
    """

    name: ClassVar[str] = "language_model"
    tasks: ClassVar[frozenset[str]] = frozenset({"retrieval", "ranking", "rating"})
    reads_prompts: ClassVar[bool] = True

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Tokenizer,
        identifier_texts: Sequence[str] | Mapping[str, Sequence[str]],
        rating_labels: Mapping[str, float] | None = None,
        max_prompt_tokens: int = 512,
        beams: int = 20,
        rows_at_once: int = 640,
        scores: Normalised = "vocabulary",
        name: str = "language_model",
    ) -> None:
        self.name = name  # type: ignore[misc]  # a name of its own, beside its class's
        config = without_wrapper(model).config
        self._dialect = Dialect.of_model(
            tokenizer, not config.is_encoder_decoder, config.eos_token_id
        )
        self._model, self._texts, self._scores = model, identifier_texts, scores
        self._max_prompt_tokens, self._beams = max_prompt_tokens, beams
        self._rows_at_once = rows_at_once
        self._named: dict[int, tuple[Trie, Integers]] = {}
        self._asker: Builder | None = None
        self._asked_as: Callable[[str], Builder] | None = None
        self._rater: Builder | None = None
        if not isinstance(identifier_texts, Mapping):
            self._identifiers("")
        self._label_values = np.array(list((rating_labels or {}).values()), np.float64)
        labels = self._label_sequences(list(rating_labels or {}))
        self._labels = Ragged.from_rows(labels).to_grid(-1)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is known by the identity of objects, which another process has not."""
        return {**vars(self), "_named": {}}

    @classmethod
    def of_samples(cls, model: torch.nn.Module, samples: Samples, **settings: Any) -> LanguageModel:
        """Make a recommender of a model with the tokenizer, words and data of samples.

        ``settings`` are the class's further arguments.
        """
        expect(samples, Samples, "LanguageModel", "give what build_samples returned")
        factory = samples.factory
        texts = {
            task.name: factory.wordings[task.name].phrases["target"]
            for task in factory.tasks
            if task.answer in ("retrieval", "ranking")
        }
        limit = {"max_prompt_tokens": factory.settings.max_prompt_tokens}
        made = cls(model, samples.tokenizer, texts, factory.ratings.labels, **{**limit, **settings})
        made.data = factory.data  # type: ignore[misc]  # its own, beside the class's
        retrieval = next((t.name for t in factory.tasks if t.answer == "retrieval"), None)
        if retrieval:
            made._asker = factory.asker(retrieval)
            made._asked_as = partial(factory.asker, retrieval)
        rating = next((t.name for t in factory.tasks if t.answer == "rating"), None)
        made._rater = factory.asker(rating) if rating else None
        return made

    def save(self, folder: str | Path) -> None:
        """Write the model and its tokenizer, as plain transformers loads them."""
        save_trained(self._model, self._dialect.tokenizer, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, samples: Samples, **settings: Any) -> LanguageModel:
        """Read what :meth:`save`, or a run's training, wrote; see :meth:`of_samples`."""
        return cls.of_samples(load_trained(Path(folder))[0], samples, **settings)

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return sum(each.numel() for each in self._model.parameters())

    @property
    def names(self) -> tuple[str, Sequence[str]]:
        """The retrieval task's name, and what it calls each item."""
        task = self._ask_with().task.name
        return task, self._texts[task] if isinstance(self._texts, Mapping) else self._texts

    def trie(self, task: str) -> Trie:
        """Return the tree of all items' tokens, in a task's words."""
        return self._identifiers(task)[0]

    def _identifiers(self, task: str) -> tuple[Trie, Integers]:
        """Return the trie of all identifiers and their tokens, padded, in a task's words."""
        texts = self._texts[task] if isinstance(self._texts, Mapping) else self._texts
        if id(texts) not in self._named:
            sequences = self._dialect.item_tokens(texts) or self._dialect.completions(texts)
            self._named[id(texts)] = Trie.build(sequences), sequences.to_grid(-1)
        return self._named[id(texts)]

    def _ask_with(self) -> Builder:
        if self._asker is None:
            raise RecinjectError(
                f"{self.name}: it was never asked what comes next: its samples lack retrieval",
                hint="build samples with the task retrieval, and train on them",
            )
        return self._asker

    def _ask(self, histories: Sequence[Integers]) -> tuple[str, list[str]]:
        asker = self._ask_with()
        if not all(map(len, histories)):
            raise RecinjectError(
                f"{self.name}: a history is empty, and a prompt needs an item at least",
                hint="give each person one item or more, or ask 'popularity'",
            )
        return asker.task.name, asker.ask(histories)

    def exactly(self) -> LanguageModel:
        """Decode in double precision from now on: answers no longer depend on the batch.

        In single precision the last bits of a score depend on which prompts share its batch.
        """
        self._model.double()
        return self

    def explain(self, queries: Queries, items: Integers) -> list[list[Why]]:
        """Give the pieces of each item's name with their probabilities after those before them."""
        _, tokens = self._identifiers(queries.task)
        name = self._dialect.tokenizer.id_to_token
        found: list[list[Why]] = [[[] for _ in row] for row in items]
        for rows, prompts in self._batches(queries, items.shape[1]):
            paths = tokens[np.maximum(items[rows], 0)]
            with answering(self._model, queries.task):
                chances = np.exp(path_scores(self._model, *prompts, paths, self._scores))
            for own, row in enumerate(rows.tolist()):
                for place in np.flatnonzero(items[row] >= 0):
                    pairs = zip(paths[own, place].tolist(), chances[own, place], strict=True)
                    found[row][place] = [(str(name(t)), float(p)) for t, p in pairs if t >= 0]
        return found

    def worded(self, split: str) -> LanguageModel | None:
        """Return the same model asked in the words of ``reworded``; None where there are none."""
        make = self._asked_as
        if make is None or not make(split).wording.numbers(split):
            return None
        other = copy.copy(self)
        other._asker, other._named = make(split), self._named
        return other

    def rating_prompts(
        self,
        histories: Sequence[Integers],
        items: Integers,
        ratings: Sequence[Floats] | None = None,
    ) -> tuple[str, list[str]]:
        """Return the rating task's name, and its prompts about items after histories.

        Raises:
            RecinjectError: there is no such task, a history is empty, or it has no ratings.
        """
        if self._rater is None:
            raise RecinjectError(
                f"{self.name}: its samples lack the task rating", hint="ask item_mean or biases"
            )
        if ratings is None or not all(map(len, histories)):
            raise RecinjectError(
                f"{self.name}: its prompt shows a history with ratings",
                hint="give one item or more, each with its rating",
            )
        return self._rater.task.name, self._rater.ask(histories, targets=items, ratings=ratings)

    def tokens(self, prompt: str) -> list[str]:
        """Return what the model reads of a prompt, token by token."""
        name = self._dialect.tokenizer.id_to_token
        return [str(name(token)) for token in self._prompt_tokens([prompt])[0]]

    def fit(self, training: Interactions, seed: int) -> None:
        """Do nothing: the model comes trained, by :func:`recinject.training.fitting.fit`."""

    def predict(self, queries: Queries, k: int) -> Prediction:
        """Answer queries by reading their prompts."""
        was_training = self._model.training
        self._model.eval()
        kinds = {"retrieval": self._retrieve, "ranking": self._rank}
        try:
            with answering(self._model, queries.task):
                return kinds.get(queries.kind, self._rate)(queries, k)
        finally:
            self._model.train(was_training)

    def _retrieve(self, queries: Queries, k: int) -> Prediction:
        width = max(self._beams, k)
        items = np.full((len(queries), width), -1, np.int32)
        scores, (trie, tokens) = np.full(items.shape, -np.inf), self._identifiers(queries.task)
        in_one_step = tokens.shape[1] == 1
        share = self._rows_at_once * len(tokens) // _NUMBERS_AT_ONCE if in_one_step else width
        for rows, prompts in self._batches(queries, max(1, share)):
            barred = [queries.barred[row] for row in rows]
            allowed = queries.allowed
            if in_one_step:
                first = tokens[:, 0]
                items[rows], scores[rows] = self._best(*prompts, first, width, barred, allowed)
            else:
                items[rows], scores[rows] = constrained_beam_search(
                    self._model, *prompts, trie, width, barred, allowed, self._scores
                )
        ahead, tied = _places_in_lists(items, scores, queries.targets)
        found = items[:, :k], scores[:, :k], ahead, tied
        return Prediction(self.name, queries.task, *found, first=np.exp(scores[:, 0]))

    def _best(
        self,
        ids: Tensor,
        mask: Tensor,
        tokens: Integers,
        k: int,
        barred: Sequence[Integers],
        allowed: Flags | None,
    ) -> tuple[Integers, Floats]:
        """Find what the beam search would, where each item is one token."""
        scores = score_next(self._model, ids, mask, tokens)
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        for row, items in enumerate(barred):
            scores[row, items] = -np.inf
        if self._scores == "legal":
            scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
        # Equal scores in the order of the tokens, as the trie has them.
        order = np.argsort(tokens).astype(np.int32)
        columns, best = top_k(scores[:, order], k)
        return np.where(columns < 0, np.int32(-1), order[columns]), best

    def _rank(self, queries: Queries, k: int) -> Prediction:
        candidates, (_, tokens) = queries.candidates, self._identifiers(queries.task)
        assert candidates is not None
        scores = np.zeros(candidates.shape)
        for rows, prompts in self._batches(queries, candidates.shape[1]):
            sequences = tokens[candidates[rows]]
            longest = int((sequences >= 0).sum(2).max())
            scores[rows] = score_candidates(
                self._model, *prompts, sequences[:, :, :longest], self._scores
            )
        found = rank_candidates(scores, candidates, queries.targets, k)
        chances = np.exp(scores - scores.max(1, keepdims=True))
        first = 1 / chances.sum(1)  # the best candidate's share, since its own is exp(0)
        return Prediction(self.name, queries.task, *found, first=first)

    def _rate(self, queries: Queries, _: int) -> Prediction:
        if isinstance(self._model, RatingModel):
            return self._rate_by_head(queries, self._model)
        if not self._label_values.size:
            raise RecinjectError(
                "rating: the language model was given no rating labels",
                hint="pass rating_labels: the completions that are ratings, with their values",
            )
        scores = np.zeros((len(queries), len(self._labels)))
        for rows, prompts in self._batches(queries, len(self._labels)):
            scores[rows] = self._score_labels(*prompts)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        probabilities = weights / weights.sum(1, keepdims=True)
        return RatingsByLabel(
            self.name,
            queries.task,
            ratings=probabilities @ self._label_values,
            probabilities=probabilities,
            values=self._label_values,
            mass=np.exp(scores).sum(1),
        )

    @torch.inference_mode()
    def _rate_by_head(self, queries: Queries, model: RatingModel) -> Prediction:
        values = model.values.cpu().numpy().astype(np.float64)
        ratings, found = np.zeros(len(queries)), np.zeros((len(queries), len(values)))
        for rows, prompts in self._batches(queries, self._beams):
            if model.kind == "regression":
                ratings[rows] = model.rate(*prompts).cpu().numpy()
            else:
                logits = model(*(part.to(model.values.device) for part in prompts)).logits
                found[rows] = logits.double().softmax(-1).cpu().numpy()
        if model.kind == "regression":
            return Prediction(self.name, queries.task, ratings=ratings)
        means = found @ values
        return Prediction(
            self.name, queries.task, ratings=means, probabilities=found, values=values
        )

    @torch.inference_mode()
    def _score_labels(self, input_ids: Tensor, attention_mask: Tensor) -> Floats:
        """Return the labels' log-probabilities, (n, labels), if possible from one reading."""
        before, last = (torch.from_numpy(part) for part in np.split(self._labels, [-1], axis=1))
        if not (self._dialect.causal and (before == before[0]).all()):
            return score_candidates(self._model, input_ids, attention_mask, self._labels)
        # What all labels begin with, such as a blank, is read as part of the prompt.
        model, more = without_wrapper(self._model), before[:1].long().expand(len(input_ids), -1)
        mask = torch.cat([attention_mask, torch.ones_like(more)], 1).to(model.device)
        places = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        logits = model(
            input_ids=torch.cat([input_ids, more], 1).to(model.device),
            attention_mask=mask,
            use_cache=False,
            logits_to_keep=more.shape[1] + 1,
            **(places if "position_ids" in inspect.signature(model.forward).parameters else {}),
        ).logits.float()
        sums, steps = logits.logsumexp(-1), range(more.shape[1])
        shared = sum(logits[:, step, more[0, step]] - sums[:, step] for step in steps)
        scores = logits[:, -1, last[:, 0].long()] - (sums[:, -1] - shared)[:, None]
        return np.asarray(scores.cpu().numpy(), np.float64)

    @torch.inference_mode()
    def write(
        self, queries: Queries, generation: Mapping[str, Any] | None = None, seed: int = 0
    ) -> list[str]:
        """Let the model answer queries in its own words.

        Args:
            queries: with prompts.
            generation: parameters of ``transformers.GenerationConfig``; by default at most eight
                tokens, greedily.
            seed: of samples, where ``do_sample`` is set.
        """
        if isinstance(self._model, RatingModel):
            raise RecinjectError(
                "a model with a head writes no text",
                hint="set evaluation.generate=false or model.head=text",
            )
        model, texts = without_wrapper(self._model).eval(), np.empty(len(queries), object)
        config, end = model.config, self._dialect.end
        tokens = {
            "eos_token_id": end,
            "pad_token_id": config.pad_token_id if config.pad_token_id is not None else end or 0,
            "decoder_start_token_id": getattr(config, "decoder_start_token_id", None),
        }
        settings = GenerationConfig(**{**_GREEDY, **tokens, **(generation or {})})
        plain = _without_own_generation(model)
        with global_chance(seed), answering(self._model, queries.task), plain:
            for rows, (ids, mask) in self._batches(queries, self._beams):
                ids, mask = ids.to(model.device), mask.to(model.device)
                read = ids.shape[1] if self._dialect.causal else 1
                written = model.generate(ids, attention_mask=mask, generation_config=settings)
                texts[rows] = self._dialect.tokenizer.decode_batch(written[:, read:].tolist())
        return [str(text) for text in texts]

    def likelihoods(self, prompts: Sequence[str], texts: Sequence[str]) -> Floats:
        """Return the mean log-probability a token of each text after its prompt, shape (n,)."""
        sequences = self._dialect.completions(texts)
        grid, nothing = sequences.to_grid(-1), np.zeros(len(texts), np.int32)
        asked = Queries("retrieval", list(prompts), list(prompts), nothing, [nothing[:0]], nothing)
        found = np.zeros(len(texts))
        model = self._model.eval()
        for rows, batch in self._batches(asked, self._beams):
            found[rows] = score_candidates(model, *batch, grid[rows][:, None, :])[:, 0]
        return np.asarray(found / np.maximum(1, sequences.lengths), np.float64)

    def names_of(self, task: str) -> Sequence[str]:
        """Return the text that names each item in an answer to a task."""
        return self._texts[task] if isinstance(self._texts, Mapping) else self._texts

    def _batches(
        self, queries: Queries, width: int
    ) -> Iterator[tuple[Rows, tuple[Tensor, Tensor]]]:
        """Yield rows of the queries with their prompts, the longest first: little is padding."""
        prompts = self._prompt_tokens(queries.prompts)
        left = self._dialect.causal and not isinstance(self._model, RatingModel)
        order = np.argsort([-len(tokens) for tokens in prompts], kind="stable")
        size = max(1, self._rows_at_once // width)
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        for rows in track(batches, f"Asking the model: {queries.task}"):
            padded = Ragged.from_rows([prompts[row] for row in rows]).to_grid(-1, left=left)
            grid = torch.from_numpy(padded.astype(np.int64))
            yield rows, (grid.clamp(min=0), (grid >= 0).long())

    def _prompt_tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        encoded, most = self._dialect.prompts(prompts).to_list(), self._max_prompt_tokens
        return [ids if len(ids) <= most else [*ids[: most - 1], ids[-1]] for ids in encoded]

    def _label_sequences(self, texts: Sequence[str]) -> list[list[int]]:
        sequences = self._dialect.completions(texts).to_list()
        named: dict[tuple[int, ...], str] = {}
        for text, tokens in zip(texts, map(tuple, sequences), strict=True):
            if named.setdefault(tokens, text) != text:
                raise RecinjectError(
                    f"rating: the labels {named[tokens]!r} and {text!r} have the same tokens",
                    hint="use a tokenizer that can spell the ratings",
                )
        # Where no label begins another, the answer's beginning tells them apart: no end is needed.
        bare = [tuple(ids[:-1] if ids[-1] == self._dialect.end else ids) for ids in sequences]
        begins = any(a != b and a == b[: len(a)] for a in bare for b in bare)
        return sequences if begins or len({*bare}) < len(bare) else [list(ids) for ids in bare]


@contextmanager
def _without_own_generation(model: torch.nn.Module) -> Iterator[None]:
    """Keep a model's generation_config.json out: it stands in for every parameter not given."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _places_in_lists(items: Integers, scores: Floats, targets: Integers) -> tuple[Floats, Floats]:
    """Count what is ahead of each target in its list and tied with it; inf and 1 if not listed."""
    is_target = items == targets[:, None]
    listed = is_target.any(1)
    ahead, tied = places(scores, np.argmax(is_target, axis=1).astype(np.int32))
    return np.where(listed, ahead, np.inf), np.where(listed, tied, 1.0)


_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_WORDS = {name: float(number) for number, name in enumerate(_NAMES)}
_DIGITS = r"(?<![\w.,])[-\u2212]?\d+(?:[.,]\d+)?"
# "this one" is no rating, as "one star" is.
_NAMED = rf"^one\b|\bone(?= star| out of| ?/)|\b(?:{'|'.join(_NAMES[2:])})\b"
_NUMBER = rf"({_DIGITS}|{_NAMED})"
_FIRST = (re.compile(_DIGITS), re.compile(_NAMED))
_HALF = re.compile(rf"{_NUMBER}(?: and a half| 1/2)")
_SHARE = re.compile(rf"{_NUMBER}(?: stars?)? ?(?:/|out of|of) ?{_NUMBER}")
_CHOICE = re.compile(rf"{_NUMBER} ?(?:-|\u2013|or|to|and) ?{_NUMBER}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MARKUP = re.compile(r"[*_`\"'“”\u2018\u2019]")


def parse_rating(text: str, lowest: float, highest: float) -> float | None:
    """Read the rating off an answer; None where it states none, or none that the scale has.

    The first line with characters counts, and in it the first number, in digits or as a word.
    On a scale from 1 to 5:

    ==========================================  ======  ========================================
    answer                                      rating  why
    ==========================================  ======  ========================================
    ``4``, ``4.``, ``**4**``, ``4 stars``       4       punctuation, markup and units pass
    ``4.5 stars``, ``4,5``, ``4½``              4.5     between the labels is on the scale
    ``five``, ``four and a half``               5, 4.5  numbers in words, from zero to ten
    ``I would say 3``                           3       the first number
    ``4/5``, ``4 out of 5``, ``8/10``           4       a share of the scale's highest rating
    ``1-5: 4``, ``from 1 to 5, a 4``            4       the scale itself is no answer
    ``3 or 4``, ``3-4``, ``3 to 4``             None    a choice between two is no answer
    ``10``, ``-1``, ``0``, ``4,000``, ``1/10``  None    not on the scale
    empty, ``NaN``, ``good``, ``1-5``           None    no number
    ==========================================  ======  ========================================

    Args:
        text: the answer.
        lowest: the scale's lowest rating.
        highest: its highest.
    """
    plain = unicodedata.normalize("NFKC", text.replace("½", " 1/2"))
    plain = _MARKUP.sub("", plain).lower()
    line = next((line.strip() for line in plain.splitlines() if line.strip()), "")
    scale = rf"(?<![\d.]){lowest:g} ?(?:-|\u2013|to) ?{highest:g}(?![\d.]\d)"
    line = _THOUSANDS.sub("", re.sub(scale, "", line))
    found = sorted((m.start(), m[0]) for m in (kind.search(line) for kind in _FIRST) if m)
    if not found or _CHOICE.match(line, found[0][0]):
        return None
    start, number = found[0]
    share = _SHARE.match(line, start)
    value = _value(number) + 0.5 * (_HALF.match(line, start) is not None)
    if share and not _HALF.match(line, start):
        whole = _value(share[2])
        value = value * highest / whole if whole > 0 else np.nan
    return value if lowest <= value <= highest else None


def _value(number: str) -> float:
    word = _WORDS.get(number)
    return float(number.replace(",", ".").replace("\u2212", "-")) if word is None else word


class RankedByRetrieval(Recommender):
    """Ranks a slate by how likely a language model finds each candidate after retrieval's prompt.

    The prompt shows no candidates, so that their places can't matter.

    Args:
        model: a model that knows the words of its retrieval task, see :attr:`can_ask`.
        split: the kind of prompt: ``test``, ``reworded`` or ``shuffled``.
    """

    name: ClassVar[str] = "language_model_by_retrieval"
    tasks: ClassVar[frozenset[str]] = frozenset({"ranking"})
    reads_prompts: ClassVar[bool] = True

    def __init__(self, model: LanguageModel, split: str = Part.TEST.label) -> None:
        self.name = f"{model.name}_by_retrieval"  # type: ignore[misc]
        self._model, self._split = model, split

    @staticmethod
    def can_ask(model: LanguageModel) -> bool:
        """Whether a model has a retrieval task, whose prompts show no worked examples."""
        return model._asker is not None and model._asker.pool is None

    def otherwise(self, split: str) -> RankedByRetrieval | None:
        """Return the same with another kind of prompt, None where there are no words for it."""
        make = self._model._asked_as
        is_worded = make is not None and bool(make(split).wording.numbers(split))
        return RankedByRetrieval(self._model, split) if is_worded else None

    def fit(self, training: Interactions, seed: int) -> None:
        """Do nothing: the model comes trained."""

    def predict(self, queries: Queries, k: int) -> Prediction:
        """Score the candidates of each query after the retrieval prompt about its history."""
        make = self._model._asked_as
        assert make is not None
        asker, histories = make(self._split), queries.histories
        if self._split == SHUFFLED:
            longest = getattr(asker.task, "history_length", 0)
            pairs = zip(histories, queries.sample_ids, strict=True)
            histories = [derive_rng(0, SHUFFLED, own).permutation(h[-longest:]) for h, own in pairs]
        prompts = asker.ask(histories, queries.users)
        asked = replace(queries, task=asker.task.name, answer="ranking", prompts=prompts)
        found = self._model.predict(asked, k)
        return replace(found, recommender=self.name, task=queries.task)


class GeneratedRatings(Recommender):
    """Lets a language model write its rating freely, and reads the number off the text.

    Where the text states no rating of the scale, the answer is the mean rating of the history, or
    without any that of the training events. See :meth:`LanguageModel.write` for ``generation``.
    """

    name: ClassVar[str] = "language_model_generated"
    tasks: ClassVar[frozenset[str]] = frozenset({"rating"})
    reads_prompts: ClassVar[bool] = True

    def __init__(
        self,
        model: LanguageModel,
        labels: Sequence[float],
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = f"{model.name}_generated"  # type: ignore[misc]
        self._model, self._generation = model, generation
        self._scale, self._seed = (min(labels), max(labels)), 0

    def fit(self, training: Interactions, seed: int) -> None:
        """Take the mean of all training ratings, for users without a history."""
        self._mean, self._seed = mean_rating(training, self.name), seed

    def predict(self, queries: Queries, k: int) -> WrittenRatings:
        """Ask for one rating a query."""
        texts = self._model.write(queries, self._generation, self._seed)
        stated = np.array([parse_rating(text, *self._scale) for text in texts], np.float64)
        histories = queries.history_ratings or [np.empty(0)] * len(queries)
        means = [past.mean() if len(past) else self._mean for past in histories]
        parsed = ~np.isnan(stated)
        ratings = np.where(parsed, stated, np.array(means, np.float64))
        return WrittenRatings(self.name, queries.task, ratings=ratings, texts=texts, parsed=parsed)
