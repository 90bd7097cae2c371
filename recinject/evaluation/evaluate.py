"""Every recommender answers the same stored queries and is measured alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from recinject.data.schema import Catalog, Flags
from recinject.data.splitting import Part, Split
from recinject.evaluation import audit
from recinject.evaluation.lists import ListMeasures, measure_slices, slice_queries
from recinject.evaluation.metrics import (
    MetricResult,
    evaluate_prediction,
    main_metric,
    metric_names,
    parse_metric,
)
from recinject.evaluation.statistics import compare
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.foundation.ragged import Array, Ragged
from recinject.foundation.randomness import derive_rng
from recinject.foundation.settings import Positive, Seed
from recinject.identifiers.data import Data
from recinject.recommenders.language_model import GeneratedRatings, LanguageModel
from recinject.recommenders.protocol import Prediction, Queries, Recommender, Sources
from recinject.registry import pick
from recinject.samples.builder import REWORDED, SHUFFLED
from recinject.samples.samples import Samples
from recinject.samples.store import read_samples
from recinject.tasks.task import Task


def make_queries(
    samples: pa.Table,
    split: Split,
    limit: int | None = None,
    seed: int = 0,
    answer: str = "",
    keeps_seen: bool = False,
) -> Queries:
    """Turn one task's stored test samples into queries, by their integer columns.

    The history of a query is what the sampler could see: the events before the query's own that
    belong to earlier parts of the split. With a ``limit``, so many queries are drawn by the seed.
    The draw depends on the number of samples only, so two wordings keep the same queries.
    ``keeps_seen`` lets items of the history be recommended.
    """
    if limit is not None and limit < len(samples):
        chosen = derive_rng(seed, "queries").choice(len(samples), size=limit, replace=False)
        samples = samples.take(np.sort(chosen))
    view = split.view(Part.TEST)  # which has every event of the log in sight
    view = view.rated() if samples["label"].null_count == 0 else view
    histories = view.histories(samples["event"].to_numpy())
    items, ratings = view.interactions.items, view.interactions.ratings
    slates, labels = samples["candidates"].combine_chunks(), samples["label"]
    candidates = slates.flatten().to_numpy().reshape(len(samples), -1)
    return Queries(
        task=samples["task"][0].as_py(),
        sample_ids=samples["sample_id"].to_pylist(),
        prompts=samples["prompt"].to_pylist(),
        users=samples["user"].to_numpy(),
        histories=_rows(histories, items),
        targets=samples["target"].to_numpy(),
        candidates=None if slates.null_count else candidates,
        labels=None if labels.null_count else labels.to_numpy().astype(np.float64),
        history_ratings=None if ratings is None else _rows(histories, ratings),
        answer=answer,
        keeps_seen=keeps_seen,
    )


def _rows(events: Ragged, column: Array) -> list[Array]:
    return np.split(column[events.values], events.offsets[1:-1])[: len(events)]


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


@dataclass(frozen=True)
class EvaluationSettings:
    """How every recommender is asked and measured; see ``evaluation`` in a recipe.

    Attributes:
        list_length: how many items each recommends; the cutoff of ``mrr``.
        cutoffs: the list lengths of ``hr@K`` and ``ndcg@K``.
        resamples: how often the users are drawn anew for an interval, by ``seed``.
        limit: how many queries of a task to ask, drawn by the seed; None asks all.
        reworded: whether those that read prompts are asked in a wording never trained on, too.
        shuffled: whether they are asked with histories in random order, too.
        seen: whether items of a history may be recommended: ``keep`` them, or ``filter`` them
            out; ``auto`` keeps them where more than 5 % of the test targets are such items.
        generate: whether language models write their ratings freely, too.
        generation: parameters of ``transformers.GenerationConfig`` for that.
        cold_share: the largest fractions of a list that items without training events may take.
        examples: how many predictions of a task are drawn for people to read.
    """

    list_length: Positive = 20
    cutoffs: Annotated[Sequence[Positive], Field(min_length=1)] = (5, 10)
    resamples: Positive = 2000
    seed: Seed = 1
    limit: Positive | None = None
    reworded: bool = True
    shuffled: bool = True
    seen: Literal["auto", "filter", "keep"] = "auto"
    generate: bool = False
    generation: Mapping[str, Any] = field(default_factory=dict)
    cold_share: Sequence[Annotated[float, Field(ge=0, le=1)]] = ()
    examples: Annotated[int, Field(ge=0)] = 50


class Answer(NamedTuple):
    """A recommender's prediction with its figures."""

    prediction: Prediction
    metrics: list[MetricResult]


def fit_recommenders(
    recommenders: Iterable[Recommender], data: Data, seed: int
) -> list[Recommender]:
    """Fit recommenders on the training events, and return those that could be.

    Those that rate are left out where the log has no ratings.
    """
    fitted, training, view = [], data.split.train, data.split.view(Part.TRAIN)
    ratings = training.ratings
    rated = training if ratings is None else training.select(~np.isnan(ratings))
    for recommender in recommenders:
        if "rating" not in recommender.tasks or ratings is not None:
            say(f"  fitting {recommender.name}")
            rates = recommender.tasks == {"rating"}
            recommender.read(Sources(data.catalog, view.rated() if rates else view))
            recommender.fit(rated if rates else training, seed)
            recommender.data = data  # type: ignore[misc]  # its own, beside the class's
            fitted.append(recommender)
    return fitted


