"""One kind of error for everything a user can mend, with the mending in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial
from typing import Any

_MOST_LISTED, _NEAREST = 30, 5


class RecinjectError(Exception):
    """Something the user can mend: the message names place and fact, the hint the fix.

    Args:
        message: where it happened and what is wrong, in one sentence.
        hint: what to do about it, in one sentence.

    Examples:
        >>> str(RecinjectError("log.csv: no column 'user'", hint="set data.columns.user_id"))
        "log.csv: no column 'user'\\n  fix: set data.columns.user_id"
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is rebuilt from its arguments, and the hint is given by name.
        return partial(type(self), hint=self.hint), (self.message,)

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.hint}"


def did_you_mean(name: str, legal: Iterable[str]) -> str:
    """Say which legal name a wrong one most likely meant, and list them, if few all of them.

    Examples:
        >>> did_you_mean("lerning_rate", ["learning_rate", "seed"])
        "did you mean 'learning_rate'? Legal: learning_rate, seed"
        >>> did_you_mean("x", ["seed"])
        'Legal: seed'
        >>> did_you_mean("n8", [f"n{number}" for number in range(30, 99)])
        "did you mean 'n98'? Legal, of 69: n98, n89, n88, n87, n86"
    """
    names = sorted(legal)
    near = difflib.get_close_matches(name, names, n=_NEAREST, cutoff=0.6)
    listing = f"Legal: {', '.join(names) or 'none'}"
    if near and len(names) > _MOST_LISTED:
        listing = f"Legal, of {len(names)}: {', '.join(near)}"
    return f"did you mean {near[0]!r}? {listing}" if near else listing
