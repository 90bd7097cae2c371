"""Items that the same people used: cosine nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array, diags_array, vstack

from recinject.data.schema import Floats, Integers, Interactions
from recinject.recommenders.protocol import ItemScorer, Queries


class ItemKNN(ItemScorer):
    """Scores an item by the summed similarity of the history's items to it.

    Similarity is the cosine of two items' columns in the binary user-item matrix, kept for the
    nearest neighbours of each item only (Sarwar et al., WWW 2001; Deshpande and Karypis, TOIS
    2004).

    Args:
        neighbours: how many nearest items are kept for each item.
    """

    name: ClassVar[str] = "item_knn"

    def __init__(self, neighbours: int = 100) -> None:
        self._neighbours = neighbours

    def fit(self, training: Interactions, seed: int) -> None:
        """Find each item's nearest neighbours among the training events."""
        matrix = user_item_matrix(training)
        norms = np.sqrt(matrix.sum(axis=0))
        unit = (matrix @ diags_array(1 / np.maximum(norms, 1))).tocsc()
        # A block of items at a time: the similarities of all pairs may not fit in memory.
        self._similarity: csr_array[np.float64] = vstack(
            [
                _nearest(csr_array(unit[:, start : start + 1024].T @ unit), start, self._neighbours)
                for start in range(0, training.n_items, 1024)
            ],
            format="csr",
        )

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Sum the similarities of each query's history."""
        histories = history_matrix(queries.histories[rows], self._similarity.shape[0])
        scores: Floats = (histories @ self._similarity).toarray()
        return scores


def user_item_matrix(training: Interactions) -> csr_array[np.float64]:
    """Return the binary matrix of who used what: shape (users, items)."""
    shape = (training.n_users, training.n_items)
    return _binary(training.users, training.items, shape)


def history_matrix(histories: Sequence[Integers], n_items: int) -> csr_array[np.float64]:
    """Return the histories as a binary matrix: shape (histories, items)."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.concatenate([*histories, np.zeros(0, np.int32)])
    return _binary(rows.astype(np.int32), items.astype(np.int32), (len(histories), n_items))


def _binary(rows: Integers, columns: Integers, shape: tuple[int, int]) -> csr_array[np.float64]:
    matrix = csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def _nearest(
    similarity: csr_array[np.float64], first_item: int, neighbours: int
) -> csr_array[np.float64]:
    """Keep each row's largest values off the diagonal, ties in the order of the items."""
    rows, columns = similarity.nonzero()
    values = np.where(columns == rows + first_item, 0, similarity.data)
    order = np.lexsort((columns, -values, rows))
    place = np.arange(len(rows)) - similarity.indptr[rows]
    kept = order[(place < neighbours) & (values[order] > 0)]
    entries = (values[kept], (rows[kept], columns[kept]))
    return csr_array(entries, shape=similarity.shape)
