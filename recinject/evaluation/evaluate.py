"""Every recommender answers the same stored queries and is measured alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from recinject.data.schema import Catalog
from recinject.data.splitting import Part, Split
from recinject.engines import Engine, map_shards
from recinject.evaluation import audit
from recinject.evaluation.examples import draw_examples
from recinject.evaluation.fusion import Fusion
from recinject.evaluation.harm import Harm, corrected, cost_of_gain
from recinject.evaluation.lists import (
    ListMeasures,
    measure_slices,
    position_slope,
    slice_queries,
)
from recinject.evaluation.measures import Scope
from recinject.evaluation.metrics import (
    MetricResult,
    evaluate_prediction,
    main_metric,
    metric_names,
    parse_metric,
    positive_rating,
)
from recinject.evaluation.selection import (
    Blend,
    Validation,
    best_filters,
    choose_way,
    ways_of,
)
from recinject.evaluation.statistics import compare
from recinject.foundation.progress import say
from recinject.foundation.ragged import Array, Ragged
from recinject.foundation.randomness import derive_rng
from recinject.foundation.settings import MOST, Positive, Seed
from recinject.identifiers.data import ACTIVITY, Data
from recinject.recommenders.language_model import (
    GeneratedRatings,
    LanguageModel,
    RankedByRetrieval,
)
from recinject.recommenders.protocol import ItemScorer, Prediction, Queries, Recommender, Sources
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
    part: Part = Part.TEST,
    keeps_seen: bool = False,
) -> Queries:
    """Turn one task's stored samples of a part into queries, by their integer columns.

    The history of a query is what the sampler could see: the events before the query's own that
    belong to earlier parts of the split. With a ``limit``, so many queries are drawn by the seed.
    The draw depends on the number of samples only, so two wordings keep the same queries.
    ``keeps_seen`` says whether items of the history may be recommended.
    """
    if limit is not None and limit < len(samples):
        chosen = derive_rng(seed, "queries").choice(len(samples), size=limit, replace=False)
        samples = samples.take(np.sort(chosen))
    # The test's view has every event of the log in sight, and so counts them as the log does.
    view = replace(split.view(Part.TEST), is_history=split.parts < part)
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
        cold_share: the largest fractions of a list that items without training events may take,
            those of language models and of whoever knows items by their content.
        ranking_by: the task whose prompt a language model reads to rank a slate, ``ranking`` or
            ``retrieval``; ``auto`` asks both ways and takes the one that wins on validation.
        blend: whether the best baselines are blended, and language models with them, where there
            is one; the weights are chosen on validation.
        tune: whether the baselines' settings are chosen on validation, from grids of their own;
            or the values to choose from, by recommender and setting.
        validation_queries: how many validation queries of a task a choice rests on.
        positive_rating: the lowest rating that counts as positive in the AUC and the ECE; the
            training ratings' median if not given.
        examples: how many predictions of a task are drawn for people to read.
        groups: attributes of users whose groups are compared, such as ``gender``; ``activity`` is
            how many training events they have, in quarters of the users.
        provider: the column of the items that tells who provides them, such as ``brand``.
        harm: what of impact and harm is measured by asking again: names of measures, of their
            families, or ``all``.
        harm_queries: how many queries of a task each of these measures asks again at most.
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
    ranking_by: Literal["auto", "retrieval", "ranking"] = "auto"
    blend: bool = True
    tune: bool | Mapping[str, Mapping[str, Sequence[Any]]] = False
    validation_queries: Positive = 1000
    positive_rating: float | None = None
    examples: Annotated[int, Field(ge=0, le=MOST)] = 50
    groups: Sequence[str] = (ACTIVITY,)
    provider: str | None = None
    harm: Sequence[str] = ()
    harm_queries: Positive = 200

    @property
    def scope(self) -> Scope:
        """How impact and harm are measured."""
        length = max(self.cutoffs)
        own = self.groups, self.provider, length, self.resamples, self.seed, self.harm_queries
        return Scope(*own)


QUERIES_PER_SHARD = 1024


def ask(recommender: Recommender, queries: Queries, k: int, engine: Engine) -> Prediction:
    """Ask who reads prompts, 1,024 queries at a time, which an engine's workers share.

    In single precision the last bits of a score depend on which prompts share a batch, so the
    queries are cut alike whatever the engine: the answers are the same to the bit, if processes
    compute with equally many threads.
    """
    starts = range(0, len(queries), QUERIES_PER_SHARD)
    numbers = np.arange(len(queries))
    shards = [queries.take(numbers[start : start + QUERIES_PER_SHARD]) for start in starts]
    if not shards or not recommender.reads_prompts:
        return recommender.predict(queries, k)
    found = dict(map_shards(_ask_shard, (recommender, k), shards, engine))
    return Prediction.joined([found[shard] for shard in shards])


def _ask_shard(held: tuple[Recommender, int], queries: Queries) -> Prediction:
    recommender, k = held
    return recommender.predict(queries, k)


class Answer(NamedTuple):
    """A recommender's prediction with its figures."""

    prediction: Prediction
    metrics: list[MetricResult]


