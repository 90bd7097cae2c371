"""The last lines of a run: who won, by how much, and what to try next."""

from __future__ import annotations

from collections.abc import Sequence

from recinject.reporting.headline import (
    Standing,
    corrected,
    difference,
    is_variant,
    leader,
    main_metric,
    ordered_tasks,
    ranked,
    standings,
    with_interval,
)
from recinject.reporting.result import LossRow, Result
from recinject.reporting.wording import (
    CEILING,
    LANGUAGE_MODEL,
    SIGNIFICANT,
    count,
    metric_label,
    recommender_label,
)

_BLEND = f"{LANGUAGE_MODEL}_blend"
_STILL = 0.001  # of the validation loss, by which it fell in the last quarter of the training


def closing(result: Result, run: str = "RUN") -> list[str]:
    """Say in three sentences who won the first task, by how much, and what to try next.

    Args:
        result: of a run, or of :func:`recinject.evaluate`.
        run: what commands call the run.

    Examples:
        >>> row = {"task": "rating", "recommender": "item_mean", "metric": "rmse", "value": 0.98}
        >>> row |= {"ci_low": 0.95, "ci_high": 1.01, "n": 600}
        >>> closing(Result.from_rows({"metrics": [row]}))[0]
        'Item mean was measured alone on rating: RMSE 0.980 [0.950, 1.010], n = 600 users.'
    """
    models = result.language_models
    metrics = [
        row
        for row in result.rows["metrics"]
        if row.recommender != CEILING and not is_variant(row.recommender, models)
    ]
    task = next((task for task in ordered_tasks(metrics) if leader(task, metrics)), None)
    if task is None:
        return ["Nothing was measured in this run."]
    order = ranked(task, main_metric(task, metrics), metrics)
    own = next((row for row in order if row.recommender in models), order[0])
    rivals = standings(task, metrics, result.rows["comparisons"], own.recommender)
    name = _capital(own.recommender)
    if not rivals:
        figure = f"{metric_label(own.metric)} {with_interval(own)}, n = {count(own.n)} users"
        said = [f"{name} was measured alone on {task}: {figure}."]
        said.append("Next: evaluate others beside it, so that the figure has a meaning.")
        return _with_state(said, result)
    best, place = rivals[0], order.index(own) + 1
    said = [_winner(best, place, len(order)), f"{name} against {best.rival}: {best.evidence}."]
    return _with_state([*said, f"Next: {_next(result, rivals, run)}."], result)


def _with_state(said: Sequence[str], result: Result) -> list[str]:
    """Say of a language model that nobody trained what it is."""
    known = result.facts.model
    if known is None or known.trainable:
        return list(said)
    return [text.replace("he language", "he untrained (zero-shot) language", 1) for text in said]


def _named(recommender: str) -> str:
    label = recommender_label(recommender)
    return f"the {label}" if recommender == LANGUAGE_MODEL else label


def _capital(recommender: str) -> str:
    name = _named(recommender)
    return name[0].upper() + name[1:]


def _winner(best: Standing, place: int, of: int) -> str:
    own, other = best.own.recommender, best.other.recommender
    first, second = (own, other) if best.gain >= 0 else (other, own)
    last = "" if place <= 2 else f", which is number {place}"
    if best.is_significant and best.gain:
        behind = f"; {_named(second)} is number {max(place, 2)} of {of}"
        return f"{_capital(first)} wins on {best.own.task}{behind}."
    place_of = f"{_capital(first)} has the best figure of {of} on {best.own.task}"
    return f"{place_of}, but no test tells it from {_named(second)}{last}."


def _next(result: Result, rivals: Sequence[Standing], run: str) -> str:
    """Advise one thing: the first that applies."""
    best, own = rivals[0], rivals[0].own.recommender
    names = [each.other.recommender for each in rivals]
    single = next((name for name in names if "blend" not in name), names[0])
    if own not in result.language_models:
        return (
            f"'recinject recommend {run} --recommender {own}' asks the winner. No language model "
            "was asked; a recipe with one tells whether it adds anything"
        )
    if steps := _still_falling(result.facts.training):
        return (
            "the validation loss still fell when the training ended, so try "
            f"training.max_steps={2 * steps}"
        )
    if best.gain < 0 and best.is_significant:
        for row in corrected(result.rows["comparisons"]):
            key = row.task, row.metric, row.recommender, row.reference
            wanted = best.own.task, best.own.metric, _BLEND, names[0]
            if key == wanted and row.p_value < SIGNIFICANT and row.difference > 0:
                return (
                    f"blend the two: the model with the best filters beats {best.rival} by "
                    f"{difference(row)}"
                )
        return (
            f"use a filter, which is cheaper, too: 'recinject recommend {run} --recommender "
            f"{single}'; a pretrained model (model.name) is what could change the order"
        )
    return "one seed proves little about a method: 'recinject sweep RECIPE --seeds 1,2,3'"


def _still_falling(training: Sequence[LossRow]) -> int | None:
    """Return the last step where the validation loss was lowest at the end, and still falling."""
    losses = [(row.step, row.eval_loss) for row in training if row.eval_loss is not None]
    if len(losses) < 4:
        return None
    (last, end), before = losses[-1], losses[: -max(1, len(losses) // 4)]
    lowest = min(loss for _, loss in before)
    return last if end < lowest * (1 - _STILL) else None
