"""Vectors to a few codes each: residual codebooks, and two controls to measure them against."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from recinject.data.schema import Integers
from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import derive_rng

Vectors = NDArray[np.float32]
Layers = tuple[Vectors, ...]
_ROWS_AT_ONCE = 2**16


class Quantiser(ABC):
    """Frozen codebooks, which give codes to any item, new ones too."""

    kind: ClassVar[str]

    @abstractmethod
    def encode(self, embeddings: Vectors) -> Integers:
        """Return the codes of vectors, shape (items, levels)."""

    def decode(self, codes: Integers) -> Vectors | None:
        """Return the vectors of the first levels' codes; None for codes without vectors."""
        return None


@dataclass(frozen=True, eq=False)
class Residual(Quantiser):
    """At each level the code nearest to the residual of the levels before.

    Networks with ReLU may stand before and after it: weights, (out, in), and biases in turn.
    """

    kind: ClassVar[str] = "residual"
    codebooks: Vectors  # one vector a code, (levels, codes, width)
    encoder: Layers = ()
    decoder: Layers = ()

    def encode(self, embeddings: Vectors) -> Integers:
        """Return the codes of vectors, shape (items, levels)."""
        widths = (self.encoder[0] if self.encoder else self.codebooks[0]).shape[1]
        _check_width(embeddings, widths)
        return residual_codes(_pass_through(self.encoder, embeddings), self.codebooks)[0]

    def decode(self, codes: Integers) -> Vectors:
        """Add up the codes' vectors and pass them back: shape (items, width of the input)."""
        chosen = [book[column] for book, column in zip(self.codebooks, codes.T, strict=False)]
        return _pass_through(self.decoder, np.sum(chosen, axis=0, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class Hyperplanes(Quantiser):
    """Locality-sensitive hashing: each bit of a code is a side of a random plane."""

    kind: ClassVar[str] = "lsh"
    centre: Vectors  # which all planes go through, (width,)
    planes: Vectors  # their normals, (levels, bits, width)

    def encode(self, embeddings: Vectors) -> Integers:
        """Return the codes of vectors, shape (items, levels)."""
        _check_width(embeddings, len(self.centre))
        sides = np.einsum("iw,lbw->ilb", embeddings - self.centre, self.planes, optimize=True) > 0
        weights = 1 << np.arange(self.planes.shape[1], dtype=np.int32)
        return np.asarray(sides @ weights, np.int32)


@dataclass(frozen=True, eq=False)
class RandomCodes(Quantiser):
    """Codes that say nothing of an item: a hash of its vector."""

    kind: ClassVar[str] = "random"
    shape: NDArray[np.int64]  # levels, codes a level, and the seed

    def encode(self, embeddings: Vectors) -> Integers:
        """Return the codes of vectors, shape (items, levels)."""
        levels, codes, seed = map(int, self.shape)
        keys = (hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in embeddings)
        streams = (derive_rng(seed, "random_codes", key) for key in keys)
        drawn = [stream.integers(codes, size=levels) for stream in streams]
        return np.array(drawn, np.int32).reshape(-1, levels)


def residual_codes(vectors: Vectors, codebooks: Vectors) -> tuple[Integers, Vectors]:
    """Choose the nearest code at each level, the first of equals; return codes and residuals."""
    left = np.array(vectors, np.float32)
    codes = np.empty((len(left), len(codebooks)), np.int32)
    for level, book in enumerate(codebooks):
        codes[:, level] = nearest(left, book)
        left -= book[codes[:, level]]
    return codes, left


def nearest(vectors: Vectors, centres: Vectors) -> NDArray[np.int64]:
    """Return the index of the centre nearest to each vector."""
    half = (centres * centres).sum(1) / 2
    starts = range(0, len(vectors), _ROWS_AT_ONCE)
    parts = [np.argmax(vectors[s : s + _ROWS_AT_ONCE] @ centres.T - half, axis=1) for s in starts]
    return np.concatenate([np.empty(0, np.int64), *parts])


def kmeans(vectors: Vectors, count: int, seed: int) -> Vectors:
    """Return centres by Lloyd's algorithm from a k-means++ start, shape (count, width).

    Equal vectors may give equal centres.
    """
    # Seconds to import, for this kind alone.
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    # Several threads add up in an order of their own, and the last digits differ.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Number of distinct clusters")
        found = KMeans(count, n_init=1, max_iter=100, random_state=seed).fit(vectors)
    return np.asarray(found.cluster_centers_, np.float32)


def fit_rq_kmeans(embeddings: Vectors, levels: int, codes: int, seed: int) -> Residual:
    """Cluster vectors, then their residuals, and so on."""
    check_enough(embeddings, codes)
    left, books = embeddings, []
    for level in range(levels):
        start = int(derive_rng(seed, "rq_kmeans", level).integers(2**31))
        books.append(kmeans(left, codes, start))
        left = left - books[-1][nearest(left, books[-1])]
    return Residual(np.stack(books))


def fit_lsh(embeddings: Vectors, levels: int, codes: int, seed: int) -> Hyperplanes:
    """Draw planes through the vectors' mean; the number of codes must be a power of two."""
    bits = codes.bit_length() - 1
    if codes != 1 << bits:
        raise RecinjectError(
            f"identifiers.codes: lsh makes 2, 4, 8, 16... codes of its bits, not {codes}",
            hint=f"set identifiers.codes={1 << bits} or {2 << bits}",
        )
    normals = derive_rng(seed, "lsh").normal(size=(levels, bits, embeddings.shape[1]))
    return Hyperplanes(embeddings.mean(0), normals.astype(np.float32))


def _check_width(embeddings: Vectors, width: int) -> None:
    if embeddings.shape[1] != width:
        raise RecinjectError(
            f"identifiers: vectors of {embeddings.shape[1]} numbers, and the codebooks "
            f"were learnt from {width}",
            hint="embed new items with the very content model that the codebooks were learnt from",
        )


def _pass_through(layers: Layers, rows: Vectors) -> Vectors:
    for place in range(0, len(layers), 2):
        rows = rows @ layers[place].T + layers[place + 1]
        if place + 2 < len(layers):
            rows = np.maximum(rows, 0)
    return rows


def draw_codes(embeddings: Vectors, levels: int, codes: int, seed: int) -> RandomCodes:
    """Let chance alone give the codes."""
    return RandomCodes(np.array([levels, codes, seed], np.int64))


def check_enough(embeddings: Vectors, codes: int) -> None:
    """Refuse to learn more codes than there are items to learn them from."""
    if len(embeddings) < codes:
        raise RecinjectError(
            f"identifiers.codes: {codes} codes a level, and only {len(embeddings)} items "
            "to learn them from",
            hint=f"set identifiers.codes={max(2, len(embeddings) // 4)} or fewer",
        )
