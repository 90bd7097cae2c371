"""Tokens that many users share by a hash of their id, as TIGER has them (arXiv 2305.05065)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pandas.util import hash_array

from recinject.foundation.randomness import combine, derive_bits


def user_tokens(count: int) -> tuple[str, ...]:
    """Return the texts that a tokenizer must read as one token each."""
    return tuple(f"<user_{number}>" for number in range(count))


def name_users(user_ids: Sequence[str], count: int, seed: int) -> list[str]:
    """Give each user one of ``count`` tokens, by the id alone: no order of users shows.

    Examples:
        >>> name_users(["ann", "bob", "ann"], 2000, seed=1)
        ['<user_1269>', '<user_100>', '<user_1269>']
    """
    hashed = hash_array(np.array(user_ids, object), categorize=True)
    tokens = user_tokens(count)
    return [tokens[number] for number in combine(derive_bits(seed, "users"), hashed) % count]
