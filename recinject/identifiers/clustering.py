"""A tree of item clusters: items with the same users share a path."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.sparse import csr_array, diags_array
from sklearn.utils.extmath import randomized_svd

from recinject.data.schema import Floats, Interactions
from recinject.foundation.randomness import derive_rng

_Items = NDArray[np.int64]
# A giant cluster may lose a few items a level: beyond these levels it is cut evenly.
_SPECTRAL_LEVELS = 4


def cluster_items(
    training: Interactions, clusters: int, leaf_items: int, seed: int
) -> list[tuple[int, ...]]:
    """Return the path to each item: the cluster at each level, then the position in the leaf.

    Each level is a normalised spectral clustering (Ng, Jordan and Weiss 2001) of the graph whose
    edge weights are the numbers of users that two items share. The graph is not built: its
    eigenvectors are the singular vectors of the matrix of users and items, scaled by degree.

    Clusters of more than ``leaf_items`` are divided again, positions in a leaf are random, and no
    path is the beginning of another.

    Source: the collaborative index of Hua et al. 2023 (arXiv 2305.06569).
    """
    rng = derive_rng(seed, "identifiers", "collaborative")
    shape = (training.n_users, training.n_items)
    pairs = (training.users, training.items)
    used = csr_array((np.ones(len(training)), pairs), shape=shape)
    used.data[:] = 1.0  # a repeated use says no more about what goes together
    paths: list[tuple[int, ...]] = [()] * training.n_items
    waiting: list[tuple[tuple[int, ...], _Items]] = [((), rng.permutation(training.n_items))]
    while waiting:
        path, items = waiting.pop()
        if len(items) <= leaf_items:
            for position, item in enumerate(items):
                paths[item] = (*path, position)
            continue
        groups = _groups(used, items, min(clusters, len(items)), len(path), rng)
        waiting += [((*path, n), items[groups == n]) for n in np.unique(groups)]
    return paths


def _groups(
    used: csr_array, items: _Items, count: int, level: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    if level < _SPECTRAL_LEVELS:
        rows = _embed(used[:, items], count, rng)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "One of the clusters is empty")
            found = kmeans2(rows, count, iter=30, minit="++", seed=rng)[1]
        labels: NDArray[np.intp] = np.unique(found, return_inverse=True)[1]
        if labels.any():
            return labels
    return np.arange(len(items)) * count // len(items)


def _embed(used: csr_array, count: int, rng: np.random.Generator) -> Floats:
    """Place items by the first eigenvectors of their graph, on the unit sphere."""
    degrees = used.T @ used.sum(1)
    scaled = used @ diags_array(1 / np.sqrt(np.maximum(degrees, 1.0)))
    rows = randomized_svd(scaled, count, random_state=int(rng.integers(2**31)))[2].T
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 1e-12, lengths, 1.0))
