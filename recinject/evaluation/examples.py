"""Predictions in words, for people to read: hits and failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recinject.data.schema import Catalog, Flags
from recinject.foundation.randomness import derive_rng
from recinject.recommenders.protocol import Prediction, Queries

_SHOWN = 5


@dataclass(frozen=True)
class Example:
    """One prediction in words."""

    task: str
    prompt: str  # what the model read
    target: str  # the item asked for, by title
    answers: Sequence[str]  # the first recommended titles, or nothing for a rating
    outcome: str  # what came of it, in words
    hit: bool  # the target is in the first ten, or the rating less than half a star off


def draw_examples(
    prediction: Prediction, queries: Queries, catalog: Catalog, count: int, seed: int
) -> list[Example]:
    """Draw examples by the seed: hits and failures in turn, as far as there are both."""
    hits = _hits(prediction, queries)
    rng = derive_rng(seed, "examples", queries.task)
    good, bad = (rng.permutation(np.flatnonzero(kind)) for kind in (hits, ~hits))
    in_turn = np.stack([good[: len(bad)], bad[: len(good)]], axis=1).ravel()
    rows = np.concatenate([in_turn, good[len(bad) :], bad[len(good) :]])[:count]
    names = [title or name for title, name in zip(catalog.titles, catalog.item_ids, strict=True)]
    return [_example(prediction, queries, names, int(row), bool(hits[row])) for row in rows]


def _hits(prediction: Prediction, queries: Queries) -> Flags:
    if prediction.ratings is not None and queries.labels is not None:
        return np.asarray(np.abs(prediction.ratings - queries.labels) < 0.5)
    return np.zeros(len(queries), bool) if prediction.ahead is None else prediction.ahead < 10


def _example(
    prediction: Prediction, queries: Queries, names: Sequence[str], row: int, hit: bool
) -> Example:
    answers: list[str] = []
    if prediction.ratings is not None and queries.labels is not None:
        outcome = f"predicted {prediction.ratings[row]:.1f}, true {queries.labels[row]:g}"
    elif prediction.items is not None and prediction.ahead is not None:
        answers = [names[item] for item in prediction.items[row][:_SHOWN] if item >= 0]
        ahead = prediction.ahead[row]
        outcome = f"at rank {ahead + 1:.0f}" if np.isfinite(ahead) else "not in the list"
    prompt, target = queries.prompts[row], names[int(queries.targets[row])]
    return Example(queries.task, prompt, target, answers, outcome, hit)
