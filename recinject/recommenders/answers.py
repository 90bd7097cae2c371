"""Ratings that a language model writes freely: the text, parsed to a number or set aside."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recinject.data.schema import Flags, Floats, Interactions
from recinject.recommenders.averages import mean_rating
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Prediction, Queries, Recommender

_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_WORDS = {name: float(number) for number, name in enumerate(_NAMES)}
_DIGITS = r"(?<![\w.,])[-\u2212]?\d+(?:[.,]\d+)?"
# "this one" is no rating, as "one star" is.
_NAMED = rf"^one\b|\bone(?= star| out of| ?/)|\b(?:{'|'.join(_NAMES[2:])})\b"
_NUMBER = rf"({_DIGITS}|{_NAMED})"
_FIRST = (re.compile(_DIGITS), re.compile(_NAMED))
_HALF = re.compile(rf"{_NUMBER}(?: and a half| 1/2)")
_SHARE = re.compile(rf"{_NUMBER}(?: stars?)? ?(?:/|out of|of) ?{_NUMBER}")
_CHOICE = re.compile(rf"{_NUMBER} ?(?:-|\u2013|or|to|and) ?{_NUMBER}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MARKUP = re.compile(r"[*_`\"'“”\u2018\u2019]")


def parse_rating(text: str, lowest: float, highest: float) -> float | None:
    """Read the rating off an answer; None where it states none, or none that the scale has.

    The first line that has any characters counts, and in it the first number; a word for a number
    counts where there are no digits before it. What the scale does not have is never clamped.
    On a scale from 1 to 5:

    ==========================================  ======  ========================================
    answer                                      rating  why
    ==========================================  ======  ========================================
    ``4``, ``4.``, ``**4**``, ``4 stars``       4       punctuation, markup and units pass
    ``4.5 stars``, ``4,5``, ``4½``              4.5     between the labels is on the scale
    ``five``, ``four and a half``               5, 4.5  numbers in words, from zero to ten
    ``I would say 3``                           3       the first number
    ``4/5``, ``4 out of 5``, ``8/10``           4       a share of the scale's highest rating
    ``1-5: 4``, ``from 1 to 5, a 4``            4       the scale itself is no answer
    ``3 or 4``, ``3-4``, ``3 to 4``             None    a choice between two is no answer
    ``10``, ``-1``, ``0``, ``4,000``, ``1/10``  None    not on the scale
    empty, ``NaN``, ``good``, ``1-5``           None    no number
    ==========================================  ======  ========================================

    Args:
        text: the answer.
        lowest: the scale's lowest rating.
        highest: its highest.
    """
    plain = unicodedata.normalize("NFKC", text.replace("½", " 1/2"))
    plain = _MARKUP.sub("", plain).lower()
    line = next((line.strip() for line in plain.splitlines() if line.strip()), "")
    scale = rf"(?<![\d.]){lowest:g} ?(?:-|\u2013|to) ?{highest:g}(?![\d.]\d)"
    line = _THOUSANDS.sub("", re.sub(scale, "", line))
    found = sorted((m.start(), m[0]) for m in (kind.search(line) for kind in _FIRST) if m)
    if not found or _CHOICE.match(line, found[0][0]):
        return None
    start, number = found[0]
    share = _SHARE.match(line, start)
    value = _value(number) + 0.5 * (_HALF.match(line, start) is not None)
    if share and not _HALF.match(line, start):
        whole = _value(share[2])
        value = value * highest / whole if whole > 0 else np.nan
    return value if lowest <= value <= highest else None


def _value(number: str) -> float:
    return (
        _WORDS[number]
        if number in _WORDS
        else float(number.replace(",", ".").replace("\u2212", "-"))
    )


@dataclass(frozen=True, eq=False)
class WrittenRatings(Prediction):
    """Ratings read off texts.

    Attributes:
        parsed: which texts state a rating; the others have the fallback, shape (n,).
    """

    parsed: Flags | None = None


class GeneratedRatings(Recommender):
    """Lets a language model write its rating freely, and reads the number off the text.

    Where the text states no rating of the scale, the answer is the user's past mean: that of the
    ratings in the query's history, or without any the global mean of the training ratings.

    Args:
        model: it writes.
        labels: the scale's ratings.
        generation: see :meth:`~recinject.recommenders.language_model.LanguageModel.write`.
    """

    name: ClassVar[str] = "language_model_generated"
    tasks: ClassVar[frozenset[str]] = frozenset({"rating"})

    def __init__(
        self,
        model: LanguageModel,
        labels: Sequence[float],
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = model
        self._scale = min(labels), max(labels)
        self._generation = generation
        self._seed = 0

    def fit(self, training: Interactions, seed: int) -> None:
        """Take the mean of all training ratings, for users without a past.

        Raises:
            RecinjectError: the training events have no ratings.
        """
        self._mean, self._seed = mean_rating(training, self.name), seed

    def predict(self, queries: Queries, k: int) -> WrittenRatings:
        """Ask for one rating a query; ``k`` plays no part."""
        texts = self._model.write(queries, self._generation, self._seed)
        found = [parse_rating(text, *self._scale) for text in texts]
        parsed = np.array([rating is not None for rating in found], bool)
        said = np.array([np.nan if rating is None else rating for rating in found], np.float64)
        ratings = np.where(parsed, said, self._past_means(queries))
        return WrittenRatings(self.name, queries.task, ratings=ratings, texts=texts, parsed=parsed)

    def _past_means(self, queries: Queries) -> Floats:
        pasts = queries.history_ratings or [np.empty(0)] * len(queries)
        means = [past.mean() if len(past) else self._mean for past in pasts]
        return np.array(means, np.float64)