def fit_recommenders(
    recommenders: Iterable[Recommender],
    data: Data,
    seed: int,
    history_lengths: Mapping[str, int] | None = None,
) -> list[Recommender]:
    """Fit recommenders on the training events, and return those that could be.

    Those that rate are left out where the log has no ratings. ``history_lengths`` say how much
    they read, see :class:`~recinject.recommenders.protocol.Sources`.
    """
    fitted, training, view = [], data.split.train, data.split.view(Part.TRAIN)
    ratings, lengths = training.ratings, history_lengths or {}
    rated = training if ratings is None else training.select(~np.isnan(ratings))
    for recommender in recommenders:
        if "rating" not in recommender.tasks or ratings is not None:
            say(f"  fitting {recommender.name}")
            rates = recommender.tasks == {"rating"}
            recommender.read(Sources(data.catalog, view.rated() if rates else view, lengths))
            recommender.fit(rated if rates else training, seed)
            recommender.data = data  # type: ignore[misc]  # its own, beside the class's
            fitted.append(recommender)
    return fitted


_MOST_REPEATED = 0.05


@dataclass(frozen=True, eq=False)
class StoredQueries:
    """The stored samples of some data as queries."""

    data: Data
    samples: Samples
    settings: EvaluationSettings

    @cached_property
    def repeated(self) -> float:
        """The fraction of the test targets that stand in their own history."""
        return audit.repeated_targets(self.data.split)

    @property
    def keeps_seen(self) -> bool:
        """Whether items of a history may be recommended."""
        seen = self.settings.seen
        return self.repeated > _MOST_REPEATED if seen == "auto" else seen == "keep"

    def of(self, task: Task, split: str, part: Part = Part.TEST) -> Queries:
        """Return the queries of a task and split, of a part's events."""
        own, settings = read_samples(self.samples.folder, task.name, split), self.settings
        audit.refuse_strangers(own, self.data, part)
        limit = settings.limit
        if part is Part.VALIDATION:
            limit = min(limit or settings.validation_queries, settings.validation_queries)
        asked = limit, settings.seed, str(task.answer), part, self.keeps_seen
        queries = make_queries(own, self.data.split, *asked)
        return replace(queries, positive_rating=self.positive_rating(queries))

    def validation(self, task: Task) -> Validation | None:
        """Return the validation queries of a task, or None where there are none."""
        part = Part.VALIDATION
        own = (row for row in self.samples.rows if row["split"] == part.label)
        if not any(row["task"] == task.name and row["samples"] for row in own):
            return None
        queries = self.of(task, part.label, part)
        measured = metrics_of(task, self.settings)
        # NDCG tells more lists apart than the hit rate does.
        finer = [name for name in measured if name.startswith("ndcg@")]
        metric = finer[-1] if finer else main_metric(queries.kind, measured)
        return Validation(queries, metric, self.settings.list_length)

    def positive_rating(self, queries: Queries) -> float | None:
        """Return the lowest rating that counts as positive, where ratings are asked for."""
        ratings = self.data.split.train.ratings
        if queries.labels is None or ratings is None or self.settings.positive_rating is not None:
            return self.settings.positive_rating
        return positive_rating(ratings)


