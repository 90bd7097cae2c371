"""The result of a finished run: the stored rows and predictions, and the facts of its stages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from recinject.data.cleaning import CleaningStep
from recinject.data.findings import Finding
from recinject.evaluation.examples import Example
from recinject.foundation.errors import RecinjectError
from recinject.foundation.seals import find_damage
from recinject.pipeline.check import code_groups
from recinject.pipeline.run import Run
from recinject.reporting.result import (
    DataFacts,
    ExpertUse,
    Facts,
    LossRow,
    ModelFacts,
    Result,
    SampleRow,
)
from recinject.tasks.task import Ranking


def result_of(run: Run) -> Result:
    """Load the result of a finished run, with all facts that its report shows."""
    trained = ["model"] if run.recipe.training is not None else []
    stages = ["data", "identifiers", "samples", *trained, "evaluation"]
    known = {stage: run.manifest(stage).facts for stage in stages}
    experts = known.get("model", {}).get("experts")
    rankings = [task for task in run.recipe.tasks() if isinstance(task, Ranking)]
    first, last = known["data"], known["evaluation"]
    facts = Facts(
        name=run.recipe.name,
        command=run.command,
        started=_moment(first["finished"] - first["seconds"]),
        finished=_moment(last["finished"]),
        seed=run.recipe.seed,
        durations={stage: known[stage]["seconds"] for stage in stages},
        data=data_facts(run),
        samples=sample_rows(known["samples"]["rows"]),
        model=_model_facts(run),
        training=_training_log(run),
        sampled_candidates=[*rankings, Ranking()][0].negatives,
        experts=ExpertUse(**experts) if experts else None,
        codes=code_groups(run.data.identifiers.texts, run.data.catalog.titles),
    )
    stored = Result.load(run.sealed("evaluation"))
    examples = _dealt(stored.rows["examples"], run.recipe.report.examples)
    return replace(stored, rows={**stored.rows, "examples": examples}, facts=facts)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def data_facts(run: Run) -> DataFacts:
    """Say where the log came from, what cleaning left of it and how it was split."""
    facts = run.manifest("data").facts
    columns = {field.name: facts[field.name] for field in fields(DataFacts) if field.name in facts}
    cleaning = [CleaningStep(**step) for step in facts["cleaning"]]
    findings = [Finding.of_dict(each) for each in facts.get("findings", ())]
    own = {"cleaning": cleaning, "findings": findings, "split": run.recipe.data.split}
    return DataFacts(**columns | own)


def sample_rows(rows: Sequence[Mapping[str, Any]]) -> list[SampleRow]:
    """Turn what the samples stage wrote of each task and split into the report's rows."""
    found = []
    for row in rows:
        known: list[Any] = [None] * 3
        if (tokens := row["tokens"]) and row["samples"]:
            mean = tokens["prompt_tokens"] / row["samples"]
            known = [mean, tokens["max_prompt_tokens"], tokens["truncated"]]
        own = row["task"], row["split"], row["samples"], len(row["templates"])
        found.append(SampleRow(*own, *known))
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
    facts = run.manifest("model").facts
    causal, rates = run.samples.dialect.causal, recipe.model.head != "text"
    adaptation = "LoRA experts" if recipe.experts else "LoRA" if recipe.lora else "full"
    if recipe.model.low_rank:
        adaptation += ", low-rank layers"
    if rates:
        adaptation += f", {recipe.model.head} head"
    return ModelFacts(name, adaptation, facts["trainable"], facts["parameters"], causal, rates)


def _dealt(rows: Sequence[Example], count: int) -> list[Example]:
    """Take as many of the drawn examples as are asked for, dealt evenly over the tasks."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    by_task = [[row for row in rows if row.task == task] for task in tasks]
    dealt = [row for turn in zip_longest(*by_task) for row in turn if row is not None]
    return sorted(dealt[:count], key=lambda row: tasks.index(row.task))


def _training_log(run: Run) -> list[LossRow]:
    path = run.folder("training") / "log.jsonl"
    if run.recipe.training is None:
        return []
    if damage := find_damage(path.parent, {path.name: run.manifest("model").facts["log"]}):
        hint = f"remove {path.parent} and {run.folder('model')}, and 'recinject run' trains again"
        raise RecinjectError(damage, hint=hint)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = [field.name for field in fields(LossRow)]
    return [LossRow(**{name: row.get(name) for name in names}) for row in rows]
