"""The sections of a recipe: the keys of each, with their types, bounds and defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from recinject.data.cleaning import MOST_LETTERS
from recinject.data.splitting import Ties
from recinject.data.tables import Place, ReadSettings
from recinject.foundation.errors import RecinjectError, pick
from recinject.foundation.settings import MOST, MOVED, Positive, unknown_key
from recinject.foundation.storage import shipped_folder
from recinject.identifiers.data import ACTIVITY
from recinject.identifiers.table import check_kind
from recinject.registry import names
from recinject.tasks.task import TASKS

MOST_EXAMPLES = 50
FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
Head = Literal["text", "regression", "classification"]
PartName = Literal["train", "validation", "test"]


def own_or_shipped(folder: Path | None) -> Path | None:
    """Return a folder of templates: one's own, or one that ships, such as ``prompts/zero_shot``."""
    if folder is None or folder.is_dir():
        return folder
    home = shipped_folder("prompts")
    for shipped in (home.parent / folder, home / folder):
        if shipped.is_dir():
            return shipped
    hint = "give a folder with files named as the tasks, such as retrieval.yaml"
    raise RecinjectError(f"samples.prompts: {folder} is no folder", hint=hint)


class Section(BaseModel):
    """A part of a recipe. It refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OpenSection(BaseModel):
    """A part of a recipe that passes on the keys that are not its own, such as to a library."""

    model_config = ConfigDict(extra="allow", frozen=True)
    place: ClassVar[str]

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys that are passed on."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _no_key_has_moved(self) -> OpenSection:
        for key in self.arguments:
            if f"{self.place}.{key}" in MOVED:
                raise unknown_key(f"{self.place}.{key}", ())
        return self


class SimulatorSection(Section):
    """The simulated shop, used when no path is given."""

    users: Annotated[int, Field(ge=10, le=10_000_000)] = 2000
    items: Annotated[int, Field(ge=30, le=1_000_000)] = 300
    events_per_user: Annotated[int, Field(ge=6, le=10_000)] = 14


class DataSection(ReadSettings):
    """Where the log comes from, how it is read, cleaned and split.

    ``path`` is a file or folder, a list of files of one form, a URL, ``duckdb:///FILE`` with a
    ``query``, or the files of a given split by the names ``train``, ``validation`` and ``test``.
    How the files are read, from ``columns`` to ``query``, says
    :class:`~recinject.data.tables.ReadSettings`. ``split: given`` keeps the parts that files come
    in. Texts of items are cut at ``max_text`` characters, and how many were is said.
    ``test_share`` is the fraction held out for the test, and again for validation. ``split`` says
    of what: of all events, of each user's events, or of the items; ``leave_one_out`` ignores it.
    ``validation: false`` adds the validation part to the training part. ``train_share`` is the
    fraction of the training events that models learn from; the others only appear in histories.
    ``ties: hash`` orders the events of one user and one time by a hash of user and item,
    ``log_order`` by their rows in the log; ``auto`` takes the hash where the rows are sorted by
    item id, and says so. A log without times and positions is put in random order, unless
    ``order: rows`` trusts its rows. ``repeats`` says which of a user's events with one item and
    one time stay: the first, the last, or all; ``auto`` keeps the first, or all where a position
    or the order of the rows tells them apart.
    """

    path: Place | list[Place] | dict[PartName, Place] | None = None
    items: Place | None = None
    format: str | None = None
    simulator: SimulatorSection = SimulatorSection()
    k_core: Annotated[int, Field(ge=0, le=MOST)] = 5
    max_text: Annotated[int, Field(ge=1, le=MOST_LETTERS)] = MOST_LETTERS
    ties: Ties = "auto"
    order: Literal["time", "rows"] = "time"
    repeats: Literal["auto", "keep", "first", "last"] = "auto"
    split: str = "leave_one_out"
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    validation: bool = True
    train_share: Annotated[float, Field(gt=0, le=1)] = 1.0


class IdentifiersSection(OpenSection):
    """How an item is named in text: a kind of identifiers, with that kind's arguments beside it.

    ``start`` says what the embeddings of new item tokens (``kind: token``) start from: ``words`` of
    the titles, the default for a pretrained model; ``content``, ``collaborative`` or
    ``content+collaborative``, by name or with settings, as in ``{content: {columns: [title]}}``; a
    ``.npy`` or ``.parquet`` of vectors; or ``random``, the default for a model from a config.
    """

    place = "identifiers"
    kind: str = "number"
    start: str | dict[str, dict[str, Any] | None] | None = None

    @model_validator(mode="after")
    def _is_a_kind(self) -> IdentifiersSection:
        check_kind(self.kind, self.arguments)
        return self


class SamplesSection(Section):
    """Which samples are built, in whose words, and within which lengths.

    ``prompts`` is a folder of templates: your own, or a shipped one such as ``prompts/zero_shot``.
    ``passes`` draws each training sample several times, with other negatives, masks and templates.
    ``phrases`` say how an item is written: by slot, for all tasks, or by task and slot; a slot
    whose words are hidden takes those of its task alone. ``placebo`` names tasks that only train,
    in which each item goes by the name of another. ``limit`` keeps the first samples of each task
    and split. ``shots`` puts that many answered
    questions of other users before each validation and test question. ``user_tokens`` is the
    number of tokens that users share through a hash, for templates with ``{{ user }}``.
    ``tokens`` also stores the token columns that training reads.
    """

    tasks: dict[str, dict[str, Any] | None] = Field(default={name: {} for name in TASKS})
    prompts: Annotated[Path | None, AfterValidator(own_or_shipped)] = None
    phrases: dict[str, str | dict[str, str]] = {}
    placebo: list[str] = []
    max_prompt_tokens: Positive = 512
    max_completion_tokens: Positive = 64
    passes: Positive = 1
    limit: Positive | None = None
    shots: Annotated[int, Field(ge=0, le=MOST)] = 0
    user_tokens: Positive | None = None
    workers: Positive = 1
    tokens: bool = True
    jsonl: bool = False


class ModelSection(Section):
    """A model by hub name or local folder, or a small one built from a config.

    ``config`` holds arguments of transformers' ``T5Config``, or of the config of its
    ``model_type``, such as ``gpt2``. ``start`` says how a T5 built from a config starts: with
    ``small_rows`` and unscaled logits, or as the ``library`` transformers starts it.
    ``tokenizer`` is a folder, a file or a hub name; without it the named model's own is used, or
    one of ``vocab_size`` tokens is trained. ``head`` says how ratings are predicted: as ``text``,
    or by a regression or classification head, which allows no task but ``rating``. ``low_rank``
    holds the settings of low-rank layers, such as ``rank``. With ``model: null`` only the
    baselines are evaluated.
    """

    name: str | None = None
    config: dict[str, Any] | None = None
    start: Literal["small_rows", "library"] = "small_rows"
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


class LoraSection(OpenSection):
    """Any parameter of ``peft.LoraConfig``, and how its matrices are initialised.

    ``initialization`` is ``default``, peft's own, or a registered one, such as ``spectral`` or
    ``lfai``. These start from a low-rank part of each layer, found from its weight, or from its
    weight and ``initialization_rows`` rows of its input.
    """

    place = "lora"
    initialization: str = "default"
    initialization_rows: Positive = 2048


class PhaseSection(Section):
    """A phase of the training: with some tasks of the mixture, or with a mixture of its own."""

    share: Annotated[float, Field(gt=0)]
    tasks: list[str] = []
    mixture: dict[str, Annotated[float, Field(gt=0)]] = {}


class DistilSection(Section):
    """Soft labels from a filter that is fitted on the training events.

    ``from`` names a recommender, such as ``ease``, ``sasrec`` or ``markov_chain``, or maps one to
    its settings. Where the next item is asked for, its first ``top`` items are labels beside the
    item that came, and have ``weight`` of the label together: their shares are a softmax of its
    scores, standardised within the list and divided by ``temperature``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    teacher: Annotated[str | dict[str, dict[str, Any] | None], Field(alias="from")]
    top: Annotated[int, Field(ge=2, le=MOST)] = 50
    weight: Annotated[float, Field(gt=0, le=1)] = 0.3
    temperature: Annotated[float, Field(gt=0)] = 1.0


