"""Chance as a pure function of a key: no global state, no dependence on order or workers."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from recinject.foundation.ragged import Array, Ragged

Bits = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def derive_rng(seed: int, *key: str | int) -> np.random.Generator:
    """Return the random stream of a key, such as (seed, "bootstrap", draw), on every platform.

    >>> a, b = derive_rng(1, "retrieval", 3), derive_rng(1, "retrieval", 3)
    >>> bool(a.integers(1000) == b.integers(1000))
    True
    """
    return np.random.Generator(np.random.Philox(key=_digest(16, seed, *key)))


def derive_bits(*key: str | int) -> np.uint64:
    """Return 64 bits that belong to a key."""
    return np.uint64(_digest(8, *key))


def _digest(size: int, *key: str | int) -> int:
    words = "\x1f".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=size).digest(), "little")


class Chance:
    """Random numbers for many keys at once, one row a key.

    What a row draws is a function of its key and of the number of the draw: the other rows of
    the batch, and how many numbers they need, never change it. The numbers are those of
    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), started anew for each key and draw. Keys are
    64 bits that tell the rows apart, shape (n,).
    """

    def __init__(self, keys: Bits) -> None:
        self._keys = keys
        self._draws = 0

    def uniform(self) -> NDArray[np.float64]:
        """Draw a number from [0, 1) for each row, shape (n,)."""
        return np.asarray((self._next() >> np.uint64(11)) * 2.0**-53, np.float64)

    def below(self, bounds: Array | int) -> NDArray[np.int64]:
        """Draw an integer from 0 to below its bound for each row, shape (n,)."""
        return (self.uniform() * bounds).astype(np.int64)

    def orders(self, lengths: Array) -> Ragged:
        """Draw a permutation of ``0, 1, ... length - 1`` for each row, all equally likely."""
        rows = Ragged.ranges(np.zeros_like(lengths), lengths)
        bits = _mixed(self._next()[rows.rows] + (rows.values + 1).astype(np.uint64) * _GOLDEN)
        # A row's number on top of 40 random bits sorts the bits within the rows.
        keys = (rows.rows.astype(np.uint64) << np.uint64(40)) | (bits >> np.uint64(24))
        order = np.argsort(keys, kind="stable")
        return rows.of(rows.values[order])

    def distinct(self, bounds: Array, count: int) -> NDArray[np.int64]:
        """Draw ``count`` different integers below its bound for each row, shape (n, count).

        Every set is equally likely (Floyd's algorithm); the order within a set is not random.
        """
        chosen = np.empty((len(self._keys), count), np.int64)
        for column in range(count):
            top = bounds - count + column
            drawn = self.below(top + 1)
            repeated = (chosen[:, :column] == drawn[:, None]).any(1)
            chosen[:, column] = np.where(repeated, top, drawn)
        return chosen

    def _next(self) -> Bits:
        self._draws += 1
        return _mixed(self._keys + np.uint64(self._draws * int(_GOLDEN) & 0xFFFFFFFFFFFFFFFF))


def combine(bits: Bits | np.uint64, numbers: Array | Bits) -> Bits:
    """Give every pair of bits and a number bits of its own."""
    return _mixed(_mixed(bits + (numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN))


def _mixed(bits: Bits) -> Bits:
    """SplitMix64's finaliser: every bit of the input changes half of the output's bits."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
