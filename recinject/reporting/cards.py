"""The cards that travel with a folder of samples and with a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from recinject.reporting.headline import main_metric, ordered_tasks
from recinject.reporting.pages import render
from recinject.reporting.report import content_of
from recinject.reporting.result import DataFacts, Result, SampleRow
from recinject.reporting.tables import cleaning_table, sample_table
from recinject.reporting.wording import LANGUAGE_MODEL, metric_label

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

    Args:
        samples: counts by task and part; each must have its ``<task>/<part>-*.parquet``.
        prompt_versions: the version of the prompt file of each task.
        command: the command line that makes the samples again.
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
        "cleaning_table": cleaning_table(data.cleaning),
        "sample_table": sample_table(samples),
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
    """Write the README.md of a trained model's folder; LoRA's weights are merged into the model.

    Args:
        prompt_versions: the version of the prompt file of each task.
        base_model: the name on a hub of the model that training started from, if it has one.
    """
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
    """Return the main metric of each task in the form that the hub shows."""
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
    return [
        {
            "config_name": task,
            "data_files": [{"split": p, "path": f"{task}/{p}-*.parquet"} for p in found],
        }
        for task, found in parts.items()
    ]