class TrainingSection(OpenSection):
    """The mixture, the optimizer, and any argument of ``Seq2SeqTrainingArguments``.

    ``mixture`` maps tasks to relative rates; without it the rate of a task is ``min(size, cap)``
    to the power of ``1 / temperature``. Rates count samples, and the loss tokens: a task weighs its
    rate times the tokens of its completions. Where each checkpoint is measured, the best weights
    are kept (``load_best_model_at_end``): by NDCG@10 on validation where items are tokens of their
    own, else by the validation loss. ``curriculum`` is a list of phases that divide the run's steps
    among them. ``optimizer`` is a registered optimizer, in place of transformers' ``optim``;
    ``optimizer_settings`` are its arguments. ``distil`` adds soft labels of a filter where items
    are tokens of their own.
    """

    place = "training"
    mixture: dict[str, Annotated[float, Field(gt=0)]] = {}
    temperature: Annotated[float, Field(gt=0)] = 1.0
    cap: Positive | None = None
    curriculum: list[PhaseSection] = []
    validation_samples: Positive = 500
    optimizer: str | None = None
    optimizer_settings: dict[str, Any] = {}
    distil: DistilSection | None = None

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


def _known(given: Any) -> Any:
    named = {given: None} if isinstance(given, str) else given
    settings = list(named.values()) if isinstance(named, dict) else []
    if len(settings) != 1 or not isinstance(settings[0], dict | list | None):
        raise RecinjectError(
            f"evaluation.baselines: {given!r} is no baseline",
            hint="write its name, or its settings below its name, as in "
            "[popularity, {ease: {regularization: 500}}]",
        )
    pick(next(iter(named)), names("recommender"), "evaluation.baselines: unknown recommender")
    return given