def prediction_frame(prediction: Prediction, queries: Queries, catalog: Catalog) -> pd.DataFrame:
    """Return answers as a frame, by index and by the log's own ids: metrics can be had from it."""
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
    return pd.DataFrame({name: column for name, column in columns.items() if column is not None})


_MOST_REPEATED = 0.05
_ROWS = ("metrics", "comparisons", "slices", "lists", "audit", "examples")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All recommenders asked all tasks, and what came of it.

    Those that read prompts come first, each compared with everybody after it. Where nobody reads
    prompts, the best comes first.

    What came of it so far is in ``rows``, by kind as in :data:`recinject.reporting.result.ROWS`,
    and in ``predictions``, the answers as a frame by task and recommender.
    """

    recommenders: Sequence[Recommender]  # fitted
    data: Data
    samples: Samples  # their stored test samples are the queries
    settings: EvaluationSettings
    rows: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _ROWS})
    predictions: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict)

    def run(self, tasks: Sequence[str] | None = None) -> None:
        """Audit the run, then ask every task that can be answered, or those named."""
        known = [task for task in self.samples.bound_tasks() if task.answer]
        for name in tasks or ():
            pick(name, [task.name for task in known], "tasks: no samples to ask are of the task")
        self.rows["audit"] += self._audit()
        for task in known:
            if tasks is None or task.name in tasks:
                self._ask(task)

    @cached_property
    def _repeated(self) -> float:
        return audit.repeated_targets(self.data.split)

    @property
    def _keeps_seen(self) -> bool:
        seen = self.settings.seen
        return self._repeated > _MOST_REPEATED if seen == "auto" else seen == "keep"

    @property
    def _reads_prompts(self) -> bool:
        return any(each.reads_prompts for each in self.recommenders)

    def _audit(self) -> list[audit.Finding]:
        order = audit.time_order(self.data.split)
        if any(task.answer == "retrieval" for task in self.samples.bound_tasks()):
            order.append(audit.seen_targets(self._repeated, self._keeps_seen))
        doubles = audit.duplicates(self.data.catalog, self.data.identifiers.texts)
        if not self._reads_prompts:
            return [*order, *doubles]
        read, cut = audit.stored_samples(self.samples), audit.prompts(self.samples.rows)
        return [*order, *read, *doubles, *cut]

    def _ask(self, task: Task) -> None:
        kind = str(task.answer)
        asked = [each for each in self.recommenders if kind in each.tasks]
        readers = [each for each in asked if each.reads_prompts]
        if not asked:
            return
        own = [own for each in readers for own in (each, *self._writers(each, kind))]
        asked = [*own, *(each for each in asked if not each.reads_prompts)]
        queries, names = self._queries(task, Part.TEST.label), self._metrics(task)
        say(f"  {task.name}: {len(queries)} queries")
        k = self.settings.list_length
        answers = [self._measured(each.predict(queries, k), queries, names) for each in asked]
        for given in answers:
            self.rows["audit"] += audit.read_ratings(given.prediction)
        if not own:
            answers = _best_first(kind, answers)
        joined = [row for each in readers for row in self._with_cold_items(each, queries, names)]
        self._compare(answers, max(1, len(own)), joined, queries)
        answers += joined
        for each in readers:
            answers += self._asked_otherwise(task, each, names)
        self.rows["metrics"] += [result for given in answers for result in given.metrics]
        self._slice(answers, queries)
        self._describe(answers, queries)
        self._show(answers[0].prediction, queries)

    def _metrics(self, task: Task) -> list[str]:
        everything = metric_names(str(task.answer), self.settings.cutoffs)
        if task.metrics is None:
            return everything
        return [name for name in everything if name.partition("@")[0] in task.metrics]

    def _measured(self, prediction: Prediction, queries: Queries, metrics: Sequence[str]) -> Answer:
        key = prediction.task, prediction.recommender
        self.predictions[key] = prediction_frame(prediction, queries, self.data.catalog)
        own = self.settings
        drawn = own.cutoffs, own.resamples, own.seed
        return Answer(prediction, evaluate_prediction(prediction, queries, *drawn, metrics))

    def _writers(self, model: Recommender, kind: str) -> list[Recommender]:
        if kind != "rating" or not self.settings.generate or not isinstance(model, LanguageModel):
            return []
        writer = GeneratedRatings(model, self.samples.ratings.answers, self.settings.generation)
        writer.fit(self.data.split.train, self.settings.seed)
        return [writer]

    def _compare(
        self, answers: Sequence[Answer], own: int, joined: Sequence[Answer], queries: Queries
    ) -> None:
        """Compare each of the first ``own`` answers, and each joined one, with those after it."""
        pairs = [(answers[place], answers[place + 1 :]) for place in range(own)]
        drawn = self.settings.resamples, self.settings.seed
        for one, others in [*pairs, *((each, answers[1:]) for each in joined)]:
            asked = queries, [result.metric for result in one.metrics], *drawn
            references = [other.prediction for other in others]
            self.rows["comparisons"] += compare(one.prediction, references, *asked)

    def _with_cold_items(
        self, model: Recommender, queries: Queries, metrics: Sequence[str]
    ) -> list[Answer]:
        """Join cold items to the lists that a model retrieves, up to each of some fractions."""
        fractions, k = self.settings.cold_share, self.settings.list_length
        if queries.kind != "retrieval" or not fractions:
            return []
        n_items = len(self.data.catalog)
        cold = np.bincount(self.data.split.train.items, minlength=n_items) == 0
        listed, join = model.predict(queries, 2 * k), self.data.identifiers.join_cold_items
        joined = [join(listed, queries, cold, fraction, k) for fraction in fractions]
        return [self._measured(each, queries, metrics) for each in joined]

    def _asked_otherwise(
        self, task: Task, model: Recommender, metrics: Sequence[str]
    ) -> list[Answer]:
        """Ask a model in a wording that it never trained on, and with shuffled histories."""
        asked = {REWORDED: self.settings.reworded, SHUFFLED: self.settings.shuffled}
        stored = [row["split"] for row in self.samples.rows if row["task"] == task.name]
        answers = []
        for split in (split for split in stored if asked.get(split)):
            queries = self._queries(task, split)
            given = model.predict(queries, self.settings.list_length)
            named = replace(given, recommender=f"{model.name}_{split}")
            answers.append(self._measured(named, queries, metrics))
        return answers

    def _slice(self, answers: Sequence[Answer], queries: Queries) -> None:
        metric = main_metric(queries.kind, [result.metric for result in answers[0].metrics])
        slices = slice_queries(queries, self.data.split.train)
        asked = queries, slices, metric, self.settings.resamples, self.settings.seed
        for given in answers:
            self.rows["slices"] += measure_slices(given.prediction, *asked)

    def _describe(self, answers: Sequence[Answer], queries: Queries) -> None:
        if queries.kind == "retrieval":
            of, length = (self.data.split.train, self.data.catalog), max(self.settings.cutoffs)
            measures = ListMeasures(*of, length, self.settings.resamples, self.settings.seed)
            for given in answers:
                self.rows["lists"] += measures.describe(given.prediction, queries)

    def _show(self, prediction: Prediction, queries: Queries) -> None:
        catalog, settings = self.data.catalog, self.settings
        self.rows["audit"] += audit.recommended_lists(prediction, queries, len(catalog))
        if queries.kind == "retrieval" and self._reads_prompts:
            self.rows["audit"] += audit.highest_id_rule(self.data.identifiers.numbers, queries)
        drawn = draw_examples(prediction, queries, catalog, settings.examples, settings.seed)
        self.rows["examples"] += drawn

    def _queries(self, task: Task, split: str) -> Queries:
        samples = read_samples(self.samples.folder, task.name, split)
        refuse_strangers(samples, self.data, Part.TEST)
        limit, seed = self.settings.limit, self.settings.seed
        own = str(task.answer), self._keeps_seen
        return make_queries(samples, self.data.split, limit, seed, *own)


def refuse_strangers(samples: pa.Table, data: Data, part: Part | None = None) -> None:
    """Refuse samples that were not made of these data: their histories would be others'.

    ``part`` is what their events must belong to; None allows any, and samples without an event.
    """
    if part is None:
        samples = samples.filter(pc.is_valid(samples["event"]))
    log = data.split.interactions
    event, user, target = (samples[name].to_numpy() for name in ("event", "user", "target"))
    ids, users = np.array(data.catalog.item_ids, object), np.array(log.user_ids, object)
    known = len(samples) == 0 or (
        event.max() < len(log)
        and np.array_equal(log.users[event], user)
        and np.array_equal(log.items[event], target)
        and (part is None or bool((data.split.parts[event] == part).all()))
        and ids[target].tolist() == samples["target_item_id"].to_pylist()
        and users[user].tolist() == samples["user_id"].to_pylist()
    )
    if not known:
        hint = "give the data that build_samples had, or build samples of these"
        raise RecinjectError("the samples were not made of these data", hint=hint)


def _best_first(kind: str, answers: Sequence[Answer]) -> list[Answer]:
    """Put first whoever is best by the main metric; the others keep their order."""
    rows = [row for given in answers for row in given.metrics]
    if not rows:
        return list(answers)
    metric = main_metric(kind, [row.metric for row in rows])
    sign = 1 if parse_metric(metric)[0].better == "lower" else -1
    best = min((row for row in rows if row.metric == metric), key=lambda row: sign * row.value)
    return sorted(answers, key=lambda given: given.prediction.recommender != best.recommender)
