"""Inject recommendation knowledge into language models, and compare them honestly with CF.

The public names are those of ``__all__``; each is imported when it is first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Contexts": "recinject.templating.writers",
    "Data": "recinject.identifiers.data",
    "Identifiers": "recinject.identifiers.table",
    "ItemScorer": "recinject.recommenders.protocol",
    "LanguageModel": "recinject.recommenders.language_model",
    "Log": "recinject.data.schema",
    "Metric": "recinject.evaluation.metrics",
    "Prediction": "recinject.recommenders.protocol",
    "Queries": "recinject.recommenders.protocol",
    "RecinjectError": "recinject.foundation.errors",
    "Recommender": "recinject.recommenders.protocol",
    "Result": "recinject.reporting.result",
    "Samples": "recinject.samples.samples",
    "SlotKind": "recinject.templating.writers",
    "Split": "recinject.data.splitting",
    "TargetTask": "recinject.tasks.task",
    "Task": "recinject.tasks.task",
    "benchmark_ratings": "recinject.api",
    "build_part": "recinject.api",
    "build_samples": "recinject.api",
    "compare": "recinject.pipeline.compare",
    "evaluate": "recinject.api",
    "fine_tune": "recinject.api",
    "fit": "recinject.api",
    "gather": "recinject.api",
    "load": "recinject.api",
    "load_samples": "recinject.api",
    "new_recipe": "recinject.pipeline.new",
    "prepare": "recinject.api",
    "read_log": "recinject.data.readers",
    "register": "recinject.registry",
    "run": "recinject.api",
    "simulate": "recinject.api",
    "sweep": "recinject.pipeline.sweep",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'recinject' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
