"""Simulate: a finished run's model and baselines recommend for some rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recinject.evaluation.simulation import Simulation, SimulationSettings, simulate_rounds
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.foundation.settings import bind, listed
from recinject.foundation.storage import load_yaml
from recinject.pipeline.evaluate import model_of
from recinject.pipeline.run import Run

_USUAL = ("item_knn",)


def simulate(run: Run, words: Sequence[str]) -> Simulation:
    """Simulate rounds by settings such as ``rounds=5``, and write the folder ``simulation``.

    ``recommenders=[ease, item_knn]`` names who recommends beside the run's model.
    """
    given: dict[str, Any] = {"seed": run.recipe.seed}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            fact = f"simulate: {word!r} is no setting"
            raise RecinjectError(fact, hint="write KEY=VALUE, such as rounds=5")
        given[key] = load_yaml(value)
    named = listed(given.pop("recommenders", _USUAL), "simulate: recommenders")
    settings = bind(SimulationSettings, given, "simulate")
    retrieves = any(task.answer == "retrieval" for task in run.samples.bound_tasks())
    model = model_of(run) if run.recipe.has_model and retrieves else None
    found = simulate_rounds([*([model] if model else []), *named], run.data, settings)
    found.save(run.folder("simulation"))
    for row in found.of_slopes:
        against = f" less {row.reference}" if row.reference else ""
        ends = f"[{row.ci_low:+.4f}, {row.ci_high:+.4f}]"
        say(f"{row.recommender}: {row.measure}{against} {row.value:+.4f} {ends} a round")
    say(f"Rounds and slopes: {run.folder('simulation')}")
    return found
