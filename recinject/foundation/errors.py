"""The one kind of error for what a user can mend; its hint says how."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any

_MOST_LISTED, _NEAREST = 40, 5


class RecinjectError(Exception):
    """Something that the user can mend: the message names place and fact, the hint the fix.

    Examples:
        >>> str(RecinjectError("log.csv: no column 'user'", hint="set data.columns.user_id"))
        "log.csv: no column 'user'\\n  fix: set data.columns.user_id"
    """

    exit_code = 2  # of a command that ends with it

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is rebuilt from its arguments, and the hint is given by name.
        return partial(type(self), hint=self.hint), (self.message,)

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.hint}"


class StoppedError(RecinjectError):
    """Work ended early through no mistake of a setting; what is done stays for the next start."""

    exit_code = 1


def pick(name: str, legal: Iterable[str], what: str) -> str:
    """Return a name if it is legal.

    Raises:
        RecinjectError: it is not; the message begins with ``what``, and names the nearest one.

    >>> pick("ease", ["ease", "als"], "evaluation.baselines: unknown recommender")
    'ease'
    >>> pick("eas", ["ease", "als"], "evaluation.baselines: unknown recommender")
    Traceback (most recent call last):
    recinject.foundation.errors.RecinjectError: evaluation.baselines: unknown recommender 'eas'
      fix: did you mean 'ease'? Legal: als, ease
    """
    legal = list(legal)
    if name not in legal:
        raise RecinjectError(f"{what} {name!r}", hint=did_you_mean(str(name), legal))
    return name


def did_you_mean(wrong: str | Sequence[str], legal: Iterable[str]) -> str:
    """Say which legal names a wrong one, or several, most likely meant; list them, if few all.

    >>> did_you_mean("lerning_rate", ["learning_rate", "seed"])
    "did you mean 'learning_rate'? Legal: learning_rate, seed"
    >>> did_you_mean("x", ["seed"])
    'Legal: seed'
    >>> did_you_mean("n8", [f"n{number}" for number in range(30, 99)])
    "did you mean 'n98'? Legal, of 69: n98, n89, n88, n87, n86"
    """
    names = sorted(legal)
    asked = [wrong] if isinstance(wrong, str) else wrong
    found = [difflib.get_close_matches(name, names, n=_NEAREST, cutoff=0.6) for name in asked]
    near = [close for close in found if close]
    listing = f"Legal: {', '.join(names) or 'none'}"
    if near and len(names) > _MOST_LISTED:
        listing = f"Legal, of {len(names)}: {', '.join(dict.fromkeys(chain(*near)))}"
    meant = " and ".join(repr(close[0]) for close in near)
    return f"did you mean {meant}? {listing}" if near else listing
