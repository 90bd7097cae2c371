"""The recipe: everything that a run is made of, checked key by key before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from recinject.engines import EngineName
from recinject.foundation.errors import RecinjectError, did_you_mean, pick
from recinject.foundation.settings import Seed, explain, fields_of
from recinject.foundation.storage import dump_yaml, load_yaml, shipped_folder
from recinject.identifiers.table import identifiers_class
from recinject.pipeline.sections import (
    FILE_NAME,
    DataSection,
    EvaluationSection,
    IdentifiersSection,
    LoraSection,
    ModelSection,
    ReportSection,
    SamplesSection,
    Section,
    SweepSection,
    TrainingSection,
)
from recinject.registry import find, load_named, trust
from recinject.tasks.task import TASKS, Task, bind_tasks, task_names
from recinject.templating.language import check_phrases

RECIPE = "recipe.yaml"
"""What a run calls the recipe that it stores: data, whose Python nobody has named."""
# Text that may name a file or a folder of this machine, and something else otherwise.
_MAYBE_PATHS = ("model.name", "model.tokenizer", "identifiers.content", "identifiers.start")


def _load_plugins(files: list[Path]) -> list[Path]:
    for file in files:
        if not file.is_file():
            hint = "name Python files by their place beside the recipe, such as [my_metrics.py]"
            raise RecinjectError(f"plugins: {file} is no file", hint=hint)
        load_named(file)
    return files


class Recipe(Section):
    """One experiment, from the log to the report.

    ``seeds``, in place of one ``seed``, is short for ``sweep.seeds``: each trains and evaluates,
    and all are pooled.
    ``engine: ray`` writes samples and asks models with workers on a Ray cluster, as many as
    ``samples.workers`` and ``evaluation.workers`` say.
    ``store`` is a URL that fsspec knows, such as ``s3://bucket/runs``: each finished stage is
    copied there, its manifest last, and fetched from there where it is not here.
    ``plugins`` are Python files, named by their place beside the recipe. They are run when the
    recipe is read, so that whatever they register can be named in it.
    """

    name: Annotated[str, Field(pattern=FILE_NAME)]
    runs: Path = Path("runs")
    store: Annotated[str, Field(pattern="://")] | None = None
    plugins: Annotated[list[Path], AfterValidator(_load_plugins), Field(default_factory=list)]
    seed: Seed = 1
    engine: EngineName = "local"
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
    sweep: SweepSection | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any], place: str) -> Recipe:
        """Check a recipe's content key by key; ``place`` stands before the keys in messages."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise explain(error, place, fields_of(cls)) from error

    @model_validator(mode="before")
    @classmethod
    def _seeds_are_a_sweep(cls, content: Any) -> Any:
        if not isinstance(content, Mapping) or content.get("seeds") is None:
            return content
        own, swept = dict(content), dict(content.get("sweep") or {})
        return own | {"sweep": swept | {"seeds": own.pop("seeds")}}

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
    def _sections_agree(self) -> Recipe:
        for is_wrong, fact, fix in self._conflicts():
            if is_wrong:
                raise RecinjectError(fact, hint=fix)
        return self

    def _conflicts(self) -> Iterator[tuple[bool, str, str]]:
        """Yield what contradicts what: whether it does here, the fact and the fix."""
        kind = identifiers_class(self.identifiers.kind)
        for section in ("training", "lora", "experts"):
            yield (
                not self.has_model and getattr(self, section) is not None,
                f"{section}: given, but the model has neither name nor config",
                f"name a model or give it a config, or set {section}=null to evaluate the "
                "baselines alone",
            )
        yield (
            not self.has_model and not self.evaluation.baselines,
            "evaluation.baselines: none, and without a model nobody is left to evaluate",
            "name some baselines, or a model",
        )
        head, has_head = self.model.head, self.model.head != "text" and self.has_model
        asked = [name for name, given in self.samples.tasks.items() if given is not None]
        others = ", ".join(name for name in asked if name != "rating") or "no such task"
        yield (
            has_head and asked != ["rating"],
            f"model.head: {head} answers the task rating alone, and there is {others}",
            "set every other task to null, as in samples.tasks.retrieval=null, or model.head=text",
        )
        yield (
            has_head and self.training is None,
            f"model.head: a {head} head that is not trained knows nothing",
            "give a training section, or set model.head=text",
        )
        yield (
            has_head and self.evaluation.generate,
            f"evaluation.generate: a {head} head writes nothing",
            "set evaluation.generate=false, or model.head=text",
        )
        for conflicts, fact, fix in (
            (self.lora is not None, "lora adapts the same model", "set lora=null, or experts=null"),
            (self.model.head != "text", "they answer in text alone", "set model.head=text"),
            (
                kind.has_tokens,
                f"identifiers.kind={self.identifiers.kind} brings tokens that would stay untrained",
                "set identifiers.kind=number, or use lora, which trains their embeddings",
            ),
        ):
            yield self.experts is not None and conflicts, f"experts: {fact}", fix
        yield (
            self.identifiers.start is not None and not (self.has_model and kind.is_token),
            f"identifiers.start: identifiers.kind={self.identifiers.kind} gives no item a token "
            "of its own, or there is no model",
            "set identifiers.kind=token, and a model, or leave identifiers.start out",
        )
        yield (
            self.evaluation.ranking_by == "retrieval"
            and self.has_model
            and "ranking" in asked
            and "retrieval" not in asked,
            "evaluation.ranking_by: there is no task retrieval, whose prompt slates are ranked by",
            "set samples.tasks.retrieval={}, or evaluation.ranking_by=auto",
        )
        yield (
            bool(self.evaluation.cold_share) and not (self.has_model and kind.joins_cold_items),
            "evaluation.cold_share: cold items join by the codes that a model predicts",
            "set identifiers.kind=semantic, and a model, or evaluation.cold_share=[]",
        )

    @property
    def has_model(self) -> bool:
        """Whether there is a language model; without one the baselines are evaluated alone."""
        return self.model.name is not None or self.model.config is not None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.runs / self.name

    def tasks(self) -> list[Task]:
        """Return the samplers with their settings; a task set to null is left out."""
        tasks = {name: own for name, own in self.samples.tasks.items() if own is not None}
        return bind_tasks(tasks, self.samples.prompts, "samples.tasks")

    def resolved(self) -> Recipe:
        """Return the same recipe with absolute paths, to be opened from any folder."""
        return Recipe.model_validate(_absolute(self.model_dump()))

    def text(self) -> str:
        """Return the recipe as YAML, with every default written out."""
        return dump_yaml(self.model_dump(mode="json"))

    def save(self, file: str | Path) -> None:
        """Write the recipe whole, with absolute paths; :func:`load_recipe` reads it again."""
        Path(file).write_text(self.resolved().text(), encoding="utf-8")


