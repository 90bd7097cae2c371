"""The result of an evaluation: tidy frames, figures, the report, and what is known beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import recinject
from recinject.data.cleaning import CleaningStep
from recinject.data.findings import Finding as LogFinding
from recinject.evaluation.audit import Finding
from recinject.evaluation.examples import Example
from recinject.evaluation.lists import ListResult, SliceResult
from recinject.evaluation.measures import HarmResult
from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import Comparison
from recinject.foundation.errors import RecinjectError
from recinject.foundation.settings import bind
from recinject.foundation.storage import read_json, write_json
from recinject.registry import pick
from recinject.reporting.headline import headline, is_variant, ordered_tasks, ranked
from recinject.reporting.wording import LANGUAGE_MODEL

ROWS: Mapping[str, type[Any]] = {
    "metrics": MetricResult,
    "comparisons": Comparison,
    "slices": SliceResult,
    "lists": ListResult,
    "audit": Finding,
    "examples": Example,
    "harm": HarmResult,
}
"""The kinds of rows of a result, each a frame and a file ``NAME.json``."""


@dataclass(frozen=True)
class DataFacts:
    """Where the log came from, what was done to it and how many events each part has.

    ``findings`` is what reading the log found. ``tie_rate`` is the share of tested users whose
    test event has the time of the event before it, ``future_share`` that of training events later
    than the average test event; both are None when the log has no timestamps.
    """

    source: str
    split: str
    train: int
    validation: int
    test: int
    cleaning: Sequence[CleaningStep] = ()  # the steps in order; the first is the log as read
    order: str = "time"  # what each user's events are in order of: or position, rows, random
    tie_rate: float | None = None
    future_share: float | None = None
    findings: Sequence[LogFinding] = ()


@dataclass(frozen=True)
class SampleRow:
    """How many samples a task has in one part of the split, and how long their prompts are."""

    task: str
    split: str
    samples: int
    templates: int  # number of wordings that the samples use
    mean_prompt_tokens: float | None = None  # None where nothing was tokenised, as the two below
    max_prompt_tokens: int | None = None
    truncated: int | None = None  # number of prompts that were cut to the model's length


@dataclass(frozen=True)
class ModelFacts:
    """Which language model was evaluated and how much of it was trained."""

    name: str  # on a hub, or in words what was built
    adaptation: str  # such as ``full``, ``LoRA``, or ``not trained (zero-shot)``
    trainable: int  # number of trained ``parameters``; 0 means zero-shot
    parameters: int
    causal: bool = False  # a causal model, and no encoder-decoder
    rating_head: bool = False  # whether a head reads ratings from it


@dataclass(frozen=True)
class LossRow:
    """One line of the training log: a training loss, a validation loss, or both.

    ``clip_scale_min`` and ``clip_scale_mean`` are of the scales of the tensors' steps since the
    line before, where steps are scaled; ``clip_share`` is the share of scales below 1.
    """

    step: int
    loss: float | None = None
    eval_loss: float | None = None
    clip_scale_min: float | None = None
    clip_scale_mean: float | None = None
    clip_share: float | None = None


@dataclass(frozen=True)
class ExpertUse:
    """The weights of the experts for each task at the end of training."""

    tasks: Sequence[str]
    shares: Sequence[Sequence[float]]  # shape (tasks, experts)
    by_task: bool  # whether all samples of a task get the same weights


@dataclass(frozen=True)
class CodeGroup:
    """The items whose identifiers begin with one code."""

    code: str  # or the word
    items: Sequence[int]  # the number of items of each second code, in descending order
    titles: Sequence[str]  # one title of each of the largest of these


@dataclass(frozen=True)
class Facts:
    """What is known of a result beside its rows; the report leaves out what is missing.

    ``language_models`` are the names of the recommenders that are language models, where it is not
    one of the name ``language_model``.
    """

    name: str = "Result"  # the report's title
    command: str = ""  # the command line that repeats the run
    started: str = ""  # when the run began, in words
    finished: str = ""
    version: str = recinject.__version__
    seed: int | None = None
    durations: Mapping[str, float] = field(default_factory=dict)  # seconds by stage, in order
    data: DataFacts | None = None
    samples: Sequence[SampleRow] = ()
    model: ModelFacts | None = None  # None where baselines were evaluated alone
    language_models: Sequence[str] = ()
    training: Sequence[LossRow] = ()
    sampled_candidates: int = 99  # number of negatives beside the positive in a ranking query
    experts: ExpertUse | None = None
    codes: Sequence[CodeGroup] = ()  # the largest groups of items, where identifiers are codes


@dataclass(frozen=True, eq=False)
class Result:
    """What recommenders scored on the same queries, how they compare, and what they answered.

    Attributes:
        rows: the rows of each kind in :data:`ROWS`, as dataclasses; the frames show the same.
        predictions: a frame of one row a query, by task and recommender. ``item_ids`` are the
            recommended items, best first; ``rating`` is predicted, ``label`` the true rating.
        facts: what is known beside the rows.

    Examples:
        >>> row = {"task": "rating", "recommender": "item_mean", "metric": "rmse", "value": 0.98}
        >>> row |= {"ci_low": 0.95, "ci_high": 1.01, "n": 600}
        >>> result = Result.from_rows({"metrics": [row]}, facts={"name": "my shop", "seed": 1})
        >>> result.metrics[["recommender", "metric", "value"]].values.tolist()
        [['item_mean', 'rmse', 0.98]]
        >>> result.headline[:50]
        'Item mean reaches RMSE 0.980 [0.950, 1.010] on rat'
    """

    rows: Mapping[str, Sequence[Any]]
    predictions: Mapping[tuple[str, str], pd.DataFrame]
    facts: Facts

    @classmethod
    def from_rows(
        cls,
        rows: Mapping[str, Sequence[Any]],
        predictions: Mapping[tuple[str, str], pd.DataFrame] | None = None,
        facts: Facts | Mapping[str, Any] | None = None,
    ) -> Result:
        """Build a result from what the functions of ``recinject.evaluation`` return.

        Args:
            rows: rows by kind (see :data:`ROWS`), each a dataclass or a mapping of its fields.
            predictions: a frame of answers by (task, recommender).
            facts: :class:`Facts`, or a mapping of some of its fields.

        Raises:
            RecinjectError: a kind of rows or a fact is unknown, or a fact has another form.
        """
        for name in rows:
            pick(name, ROWS, "rows: unknown kind")
        made = {
            name: [kind(**r) if isinstance(r, Mapping) else r for r in rows.get(name, [])]
            for name, kind in ROWS.items()
        }
        known = facts if isinstance(facts, Facts) else bind(Facts, facts or {}, "facts")
        return cls(made, {} if predictions is None else predictions, known)

    @property
    def metrics(self) -> pd.DataFrame:
        """One row a task, recommender and metric, with its 95 % interval over ``n`` users."""
        return self._frame("metrics")

    @property
    def comparisons(self) -> pd.DataFrame:
        """One row a paired comparison: ``recommender`` less ``reference`` on the same queries."""
        return self._frame("comparisons")

    @property
    def slices(self) -> pd.DataFrame:
        """The main metric of each task on slices of the queries."""
        return self._frame("slices")

    @property
    def lists(self) -> pd.DataFrame:
        """Measures of the retrieved lists beyond accuracy, such as coverage and novelty."""
        return self._frame("lists")

    @property
    def audit(self) -> pd.DataFrame:
        """One row a finding of the audit: ``check``, ``value``, ``verdict``, ``explanation``."""
        return self._frame("audit")

    @property
    def examples(self) -> pd.DataFrame:
        """Predictions in words, hits and failures."""
        return self._frame("examples")

    @property
    def harm(self) -> pd.DataFrame:
        """Impact and harm: a row a figure, with its level and what that rests on."""
        return self._frame("harm")

    def _frame(self, name: str) -> pd.DataFrame:
        columns = [each.name for each in fields(ROWS[name])]
        return pd.DataFrame([asdict(row) for row in self.rows[name]], columns=columns)

    @property
    def language_models(self) -> Sequence[str]:
        """The names of the language models that were evaluated."""
        usual = any(row.recommender == LANGUAGE_MODEL for row in self.rows["metrics"])
        default = [LANGUAGE_MODEL] if usual or self.facts.model else []
        return self.facts.language_models or default

    @property
    def sentences(self) -> list[str]:
        """The sentences of the headline: of each language model, or of the best baselines."""
        models, facts = self.language_models, self.facts.model
        if not models:
            return headline(self.rows["metrics"], self.rows["comparisons"], None)
        untrained = "untrained (zero-shot) " if facts and not facts.trainable else ""
        said = []
        for name in models:
            hidden = set(models) - {name}
            metrics, comparisons = (
                [
                    replace(row, recommender=LANGUAGE_MODEL) if row.recommender == name else row
                    for row in self.rows[kind]
                    if row.recommender not in hidden and not is_variant(row.recommender, models)
                ]
                for kind in ("metrics", "comparisons")
            )
            subject = f"The {untrained}language model" if name == LANGUAGE_MODEL else name
            said += headline(metrics, comparisons, subject)
        return said

    @property
    def headline(self) -> str:
        """Where the language model stands against the baselines, losses first."""
        return " ".join(self.sentences)

    def plot(self, task: str = "retrieval", metric: str | None = None) -> Figure:
        """Draw a metric of a task with 95 % intervals, or each of them if none is given.

        Returns:
            The figure; a notebook shows it, and ``figure.savefig`` writes it.

        Raises:
            RecinjectError: the task or the metric was not measured.
        """
        from recinject.reporting.figures import metric_figure

        rows = self.rows["metrics"]
        pick(task, ordered_tasks(rows), "plot: not measured, the task")
        measured = list(dict.fromkeys(row.metric for row in rows if row.task == task))
        names = [pick(metric, measured, f"plot: not measured on {task},")] if metric else measured
        panels = [found for name in names if (found := ranked(task, name, rows))]
        return metric_figure(panels, min(2, len(panels)), self.language_models)

    def report(self, folder: str | Path) -> Path:
        """Write ``report.html``, ``report.md`` and ``figures/``; return the path of the HTML."""
        from recinject.reporting.report import write_report

        return write_report(self, Path(folder))

    def save(self, folder: str | Path) -> None:
        """Write a JSON file for each kind of rows, and for facts if any; and ``predictions/``."""
        root = Path(folder)
        (root / "predictions").mkdir(parents=True, exist_ok=True)
        for name, rows in self.rows.items():
            write_json(root / f"{name}.json", [asdict(row) for row in rows])
        names = [f"{task}.{recommender}.parquet" for task, recommender in self.predictions]
        for stale in (root / "predictions").glob("*.parquet"):  # of an earlier result
            if stale.name not in names:
                stale.unlink()
        for (task, recommender), frame in self.predictions.items():
            frame.to_parquet(root / "predictions" / f"{task}.{recommender}.parquet", index=False)
        if self.facts != Facts():
            write_json(root / "facts.json", asdict(self.facts))
        else:
            (root / "facts.json").unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | Path) -> Result:
        """Read what :meth:`save` wrote, or the folder ``evaluation`` of a run.

        Predictions are read when they are asked for.

        Raises:
            RecinjectError: there is no result in the folder.
        """
        root = Path(folder)
        # Results of before impact and harm was measured have no file of it.
        missing = [
            name for name in ROWS if name != "harm" and not (root / f"{name}.json").is_file()
        ]
        if missing:
            hint = "name the folder evaluation of a finished run, or one that Result.save wrote"
            raise RecinjectError(f"{folder}: no result, {missing[0]}.json is missing", hint=hint)
        stored = {name: root / f"{name}.json" for name in ROWS}
        rows = {name: read_json(file) if file.is_file() else [] for name, file in stored.items()}
        facts = read_json(root / "facts.json") if (root / "facts.json").is_file() else None
        try:
            return cls.from_rows(rows, _StoredPredictions(root / "predictions"), facts)
        except TypeError as error:
            raise RecinjectError(
                f"{folder}: its rows are not those of a result ({error})",
                hint="another version wrote it, or it was changed: evaluate again",
            ) from error

    def _repr_html_(self) -> str:
        table = self.metrics.to_html(index=False, float_format="{:.4f}".format)
        return f"<p>{escape(self.headline)}</p>\n{table}"


class _StoredPredictions(Mapping[tuple[str, str], pd.DataFrame]):
    """The predictions in a folder, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        named = [(path.stem.partition("."), path) for path in sorted(folder.glob("*.parquet"))]
        self._files = {(task, recommender): path for (task, _, recommender), path in named}

    def __getitem__(self, key: tuple[str, str]) -> pd.DataFrame:
        return pd.read_parquet(self._files[key])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
