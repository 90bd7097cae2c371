"""What a report is made of: plain rows, as they lie in the folder of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recinject.data.cleaning import CleaningStep
from recinject.evaluation.audit import Finding
from recinject.evaluation.evaluate import Example
from recinject.evaluation.lists import ListResult, SliceResult
from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import Comparison
from recinject.reporting.wording import LANGUAGE_MODEL as LANGUAGE_MODEL


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
    cleaning: Sequence[CleaningStep]
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
        mean_prompt_tokens: None where nothing was tokenised, the two below likewise.
        truncated: how many prompts were cut to the model's length.
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
        trainable: number of trained ``parameters``; 0 means zero-shot.
        causal: whether it is a causal model, and no encoder-decoder.
        rates: whether it has a head that reads ratings.
    """

    name: str
    adaptation: str
    trainable: int
    parameters: int
    causal: bool = False
    rates: bool = False


@dataclass(frozen=True)
class LossRow:
    """One line of the training log: a training loss, a validation loss, or both.

    Attributes:
        clip_scale_min: the smallest scale of a tensor's step since the line before; None where
            steps are not scaled.
        clip_scale_mean: the mean over tensors and steps.
        clip_share: the share of scales below 1.
    """

    step: int
    loss: float | None = None
    eval_loss: float | None = None
    clip_scale_min: float | None = None
    clip_scale_mean: float | None = None
    clip_share: float | None = None


@dataclass(frozen=True)
class Confusion:
    """How often each of the values, by row, was predicted to the nearest as each, by column."""

    values: Sequence[float]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True)
class ExpertUse:
    """How much of each expert the tasks got in the end.

    Attributes:
        shares: the experts' weights, one row a task.
        by_task: whether a task's samples all get the same.
    """

    tasks: Sequence[str]
    shares: Sequence[Sequence[float]]
    by_task: bool


@dataclass(frozen=True)
class CodeGroup:
    """The items whose identifiers begin with one code.

    Attributes:
        code: the code, or the word.
        items: how many there are of each code that comes next, in descending order.
        titles: one of each of the largest of these.
    """

    code: str
    items: Sequence[int]
    titles: Sequence[str]


@dataclass(frozen=True)
class SharePoint:
    """What a recommender scored that learnt from a share of the training events."""

    share: float
    result: MetricResult


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report shows.

    Attributes:
        command: the command line that repeats the run, e.g. ``recinject run quickstart``.
        started: when it began, in words; ``finished`` likewise.
        version: the version of recinject.
        durations: seconds by stage, in order.
        model: the language model, None where the baselines were evaluated alone.
        sampled_candidates: how many negatives stand beside the positive in a ranking query.
        confusion: of the ratings that the model, or the best baseline, predicted.
        codes: the largest groups of items by the first code of their identifiers, where these are
            codes.
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
    model: ModelFacts | None
    training: Sequence[LossRow]
    metrics: Sequence[MetricResult]
    comparisons: Sequence[Comparison]
    audit: Sequence[Finding]
    examples: Sequence[Example]
    sampled_candidates: int = 99
    slices: Sequence[SliceResult] = ()
    lists: Sequence[ListResult] = ()
    confusion: Confusion | None = None
    shares: Sequence[SharePoint] = ()
    experts: ExpertUse | None = None
    codes: Sequence[CodeGroup] = ()

    @property
    def scaled(self) -> bool:
        """Whether the log tells by how much steps were scaled down."""
        return any(row.clip_share is not None for row in self.training)
