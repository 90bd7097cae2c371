"""The report of a result, and the cards of models and data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData
from matplotlib.figure import Figure

from recinject.evaluation.audit import SEEN_KEPT
from recinject.evaluation.lists import SliceResult
from recinject.evaluation.metrics import MetricResult
from recinject.reporting import figures, tables, wording
from recinject.reporting.headline import (
    Standing,
    is_variant,
    leader,
    main_metric,
    ordered_tasks,
    ranked,
    standings,
)
from recinject.reporting.impact import impact_drawings, impact_of, warnings_of
from recinject.reporting.pages import render, write_pages
from recinject.reporting.result import DataFacts, Result, SampleRow
from recinject.reporting.wording import LANGUAGE_MODEL, metric_label


def write_report(result: Result, folder: Path) -> Path:
    """Write ``report.html``, ``report.md`` and ``figures/*.png``; return the path of the page."""
    drawings = list(_drawings(result))
    shown: dict[str, list[_Drawing]] = {}
    for drawing in drawings:
        shown.setdefault(drawing.section, []).append(drawing)
    text = render("report.md.j2", content_of(result) | {"figures": shown})
    text = re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"
    drawn = {drawing.name: drawing.figure for drawing in drawings}
    return write_pages(folder, "report", result.facts.name, text, drawn)


def content_of(result: Result) -> dict[str, Any]:
    """Work out what the report and the model card say: sentences, tables and totals."""
    facts, rows, data = result.facts, result.rows, result.facts.data
    seen_kept = any(row.check == SEEN_KEPT for row in rows["audit"])
    return {
        "facts": facts,
        "has_model": bool(result.language_models),
        "headline": result.sentences,
        "standing_table": tables.standing_table(_standings(result)),
        "tasks": ordered_tasks(rows["metrics"]),
        "metric_tables": tables.metric_tables(rows["metrics"], facts.sampled_candidates, seen_kept),
        "meanings": wording.metric_meanings(row.metric for row in rows["metrics"]),
        "slice_tables": tables.slice_tables(rows["slices"]),
        "list_table": tables.list_table(rows["lists"]),
        "list_meanings": wording.list_meanings(row.measure for row in rows["lists"]),
        "comparison_tables": tables.comparison_tables(rows["comparisons"]),
        "cleaning_table": tables.cleaning_table(data.cleaning if data else ()),
        "finding_table": tables.finding_table(data.findings if data else ()),
        "sample_table": tables.sample_table(facts.samples),
        "audit_table": tables.audit_table(rows["audit"]),
        "audit": rows["audit"],
        "examples": rows["examples"],
        "impact": impact_of(rows.get("harm", ())),
        "harm_warnings": warnings_of(rows.get("harm", ())),
        "model_warnings": warnings_of(rows.get("harm", ()), result.language_models or [""]),
    }


def _standings(result: Result) -> dict[str, Standing]:
    """Return how the best language model, or else the best baseline, stands against the next."""
    models, tests = result.language_models, result.rows["comparisons"]
    metrics = [r for r in result.rows["metrics"] if not is_variant(r.recommender, models)]
    tasks = {task: leader(task, _first(result)) for task in ordered_tasks(metrics)}
    found = {task: standings(task, metrics, tests, first) for task, first in tasks.items()}
    return {task: order[0] for task, order in found.items() if order}


class _Drawing(NamedTuple):
    section: str
    label: str
    name: str  # of its file, without suffix
    figure: Figure


def _drawings(result: Result) -> Iterator[_Drawing]:
    metrics, facts, models = result.rows["metrics"], result.facts, result.language_models
    for task in ordered_tasks(metrics):
        for metric in dict.fromkeys(row.metric for row in metrics if row.task == task):
            if rows := ranked(task, metric, metrics):
                label = f"{task}: {wording.metric_label(metric)} by recommender"
                name = re.sub(r"\W+", "_", f"metrics_{task}_{metric}")
                yield _Drawing(task, label, name, figures.metric_figure([rows], 1, models))
        if sliced := _sliced(result, task):
            label, name = f"{task}: by slice of the queries", re.sub(r"\W+", "_", f"slices_{task}")
            yield _Drawing(task, label, name, figures.slice_figure(sliced, models))
    for section, label, figure in impact_drawings(result.rows.get("harm", ()), models):
        yield _Drawing(section, label, section, figure)
    if (predicted := _rated(result)) is not None:
        figure = figures.confusion_figure(*predicted)
        yield _Drawing("rating", "Ratings confused", "confusion", figure)
    if facts.training:
        figure = figures.loss_figure(facts.training)
        yield _Drawing("training", "Loss by training step", "loss", figure)
    if any(row.clip_share is not None for row in facts.training):
        figure = figures.scale_figure(facts.training)
        yield _Drawing("training", "Scale of a tensor's step by training step", "scales", figure)
    if facts.training and facts.experts:
        figure = figures.expert_figure(facts.experts)
        yield _Drawing("training", "Experts by task", "experts", figure)
    if facts.codes:
        yield _Drawing("data", "Items by first code", "codes", figures.code_figure(facts.codes))


def _sliced(result: Result, task: str) -> list[SliceResult]:
    # The models and the best of the others.
    metrics, models = result.rows["metrics"], result.language_models
    names = [row.recommender for row in ranked(task, main_metric(task, metrics), metrics)]
    others = [name for name in names if name not in models and not is_variant(name, models)]
    shown = [*(name for name in names if name in models), *others[:3]]
    rows = [r for r in result.rows["slices"] if r.task == task and r.recommender in shown]
    return sorted(rows, key=lambda row: shown.index(row.recommender))


def _rated(result: Result) -> tuple[Any, Any] | None:
    """Return true and predicted ratings of the best model, or of the best baseline, if stored."""
    key = "rating", leader("rating", _first(result)) or ""
    if key not in result.predictions:
        return None
    frame = result.predictions[key]
    return frame["label"].to_numpy(), frame["rating"].to_numpy()


def _first(result: Result) -> Sequence[MetricResult]:
    models, metrics = result.language_models, result.rows["metrics"]
    return [row for row in metrics if row.recommender in models] if models else metrics


_EDGES = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B"]


def dataset_card(
    name: str,
    *,
    data: DataFacts,
    samples: Sequence[SampleRow],
    prompt_versions: Mapping[str, int | str],
    command: str,
    version: str,
    seed: int,
) -> str:
    """Write the README.md of a folder of samples; ``datasets.load_dataset`` reads its front.

    Each of the ``samples`` must have its ``<task>/<part>-*.parquet``.
    """
    total, configs = sum(row.samples for row in samples), _configurations(samples)
    at = min(max(len(str(total)) - 3, 0), len(_EDGES) - 1)
    front = DatasetCardData(
        pretty_name=f"{name} (recinject samples)",
        language=["en"],
        task_categories=["text-generation"],
        tags=["recommendation", "recinject"],
        size_categories=[f"{_EDGES[at - 1]}<n<{_EDGES[at]}" if at else "n<1K"],
        configs=configs,
    )
    content = {
        "front": front.to_yaml(),
        "name": name,
        "data": data,
        "cleaning_table": tables.cleaning_table(data.cleaning),
        "sample_table": tables.sample_table(samples),
        "tasks": list(dict.fromkeys(row.task for row in samples)),
        "example": configs[0]["config_name"] if configs else "retrieval",
        "prompt_versions": prompt_versions,
        "command": command,
        "version": version,
        "seed": seed,
    }
    return render("dataset_card.md.j2", content)


def model_card(
    result: Result, *, prompt_versions: Mapping[str, int | str], base_model: str | None = None
) -> str:
    """Write the README.md of a trained model's folder; LoRA's weights are merged into the model."""
    front = ModelCardData(
        library_name="transformers",
        base_model=base_model,
        language=["en"],
        tags=["recommendation", "recinject"],
        model_name=result.facts.name,
        eval_results=_evaluations(result) or None,
    )
    prompts = (row.prompt for row in result.rows["examples"])
    content = content_of(result) | {
        "front": front.to_yaml(),
        "base_model": base_model,
        "prompt_versions": prompt_versions,
        "prompt": next(prompts, "Which item comes next?"),
    }
    return render("model_card.md.j2", content)


def _evaluations(result: Result) -> list[EvalResult]:
    metrics = result.rows["metrics"]
    main = {task: main_metric(task, metrics) for task in ordered_tasks(metrics)}
    source = result.facts.data.source if result.facts.data else result.facts.name
    return [
        EvalResult(
            task_type="other",
            task_name=row.task,
            dataset_type="recinject",
            dataset_name=source,
            dataset_config=row.task,
            metric_type=row.metric,
            metric_name=metric_label(row.metric),
            metric_value=row.value,
        )
        for row in metrics
        if row.recommender == LANGUAGE_MODEL and row.metric == main[row.task]
    ]


def _configurations(samples: Sequence[SampleRow]) -> list[dict[str, object]]:
    parts: dict[str, list[str]] = {}
    for row in samples:
        if row.samples:  # `datasets` refuses a configuration whose only split is empty
            parts.setdefault(row.task, []).append(row.split)
    files = {
        task: [{"split": part, "path": f"{task}/{part}-*.parquet"} for part in found]
        for task, found in parts.items()
    }
    return [{"config_name": task, "data_files": own} for task, own in files.items()]
