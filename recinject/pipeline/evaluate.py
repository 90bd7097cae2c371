"""Evaluate: the model, if there is one, and the baselines answer the same stored queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recinject.data.splitting import Part
from recinject.evaluation import audit
from recinject.evaluation.evaluate import (
    Answer,
    Protocol,
    answer,
    compare_with_all,
    draw_examples,
    fit_baselines,
    measure,
    save_prediction,
)
from recinject.evaluation.lists import ListMeasures, measure_slices, slice_queries
from recinject.evaluation.queries import make_queries
from recinject.foundation.progress import say
from recinject.foundation.storage import write_json
from recinject.models.building import count_parameters
from recinject.models.storing import load_trained
from recinject.pipeline.model import base_model
from recinject.pipeline.run import Facts, Run, hash_local, is_first_process
from recinject.pipeline.sections import MOST_EXAMPLES
from recinject.pipeline.train import train
from recinject.recommenders.language_model import GeneratedRatings, LanguageModel
from recinject.recommenders.protocol import Prediction, Queries, Recommender, make_recommender
from recinject.reporting.headline import leader, main_metric
from recinject.samples.build import rating_labels
from recinject.samples.builder import REWORDED, SHUFFLED
from recinject.samples.store import read_samples
from recinject.templating.phrases import number_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from recinject.models.heads import RatingModel

_AUDITED_SAMPLES = 2000
_ROWS = ("metrics", "comparisons", "slices", "lists", "audit", "examples")


def evaluate(run: Run) -> None:
    """Make the folder ``evaluation``, and before it what it needs."""
    train(run)
    if not is_first_process():
        return
    recipe = run.recipe
    settings = {
        **recipe.evaluation.model_dump(),
        "model": recipe.model.model_dump(),
        "generation": recipe.generation,
    }
    if recipe.training is None:
        inputs = {**run.fingerprints("samples"), **hash_local(recipe.model.name)}
    else:
        inputs = run.fingerprints("samples", "training")
    run.stage("evaluation", settings, inputs).run(lambda folder: _evaluate(run, folder))


def _evaluate(run: Run, folder: Path) -> Facts:
    settings, seed = run.recipe.evaluation, run.recipe.seed
    predictions = folder / "predictions"
    predictions.mkdir()
    evaluation = _Evaluation(
        run=run,
        folder=predictions,
        protocol=Protocol(settings.beams, settings.cutoffs, settings.resamples, seed),
        model=_model(run),
        baselines=fit_baselines(
            [make_recommender(name) for name in settings.baselines], *run.split, seed
        ),
    )
    evaluation.rows["audit"] += map(asdict, _audit_run(run))
    for task in evaluation.tasks:
        evaluation.ask(task)
    for name, content in evaluation.rows.items():
        write_json(folder / f"{name}.json", content)
    return {"parameters": count_parameters(evaluation.model)[1]} if evaluation.model else {}


def _model(run: Run) -> PreTrainedModel | RatingModel | None:
    if not run.recipe.has_model:
        return None
    if run.recipe.training is None:
        return base_model(run.recipe, run.factory.tokenizer).eval()
    return load_trained(run.folder("training"))[0]


def _audit_run(run: Run) -> list[audit.Finding]:
    split, catalog = run.split
    if not run.recipe.has_model:
        return [*audit.time_order(split), *audit.duplicates(catalog, run.identifiers.texts)]
    rows = run.manifest("samples").facts["rows"]
    tokens = [row["tokens"] for row in rows if row["split"] == "train" and row["tokens"]]
    cut = sum(facts["truncated"] for facts in tokens)
    unknown = sum(facts["unknown_tokens"] for facts in tokens)
    return [
        *audit.time_order(split),
        audit.held_out_in_training(split, _named_in_training(run)),
        *audit.duplicates(catalog, run.identifiers.texts),
        *audit.prompts(sum(facts["samples"] for facts in tokens), cut, unknown),
    ]


def _named_in_training(run: Run) -> Iterator[tuple[int, set[int]]]:
    """Yield the users and items of training samples made anew, evenly over each task."""
    for builder in run.factory.builders():
        if builder.split == "train" and len(builder):
            step = max(1, len(builder) // _AUDITED_SAMPLES)
            contexts = builder.batch(np.arange(0, len(builder), step)).contexts
            for items in contexts.slots.values():
                for user, named in zip(contexts.users.tolist(), items.to_list(), strict=True):
                    yield user, set(named)


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """What stays the same from task to task, and the rows that gather."""

    run: Run
    folder: Path
    protocol: Protocol
    model: PreTrainedModel | RatingModel | None
    baselines: Sequence[Recommender]
    rows: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {name: [] for name in _ROWS}
    )

    @property
    def tasks(self) -> list[str]:
        asked = [task.name for task in self.run.recipe.tasks() if Part.TEST in task.parts]
        return [task for task in asked if task in LanguageModel.tasks]

    def ask(self, task: str) -> None:
        """Let everybody answer one task's queries; gather what came of it.

        The model is compared with every baseline; without a model, the best baseline is.
        """
        model = None if self.model is None else self.language_model(task, self.model)
        own: list[Recommender] = [model, *self.writers(model, task)] if model else []
        asked = [*own, *(b for b in self.baselines if task in b.tasks)]
        if not asked:
            return
        queries = self.queries(task, "test")
        say(f"  {task}: {len(queries)} queries")
        answers = [answer(each, queries, self.protocol) for each in asked]
        for given in answers:
            save_prediction(self.folder, given.prediction, queries, self.run.split[1])
            self.rows["audit"] += map(asdict, audit.read_ratings(given.prediction))
        if not model:
            answers = _best_first(task, answers)
        joined = self.with_cold_items(model, queries) if model else []
        self.compare(answers, max(1, len(own)), joined, queries)
        answers += [*joined, *(self.asked_otherwise(task, model) if model else [])]
        self.rows["metrics"] += [asdict(result) for given in answers for result in given.metrics]
        self.slice(answers, queries)
        self.describe(answers, queries)
        self.show(answers[0].prediction, queries)

    def writers(self, model: LanguageModel, task: str) -> list[GeneratedRatings]:
        """Let the model write its ratings freely, where that is asked for."""
        if task != "rating" or not self.run.recipe.evaluation.generate:
            return []
        split = self.run.split[0]
        writer = GeneratedRatings(model, rating_labels(split), self.run.recipe.generation)
        writer.fit(split.train, self.protocol.seed)
        return [writer]

    def compare(
        self, answers: Sequence[Answer], own: int, joined: Sequence[Answer], queries: Queries
    ) -> None:
        """Compare each of the first ``own`` answers, and each joined one, with those after it."""
        pairs = [(answers[place], answers[place + 1 :]) for place in range(own)]
        for one, others in [*pairs, *((each, answers[1:]) for each in joined)]:
            found = compare_with_all(one, others, queries, self.protocol)
            self.rows["comparisons"] += map(asdict, found)

    def with_cold_items(self, model: LanguageModel, queries: Queries) -> list[Answer]:
        """Join cold items to the lists that the model retrieves, up to each of some shares."""
        shares, k = self.run.recipe.evaluation.cold_share, self.protocol.list_length
        if queries.task != "retrieval" or not shares:
            return []
        split, catalog = self.run.split
        join = self.run.identifiers.join_cold_items
        cold = np.bincount(split.train.items, minlength=len(catalog)) == 0
        listed = model.predict(queries, 2 * k)
        found = [join(listed, queries, cold, share, k) for share in shares]
        for each in found:
            save_prediction(self.folder, each, queries, catalog)
        return [Answer(each, measure(each, queries, self.protocol)) for each in found]

    def asked_otherwise(self, task: str, model: LanguageModel) -> list[Answer]:
        """Ask the model in a wording that it never trained on, and with shuffled histories."""
        settings, factory = self.run.recipe.evaluation, self.run.factory
        asked = {REWORDED: settings.reworded, SHUFFLED: settings.shuffled}
        sampler = next(each for each in factory.tasks if each.name == task)
        answers = []
        for split in factory.variants(sampler):
            if asked[split]:
                queries, name = self.queries(task, split), f"{model.name}_{split}"
                given = answer(model, queries, self.protocol)
                metrics = [replace(result, recommender=name) for result in given.metrics]
                prediction = replace(given.prediction, recommender=name)
                save_prediction(self.folder, prediction, queries, self.run.split[1])
                answers.append(Answer(prediction, metrics))
        return answers

    def slice(self, answers: Sequence[Answer], queries: Queries) -> None:
        """Measure the answers by the task's main metric on slices of the queries."""
        metric = main_metric(queries.task, answers[0].metrics)
        slices = slice_queries(queries, self.run.split[0].train)
        for given in answers:
            self.rows["slices"] += map(
                asdict,
                measure_slices(
                    given.prediction,
                    queries,
                    slices,
                    metric,
                    self.protocol.resamples,
                    self.protocol.seed,
                ),
            )

    def describe(self, answers: Sequence[Answer], queries: Queries) -> None:
        """Say what the retrieved lists are like, whether they hit or not."""
        if queries.task == "retrieval":
            split, catalog = self.run.split
            length, protocol = max(self.protocol.cutoffs), self.protocol
            measures = ListMeasures(split.train, catalog, length, protocol.resamples, protocol.seed)
            for given in answers:
                self.rows["lists"] += map(asdict, measures.describe(given.prediction, queries))

    def show(self, prediction: Prediction, queries: Queries) -> None:
        """Audit the lists of the model, or of the best baseline, and draw examples from them."""
        catalog, recipe = self.run.split[1], self.run.recipe
        findings = audit.recommended_lists(prediction, queries, len(catalog))
        if queries.task == "retrieval" and recipe.has_model:
            findings += audit.highest_id_rule(self.run.identifiers.numbers, queries)
        self.rows["audit"] += map(asdict, findings)
        drawn = draw_examples(prediction, queries, catalog, MOST_EXAMPLES, recipe.seed)
        self.rows["examples"] += map(asdict, drawn)

    def queries(self, task: str, split: str) -> Queries:
        """Load the stored queries of a task."""
        samples = read_samples(self.run.folder("samples"), task, split)
        limit, seed = self.run.recipe.evaluation.limit, self.run.recipe.seed
        return make_queries(samples, self.run.split[0], limit, seed)

    def language_model(self, task: str, model: PreTrainedModel | RatingModel) -> LanguageModel:
        """Make the model a recommender that answers in the task's own words."""
        factory, recipe = self.run.factory, self.run.recipe
        rates = task == "rating"
        labels = {number_text(value): value for value in rating_labels(self.run.split[0])}
        return LanguageModel(
            model,
            factory.tokenizer,
            self.run.identifiers.texts if rates else factory.wordings[task].phrases["target"],
            labels if rates else None,
            max_prompt_tokens=recipe.samples.max_prompt_tokens,
            beams=recipe.evaluation.beams,
            rows_at_once=recipe.evaluation.batch_size * recipe.evaluation.beams,
        )


def _best_first(task: str, answers: Sequence[Answer]) -> list[Answer]:
    best = leader(task, [result for given in answers for result in given.metrics])
    return sorted(answers, key=lambda given: given.prediction.recommender != best)
