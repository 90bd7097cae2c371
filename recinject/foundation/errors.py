"""One kind of error for everything a user can mend, with the mending in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any


class RecinjectError(Exception):
    """Something the user can mend: the message names place and fact, the hint the fix.

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


def did_you_mean(wrong: str | Sequence[str], legal: Iterable[str]) -> str:
    """Say which legal names a wrong one, or several, most likely meant, and list them all.

    Examples:
        >>> did_you_mean("lerning_rate", ["learning_rate", "seed"])
        "did you mean 'learning_rate'? Legal: learning_rate, seed"
        >>> did_you_mean("x", ["seed"])
        'Legal: seed'
    """
    names = sorted(legal)
    listing = "Legal: " + (", ".join(names) or "none")
    asked = [wrong] if isinstance(wrong, str) else wrong
    near = [close for name in asked for close in difflib.get_close_matches(name, names, n=1)]
    return f"did you mean {' and '.join(map(repr, near))}? {listing}" if near else listing
