"""Baselines without gradient descent: popularity, means, neighbours, EASE, Markov chains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass
from scipy.linalg import lapack
from scipy.sparse import coo_array, csr_array, diags_array, vstack

from recinject.data.schema import Floats, Integers, Interactions
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged, is_among
from recinject.identifiers.content import TFIDF, embed_items
from recinject.recommenders.protocol import (
    ItemScorer,
    Prediction,
    Queries,
    Recommender,
    places,
    top_k,
)
from recinject.registry import register

MOST_BYTES = 16e9
"""The most memory that EASE may take for the matrix of all pairs of items."""
_Positive = Annotated[float, Field(gt=0)]


@register("recommender")
class Random(ItemScorer):
    """Scores every item at random: the floor of every metric."""

    name: ClassVar[str] = "random"

    def fit(self, training: Interactions, seed: int) -> None:
        """Remember the seed and how many items there are."""
        self._seed, self._n_items = seed, training.n_items

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Draw the scores of each query from the stream of its user and sample id."""
        keys = zip(queries.users[rows], queries.sample_ids[rows], strict=True)
        streams = [self._chance(self._seed, int(user), key) for user, key in keys]
        scores = [stream.random(self._n_items) for stream in streams]
        return np.array(scores).reshape(-1, self._n_items)


@register("recommender")
class Popularity(ItemScorer):
    """Scores every item by how many training events it has."""

    name: ClassVar[str] = "popularity"

    def fit(self, training: Interactions, seed: int) -> None:
        """Count the events of each item."""
        self._counts = item_counts(training)

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Give every query the same scores."""
        return np.tile(self._counts, (len(queries.users[rows]), 1))


@register("recommender")
@dataclass(eq=False)
class RecentPopularity(Popularity):
    """Scores every item by its training events, whose weights halve with each half-life of age.

    An event's age is a fraction of the training part's time span; where the log has no times, it
    is the fraction of the user's events that came later. An event without a time has the mean
    age (Ji et al., A re-visit of the popularity baseline, SIGIR 2020).

    Args:
        half_life: the age at which an event has half its weight; the default was chosen on the
            validation events of Amazon Beauty and Toys, MovieLens-100K and MovieLens-1M.
    """

    name: ClassVar[str] = "popularity_recent"
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"half_life": (0.05, 0.1, 0.25, 0.5, 1.0)}

    half_life: _Positive = 0.25

    def fit(self, training: Interactions, seed: int) -> None:
        """Sum the weights of each item's events."""
        weights = 0.5 ** (_ages(training) / self.half_life)
        self._counts = np.bincount(training.items, weights, training.n_items).astype(np.float64)


def _ages(training: Interactions) -> Floats:
    """Return each event's age, from 0 for the latest to 1 for the oldest: shape (events,)."""
    times = training.timestamps
    if times is None or not np.isfinite(times).any():
        lengths = np.diff(training.offsets)[training.users]
        later = training.offsets[1:][training.users] - 1 - np.arange(len(training))
        fractions: Floats = later / np.maximum(lengths - 1, 1)
        return fractions
    ages = np.nanmax(times) - times
    ages /= np.nanmax(ages) or 1
    return np.where(np.isnan(ages), np.nanmean(ages), ages)


def item_counts(training: Interactions) -> Floats:
    """Count the training events of each item: shape (items,)."""
    return np.bincount(training.items, minlength=training.n_items).astype(np.float64)


def mean_rating(training: Interactions, name: str) -> float:
    """Return the mean of all training ratings, or refuse, by its name, who needs it."""
    if training.ratings is None or not len(training.ratings):
        raise RecinjectError(
            f"{name}: the training events have no ratings to average",
            hint="set data.columns.rating, or leave the rating task and its baselines out",
        )
    return float(np.nanmean(training.ratings))


@register("recommender")
class GlobalMean(Recommender):
    """Predicts the mean of all training ratings, whatever the query."""

    name: ClassVar[str] = "global_mean"
    tasks: ClassVar[frozenset[str]] = frozenset({"rating"})

    def fit(self, training: Interactions, seed: int) -> None:
        """Take the mean of the training ratings."""
        self._mean = mean_rating(training, self.name)

    def predict(self, queries: Queries, k: int) -> Prediction:
        """Predict one rating a query."""
        return Prediction(self.name, queries.task, ratings=self._ratings(queries))

    def _ratings(self, queries: Queries) -> Floats:
        return np.full(len(queries), self._mean)


