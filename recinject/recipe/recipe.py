"""The recipe: what a run is made of, section by section."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from recinject.foundation.errors import RecinjectError
from recinject.recipe.refusals import bind
from recinject.recipe.sections import (
    AblationSection,
    DataSection,
    EvaluationSection,
    IdentifiersSection,
    LoraSection,
    ModelSection,
    ReportSection,
    SamplesSection,
    Section,
    StudySection,
    TrainingSection,
)
from recinject.tasks.registry import task_type
from recinject.tasks.task import Task

_NEW_TOKENS = ("token", "semantic")


class Recipe(Section):
    """One experiment, from the log to the report."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    runs: Path = Path("runs")
    seed: int = 1
    data: DataSection = DataSection()
    identifiers: IdentifiersSection = IdentifiersSection()
    samples: SamplesSection = SamplesSection()
    model: Annotated[ModelSection, BeforeValidator(lambda given: {} if given is None else given)]
    lora: LoraSection | None = None
    experts: dict[str, Any] | None = None
    training: TrainingSection | None
    generation: Annotated[dict[str, Any], Field(default_factory=dict)]
    evaluation: EvaluationSection = EvaluationSection()
    report: ReportSection = ReportSection()
    ablation: AblationSection | None = None
    study: StudySection | None = None

    @model_validator(mode="after")
    def _a_task_left_out_is_not_mixed(self) -> Recipe:
        """Let ``samples.tasks.rating=null`` be enough where the mixture has a rate for it."""
        mixture = {} if self.training is None else self.training.mixture
        left_out = {name for name, given in self.samples.tasks.items() if given is None}
        if mixture.keys() - left_out:
            for task in mixture.keys() & left_out:
                del mixture[task]
        return self

    @model_validator(mode="after")
    def _nothing_without_a_model(self) -> Recipe:
        if self.has_model:
            return self
        for section in ("training", "lora", "experts"):
            if getattr(self, section) is not None:
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

    @model_validator(mode="after")
    def _experts_have_their_place(self) -> Recipe:
        for conflicts, fact, fix in (
            (self.lora is not None, "lora adapts the same model", "set lora=null, or experts=null"),
            (self.model.head != "text", "they answer in text alone", "set model.head=text"),
            (
                self.identifiers.kind in _NEW_TOKENS,
                f"identifiers.kind={self.identifiers.kind} brings tokens that would stay untrained",
                "set identifiers.kind=number, or use lora, which trains their embeddings",
            ),
        ):
            if self.experts is not None and conflicts:
                raise RecinjectError(f"experts: {fact}", hint=fix)
        return self

    @model_validator(mode="after")
    def _cold_items_have_codes(self) -> Recipe:
        if self.evaluation.cold_share and not (
            self.has_model and self.identifiers.kind == "semantic"
        ):
            raise RecinjectError(
                "evaluation.cold_share: cold items join by the codes that a model predicts",
                hint="set identifiers.kind=semantic, and a model, or evaluation.cold_share=[]",
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
        return [
            bind(task_type(name, folder), given, f"samples.tasks.{name}")
            for name, given in chosen
            if given is not None
        ]
