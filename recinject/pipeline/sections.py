"""The sections of a recipe: which keys each has, and what they may be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from recinject.foundation.errors import RecinjectError, pick
from recinject.foundation.storage import shipped_folder
from recinject.identifiers.table import check_kind
from recinject.registry import names
from recinject.tasks.shipped import TASKS

MOST_EXAMPLES = 50
FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Head = Literal["text", "regression", "classification"]
Positive = Annotated[int, Field(ge=1)]
# A shell turns data.columns.rating='' into nothing, which YAML reads as null.
ColumnName = Annotated[str, BeforeValidator(lambda name: "" if name is None else name)]


def _own_or_shipped(folder: Path | None) -> Path | None:
    shipped = shipped_folder("prompts").parent / (folder or "")
    return shipped if folder and not folder.is_dir() and shipped.is_dir() else folder


class Section(BaseModel):
    """A part of a recipe; keys that are not its own are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulatorSection(Section):
    """The simulated shop, used when no path is given."""

    users: Annotated[int, Field(ge=10)] = 2000
    items: Annotated[int, Field(ge=30)] = 300
    events_per_user: Annotated[int, Field(ge=6)] = 14


class DataSection(Section):
    """Where the log comes from, how it is cleaned and split.

    ``test_share`` is held out for the test and as much again for validation: of the events, of
    each user's events or of the items, as ``split`` says; ``leave_one_out`` takes no share.
    ``validation: false`` trains on what would validate. ``train_share`` of the training events
    are learnt from; the others only stand in histories.
    ``ties: hash`` orders events of one user and one time by user and item, not by the log's rows.
    """

    path: Path | None = None
    items: Path | None = None
    format: str | None = None
    columns: dict[str, ColumnName] = {}
    simulator: SimulatorSection = SimulatorSection()
    k_core: Annotated[int, Field(ge=0)] = 5
    ties: Literal["log_order", "hash"] = "log_order"
    split: str = "leave_one_out"
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    validation: bool = True
    train_share: Annotated[float, Field(gt=0, le=1)] = 1.0


class IdentifiersSection(BaseModel):
    """How an item is named in text: a kind of identifiers, with that kind's arguments beside it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str = "number"

    @model_validator(mode="after")
    def _is_a_kind(self) -> IdentifiersSection:
        if "semantic" in self.arguments:
            found = self.arguments["semantic"]
            keys = [f"identifiers.{key}" for key in found] if isinstance(found, dict) else []
            raise RecinjectError(
                "identifiers.semantic: its keys stand beside kind now",
                hint=f"write {', '.join(keys) or 'identifiers={kind: semantic, codes: 256}'}",
            )
        check_kind(self.kind, self.arguments)
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys that pass to the kind as they are."""
        return dict(self.model_extra or {})


class SamplesSection(Section):
    """Which samples are built, in whose words, and within which lengths.

    ``prompts`` is a folder of one's own, or one that ships, such as ``prompts/zero_shot``.
    ``passes`` draws each training sample several times, with other negatives, masks and wordings;
    ``limit`` builds the first samples of each task and split only. ``shots`` puts worked examples
    of other users before each question that is not trained on. ``user_tokens`` are shared by users
    through a hash, in templates with ``{{ user }}``. ``tokens`` writes beside the text the token
    columns that training reads.
    """

    tasks: dict[str, dict[str, Any] | None] = Field(default={name: {} for name in TASKS})
    prompts: Annotated[Path | None, AfterValidator(_own_or_shipped)] = None
    phrases: dict[str, str] = {}
    max_prompt_tokens: Positive = 512
    max_completion_tokens: Positive = 64
    passes: Positive = 1
    limit: Positive | None = None
    shots: Annotated[int, Field(ge=0)] = 0
    user_tokens: Positive | None = None
    workers: Positive = 1
    tokens: bool = True
    jsonl: bool = False


class ModelSection(Section):
    """A model by hub name or local folder, or a small one built from a config.

    ``config`` passes to transformers' ``T5Config``, or to that of its ``model_type``, such as
    ``gpt2``; ``tokenizer`` is a folder, a file or a hub name, and stays empty to take the named
    model's own, or to learn one of ``vocab_size``. ``head`` is how ratings are answered: in
    ``text``, or by a number read off the model's state, and then ``rating`` is the only task.
    ``low_rank`` holds the settings of low-rank layers, such as ``rank``.
    ``model: null``, or neither name nor config, leaves the baselines alone.
    """

    name: str | None = None
    config: dict[str, Any] | None = None
    tokenizer: str | None = None
    vocab_size: Positive = 8000
    head: Head = "text"
    low_rank: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ModelSection:
        if self.name is not None and self.config is not None:
            raise RecinjectError(
                "model: both of name and config given",
                hint="name a model and set model.config=null, or give a config and set "
                "model.name=null",
            )
        return self


class LoraSection(BaseModel):
    """Any parameter of ``peft.LoraConfig``, and from where its matrices start.

    ``initialization`` is ``default``, peft's own, or one of the registry, such as ``spectral``,
    ``nkp`` or ``lfai``, which take a part of each layer's function, as found by the layer's weight
    or from ``initialization_rows`` of what it reads.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    initialization: str = "default"
    initialization_rows: Positive = 2048

    @model_validator(mode="after")
    def _spelled_with_z(self) -> LoraSection:
        for key in self.arguments:
            if key.startswith("initialisation"):
                raise RecinjectError(
                    f"lora.{key}: is spelled with a z now",
                    hint=f"write lora.{key.replace('initialis', 'initializ')}",
                )
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys that pass to peft as they are."""
        return dict(self.model_extra or {})