def _distinct(baselines: list[Baseline]) -> list[Baseline]:
    called = _called(baselines)
    for number, name in enumerate(called):
        if name in called[:number]:
            kind = [given if isinstance(given, str) else next(iter(given)) for given in baselines]
            hint = f"give one another name, as in {{{kind[number]}: {{name: {kind[number]}_2}}}}"
            raise RecinjectError(f"evaluation.baselines: two are called {name!r}", hint=hint)
    return baselines


def _called(baselines: list[Baseline]) -> list[str]:
    """Return the baselines' names in the results."""
    named = ({given: None} if isinstance(given, str) else given for given in baselines)
    found = ((kind, own) for given in named for kind, own in given.items())
    return [
        own.get("name", kind) if isinstance(own, dict) else f"{kind}{own or ''}"
        for kind, own in found
    ]


Baseline = Annotated[str | dict[str, dict[str, Any] | list[Any] | None], BeforeValidator(_known)]


class EvaluationSection(Section):
    """What is measured, and against which baselines.

    ``baselines`` are names of recommenders, or mappings from a name to its settings, such as
    ``{ease: {regularization: 500, name: ease_500}}``; ``{blend: [language_model, ease]}`` is a
    weighted sum of others, with weights from validation. Three more evaluations of the model:
    ``reworded`` uses a template that it was not trained on, ``shuffled`` puts each history in
    random order, and ``generate`` lets it write ratings freely. ``seen`` says whether items of a
    history may be recommended, by everybody alike: ``keep`` or ``filter``; ``auto`` keeps them
    where more than 5 % of the test targets are such items. ``cold_share`` lists fractions of
    a retrieved list that items without training events may take; they join by the codes that they
    share with the predicted items, and in ``content_knn``'s lists by their content. ``ranking_by``
    is the task whose prompt a model ranks slates by; ``auto`` takes the one that wins on
    validation and reports both. ``blend`` adds a weighted sum of the best two baselines, and of
    the model with them. ``tune`` chooses the baselines' settings on validation, from grids of
    their own with ``true``, or from values by recommender and setting, such as
    ``{ease: {regularization: [100, 300, 1000]}}``. A choice rests on ``validation_queries`` of a
    task at most. ``positive_rating`` is the lowest that AUC and ECE count as positive, the
    training ratings' median if not given. ``groups`` are attributes of users whose groups are
    compared, such as ``gender``, or ``activity``, quarters by training events; ``provider`` is
    the items' column that tells who provides them. ``harm`` names what of impact and harm is
    measured by asking again, a measure, a family of them or ``all``, with ``harm_queries`` of a
    task at most. ``workers`` processes ask models, with ``engine: ray`` on a cluster, where each
    has so many ``gpus``, or a fraction of one. On a simulated log the baselines have an ``oracle``
    beside them, which knows what drew the log.
    """

    baselines: Annotated[list[Baseline], AfterValidator(_distinct)] = [
        *("random", "popularity", "popularity_recent", "item_knn", "ease", "als", "bpr"),
        "markov_chain",
        *("global_mean", "item_mean", "user_mean", "history_mean", "recent_biases"),
    ]
    cutoffs: Annotated[list[Positive], Field(min_length=1)] = [5, 10]
    beams: Positive = 20
    batch_size: Positive = 32
    limit: Positive | None = None
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    reworded: bool = True
    shuffled: bool = True
    seen: Literal["auto", "filter", "keep"] = "auto"
    generate: bool = False
    cold_share: list[Annotated[float, Field(ge=0, le=1)]] = []
    ranking_by: Literal["auto", "retrieval", "ranking"] = "auto"
    blend: bool = True
    tune: bool | dict[str, dict[str, Annotated[list[Any], Field(min_length=1)]]] = False
    validation_queries: Positive = 1000
    workers: Positive = 1
    gpus: Annotated[float, Field(ge=0)] = 0.0
    positive_rating: float | None = None
    groups: list[str] = [ACTIVITY]
    provider: str | None = None
    harm: list[str] = []
    harm_queries: Positive = 200

    @model_validator(mode="after")
    def _tuned_are_asked(self) -> EvaluationSection:
        for name in self.tune if isinstance(self.tune, dict) else ():
            pick(name, _called(self.baselines), "evaluation.tune: no baseline is called")
        return self

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
    """What the report shows: how many example predictions."""

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
