"""One task's evaluation: every recommender answers the same queries and is measured alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recinject.data.schema import Catalog, Flags
from recinject.data.splitting import Part, Split
from recinject.evaluation.metrics import MetricResult, evaluate_prediction
from recinject.evaluation.statistics import Comparison, compare
from recinject.foundation.progress import say
from recinject.foundation.randomness import derive_rng
from recinject.recommenders.protocol import Prediction, Queries, Recommender, Sources

_SHOWN = 5


@dataclass(frozen=True)
class Example:
    """One prediction in words.

    Attributes:
        task: the task.
        prompt: what the model read.
        target: the item asked for, by title.
        answers: the first recommended titles, or nothing for a rating.
        outcome: what came of it, in words.
        hit: whether the target is in the first ten, or the rating less than half a star off.
    """

    task: str
    prompt: str
    target: str
    answers: Sequence[str]
    outcome: str
    hit: bool


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
    if prediction.ahead is None:
        return np.zeros(len(queries), bool)
    return np.asarray(prediction.ahead < 10)


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
    return Example(
        task=queries.task,
        prompt=queries.prompts[row],
        target=names[int(queries.targets[row])],
        answers=answers,
        outcome=outcome,
        hit=hit,
    )


@dataclass(frozen=True)
class Protocol:
    """How every recommender of a run is measured.

    Attributes:
        list_length: how many items each recommends; the cutoff of ``mrr``.
        cutoffs: the list lengths of ``hr@K`` and ``ndcg@K``.
        resamples: how often the users are drawn anew for an interval.
        seed: the seed of those draws, the same for all.
    """

    list_length: int
    cutoffs: Sequence[int]
    resamples: int
    seed: int


@dataclass(frozen=True, eq=False)
class Answer:
    """A recommender's prediction with what it is worth."""

    prediction: Prediction
    metrics: list[MetricResult]


def fit_baselines(
    baselines: Iterable[Recommender], split: Split, catalog: Catalog, seed: int
) -> list[Recommender]:
    """Fit every baseline on the training view, and return them."""
    fitted, training = [], split.train
    sources = Sources(catalog, split.view(Part.TRAIN))
    for baseline in baselines:
        if "rating" not in baseline.tasks or training.ratings is not None:
            say(f"  fitting {baseline.name}")
            baseline.read(sources)
            baseline.fit(training, seed)
            fitted.append(baseline)
    return fitted


def answer(recommender: Recommender, queries: Queries, protocol: Protocol) -> Answer:
    """Let a recommender answer queries, and measure its answers."""
    prediction = recommender.predict(queries, protocol.list_length)
    return Answer(prediction, measure(prediction, queries, protocol))


def measure(prediction: Prediction, queries: Queries, protocol: Protocol) -> list[MetricResult]:
    """Measure answers by every metric of their task."""
    return evaluate_prediction(
        prediction, queries, protocol.cutoffs, protocol.resamples, protocol.seed
    )


def compare_with_all(
    first: Answer, others: Iterable[Answer], queries: Queries, protocol: Protocol
) -> list[Comparison]:
    """Compare one answer with each of the others by every metric, paired over users."""
    references = [other.prediction for other in others]
    metrics = [result.metric for result in first.metrics]
    return compare(
        first.prediction, references, queries, metrics, protocol.resamples, protocol.seed
    )


def save_prediction(
    folder: Path, prediction: Prediction, queries: Queries, catalog: Catalog
) -> None:
    """Write answers with the log's own ids, so that metrics can be had again without the model."""
    ids = np.array([*catalog.item_ids, None], dtype=object)
    columns = {
        "sample_id": list(queries.sample_ids),
        "user": queries.users,
        "target": queries.targets,
        "items": None if prediction.items is None else list(prediction.items),
        "target_item_id": ids[queries.targets],
        "item_ids": None if prediction.items is None else list(ids[prediction.items]),
        "scores": None if prediction.scores is None else list(prediction.scores),
        "ahead": prediction.ahead,
        "tied": prediction.tied,
        "rating": prediction.ratings,
        "label": queries.labels,
        "chances": None if prediction.probabilities is None else list(prediction.probabilities),
        "text": prediction.texts,
    }
    known = {name: column for name, column in columns.items() if column is not None}
    path = folder / f"{prediction.task}.{prediction.recommender}.parquet"
    pd.DataFrame(known).to_parquet(path, index=False)
