"""What the finished stages of a run say of themselves, in the rows that reports show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd

import recinject
from recinject.data.cleaning import CleaningStep
from recinject.evaluation.audit import Finding
from recinject.evaluation.evaluate import Example
from recinject.evaluation.lists import ListResult, SliceResult
from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import Comparison
from recinject.foundation.storage import read_json
from recinject.pipeline.identifiers_view import code_groups
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import Run, dialect_of
from recinject.pipeline.study import points
from recinject.reporting.headline import leader
from recinject.reporting.inputs import (
    LANGUAGE_MODEL,
    Confusion,
    DataFacts,
    ExpertUse,
    LossRow,
    ModelFacts,
    ReportInputs,
    SampleRow,
)
from recinject.tasks.shipped import Ranking

_BEFORE = ("data", "identifiers", "samples", "training", "evaluation")


def gather(run: Run) -> ReportInputs:
    """Gather everything that a finished run's report shows."""
    evaluation = run.folder("evaluation")
    stages = [stage for stage in _BEFORE if stage != "training" or run.recipe.training is not None]
    facts = {stage: run.manifest(stage).facts for stage in stages}
    experts = facts.get("training", {}).get("experts")
    first, last = facts["data"], facts["evaluation"]
    return ReportInputs(
        name=run.recipe.name,
        command=run.command,
        started=_moment(first["finished"] - first["seconds"]),
        finished=_moment(last["finished"]),
        version=recinject.__version__,
        seed=run.recipe.seed,
        durations={stage: facts[stage]["seconds"] for stage in stages},
        data=data_facts(run),
        samples=sample_rows(facts["samples"]["rows"]),
        model=_model_facts(run),
        training=_training_log(run),
        metrics=[MetricResult(**row) for row in read_json(evaluation / "metrics.json")],
        comparisons=[Comparison(**row) for row in read_json(evaluation / "comparisons.json")],
        audit=[Finding(**row) for row in read_json(evaluation / "audit.json")],
        examples=_examples(run),
        sampled_candidates=_negatives(run.recipe),
        slices=[SliceResult(**row) for row in read_json(evaluation / "slices.json")],
        lists=[ListResult(**row) for row in read_json(evaluation / "lists.json")],
        confusion=_confusion(run),
        shares=points(run),
        experts=ExpertUse(**experts) if experts else None,
        codes=code_groups(run.identifiers.texts, run.split[1].titles),
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def data_facts(run: Run) -> DataFacts:
    """Say where the log came from, what cleaning left of it and how it was split."""
    facts = run.manifest("data").facts
    return DataFacts(
        source=facts["source"],
        cleaning=[CleaningStep(**step) for step in facts["cleaning"]],
        split=run.recipe.data.split,
        train=facts["train"],
        validation=facts["validation"],
        test=facts["test"],
        tie_rate=facts.get("tie_rate"),
        future_share=facts.get("future_share"),
    )


def sample_rows(rows: Sequence[Mapping[str, Any]]) -> list[SampleRow]:
    """Turn what the samples stage wrote of each task and split into the report's rows."""
    found = []
    for row in rows:
        columns = {key: row[key] for key in ("task", "split", "samples")}
        if row["tokens"] and row["samples"]:
            mean = row["tokens"]["prompt_tokens"] / row["samples"]
            columns |= {key: row["tokens"][key] for key in ("max_prompt_tokens", "truncated")}
            columns["mean_prompt_tokens"] = mean
        found.append(SampleRow(**columns, templates=len(row["templates"])))
    return found


def _model_facts(run: Run) -> ModelFacts | None:
    recipe = run.recipe
    if not recipe.has_model:
        return None
    config = dict(recipe.model.config or {})
    kind = str(config.pop("model_type", "t5")).upper()
    settings = ", ".join(f"{key}={value}" for key, value in config.items())
    name = recipe.model.name or f"{kind} built here ({settings})"
    if recipe.training is None:
        total = run.manifest("evaluation").facts["parameters"]
        return ModelFacts(name, "not trained (zero-shot)", 0, total)
    facts = run.manifest("training").facts
    causal, rates = dialect_of(recipe)["causal"], recipe.model.head != "text"
    adaptation = "LoRA experts" if recipe.experts else "LoRA" if recipe.lora else "full"
    if recipe.model.low_rank:
        adaptation += ", low-rank layers"
    if rates:
        adaptation += f", {recipe.model.head} head"
    return ModelFacts(name, adaptation, facts["trainable"], facts["parameters"], causal, rates)


def _examples(run: Run) -> list[Example]:
    """Take as many of the drawn examples as the recipe asks for, dealt evenly over the tasks."""
    rows = [Example(**row) for row in read_json(run.folder("evaluation") / "examples.json")]
    tasks = list(dict.fromkeys(row.task for row in rows))
    by_task = [[row for row in rows if row.task == task] for task in tasks]
    dealt = [row for turn in zip_longest(*by_task) for row in turn if row is not None]
    chosen = dealt[: run.recipe.report.examples]
    return sorted(chosen, key=lambda row: tasks.index(row.task))


def _confusion(run: Run) -> Confusion | None:
    """Count how the model's predicted ratings, or the best baseline's, fall to the nearest."""
    evaluation = run.folder("evaluation")
    rows = [MetricResult(**row) for row in read_json(evaluation / "metrics.json")]
    if not any(row.task == "rating" for row in rows):
        return None
    name = LANGUAGE_MODEL if run.recipe.has_model else leader("rating", rows)
    frame = pd.read_parquet(evaluation / "predictions" / f"rating.{name}.parquet")
    values = np.unique(frame["label"])
    nearest = np.abs(frame["rating"].to_numpy()[:, None] - values).argmin(1)
    counts = np.zeros((len(values), len(values)), int)
    np.add.at(counts, (np.searchsorted(values, frame["label"]), nearest), 1)
    return Confusion(values.tolist(), counts.tolist())


def _training_log(run: Run) -> list[LossRow]:
    path = run.recipe.folder / "logs" / "train.jsonl"
    if run.recipe.training is None or not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = [field.name for field in fields(LossRow)]
    return [LossRow(**{name: row.get(name) for name in names}) for row in rows]


def _negatives(recipe: Recipe) -> int:
    slates = [task.negatives for task in recipe.tasks() if isinstance(task, Ranking)]
    return slates[0] if slates else Ranking().negatives