def _absolute(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {own: _absolute(inner, f"{key}.{own}".lstrip(".")) for own, inner in value.items()}
    if isinstance(value, list):
        return [_absolute(inner, key) for inner in value]
    if isinstance(value, Path):
        return value.absolute()
    if key in _MAYBE_PATHS and isinstance(value, str) and Path(value).exists():
        return str(Path(value).absolute())
    return value


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that ship with the package, by name."""
    return {path.stem: path for path in sorted(shipped_folder("recipes").glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe given by path or by shipped name."""
    path, shipped = Path(name), shipped_recipes()
    if path.suffix not in (".yaml", ".yml"):
        return shipped[pick(str(name), shipped, "no .yaml file and no shipped recipe is called")]
    if not path.is_file():
        hint = "check the path, or copy a shipped recipe to it with 'recinject cp'; shipped: "
        raise RecinjectError(f"{path}: no such recipe file", hint=hint + ", ".join(shipped))
    return path


def load_recipe(name: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Load a recipe, lay overrides over it, and check every key.

    Args:
        name: the path of a YAML file, or a shipped recipe's name.
        overrides: ``key=value`` texts with values in YAML, such as ``training.max_steps=100``; or
            a mapping. Mappings within it are merged into the recipe's key by key, a key with dots
            replaces what it names, and None stands for YAML's null. Python that the recipe of a
            stored run names is run where they hold it too, or ``trust_code=true``.

    Raises:
        RecinjectError: no such recipe, an unknown key, or a value of the wrong kind.

    Examples:
        >>> recipe = load_recipe("quickstart", {"name": "short", "training": {"max_steps": 100}})
        >>> recipe.name, recipe.training.arguments["max_steps"], recipe.training.optimizer
        ('short', 100, 'adafactor')
        >>> load_recipe("quickstart", ["samples.tasks.rating=null"]).samples.tasks["rating"]
    """
    path, asked = find_recipe(name), dict[str, Any]()
    content = _read(path)
    lay_over(asked, overrides)
    lay_over(content, overrides)
    trusts = asked.get("trust_code") is True
    if "trust_code" in asked:  # it is of this command alone, and no recipe can hold it
        del content["trust_code"]
    _trust_code_of(content if trusts or path.name != RECIPE else asked)
    recipe = Recipe.of(content, f"{path.name}: ")
    _check_samples(recipe)
    return recipe


def lay_over(content: dict[str, Any], overrides: Sequence[str] | Mapping[str, Any]) -> None:
    """Lay overrides, as :func:`load_recipe` takes them, over the content of a recipe."""
    if isinstance(overrides, Mapping):
        for key, value in _plain(overrides).items():
            if "." in key:
                _set(content, key, value)
            else:
                _merge(content, {key: value})
    else:
        for override in overrides:
            _set(content, *_parse(override))


def _trust_code_of(content: Mapping[str, Any]) -> None:
    """Trust the plug-ins and the folder of prompts that what the user gave or named holds."""
    plugins, samples = content.get("plugins"), content.get("samples")
    trust(*map(str, plugins if isinstance(plugins, list) else ()))
    if isinstance(samples, dict) and samples.get("prompts") is not None:
        trust(str(samples["prompts"]))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise RecinjectError(f"{path}: not YAML: {error}", hint="mend the line it names") from error
    except (OSError, UnicodeDecodeError) as error:
        hint = "give a text file that you may read"
        raise RecinjectError(f"{path}: cannot be read ({error})", hint=hint) from error
    if not isinstance(content, dict):
        raise RecinjectError(f"{path}: not a recipe", hint="a recipe is sections of keys: values")
    content.setdefault("name", path.stem)
    if isinstance(samples := content.setdefault("samples", {}), dict):
        # Written out, so that overriding one task leaves the others as they are.
        samples.setdefault("tasks", {task: {} for task in TASKS})
    if isinstance(content.get("plugins"), list):
        content["plugins"] = [str(path.parent / str(file)) for file in content["plugins"]]
    return content


def _check_samples(recipe: Recipe) -> None:
    folder = recipe.samples.prompts
    tasks = task_names(folder)
    if not recipe.tasks():
        raise RecinjectError("samples.tasks: every task is left out", hint=did_you_mean("", tasks))
    check_phrases(recipe.samples.phrases, {task: find("task", task).slots for task in tasks})
    for file in sorted(folder.glob("*.yaml")) if folder else ():
        pick(file.stem, tasks, f"{file}: no {file.stem}.py is beside it, and no task is called")


def _parse(override: str) -> tuple[str, Any]:
    key, equals, value = override.partition("=")
    if not equals or not key:
        hint = "write key=value, e.g. data.path=log.csv"
        raise RecinjectError(f"{override!r} is no override", hint=hint)
    try:
        return key, load_yaml(value)
    except yaml.YAMLError as error:
        if "{{" in value:  # a phrase in Jinja, whose braces are a broken mapping to YAML
            return key, value
        hint = "close its brackets; text with signs of YAML needs quotes inside the shell's"
        raise RecinjectError(f"{override!r}: the value is not YAML", hint=hint) from error


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if content.get(section) is None:
            content[section] = {}
        content = content[section]
        if not isinstance(content, dict):
            raise RecinjectError(f"{key}: {section!r} has no keys below it", hint="shorten the key")
    content[last] = value


def _merge(content: dict[str, Any], given: dict[str, Any]) -> None:
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            _merge(content[key], value)
        else:
            content[key] = value


def _plain(value: Any) -> Any:
    """Copy a value of Python as YAML would have given it: texts for paths, dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def copy_shipped(name: str, destination: Path) -> Path:
    """Copy a recipe, or a folder of templates such as ``prompts/tiger``; return where it lies.

    A recipe goes to a file or into a folder, templates go to a new folder.
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
        fact = f"{target}: cannot be written ({error.strerror})"
        raise RecinjectError(fact, hint="choose a folder that is there and open to you") from error
