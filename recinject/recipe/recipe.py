"""The recipe: what a run is made of, section by section."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.recipe.refusals import explain
from recinject.recipe.sections import (
    AblationSection,
    DataSection,
    EvaluationSection,
    IdentifiersSection,
    ModelSection,
    ReportSection,
    SamplesSection,
    Section,
    StudySection,
    TrainingSection,
)
from recinject.tasks.registry import task_type
from recinject.tasks.task import Task


class Recipe(Section):
    """One experiment, from the log to the report."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    runs: Path = Path("runs")
    seed: int = 1
    data: DataSection = DataSection()
    identifiers: IdentifiersSection = IdentifiersSection()
    samples: SamplesSection = SamplesSection()
    model: Annotated[ModelSection, BeforeValidator(lambda given: {} if given is None else given)]
    lora: dict[str, Any] | None = None
    training: TrainingSection | None
    generation: dict[str, Any] = {}
    evaluation: EvaluationSection = EvaluationSection()
    report: ReportSection = ReportSection()
    ablation: AblationSection | None = None
    study: StudySection | None = None

    @model_validator(mode="after")
    def _nothing_without_a_model(self) -> Recipe:
        if self.has_model:
            return self
        for section, given in (("training", self.training), ("lora", self.lora)):
            if given is not None:
                raise RecinjectError(
                    f"{section}: given, but the model has neither name nor config",
                    hint=f"name a model or give it a config, or set {section}=null to evaluate "
                    "the baselines alone",
                )
        if not self.evaluation.baselines:
            raise RecinjectError(
                "evaluation.baselines: none, and without a model nobody is left to evaluate",
                hint="name some baselines, or a model",
            )
        return self

    @model_validator(mode="after")
    def _head_has_its_task(self) -> Recipe:
        head = self.model.head
        if head == "text" or not self.has_model:
            return self
        others = [name for name, given in self.samples.tasks.items() if given is not None]
        if others != ["rating"]:
            raise RecinjectError(
                f"model.head: {head} answers the task rating alone, and there is "
                f"{', '.join(name for name in others if name != 'rating') or 'no such task'}",
                hint="set every other task to null, as in samples.tasks.retrieval=null, or "
                "model.head=text",
            )
        if self.training is None:
            raise RecinjectError(
                f"model.head: a {head} head that is not trained knows nothing",
                hint="give a training section, or set model.head=text",
            )
        if self.evaluation.generate:
            raise RecinjectError(
                f"evaluation.generate: a {head} head writes nothing",
                hint="set evaluation.generate=false, or model.head=text",
            )
        return self

    @property
    def has_model(self) -> bool:
        """Whether there is a language model; without one the baselines are evaluated alone."""
        return self.model.name is not None or self.model.config is not None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.runs / self.name

    def tasks(self) -> list[Task]:
        """Return the samplers with their settings; a task set to null is left out.

        Raises:
            RecinjectError: an unknown task or setting, or a value of the wrong kind.
        """
        chosen = self.samples.tasks.items()
        folder = self.samples.prompts
        return [_make_task(name, given, folder) for name, given in chosen if given is not None]


def _make_task(name: str, settings: Mapping[str, Any], folder: Path | None) -> Task:
    kind = task_type(name, folder)
    legal = [field.name for field in dataclasses.fields(kind)]
    for key in settings:
        if key not in legal:
            raise RecinjectError(
                f"samples.tasks.{name}: unknown key {key!r}", hint=did_you_mean(key, legal)
            )
    try:
        return TypeAdapter(kind).validate_python(settings)
    except ValidationError as error:
        raise explain(error, f"samples.tasks.{name}.", Section) from error
