"""Ratings predicted from what a user rated before: the language model's own inputs."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from recinject.data.schema import Interactions
from recinject.data.splitting import Part, Split
from recinject.foundation.ragged import Array, Ragged
from recinject.models.rating_modules import RatingModule, TransformerMLPModule
from recinject.recommenders.protocol import Queries
from recinject.recommenders.rating_columns import Batch, number_known
from recinject.recommenders.rating_models import RatingModel

_CANDIDATES = 50
"""How many ratings of a user are learned at once, at most."""


class TransformerMLP(RatingModel):
    """A transformer over what the language model reads, then an MLP (Kang et al., 2023).

    It knows the history's latest items with their ratings and attributes, and the candidate with
    its attributes, but no user (arXiv 2305.06474). A query whose history has no ratings is
    answered as one without a history.

    Args:
        learning_rate: AdamW's first step.
        history_length: how many of the latest items are read.
        settings: see :class:`RatingModel`; its shape is that of the module.
    """

    name: ClassVar[str] = "transformer_mlp"

    def __init__(
        self, learning_rate: float = 2e-3, history_length: int = 200, **settings: Any
    ) -> None:
        shape = {"width": 128, "heads": 4, "layers": 1, "dropout": 0.1, "weight_decay": 0.3}
        shape |= {"history_length": history_length, "epochs": 6, "batch_size": 1024}
        super().__init__(learning_rate, **(shape | settings))
        self._longest = history_length

    def _columns(self, training: Interactions) -> Batch:
        alone = Split(training, np.zeros(len(training), np.int8))
        view = alone.view(Part.TRAIN) if self._sources is None else self._sources.view
        log = view.interactions
        length = int(np.diff(log.offsets).max(initial=1))
        length = self._length = self._shape["history_length"] = min(self._longest, length)
        self._items = number_known(log.items, log.n_items)
        # Each user's events are cut into rows of candidates; their history stands before them.
        pieces = -(-np.diff(log.offsets) // _CANDIDATES)
        places = Ragged.from_lengths(np.empty(pieces.sum()), pieces)
        first = log.offsets[places.rows] + places.places * _CANDIDATES
        events = first[:, None] + np.arange(-length, _CANDIDATES)
        own = (events >= log.offsets[places.rows, None]) & (
            events < log.offsets[places.rows + 1, None]
        )
        events[~own] = 0
        targets = np.zeros(len(log), bool)
        targets[view.targets.values] = True
        ratings = np.where(own, np.asarray(log.ratings)[events], np.nan).astype(np.float32)
        items = np.where(own, self._items[log.items[events]], 0)
        labels = np.where(targets[events], ratings, np.float32("nan"))
        return _rows(items, ratings, items[:, length:]) | {
            "labels": torch.from_numpy(labels[:, length:])
        }

    def _build(self, training: Interactions) -> RatingModule:
        kinds = self._attributes(training.n_items)
        return TransformerMLPModule(self._mean, kinds, **self._shape)

    def _inputs(self, queries: Queries) -> Batch:
        # The last place is the candidate's own, as in training.
        items = np.zeros((len(queries), self._length + 1), np.int64)
        ratings = np.full(items.shape, np.nan, np.float32)
        for row, known in enumerate(queries.history_ratings or []):
            place = slice(self._length - min(len(known), self._length), self._length)
            items[row, place] = self._items[queries.histories[row][-self._length :]]
            ratings[row, place] = known[-self._length :]
        return _rows(items, ratings, self._items[queries.targets][:, None])


def _rows(items: Array, ratings: Array, candidates: Array) -> Batch:
    columns = {"items": items, "ratings": ratings, "candidates": candidates}
    return {name: torch.from_numpy(column) for name, column in columns.items()}
