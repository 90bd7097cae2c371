"""Rating and ranking by one network of two tasks, over items known by their semantic codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recinject.data.schema import Floats, Integers, Interactions
from recinject.data.splitting import Part, Split, View
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged
from recinject.foundation.randomness import derive_rng
from recinject.identifiers.content import TFIDF, embed_items
from recinject.methods.semantic_ids.quantising import Fitter, fit_rq_kmeans
from recinject.methods.semantic_ranker.networks import Ranker
from recinject.methods.semantic_ranker.pieces import CodedItems, item_rows
from recinject.recommenders.protocol import (
    Prediction,
    Queries,
    Recommender,
    Sources,
    rank_candidates,
)
from recinject.training.networks import fit_module, global_chance

Batch = dict[str, Tensor]
_HASHED = "hashed_id"
_ROWS_AT_ONCE = 512


class SemanticRanker(Recommender):
    """A ranker whose items are pieces of the codes of their content (arXiv 2306.08121).

    An item that training never met shares its pieces with those that it did. Codebooks are learnt
    from the items with training events and encode the others as they are. Both tasks read the
    query's history and its ratings, and nothing else of the user.

    Args:
        representation: see :func:`~recinject.methods.semantic_ranker.pieces.item_rows`.
        rows: of the table that items are sums of.
        content: see :func:`~recinject.identifiers.content.embed_items`.
        dimensions: the most numbers that ``tfidf`` keeps.
        quantise: learns codebooks, see :data:`~recinject.methods.semantic_ids.quantising.FITTERS`.
        levels: how many codes an item has.
        codes: how many a level has at most; a quarter of the items where that is less.
        longest: how many of a history's latest items are read.
        learning_rate: Adam's first step; the steps fall to nothing over the epochs.
        batch_size: how many events a step learns from.
        epochs: how often the training events are gone through.
        shape: sizes of :class:`~recinject.methods.semantic_ranker.networks.Ranker`.
    """

    name: ClassVar[str] = "semantic_ranker"
    tasks: ClassVar[frozenset[str]] = frozenset({"rating", "ranking"})

    def __init__(
        self,
        representation: str = "prefix_ngram",
        rows: int = 2048,
        content: str = TFIDF,
        dimensions: int = 256,
        quantise: Fitter = fit_rq_kmeans,
        levels: int = 3,
        codes: int = 32,
        longest: int = 20,
        learning_rate: float = 3e-3,
        batch_size: int = 1024,
        epochs: int = 2,
        **shape: Any,
    ) -> None:
        self._representation, self._rows, self._longest = representation, rows, longest
        self._content, self._dimensions = content, dimensions
        self._quantise, self._levels, self._codes = quantise, levels, codes
        self._arguments = {
            "learning_rate": learning_rate,
            "per_device_train_batch_size": batch_size,
            "num_train_epochs": epochs,
            "lr_scheduler_type": "linear",
        }
        self._shape = shape
        self._sources: Sources | None = None

    def read(self, sources: Sources) -> None:
        """Note the items' texts, and the histories of the training events."""
        self._sources = sources

    def fit(self, training: Interactions, seed: int) -> None:
        """Make the items' codes, and learn both tasks from the training events.

        Raises:
            RecinjectError: the items' texts were not read, or a setting is wrong.
        """
        alone = Split(training, np.zeros(len(training), np.int8))
        view = self._sources.view if self._sources else alone.view(Part.TRAIN)
        items = self._coded(np.bincount(training.items, minlength=training.n_items), seed)
        pieces = item_rows(self._representation, items, self._rows, seed)
        ratings = training.ratings
        self._range = None if ratings is None else (float(ratings.min()), float(ratings.max()))
        mean, deviation = (0.0, 1.0) if ratings is None else (ratings.mean(), ratings.std() or 1.0)
        events = RankerEvents(view, self._longest)
        with global_chance(int(derive_rng(seed, self.name).integers(2**31))):
            known = np.flatnonzero(items.events)
            module = Ranker(pieces, self._rows, known, float(mean), float(deviation), **self._shape)
        if len(events):
            fit_module(module, events, dict, self._arguments, None, seed)
        # Double precision swallows what an answer owes to the company of its query.
        self._module = module.double().eval()

    def predict(self, queries: Queries, k: int) -> Prediction:
        """Rate the targets by the one head, or rank the candidates by the other.

        Raises:
            RecinjectError: it is to rate, and the training events have no ratings; or to rank,
                and there are no candidates.
        """
        if queries.kind == "rating":
            if self._range is None:
                raise RecinjectError(
                    f"{self.name}: the training events have no ratings to learn from",
                    hint="set data.columns.rating, or leave the rating task out",
                )
            found = self._answer(queries, queries.targets[:, None])[:, 0]
            return Prediction(self.name, queries.task, ratings=found.clip(*self._range))
        slates = queries.candidates
        if slates is None:
            raise RecinjectError(f"{self.name}: no candidates to rank", hint="ask for a ranking")
        ranked = rank_candidates(self._answer(queries, slates), slates, queries.targets, k)
        return Prediction(self.name, queries.task, *ranked)

    def _coded(self, events: Array, seed: int) -> CodedItems:
        if self._representation == _HASHED:
            return CodedItems(np.zeros((len(events), 0), np.int32), 1, events)
        if self._sources is None:
            raise RecinjectError(
                f"{self.name}: codes come from the items' texts, and none were read",
                hint="call read with the catalogue before fit, or take hashed_ranker",
            )
        known = events > 0
        size = max(1, min(self._codes, int(known.sum()) // 4))
        vectors = embed_items(self._content, self._sources.catalog, self._dimensions, seed)
        quantiser = self._quantise(vectors[known], self._levels, size, seed)
        return CodedItems(quantiser.encode(vectors), size, events)

    def _answer(self, queries: Queries, candidates: Integers) -> Floats:
        ask = self._module.rate if queries.kind == "rating" else self._module.rank
        found = [np.empty((0, candidates.shape[1]))]
        for start in range(0, len(queries), _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(queries)), dtype=np.int32)
            some = queries.take(rows)
            given = some.history_ratings
            ratings = None if given is None else Ragged.from_rows(given, np.float64)
            read = _grids(
                Ragged.from_rows(some.histories), ratings, self._longest, self._module.blank
            )
            asked = torch.from_numpy(candidates[rows].astype(np.int64))
            with torch.inference_mode():
                found.append(ask(asked, **read).float().double().numpy())
        return np.concatenate(found)


class HashedRanker(SemanticRanker):
    """The control: the same network and table, where chance alone says which items share a row."""

    name: ClassVar[str] = "hashed_ranker"

    def __init__(self, **settings: Any) -> None:
        super().__init__(_HASHED, **settings)


class RankerEvents(Dataset[Batch]):
    """A view's events as the ranker learns from them.

    Args:
        view: the events, each with what its user had used before.
        longest: how many of a history's latest items are read.
    """

    def __init__(self, view: View, longest: int) -> None:
        self._view, self._longest = view, longest

    def __len__(self) -> int:
        return len(self._view.targets.values)

    def __getitem__(self, number: int) -> Batch:
        return self.__getitems__([number])

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        log = self._view.interactions
        events = self._view.targets.values[np.asarray(numbers)]
        past = self._view.histories(events, self._longest)
        rated = None if log.ratings is None else past.of(log.ratings[past.values])
        ratings = np.full(len(events), np.nan) if log.ratings is None else log.ratings[events]
        return {
            "candidates": torch.from_numpy(log.items[events].astype(np.int64)),
            "ratings": torch.from_numpy(ratings).float(),
            **_grids(past.of(log.items[past.values]), rated, self._longest, log.n_items),
        }


def _grids(items: Ragged, ratings: Ragged | None, longest: int, blank: int) -> Batch:
    """Lay the latest items of histories, and their ratings, into grids of equal rows."""
    latest = items.last(longest)
    history = np.full((len(items), longest), blank)
    history[latest.rows, latest.places] = latest.values
    given = np.full(history.shape, np.nan, np.float32)
    if ratings is not None:
        given[latest.rows, latest.places] = ratings.last(longest).values
    return {"history": torch.from_numpy(history), "history_ratings": torch.from_numpy(given)}
