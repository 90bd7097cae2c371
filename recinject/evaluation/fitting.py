"""Baselines are fitted, with settings chosen on validation where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from recinject.evaluation.audit import Finding
from recinject.evaluation.evaluate import EvaluationSettings, StoredQueries, fit_recommenders
from recinject.evaluation.fusion import Fusion
from recinject.evaluation.harm import check_scope
from recinject.evaluation.metrics import MAIN_METRICS
from recinject.evaluation.selection import can_tune, equal_histories, tune, untuned
from recinject.identifiers.data import Data
from recinject.recommenders.protocol import Recommender
from recinject.samples.samples import Samples


def fit_baselines(
    recommenders: Sequence[Recommender],
    data: Data,
    samples: Samples,
    settings: EvaluationSettings,
    models: Sequence[Recommender] = (),
) -> tuple[list[Recommender], list[Finding]]:
    """Fit recommenders, with settings chosen on validation where that is asked for.

    Args:
        recommenders: unfitted.
        data: see :func:`recinject.prepare`.
        samples: whose validation samples a choice rests on.
        settings: how they are asked.
        models: fitted ones that are asked, too, and may be members of a blend. Where a language
            model is among them, the others read as many items of a history as its prompts show,
            where nothing else was asked for.

    Returns:
        Those that could be fitted, and what was chosen.
    """
    check_scope(settings.scope, settings.harm, data)
    fusions = [each for each in recommenders if isinstance(each, Fusion)]
    recommenders = [each for each in recommenders if not isinstance(each, Fusion)]
    tasks = [task for task in samples.bound_tasks() if task.answer]
    shown = {str(t.answer): t.history_length for t in tasks if hasattr(t, "history_length")}
    lengths = shown if any(each.reads_prompts for each in (*models, *recommenders)) else {}
    found = [equal_histories(lengths)] if lengths and recommenders else []
    stored, fitted, left = StoredQueries(data, samples, settings), list[Recommender](), list[str]()

    def fit_one(one: Recommender) -> Recommender:
        return fit_recommenders([one], data, settings.seed, lengths)[0]

    def join() -> list[Finding]:
        asked = {str(task.answer): stored.validation(task) for task in reversed(tasks)}
        known = {each.name: each for each in (*models, *fitted)}
        return [why for each in fusions for why in each.join(known, fit_one, asked, data)]

    if not settings.tune:
        fitted = fit_recommenders(recommenders, data, settings.seed, lengths)
        found += untuned(each.name for each in fitted if each.grid)
        return [*fitted, *fusions], [*found, *(join() if fusions else [])]
    asked = {str(task.answer): stored.validation(task) for task in reversed(tasks)}
    for each in recommenders:
        own = [asked[kind] for kind in MAIN_METRICS if kind in each.tasks and kind in asked]
        known = next((validation for validation in own if validation), None)
        if known is None or not can_tune(each, settings.tune):
            fitted += (made := fit_recommenders([each], data, settings.seed, lengths))
            left += [one.name for one in made if one.grid]
            continue
        grid = None if isinstance(settings.tune, bool) else settings.tune[each.name]
        best, finding = tune(each, fit_one, known, grid)
        fitted.append(best)
        found.append(finding)
    return [*fitted, *fusions], [*found, *untuned(left), *(join() if fusions else [])]
