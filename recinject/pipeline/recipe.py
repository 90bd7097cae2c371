"""The recipe: what a run is made of, checked key by key before anything starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.storage import load_yaml, shipped_folder
from recinject.identifiers.table import identifiers_class
from recinject.pipeline.sections import (
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
from recinject.tasks.shipped import TASKS, find_tasks, task_type
from recinject.tasks.task import Task

T = TypeVar("T")


def bind(kind: type[T], settings: Mapping[str, Any], place: str) -> T:
    """Make a dataclass of settings, each of the kind that it declares.

    Raises:
        RecinjectError: an unknown setting, or a value that it cannot be.
    """
    legal = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in settings:
        if key not in legal:
            raise RecinjectError(f"{place}: unknown key {key!r}", hint=did_you_mean(key, legal))
    try:
        return TypeAdapter(kind).validate_python(dict(settings))
    except ValidationError as error:
        raise explain(error, f"{place}.", BaseModel) from error


def explain(error: ValidationError, place: str, root: type[BaseModel]) -> RecinjectError:
    """Turn pydantic's first complaint about a ``root`` into one that names place, fact and fix."""
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    where = f"{place}{'.'.join(keys)}"
    if first["type"] == "extra_forbidden":
        return RecinjectError(
            f"{where}: unknown key", hint=did_you_mean(keys[-1], _legal(keys, root))
        )
    if first["type"] == "missing":
        return RecinjectError(f"{where}: missing", hint=f"add {keys[-1]} to the recipe")
    fact = first["msg"].partition(" or instance of ")[0]
    return RecinjectError(
        f"{where}: {fact}", hint=f"it is {first['input']!r} now; change or remove it"
    )


def _legal(keys: Sequence[str], root: type[BaseModel]) -> Iterable[str]:
    section = root
    for key in keys[:-1]:
        found = section.model_fields[key].annotation
        if isinstance(found, type) and issubclass(found, BaseModel):
            section = found
    return section.model_fields


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
                self.experts is not None and identifiers_class(self.identifiers.kind).has_tokens,
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
            self.has_model and identifiers_class(self.identifiers.kind).joins_cold_items
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


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that ship with the package, by name."""
    return {path.stem: path for path in sorted(shipped_folder("recipes").glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by path or by shipped name.

    Raises:
        RecinjectError: there is none.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise RecinjectError(
            f"{path}: no such recipe file",
            hint="check the path, or copy a shipped recipe to it with 'recinject cp'; shipped: "
            + ", ".join(shipped_recipes()),
        )
    if name not in shipped_recipes():
        raise RecinjectError(
            f"no recipe is called {name!r}",
            hint=f"give a .yaml file or a shipped name. {did_you_mean(name, shipped_recipes())}",
        )
    return shipped_recipes()[name]


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe, lay ``key=value`` overrides over it, and check every key.

    Args:
        name: a path of a YAML file, or a shipped recipe's name.
        overrides: such as ``data.path=log.csv`` or ``training.max_steps=100``; values are YAML.

    Raises:
        RecinjectError: no such recipe, an unknown key (the nearest legal one is named), or a
            value of the wrong kind.
    """
    path = find_recipe(name)
    content = _read(path)
    for override in overrides:
        _lay_over(content, override)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise explain(error, f"{path.name}: ", Recipe) from error
    _check_samples(recipe)
    return recipe


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise RecinjectError(f"{path}: not YAML: {error}", hint="mend the line it names") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecinjectError(
            f"{path}: cannot be read ({error})", hint="give a text file that you may read"
        ) from error
    if not isinstance(content, dict):
        raise RecinjectError(f"{path}: not a recipe", hint="a recipe is sections of keys: values")
    content.setdefault("name", path.stem)
    samples = content.setdefault("samples", {})
    if isinstance(samples, dict):
        # Written out, so that overriding one task leaves the others as they are.
        samples.setdefault("tasks", {task: {} for task in TASKS})
    return content


def _check_samples(recipe: Recipe) -> None:
    folder = recipe.samples.prompts
    if folder is not None and not folder.is_dir():
        raise RecinjectError(
            f"samples.prompts: {folder} is no folder",
            hint="give a folder with files named as the tasks, such as retrieval.yaml",
        )
    tasks = find_tasks(folder)
    if not recipe.tasks():
        raise RecinjectError("samples.tasks: every task is left out", hint=did_you_mean("", tasks))
    slots = {slot for task in tasks.values() for slot in task.slots}
    for slot in sorted(recipe.samples.phrases.keys() - slots):
        raise RecinjectError(
            f"samples.phrases: no task has a slot {slot!r}", hint=did_you_mean(slot, slots)
        )
    for file in sorted(folder.glob("*.yaml")) if folder else ():
        if file.stem not in tasks:
            raise RecinjectError(
                f"{file}: no task is called {file.stem!r}, and no {file.stem}.py is beside it",
                hint=did_you_mean(file.stem, tasks),
            )


def _lay_over(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecinjectError(
            f"{override!r} is no override", hint="write key=value, e.g. data.path=log.csv"
        )
    *sections, last = key.split(".")
    for section in sections:
        if content.get(section) is None:
            content[section] = {}
        content = content[section]
        if not isinstance(content, dict):
            raise RecinjectError(f"{key}: {section!r} has no keys below it", hint="shorten the key")
    try:
        content[last] = load_yaml(value)
    except yaml.YAMLError as error:
        if "{{" not in value:
            raise RecinjectError(
                f"{override!r}: the value is not YAML",
                hint="close its brackets; text with signs of YAML needs quotes inside the shell's",
            ) from error
        content[last] = value  # a phrase in Jinja, whose braces are a broken mapping to YAML


def copy_shipped(name: str, destination: Path) -> Path:
    """Copy a recipe, or the templates of ``prompts`` or of a folder in it; return where it lies.

    Args:
        name: a recipe's name or file; or ``prompts``, ``prompts/tiger`` and the like.
        destination: a file or a folder for a recipe; a new folder for templates.

    Raises:
        RecinjectError: there is no such recipe; or the copy exists already or cannot be written.
    """
    folder = shipped_folder("prompts").parent / name
    if Path(name).parts[:1] == ("prompts",) and folder.is_dir():
        texts = {destination / path.name: path.read_text("utf-8") for path in folder.glob("*.yaml")}
        _write(destination, texts)
        return destination
    source = find_recipe(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.suffix not in (".yaml", ".yml"):
        target = target.with_name(f"{target.name}.yaml")
    lines = source.read_text("utf-8").splitlines(keepends=True)
    # A copy goes by its file's name, or it would fill the run that it was copied from.
    kept = [line for line in lines if not line.startswith("name:")]
    _write(target, {target: "".join(kept)})
    return target


def _write(target: Path, texts: dict[Path, str]) -> None:
    if target.exists():
        raise RecinjectError(f"{target}: exists already", hint="choose another name")
    try:
        for path, text in texts.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
    except OSError as error:
        raise RecinjectError(
            f"{target}: cannot be written ({error.strerror})",
            hint="choose a folder that is there and open to you",
        ) from error
