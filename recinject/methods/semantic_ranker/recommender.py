"""Rating and ranking by one network of two tasks, over items known by their semantic codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch.utils.data import Dataset

from recinject.data.schema import Floats, Integers, Interactions
from recinject.data.splitting import View
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged
from recinject.identifiers.content import TFIDF, Vectors, embed_items
from recinject.methods.semantic_ranker import networks
from recinject.methods.semantic_ranker.representations import REPRESENTATIONS, CodedItems, item_rows
from recinject.recommenders.protocol import Prediction, Queries, Recommender, rank_candidates
from recinject.registry import find, pick
from recinject.training.networks import (
    Dropout,
    FitSettings,
    Rate,
    Tensors,
    Weight,
    fit_network,
    global_chance,
)

HASHED, CONTENT = "hashed_id", "content"
_ROWS_AT_ONCE = 512


@dataclass(eq=False)
class SemanticRanker(Recommender):
    """A ranker whose items are n-grams of the codes of their content (arXiv 2306.08121).

    An item without training events shares n-grams with items that have some, which give the
    codebooks. Both tasks read the query's history and its ratings, and nothing else of the user.

    Args:
        representation: see
            :func:`~recinject.methods.semantic_ranker.representations.item_rows`; or ``content``,
            the control in which an item is a linear map of its content's vector.
        rows: of the table of embeddings.
        content: see :func:`~recinject.identifiers.content.embed_items`.
        content_columns: whose words, see :func:`~recinject.identifiers.content.item_texts`.
        dimensions: the most numbers that ``tfidf`` keeps.
        quantiser: the name in the registry of what learns the codebooks.
        levels: how many codes an item has.
        codes: how many a level has at most; a quarter of the items where that is less.
        longest: the most items of a history that are read, the latest.
        learning_rate: AdamW's first one; it falls linearly to 0 over the epochs.
        batch_size: events a step.
        epochs: how often the training events are gone through.
        width: see :class:`~recinject.methods.semantic_ranker.networks.Ranker`, as for ``hidden``,
            ``dropout``, ``negatives`` and ``weights``.
        experts: replace the layers that the tasks share.
    """

    name: ClassVar[str] = "semantic_ranker"
    tasks: ClassVar[frozenset[str]] = frozenset({"rating", "ranking"})

    representation: str = "prefix_ngram"
    rows: PositiveInt = 2048
    content: str = TFIDF
    content_columns: list[str] | None = None
    dimensions: PositiveInt = 256
    quantiser: str = "rq_kmeans"
    levels: PositiveInt = 3
    codes: PositiveInt = 32
    longest: PositiveInt = 20
    learning_rate: Rate = 3e-3
    batch_size: PositiveInt = 1024
    epochs: PositiveInt = 2
    width: PositiveInt = 32
    hidden: PositiveInt = 64
    dropout: Dropout = 0.1
    negatives: PositiveInt = 4
    weights: tuple[Weight, Weight] = (1.0, 1.0)
    experts: networks.ExpertTrunkSettings | None = None

    def __post_init__(self) -> None:
        pick(
            self.representation, (*REPRESENTATIONS, CONTENT), f"{self.name}: unknown representation"
        )
        find("quantiser", self.quantiser, f"{self.name}.quantiser")

    def fit(self, training: Interactions, seed: int) -> None:
        """Make the items' codes, and learn both tasks from the training events."""
        view = self._training_view(training)
        events = np.bincount(training.items, minlength=training.n_items)
        is_content = self.representation == CONTENT
        items = self._embedded(events, seed) if is_content else self._coded(events, seed)
        ratings = training.ratings
        self._range = (
            None if ratings is None else (float(np.nanmin(ratings)), float(np.nanmax(ratings)))
        )
        module = self._build(items, events, ratings, seed)
        if len(view.targets.values):
            settings = FitSettings.of(self, schedule="linear")
            fit_network(module, RankerEvents(view, self.longest), dict, settings, seed)
        # In double precision an answer does not depend on which queries share its batch.
        self._module = module.double().eval()

    def predict(self, queries: Queries, k: int) -> Prediction:
        """Rate the targets by the one head, or rank the candidates by the other."""
        if queries.kind == "rating":
            if self._range is None:
                raise RecinjectError(
                    f"{self.name}: the training events have no ratings to learn from",
                    hint="set data.columns.rating, or leave the rating task out",
                )
            ratings = self._answer(queries, queries.targets[:, None])[:, 0]
            return Prediction(self.name, queries.task, ratings=ratings.clip(*self._range))
        candidates = queries.candidates
        if candidates is None:
            raise RecinjectError(f"{self.name}: no candidates to rank", hint="ask for a ranking")
        scores = self._answer(queries, candidates)
        ranked = rank_candidates(scores, candidates, queries.targets, k)
        return Prediction(self.name, queries.task, *ranked)

    def _build(
        self, items: CodedItems | Vectors, events: Array, ratings: Floats | None, seed: int
    ) -> networks.Ranker:
        trunk: Any = networks.SharedTrunk
        if self.experts:
            trunk = partial(networks.ExpertTrunk, settings=self.experts)
        shape = ("width", "hidden", "dropout", "negatives", "weights")
        with global_chance(int(self._chance(seed).integers(2**31))):
            return networks.Ranker(
                item_rows(self.representation, items, self.rows, seed)
                if isinstance(items, CodedItems)
                else items,
                self.rows,
                np.flatnonzero(events),
                0.0 if ratings is None else float(np.nanmean(ratings)),
                1.0 if ratings is None else float(np.nanstd(ratings)) or 1.0,
                trunk=trunk,
                **{name: getattr(self, name) for name in shape},
            )

    def _coded(self, events: Array, seed: int) -> CodedItems:
        if self.representation == HASHED:
            return CodedItems(np.zeros((len(events), 0), np.int32), 1, events)
        known, vectors = events > 0, self._embedded(events, seed)
        size = max(1, min(self.codes, int(known.sum()) // 4))
        quantiser = find("quantiser", self.quantiser)(vectors[known], self.levels, size, seed)
        return CodedItems(quantiser.encode(vectors), size, events)

    def _embedded(self, events: Array, seed: int) -> Vectors:
        if self._sources is None:
            raise RecinjectError(
                f"{self.name}: codes come from the items' texts, and none were read",
                hint="call read with the catalogue before fit, or take hashed_ranker",
            )
        own = self._sources.catalog, self.dimensions, seed, events > 0, self.content_columns
        return embed_items(self.content, *own)

    def _answer(self, queries: Queries, candidates: Integers) -> Floats:
        head = self._module.rate if queries.kind == "rating" else self._module.rank
        answers = [np.empty((0, candidates.shape[1]))]
        for start in range(0, len(queries), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            items, ratings = Ragged.from_rows(queries.histories[rows]), queries.history_ratings
            rated = None if ratings is None else Ragged.from_rows(ratings[rows], np.float64)
            history = _history_grids(items, rated, self.longest, self._module.padding)
            wanted = torch.from_numpy(candidates[rows].astype(np.int64))
            with torch.inference_mode():
                answers.append(head(wanted, **history).float().double().numpy())
        return np.concatenate(answers)


@dataclass(eq=False)
class HashedRanker(SemanticRanker):
    """The control: the same network and table, where a hash decides which items share a row."""

    name: ClassVar[str] = "hashed_ranker"

    representation: str = field(default=HASHED, init=False)


class RankerEvents(Dataset[Tensors]):
    """A view's events, each with the latest items of its history; a batch is fetched at once."""

    def __init__(self, view: View, longest: int) -> None:
        self._view, self._longest = view, longest

    def __len__(self) -> int:
        return len(self._view.targets.values)

    def __getitems__(self, rows: Sequence[int]) -> Tensors:
        log = self._view.interactions
        events = self._view.targets.values[np.asarray(rows)]
        past = self._view.histories(events, self._longest)
        rated = None if log.ratings is None else past.of(log.ratings[past.values])
        ratings = np.full(len(events), np.nan) if log.ratings is None else log.ratings[events]
        return {
            "candidates": torch.from_numpy(log.items[events].astype(np.int64)),
            "ratings": torch.from_numpy(ratings).float(),
            **_history_grids(past.of(log.items[past.values]), rated, self._longest, log.n_items),
        }


def _history_grids(items: Ragged, ratings: Ragged | None, longest: int, padding: int) -> Tensors:
    """Return the latest items of histories and their ratings as grids."""
    latest = items.last(longest)
    rated = np.full(len(latest.values), np.nan) if ratings is None else ratings.last(longest).values
    grids = {
        "history": latest.of(latest.values.astype(np.int64)).to_grid(padding),
        "history_ratings": latest.of(rated.astype(np.float32)).to_grid(np.nan),
    }
    return {name: torch.from_numpy(grid) for name, grid in grids.items()}