@register("recommender")
class ItemMean(GlobalMean):
    """Predicts the item's mean training rating, or the global mean for an item without one."""

    name: ClassVar[str] = "item_mean"

    _side: ClassVar[int] = 1  # of pairs of users and items

    def fit(self, training: Interactions, seed: int) -> None:
        """Take the mean of the training ratings of each item, or user."""
        super().fit(training, seed)
        groups = (training.users, training.items)[self._side]
        size = (training.n_users, training.n_items)[self._side]
        sums = np.bincount(groups, weights=training.ratings, minlength=size)
        counts = np.bincount(groups, minlength=size)
        self._means = np.where(counts > 0, sums / np.maximum(counts, 1), self._mean)

    def _ratings(self, queries: Queries) -> Floats:
        return self._means[(queries.users, queries.targets)[self._side]]


@register("recommender")
class UserMean(ItemMean):
    """Predicts the user's mean training rating, or the global mean for a user without one."""

    name: ClassVar[str] = "user_mean"
    _side: ClassVar[int] = 0


@register("recommender")
@dataclass(eq=False)
class HistoryMean(GlobalMean):
    """Predicts the shrunk mean of the ratings in the query's history, whatever the item.

    It learns the global mean alone, and so shows what a history tells without any learning.

    Args:
        ridge: how many ratings at the global mean stand beside those of the history.
    """

    name: ClassVar[str] = "history_mean"
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"ridge": (0.5, 1.0, 2.0, 4.0, 8.0)}

    ridge: _Positive = 2.0

    def fit(self, training: Interactions, seed: int) -> None:
        """Take the mean of the training ratings."""
        super().fit(training, seed)
        self._items = np.full(training.n_items, self._mean)
        ratings = np.asarray(training.ratings)
        self._range = ratings.min(), ratings.max()

    def _ratings(self, queries: Queries) -> Floats:
        shown = queries.latest(self._longest(queries.kind))
        histories, ratings = shown.histories, shown.history_ratings or [np.empty(0)] * len(queries)
        levels = [
            (past - self._items[items[len(items) - len(past) :]]).sum() / (len(past) + self.ridge)
            for items, past in zip(histories, ratings, strict=True)
        ]
        predicted: Floats = self._items[queries.targets] + np.array(levels)
        return np.clip(predicted, *self._range)


@register("recommender")
@dataclass(eq=False)
class RecentBiases(HistoryMean):
    """Predicts the item's shrunk mean, plus the shrunk mean residual of the query's history.

    A residual is a rating of the history less its own item's shrunk mean.

    Args:
        ridge: see :class:`HistoryMean`.
        item_ridge: how many ratings at the global mean stand beside those of each item.
    """

    name: ClassVar[str] = "recent_biases"
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        **HistoryMean.grid,
        "item_ridge": (1.0, 2.0, 5.0, 10.0, 20.0),
    }

    item_ridge: _Positive = 5.0

    def fit(self, training: Interactions, seed: int) -> None:
        """Take the shrunk mean of each item's training ratings."""
        super().fit(training, seed)
        offsets = np.asarray(training.ratings) - self._mean
        sums = np.bincount(training.items, offsets, training.n_items)
        self._items += sums / (item_counts(training) + self.item_ridge)