def metrics_of(task: Task, settings: EvaluationSettings) -> list[str]:
    """Return what measures a task's answers."""
    everything = metric_names(str(task.answer), settings.cutoffs)
    if task.metrics is None:
        return everything
    return [name for name in everything if name.partition("@")[0] in task.metrics]


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
        "positive_rating": queries.positive_rating,
        "chances": None if prediction.probabilities is None else list(prediction.probabilities),
        "text": prediction.texts,
    }
    return pd.DataFrame({name: column for name, column in columns.items() if column is not None})


_ROWS = ("metrics", "comparisons", "slices", "lists", "audit", "examples", "harm")


@dataclass(frozen=True, eq=False)
class _Turn:
    """Who answers the queries of one task, by the names that results have."""

    task: Task
    queries: Queries
    metrics: Sequence[str]
    validation: Validation | None
    own: Mapping[str, Recommender]  # who reads prompts
    ways: Mapping[str, Recommender]  # the same, asked in ways that lost on validation
    others: Sequence[Recommender]

    @property
    def everybody(self) -> dict[str, Recommender]:
        return {**self.own, **self.ways, **{each.name: each for each in self.others}}

    @property
    def models(self) -> dict[str, Recommender]:
        own = self.own.items()
        return {n: each for n, each in own if not isinstance(each, GeneratedRatings | Fusion)}


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
    engine: Engine = field(default_factory=Engine)  # where the test's prompts are read

    def run(self, tasks: Sequence[str] | None = None) -> None:
        """Audit the run, then ask every task that can be answered, or those named."""
        known = [task for task in self.samples.bound_tasks() if task.answer]
        for name in tasks or ():
            pick(name, [task.name for task in known], "tasks: no samples to ask are of the task")
        self.rows["audit"] += self._audit()
        for task in known:
            if tasks is None or task.name in tasks:
                self._ask(task)
        self.rows["harm"] = corrected(self.rows["harm"])

    @cached_property
    def _stored(self) -> StoredQueries:
        return StoredQueries(self.data, self.samples, self.settings)

    @property
    def _reads_prompts(self) -> bool:
        return any(each.reads_prompts for each in self.recommenders)

    def _audit(self) -> list[audit.Finding]:
        order = audit.time_order(self.data.split)
        if any(task.answer == "retrieval" for task in self.samples.bound_tasks()):
            order.append(audit.seen_targets(self._stored.repeated, self._stored.keeps_seen))
        doubles = audit.duplicates(self.data.catalog, self.data.identifiers.texts)
        if not self._reads_prompts:
            return [*order, *doubles]
        read, cut = audit.stored_samples(self.samples), audit.prompts(self.samples.rows)
        return [*order, *read, *doubles, *cut]

    def _ask(self, task: Task) -> None:
        turn = self._turn(task)
        if turn is None:
            return
        queries, own = turn.queries, len(turn.own)
        given = {name: self._predict(name, each, queries) for name, each in turn.everybody.items()}
        for prediction in given.values():
            self.rows["audit"] += audit.read_ratings(prediction)
        filters, blends = self._blends(turn, given)
        answers = self._measured([*given.values(), *filters], turn)
        if not own:
            answers = _best_first(queries.kind, answers, turn.others)
        joined = [row for each in turn.own.values() for row in self._with_cold_items(each, queries)]
        rivals = [row for each in turn.others for row in self._with_cold_items(each, queries)]
        more, beside = self._measured([*joined, *blends], turn), self._measured(rivals, turn)
        self._compare(answers, max(1, own), more, beside, queries)
        answers += [*more, *beside]
        described = [*given.values(), *filters, *blends]
        for name, each in turn.models.items():
            answers += self._asked_otherwise(name, each, turn)
        self.rows["metrics"] += [result for given in answers for result in given.metrics]
        self._slice(answers, queries)
        self._describe(answers, queries)
        self._show(answers[0].prediction, queries)
        self._assess(described, turn)

    def _turn(self, task: Task) -> _Turn | None:
        """Find who answers a task, and how; None where nobody does."""
        kind, stored = str(task.answer), StoredQueries(self.data, self.samples, self.settings)
        asked = [each for each in self.recommenders if kind in each.tasks]
        readers = [each for each in asked if each.reads_prompts]
        if not asked:
            return None
        queries, validation = stored.of(task, Part.TEST.label), None
        say(f"  {task.name}: {len(queries)} queries")
        if readers and (self.settings.blend or self.settings.ranking_by == "auto"):
            validation = stored.validation(task)
        if queries.positive_rating is not None:
            self.rows["audit"].append(audit.positive_from(queries.positive_rating))
        own, ways = dict[str, Recommender](), dict[str, Recommender]()
        for each in readers:
            found, why = choose_way(ways_of(each, kind), validation, self.settings.ranking_by)
            self.rows["audit"] += why
            own[each.name], *_ = found.values()
            ways |= dict(list(found.items())[1:])
            own |= {writer.name: writer for writer in self._writers(each, kind)}
        others = [each for each in asked if not each.reads_prompts]
        names = metrics_of(task, self.settings)
        return _Turn(task, queries, names, validation, own, ways, others)

    def _predict(self, name: str, recommender: Recommender, queries: Queries) -> Prediction:
        found = ask(recommender, queries, self.settings.list_length, self.engine)
        return replace(found, recommender=name)

    def _measured(self, predictions: Sequence[Prediction], turn: _Turn) -> list[Answer]:
        own, queries = self.settings, turn.queries
        drawn, found = (own.cutoffs, own.resamples, own.seed), list[Answer]()
        for each in predictions:
            frame = prediction_frame(each, queries, self.data.catalog)
            self.predictions[each.task, each.recommender] = frame
            measured = evaluate_prediction(each, queries, *drawn, turn.metrics)
            found.append(Answer(each, measured))
        return found

    def _writers(self, model: Recommender, kind: str) -> list[Recommender]:
        if kind != "rating" or not self.settings.generate or not isinstance(model, LanguageModel):
            return []
        writer = GeneratedRatings(model, self.samples.ratings.answers, self.settings.generation)
        writer.fit(self.data.split.train, self.settings.seed)
        return [writer]

    def _blends(
        self, turn: _Turn, given: Mapping[str, Prediction]
    ) -> tuple[list[Prediction], list[Prediction]]:
        """Blend the best baselines, and each model with them; nothing where no model is asked."""
        known, validation = [each for each in turn.others if not each.knows_truth], turn.validation
        if validation is None or len(known) < 2 or not self.settings.blend:
            return [], []
        filters = best_filters(known, validation)
        made = list[Prediction]()
        for name, members in (
            ("blend", filters),
            *((f"{name}_blend", [model, *filters]) for name, model in turn.models.items()),
        ):
            blend = Blend.chosen(name, members, validation)
            self.rows["audit"].append(blend.describe(validation))
            own = [given[name.removesuffix("_blend")]] if len(members) > len(filters) else []
            answers = [*own, *(given[each.name] for each in filters)]
            made.append(blend.predict(answers, turn.queries))
        return made[:1], made[1:]

    def _compare(
        self,
        answers: Sequence[Answer],
        own: int,
        joined: Sequence[Answer],
        rivals: Sequence[Answer],
        queries: Queries,
    ) -> None:
        """Compare each of the first ``own`` answers, and each joined one, with those after it.

        Lists that new items joined are compared with the rivals' that as many joined, too.
        """
        pairs = [(answers[place], answers[place + 1 :]) for place in range(own)]
        for each in joined:
            share = each.prediction.recommender.rpartition("_cold_")[2]
            alike = [r for r in rivals if r.prediction.recommender.rpartition("_cold_")[2] == share]
            pairs.append((each, [*answers[1:], *alike]))
        drawn = self.settings.resamples, self.settings.seed
        for one, others in pairs:
            asked = queries, [result.metric for result in one.metrics], *drawn
            references = [other.prediction for other in others]
            self.rows["comparisons"] += compare(one.prediction, references, *asked)

    def _with_cold_items(self, each: Recommender, queries: Queries) -> list[Prediction]:
        """Join cold items to retrieved lists, up to each of some fractions."""
        fractions, k = self.settings.cold_share, self.settings.list_length
        if queries.kind != "retrieval" or not fractions:
            return []
        n_items = len(self.data.catalog)
        cold = np.bincount(self.data.split.train.items, minlength=n_items) == 0
        if isinstance(each, ItemScorer):
            known = fractions if each.knows_new_items else ()
            return [each.with_new_items(queries, cold, fraction, k) for fraction in known]
        if not each.reads_prompts:
            return []
        listed, join = each.predict(queries, 2 * k), self.data.identifiers.join_cold_items
        return [join(listed, queries, cold, fraction, k) for fraction in fractions]

    def _asked_otherwise(self, name: str, model: Recommender, turn: _Turn) -> list[Answer]:
        """Ask a model in a wording that it never trained on, and with shuffled histories."""
        asked = {REWORDED: self.settings.reworded, SHUFFLED: self.settings.shuffled}
        stored = [row["split"] for row in self.samples.rows if row["task"] == turn.task.name]
        answers, queries = list[Answer](), StoredQueries(self.data, self.samples, self.settings)
        for split in (split for split in stored if asked.get(split)):
            other = model.otherwise(split) if isinstance(model, RankedByRetrieval) else model
            if other is not None:
                found = replace(turn, queries=queries.of(turn.task, split))
                given = self._predict(f"{name}_{split}", other, found.queries)
                answers += self._measured([given], found)
        return answers

    def _slice(self, answers: Sequence[Answer], queries: Queries) -> None:
        metric = main_metric(queries.kind, [result.metric for result in answers[0].metrics])
        slices = slice_queries(queries, self.data.split.train)
        asked = queries, slices, metric, self.settings.resamples, self.settings.seed
        for given in answers:
            self.rows["slices"] += measure_slices(given.prediction, *asked)

    def _describe(self, answers: Sequence[Answer], queries: Queries) -> None:
        length, drawn = max(self.settings.cutoffs), (self.settings.resamples, self.settings.seed)
        if queries.kind == "retrieval":
            measures = ListMeasures(self.data.split.train, self.data.catalog, length, *drawn)
            for given in answers:
                self.rows["lists"] += measures.describe(given.prediction, queries)
        if queries.kind == "ranking":
            readers = [each.name for each in self.recommenders if each.reads_prompts]
            for given in answers:
                slopes = position_slope(given.prediction, queries, length, *drawn)
                self.rows["lists"] += slopes
                found = [row for slope in slopes for row in audit.slate_order(slope, readers)]
                self.rows["audit"] += found

    @cached_property
    def _harm(self) -> Harm:
        return Harm(self.data, self.samples, self.settings.scope, self.settings.harm)

    def _assess(self, predictions: Sequence[Prediction], turn: _Turn) -> None:
        """Measure impact and harm: of the lists, and of answers to the same asked otherwise."""
        queries, kept = turn.queries, [each for each in turn.everybody.items() if _asks_again(each)]
        self.rows["harm"] += self._harm.of_lists(predictions, queries)
        asked = list(self._harm.of_asking(dict(kept), queries, self.settings.list_length))
        filters = [each.name for each in turn.others if not each.knows_truth]
        metrics = [row for row in self.rows["metrics"] if row.task == turn.task.name]
        self.rows["harm"] += [*asked, *cost_of_gain(asked, metrics, filters)]

    def _show(self, prediction: Prediction, queries: Queries) -> None:
        catalog, settings = self.data.catalog, self.settings
        self.rows["audit"] += audit.recommended_lists(prediction, queries, len(catalog))
        if queries.kind == "retrieval" and self._reads_prompts:
            self.rows["audit"] += audit.highest_id_rule(self.data.identifiers.numbers, queries)
        drawn = draw_examples(prediction, queries, catalog, settings.examples, settings.seed)
        self.rows["examples"] += drawn


def _asks_again(named: tuple[str, Recommender]) -> bool:
    return not isinstance(named[1], GeneratedRatings | RankedByRetrieval)


def _best_first(
    kind: str, answers: Sequence[Answer], recommenders: Sequence[Recommender]
) -> list[Answer]:
    """Put first the baseline that is best by the main metric; the others keep their order."""
    above = {each.name for each in recommenders if each.knows_truth}
    own = [given for given in answers if given.prediction.recommender not in above]
    rows = [row for given in own for row in given.metrics]
    if not rows:
        return list(answers)
    metric = main_metric(kind, [row.metric for row in rows])
    sign = 1 if parse_metric(metric)[0].better == "lower" else -1
    best = min((row for row in rows if row.metric == metric), key=lambda row: sign * row.value)
    return sorted(answers, key=lambda given: given.prediction.recommender != best.recommender)
