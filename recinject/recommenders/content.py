"""Items that read like those of the history: nearest neighbours by content."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from recinject.data.schema import Catalog, Floats, Interactions
from recinject.identifiers.content import TFIDF, embed_items
from recinject.recommenders.protocol import ItemScorer, Queries, Sources


class ContentKNN(ItemScorer):
    """Scores an item by the cosine of its content and the history's mean content.

    It needs no events, and so ranks items that nobody has used yet. Where no catalogue was read
    all items are alike.

    Args:
        source: what embeds the items; see :func:`~recinject.identifiers.content.embed_items`.
        dimensions: the most numbers in an embedding.
    """

    name: ClassVar[str] = "content_knn"

    def __init__(self, source: str = TFIDF, dimensions: int = 256) -> None:
        self._source, self._dimensions = source, dimensions
        self._catalog: Catalog | None = None

    def read(self, sources: Sources) -> None:
        """Note the items' texts."""
        self._catalog = sources.catalog

    def fit(self, training: Interactions, seed: int) -> None:
        """Embed the items; the events are not looked at."""
        self._content = np.zeros((training.n_items, 1), np.float32)
        if self._catalog is not None:
            rows = embed_items(self._source, self._catalog, self._dimensions, seed)
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            self._content = rows / np.maximum(lengths, np.finfo(np.float32).tiny)

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Compare every item with the mean of each history, which is 0 where there is none."""
        means = [self._content[history].sum(0) for history in queries.histories[rows]]
        # Row by row: a product of matrices depends on its shape in the last digit.
        scores = [self._content @ mean for mean in means]
        return np.array(scores, np.float64).reshape(len(means), len(self._content))