@register("recommender")
@dataclass(eq=False)
class ItemKNN(ItemScorer):
    """Scores an item by the summed similarity of the history's items to it.

    Similarity is the cosine of two items' columns in the binary user-item matrix, kept for the
    nearest neighbours of each item only (Sarwar et al., WWW 2001; Deshpande and Karypis, TOIS
    2004).

    Args:
        neighbours: how many nearest items are kept for each item.
    """

    name: ClassVar[str] = "item_knn"
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"neighbours": (20, 50, 100, 200, 500)}

    neighbours: PositiveInt = 100

    def fit(self, training: Interactions, seed: int) -> None:
        """Find each item's nearest neighbours among the training events."""
        matrix = user_item_matrix(training)
        norms = np.sqrt(matrix.sum(axis=0))
        unit = (matrix @ diags_array(1 / np.maximum(norms, 1))).tocsc()
        # A block of items at a time: the similarities of all pairs may not fit in memory.
        blocks = [
            _nearest(csr_array(unit[:, start : start + 1024].T @ unit), start, self.neighbours)
            for start in range(0, training.n_items, 1024)
        ]
        self._similarity: csr_array[np.float64] = vstack(blocks, format="csr")

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Sum the similarities of each query's history."""
        scores: Floats = self._sums(queries, rows).toarray()
        return scores

    def _sums(self, queries: Queries, rows: slice) -> csr_array[np.float64]:
        return history_matrix(queries.histories[rows], self._similarity.shape[0]) @ self._similarity

    def predict(self, queries: Queries, k: int) -> Prediction:
        """Rank as everybody does, but look at near items alone where no others matter."""
        if queries.candidates is not None or queries.allowed is not None or not len(queries):
            return super().predict(queries, k)
        shown = queries.latest(self._longest(queries.kind))
        starts = range(0, len(queries), self._rows_at_once)
        rows = [slice(start, start + self._rows_at_once) for start in starts]
        parts = zip(*(self._near(shown, queries, block, k) for block in rows), strict=True)
        items, scores, ahead, tied, enough = (np.concatenate(part) for part in parts)
        found = Prediction(self.name, queries.task, items, scores, ahead, tied)
        if len(left := np.flatnonzero(~enough)):
            whole = super().predict(queries.take(left), k)
            for name in ("items", "scores", "ahead", "tied"):
                getattr(found, name)[left] = getattr(whole, name)
        return found

    def _near(self, shown: Queries, queries: Queries, rows: slice, k: int) -> tuple[Array, ...]:
        """Rank the items with a score above 0, and say which rows need no others."""
        sums, targets = self._sums(shown, rows), queries.targets[rows]
        if not sums.nnz:
            lists, none = np.full((len(targets), k), -1, np.int32), np.zeros(len(targets))
            return lists, lists.astype(np.float64), none, none, none > 0
        barred = history_matrix(queries.barred[rows], sums.shape[1])
        for matrix in (sums, barred):
            matrix.sort_indices()
        near, gone = (Ragged(each.indices, each.indptr.astype(np.int64)) for each in (sums, barred))
        keys, gone_keys = (each.rows * sums.shape[1] + each.values for each in (near, gone))
        scores = near.of(np.where(is_among(keys, gone_keys), -np.inf, sums.data)).to_grid(-np.inf)
        items = near.to_grid(-1)
        chosen, best = top_k(scores, k)
        is_target = (items == targets[:, None]) & (targets >= 0)[:, None] & (scores > 0)
        at = np.where(is_target.any(1), is_target.argmax(1), -1).astype(np.int32)
        enough = (best[:, -1] > 0) & ((at >= 0) | (targets < 0))
        listed = np.where(chosen < 0, -1, np.take_along_axis(items, chosen, axis=1))
        return listed.astype(np.int32), best, *places(scores, at), enough


def user_item_matrix(training: Interactions) -> csr_array[np.float64]:
    """Return the binary matrix of the events: shape (users, items)."""
    return _binary(training.users, training.items, (training.n_users, training.n_items))


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
    rank = np.arange(len(rows)) - similarity.indptr[rows]
    kept = order[(rank < neighbours) & (values[order] > 0)]
    entries = (values[kept], (rows[kept], columns[kept]))
    return csr_array(entries, shape=similarity.shape)


@register("recommender")
@dataclass(eq=False)
class EASE(ItemScorer):
    """Scores an item by the weights that best predict its users from their other items.

    Each item has a ridge regression of its own on all other items; one inverse of the items' Gram
    matrix solves them all (Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019,
    equation 8). Negative weights are kept.

    Args:
        regularization: weight of the squared weights; the default was chosen on the validation
            events of Amazon Beauty and Toys, MovieLens-100K and MovieLens-1M.
        transposed: take a pair's weight from the regression of the item in the history, as some
            libraries and figures published with them do, and not as the paper does.
    """

    name: ClassVar[str] = "ease"
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "regularization": (10.0, 30.0, 100.0, 300.0, 1000.0)
    }

    regularization: _Positive = 100.0
    transposed: bool = False

    def fit(self, training: Interactions, seed: int) -> None:
        """Solve for the weights of all pairs, or refuse more than :data:`MOST_BYTES` of them."""
        if (size := 8 * training.n_items**2) > MOST_BYTES:
            raise RecinjectError(
                f"ease: the matrix of all pairs of {training.n_items:,} items would take "
                f"{size / 1e9:.1f} GB, and {MOST_BYTES / 1e9:.0f} GB is the most",
                hint="leave ease out of evaluation.baselines, or have fewer items by a higher "
                "data.k_core",
            )
        matrix = user_item_matrix(training)
        gram = (matrix.T @ matrix).toarray()
        gram[np.diag_indices_from(gram)] += self.regularization
        weights, diagonal = _inverse(gram)
        weights /= -diagonal[:, None] if self.transposed else -diagonal
        np.fill_diagonal(weights, 0)
        self._weights = weights

    def score(self, queries: Queries, rows: slice) -> NDArray[np.float32]:
        """Sum the weights of each query's history."""
        histories = history_matrix(queries.histories[rows], len(self._weights))
        scores: NDArray[np.float32] = histories.astype(np.float32) @ self._weights
        return scores