class PhaseSection(Section):
    """A part of the training with its own tasks: some of the mixture's, or a mixture of its own."""

    share: Annotated[float, Field(gt=0)]
    tasks: list[str] = []
    mixture: dict[str, Annotated[float, Field(gt=0)]] = {}


class TrainingSection(BaseModel):
    """The mixture, the optimizer, and any argument of ``Seq2SeqTrainingArguments``.

    ``mixture`` holds relative rates; without it tasks are mixed by ``min(size, cap)`` to the
    power of ``1 / temperature``. ``curriculum`` is a list of phases that share the run's steps.
    ``optimizer`` is one that transformers' ``optim`` does not offer, such as ``adafactor`` with
    steps in proportion to each parameter's size, and ``optimizer_settings`` are its arguments.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    mixture: dict[str, Annotated[float, Field(gt=0)]] = {}
    temperature: Annotated[float, Field(gt=0)] = 1.0
    cap: Positive | None = None
    curriculum: list[PhaseSection] = []
    validation_samples: Positive = 500
    optimizer: str | None = None
    optimizer_settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_mixture(self) -> TrainingSection:
        if self.mixture and (self.temperature != 1 or self.cap is not None):
            raise RecinjectError(
                "training.mixture: rates are given, and temperature or cap would set them",
                hint="leave training.mixture out, or training.temperature and training.cap",
            )
        for number, phase in enumerate(self.curriculum, 1):
            if phase.tasks and phase.mixture:
                raise RecinjectError(
                    f"training.curriculum: phase {number} has both tasks and a mixture",
                    hint="give tasks to keep the usual rates, or a mixture with its own",
                )
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys that pass to transformers as they are."""
        return dict(self.model_extra or {})


def _known(given: Any) -> Any:
    named = {given: None} if isinstance(given, str) else given
    settings = list(named.values()) if isinstance(named, dict) else []
    if len(settings) != 1 or not isinstance(settings[0], dict | None):
        raise RecinjectError(
            f"evaluation.baselines: {given!r} is no baseline",
            hint="write its name, or its settings below its name, as in "
            "[popularity, {ease: {regularization: 500}}]",
        )
    pick(next(iter(named)), names("recommender"), "evaluation.baselines: unknown recommender")
    return given


def _distinct(baselines: list[Baseline]) -> list[Baseline]:
    called = []
    for given in baselines:
        name, settings = (given, None) if isinstance(given, str) else next(iter(given.items()))
        called.append((settings or {}).get("name", name))
        if called[-1] in called[:-1]:
            raise RecinjectError(
                f"evaluation.baselines: two are called {called[-1]!r}",
                hint=f"give one another name, as in {{{name}: {{name: {name}_2}}}}",
            )
    return baselines


Baseline = Annotated[str | dict[str, dict[str, Any] | None], BeforeValidator(_known)]


class EvaluationSection(Section):
    """What is measured, against whom.

    ``reworded`` and ``shuffled`` also ask the model in a wording that it never trained on, and
    with each history in random order; ``generate`` also lets it write its ratings freely.
    ``cold_share`` also joins items without training events to its retrieved lists by the codes
    that they share with what it predicts, up to each of these shares of a list.
    """

    baselines: Annotated[list[Baseline], AfterValidator(_distinct)] = [
        *("random", "popularity", "popularity_recent", "item_knn", "ease", "als", "bpr"),
        "markov_chain",
        *("global_mean", "item_mean", "user_mean"),
    ]
    cutoffs: Annotated[list[Positive], Field(min_length=1)] = [5, 10]
    beams: Positive = 20
    batch_size: Positive = 32
    limit: Positive | None = None
    resamples: Annotated[int, Field(ge=100)] = 2000
    reworded: bool = True
    shuffled: bool = True
    generate: bool = False
    cold_share: list[Annotated[float, Field(ge=0, le=1)]] = []

    @model_validator(mode="after")
    def _lists_are_long_enough(self) -> EvaluationSection:
        longest = max(self.cutoffs)
        if longest > self.beams:
            raise RecinjectError(
                f"evaluation.cutoffs: {longest} items, but lists end after {self.beams} "
                "(evaluation.beams)",
                hint=f"set evaluation.beams={longest} or more",
            )
        return self


class ReportSection(Section):
    """What the report shows."""

    examples: Annotated[int, Field(ge=1, le=MOST_EXAMPLES)] = 10


class SweepSection(Section):
    """The recipe with other settings and seeds: each a run of its own, all compared in one table.

    Settings go by dotted key, as on the command line. ``arms`` names those that belong together;
    ``vary`` lists values of single keys, and each arm is crossed with every combination of them.
    ``reference`` names the arms that all others are compared with, the first arm if it is empty.
    """

    arms: dict[Annotated[str, Field(pattern=FILE_NAME)], dict[str, Any]] = {}
    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    seeds: Annotated[list[int], Field(min_length=1)] = [1, 2, 3]
    reference: Annotated[
        list[str], BeforeValidator(lambda names: [names] if isinstance(names, str) else names)
    ] = []
