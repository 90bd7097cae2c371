"""What a report is made of: plain rows, as they lie in the folder of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from math import nan
from typing import Any, TypeVar

from recinject.foundation.errors import RecinjectError

LANGUAGE_MODEL = "language_model"


@dataclass(frozen=True)
class CleaningRow:
    """What one cleaning step left of the log."""

    name: str
    detail: str
    users: int
    items: int
    events: int


@dataclass(frozen=True)
class DataFacts:
    """Where the log came from, what was done to it and how it was split.

    Attributes:
        source: where it came from, in words.
        cleaning: the steps in order; the first is the log as read.
        split: the name of the split rule.
        train: number of training events; ``validation`` and ``test`` likewise.
        tie_rate: share of tested users whose test event has the time of the event before it;
            None when the log has no timestamps.
        future_share: share of training events later than the average test event, or None.
    """

    source: str
    cleaning: Sequence[CleaningRow]
    split: str
    train: int
    validation: int
    test: int
    tie_rate: float | None = None
    future_share: float | None = None


@dataclass(frozen=True)
class SampleRow:
    """How many samples a task has in one part of the split, and how long their prompts are.

    Attributes:
        templates: how many wordings they use.
        mean_prompt_tokens: length in tokens, None where nothing was tokenised yet.
        max_prompt_tokens: length of the longest prompt in tokens, or None.
        truncated: how many prompts were cut to the model's length, or None.
    """

    task: str
    split: str
    samples: int
    templates: int
    mean_prompt_tokens: float | None = None
    max_prompt_tokens: int | None = None
    truncated: int | None = None


@dataclass(frozen=True)
class ModelFacts:
    """Which language model it was and how much of it was trained.

    Attributes:
        name: its name on a hub, or in words what was built.
        adaptation: ``full``, ``LoRA``, or ``not trained (zero-shot)``.
        trainable: number of trained parameters; 0 means zero-shot.
        parameters: number of all parameters.
    """

    name: str
    adaptation: str
    trainable: int
    parameters: int


@dataclass(frozen=True)
class LossRow:
    """One line of the training log: a training loss, a validation loss, or both."""

    step: int
    loss: float | None = None
    eval_loss: float | None = None


@dataclass(frozen=True)
class MetricRow:
    """One metric of one recommender on one task, with its 95 % interval over ``n`` users."""

    task: str
    recommender: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int


@dataclass(frozen=True)
class ComparisonRow:
    """A recommender's metric minus a reference's, paired over ``n`` users."""

    task: str
    metric: str
    recommender: str
    reference: str
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int


@dataclass(frozen=True)
class AuditRow:
    """One finding of the audit; the verdict is ``ok``, ``note`` or ``warning``."""

    check: str
    value: float | str
    verdict: str
    explanation: str


@dataclass(frozen=True)
class ExampleRow:
    """One sample prediction of the language model, to be read by a person.

    Attributes:
        answers: what it answered, best first: titles; may be empty for a rating.
        outcome: the result in words, e.g. ``hit at rank 3`` or ``predicted 3.7, true 2``.
        hit: whether it counts as a success.
    """

    task: str
    prompt: str
    target: str
    answers: Sequence[str]
    outcome: str
    hit: bool


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report shows.

    Attributes:
        name: the run's name.
        command: the command line that repeats it, e.g. ``recinject run quickstart``.
        started: when it began, in words; ``finished`` likewise.
        version: the version of recinject.
        seed: the seed of all chance in the run.
        durations: seconds by stage, in order.
        sampled_candidates: how many negatives stand beside the positive in a ranking query.
    """

    name: str
    command: str
    started: str
    finished: str
    version: str
    seed: int
    durations: Mapping[str, float]
    data: DataFacts
    samples: Sequence[SampleRow]
    model: ModelFacts
    training: Sequence[LossRow]
    metrics: Sequence[MetricRow]
    comparisons: Sequence[ComparisonRow]
    audit: Sequence[AuditRow]
    examples: Sequence[ExampleRow]
    sampled_candidates: int = 99


Row = TypeVar(
    "Row", CleaningRow, SampleRow, LossRow, MetricRow, ComparisonRow, AuditRow, ExampleRow
)


def read_rows(kind: type[Row], rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Make rows of one kind from a file's dicts; keys that a row does not know are dropped.

    A missing number (``null`` in JSON) becomes NaN where the row needs a float.

    Raises:
        RecinjectError: a key that the row needs is missing.

    Examples:
        >>> read_rows(LossRow, [{"step": 10, "loss": 2.5, "learning_rate": 0.001}])
        [LossRow(step=10, loss=2.5, eval_loss=None)]
    """
    return [_read_row(kind, number, row) for number, row in enumerate(rows, start=1)]


def _read_row(kind: type[Row], number: int, row: Mapping[str, Any]) -> Row:
    known = {field.name: field for field in fields(kind)}
    missing = [n for n, field in known.items() if n not in row and field.default is MISSING]
    if missing:
        raise RecinjectError(
            f"report: row {number} of {kind.__name__} has no {', '.join(missing)}",
            hint="the file was written by another version: run the stage that makes it again",
        )
    values = {n: row[n] for n in known if n in row}
    holes = {n: nan for n, value in values.items() if value is None and known[n].type == "float"}
    return kind(**values | holes)