def _inverse(gram: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Invert a positive definite matrix, in place; return the inverse and its diagonal."""
    # LAPACK reads columns first; the matrix is symmetric, so its transpose is the same matrix.
    factor: Any = lapack.dpotrf(gram.T, lower=1, overwrite_a=1)[0]
    triangle: Any = lapack.dpotri(factor, lower=1, overwrite_c=1)[0]
    inverse = triangle.T.astype(np.float32)
    diagonal = inverse.diagonal().copy()
    inverse += inverse.T
    inverse[np.diag_indices_from(inverse)] = diagonal
    return inverse, diagonal


@register("recommender")
@dataclass(eq=False)
class MarkovChain(ItemScorer):
    """Counts how often items followed one another within a few steps.

    An item's score is the sum, over the last few items of the history, of how often it followed
    them in training; a pair at distance d has the weight 1/d, in training and in the query.
    Popularity orders the items that followed none of them.

    Args:
        order: the largest distance that is counted.
    """

    name: ClassVar[str] = "markov_chain"
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"order": (1, 2, 3, 5, 8)}

    order: PositiveInt = 3

    def fit(self, training: Interactions, seed: int) -> None:
        """Count the pairs of the training part."""
        firsts, seconds, weights = [], [], []
        for distance in range(1, self.order + 1):
            same_user = training.users[distance:] == training.users[:-distance]
            firsts.append(training.items[:-distance][same_user])
            seconds.append(training.items[distance:][same_user])
            weights.append(np.full(len(firsts[-1]), 1 / distance))
        pairs = (np.concatenate(firsts), np.concatenate(seconds))
        shape = (training.n_items, training.n_items)
        self._followed = coo_array((np.concatenate(weights), pairs), shape=shape).tocsr()
        # Below the least weight of a pair, so that popularity orders only what pairs leave tied.
        self._popularity = item_counts(training) / (1 + len(training)) / self.order

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Add up what followed the last items of each query's history."""
        histories, n_items = queries.histories[rows], len(self._popularity)
        entries = [
            (row, history[-distance], 1 / distance)
            for row, history in enumerate(histories)
            for distance in range(1, min(self.order, len(history)) + 1)
        ]
        of, items, weights = zip(*entries, strict=True) if entries else ((), (), ())
        latest = coo_array((weights, (of, items)), shape=(len(histories), n_items)).tocsr()
        scores: Floats = (latest @ self._followed).toarray() + self._popularity
        return scores


@register("recommender")
@dataclass(eq=False)
class ContentKNN(ItemScorer):
    """Scores an item by the cosine of its content and the history's mean content.

    It needs no events, and so ranks items that nobody has used yet.

    Args:
        content: what embeds the items, see :func:`~recinject.identifiers.content.embed_items`.
        content_columns: whose words, see :func:`~recinject.identifiers.content.item_texts`.
        dimensions: the most numbers in an embedding.
    """

    name: ClassVar[str] = "content_knn"
    knows_new_items: ClassVar[bool] = True

    content: str = TFIDF
    content_columns: list[str] | None = None
    dimensions: PositiveInt = 256

    def fit(self, training: Interactions, seed: int) -> None:
        """Embed the items; the events only tell which items the content's space is learnt from."""
        self._vectors = np.zeros((training.n_items, 1), np.float32)
        if self._sources is not None:
            known = np.bincount(training.items, minlength=training.n_items) > 0
            own = self._sources.catalog, self.dimensions, seed, known, self.content_columns
            rows = embed_items(self.content, *own)
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            self._vectors = rows / np.maximum(lengths, np.finfo(np.float32).tiny)

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Compare every item with the mean of each history, which is 0 where there is none."""
        means = [self._vectors[history].sum(0) for history in queries.histories[rows]]
        # Row by row: a product of matrices depends on its shape in the last digit.
        scores = [self._vectors @ mean for mean in means]
        return np.array(scores, np.float64).reshape(len(means), len(self._vectors))
