"""What is chosen on validation: a way of ranking, the baselines' settings, a blend's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from recinject.data.schema import Floats
from recinject.evaluation.audit import Finding
from recinject.evaluation.metrics import Clusters, observe, parse_metric, statistic_of
from recinject.foundation.errors import pick
from recinject.foundation.progress import say
from recinject.recommenders.language_model import LanguageModel, RankedByRetrieval
from recinject.recommenders.protocol import Prediction, Queries, Recommender, places, top_k

_FILTERS = 2  # how many of the best are blended
_STEPS = 10  # of a weight from 0 to 1
_ROWS_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Validation:
    """The validation queries of a task, and what was answered to them.

    Attributes:
        queries: their histories hold training events alone.
        metric: what a choice goes by.
        length: how many items a list has.
    """

    queries: Queries
    metric: str
    length: int
    _answers: dict[str, Prediction] = field(default_factory=dict, repr=False)

    def answer(self, recommender: Recommender) -> Prediction:
        """Ask a recommender, once."""
        if recommender.name not in self._answers:
            self._answers[recommender.name] = recommender.predict(self.queries, self.length)
        return self._answers[recommender.name]

    def score(self, prediction: Prediction) -> float:
        """Measure answers so that more is better."""
        value = self.value(prediction)
        return -value if parse_metric(self.metric)[0].better == "lower" else value

    def value(self, prediction: Prediction) -> float:
        """Measure answers by the metric."""
        statistic = statistic_of(prediction, self.queries, self.metric, self._clusters)
        return float(observe([statistic], self._clusters)[0])

    @cached_property
    def _clusters(self) -> Clusters:
        return Clusters.of(self.queries.users)

    @property
    def source(self) -> str:
        """What a choice rests on, in words."""
        return f"{self.metric} on {len(self.queries):,} validation queries of {self.queries.task}"


def ways_of(model: Recommender, kind: str) -> dict[str, Recommender]:
    """Return how a model can answer, by the task whose prompt it reads: two ways to rank slates."""
    if kind != "ranking" or not isinstance(model, LanguageModel):
        return {kind: model}
    other = {"retrieval": RankedByRetrieval(model)} if RankedByRetrieval.can_ask(model) else {}
    return {"ranking": model, **other}


def choose_way(
    ways: Mapping[str, Recommender], validation: Validation | None, wanted: str
) -> tuple[dict[str, Recommender], list[Finding]]:
    """Choose how a model answers: the way that is wanted, or the one that wins on validation.

    Args:
        ways: the same model, by the task whose prompt it reads.
        validation: where ``auto`` chooses; without it the first way is taken.
        wanted: one of the ways, which then is the only one; or ``auto``.

    Returns:
        The chosen way under the model's name, then the others under names of their own; and,
        where there was a choice, why.
    """
    (chosen, model), *others = ways.items()
    if wanted in ways or not others:
        return {model.name: ways.get(wanted, model)}, []
    why = "there are no validation queries to choose on"
    if validation is not None:
        found = {way: validation.answer(each) for way, each in ways.items()}
        chosen = max(found, key=lambda way: validation.score(found[way]))
        values = (f"{validation.value(each):.3f} by {way}" for way, each in found.items())
        why = f"chosen by {validation.source}: {', '.join(values)}"
    rest = {f"{model.name}_by_{way}": each for way, each in ways.items() if way != chosen}
    meaning = f"the task whose prompt {model.name} reads to rank a slate; {why}"
    named = {model.name: ways[chosen], **rest}
    return named, [Finding(f"ranking_by:{model.name}", chosen, "ok", meaning)]


Grid = Mapping[str, Sequence[Any]]
Fit = Callable[[Recommender], Recommender]


def tune(
    recommender: Recommender, fit: Fit, validation: Validation, grid: Grid | None = None
) -> tuple[Recommender, Finding]:
    """Choose a recommender's settings on validation, one after another, from a grid of values.

    Args:
        recommender: a dataclass; settings that are not the class's defaults are left alone.
        fit: what fits a recommender and returns it.
        validation: what each is measured on.
        grid: the values of each setting; the recommender's own if not given.

    Returns:
        The best one, fitted; and the grid with its results, which says where the best value is
        the grid's first or last.
    """
    asked = recommender.grid if grid is None else grid
    usual = {each.name: each.default for each in fields(recommender)}  # type: ignore[arg-type]
    for setting in asked:
        pick(setting, usual, f"evaluation.tune.{recommender.name}: unknown setting")
    best = fit(recommender)
    score = validation.score(best.predict(validation.queries, validation.length))
    said, edges = list[str](), list[str]()
    for setting, values in asked.items():
        if grid is None and getattr(best, setting) != usual[setting]:
            continue
        tried = {getattr(best, setting): (score, best)}
        for value in (value for value in values if value not in tried):
            other = fit(_with_setting(best, setting, value))
            found = validation.score(other.predict(validation.queries, validation.length))
            tried[value] = found, other
        score, best = max(tried.values(), key=lambda pair: pair[0])
        numbers = all(isinstance(value, int | float) for value in tried)
        order = sorted(tried) if numbers else list(tried)
        if len(order) > 1 and getattr(best, setting) in (order[0], order[-1]):
            edges.append(setting)
        results = (f"{value} ({abs(tried[value][0]):.3f})" for value in order)
        said.append(f"{setting} {', '.join(results)}")
    chosen = ", ".join(f"{setting} {getattr(best, setting)}" for setting in asked)
    edge = f"; at the edge of its grid: {', '.join(edges)}" if edges else ""
    meaning = f"settings chosen by {validation.source}: {'; '.join(said)}{edge}"
    say(f"  {recommender.name}: {meaning}")
    return best, Finding(f"tuned:{best.name}", chosen, "note" if edges else "ok", meaning)


def _with_setting(recommender: Recommender, setting: str, value: Any) -> Recommender:
    made: Recommender = replace(recommender, **{setting: value})  # type: ignore[type-var]
    made.name = recommender.name  # type: ignore[misc]  # its own, beside the class's
    if setting != "history_length" and "history_length" not in vars(made):
        made.history_length = recommender.history_length
    return made


def can_tune(recommender: Recommender, grids: bool | Mapping[str, Grid]) -> bool:
    """Say whether a recommender has settings to choose from."""
    has_grid = recommender.name in grids if isinstance(grids, Mapping) else bool(recommender.grid)
    return bool(grids) and has_grid and is_dataclass(recommender)


def untuned(names: Iterable[str]) -> list[Finding]:
    """Say who was asked with settings that nobody chose on this log."""
    found = ", ".join(names)
    meaning = f"settings of {found}: as given, or their defaults, not chosen on this log"
    return [Finding("settings_not_tuned", "defaults", "note", meaning)] if found else []


def equal_histories(lengths: Mapping[str, int]) -> Finding:
    """Say how much of a history everybody reads."""
    words = ", ".join(f"{length} for {kind}" for kind, length in lengths.items())
    meaning = (
        "latest items of a history that every recommender reads of those that read histories, as "
        "many as a prompt shows at most, but for one with a history_length of its own"
    )
    return Finding("history_read", words, "ok", meaning)


@dataclass(frozen=True, eq=False)
class Blend:
    """A weighted sum of what several recommenders answer, the weights chosen on validation.

    Of a list an item has its score's distance to the list's last one, in units of the mean
    distance between a list's first and last; an item that is not listed has 0. Ratings are
    weighted as they are.
    """

    name: str
    members: Sequence[str]
    weights: Floats
    scales: Floats

    @classmethod
    def chosen(cls, name: str, members: Sequence[Recommender], validation: Validation) -> Blend:
        """Choose weights that sum to 1, in steps of a tenth, with the best result."""
        answers = [validation.answer(each) for each in members]
        scales = np.array([_spread(each) for each in answers])
        names, best = [each.name for each in members], (-np.inf, np.zeros(len(members)))
        columns = _gathered(answers, scales)
        for steps in product(range(_STEPS + 1), repeat=len(members)):
            if sum(steps) == _STEPS:
                weights = np.array(steps) / _STEPS
                made = cls(name, names, weights, scales)
                answer = made._weighted(answers, validation.queries, columns)
                best = max(best, (validation.score(answer), weights), key=lambda pair: pair[0])
        return cls(name, names, best[1], scales)

    def predict(self, answers: Sequence[Prediction], queries: Queries) -> Prediction:
        """Blend answers, the members' in their order, to the same queries."""
        return self._weighted(answers, queries, _gathered(answers, self.scales))

    def describe(self, validation: Validation) -> Finding:
        """Say what the weights are and what they rest on."""
        parts = zip(self.weights, self.members, strict=True)
        words = " + ".join(f"{weight:g} {member}" for weight, member in parts)
        meaning = f"weights of the blend, chosen by {validation.source}"
        return Finding(f"weights:{self.name}:{validation.queries.task}", words, "ok", meaning)

    def _weighted(
        self,
        answers: Sequence[Prediction],
        queries: Queries,
        columns: tuple[Any, Floats] | None,
    ) -> Prediction:
        if columns is None:
            ratings = np.stack([np.asarray(each.ratings) for each in answers], 1)
            return Prediction(self.name, queries.task, ratings=ratings @ self.weights)
        items, strengths = columns
        scores = np.where(items < 0, -np.inf, strengths @ self.weights)
        chosen, best = top_k(scores, np.asarray(answers[0].items).shape[1])
        listed = np.where(chosen < 0, -1, np.take_along_axis(items, chosen, axis=1))
        is_target = items == queries.targets[:, None]
        at = np.where(is_target.any(1), is_target.argmax(1), -1).astype(np.int32)
        return Prediction(self.name, queries.task, listed, best, *places(scores, at))


def _spread(answer: Prediction) -> float:
    if answer.scores is None:
        return 1.0
    known = np.isfinite(answer.scores)
    first, last = (each(np.where(known, answer.scores, np.nan), 1) for each in _ENDS)
    return float(np.nanmean(first - last)) or 1.0


_ENDS = (np.nanmax, np.nanmin)


def _gathered(answers: Sequence[Prediction], scales: Floats) -> tuple[Any, Floats] | None:
    """Return the items of all lists, each once in a row, and how strongly each list has them.

    Returns:
        Items, -1 for none, shape (n, columns), and strengths, shape (n, columns, lists); None of
        ratings.
    """
    lists = [each.items for each in answers if each.items is not None and each.scores is not None]
    if not lists:
        return None
    items = np.concatenate(lists, axis=1)
    strengths = np.zeros((*items.shape, len(answers)))
    for start in range(0, len(items), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        for number, (answer, scale) in enumerate(zip(answers, scales, strict=True)):
            scores = np.asarray(answer.scores)[rows]
            known = np.isfinite(scores)
            floor = np.where(known, scores, np.inf).min(1, keepdims=True, initial=np.inf)
            own = np.where(known, scores - np.where(np.isfinite(floor), floor, 0), 0) / scale
            same = items[rows, :, None] == np.asarray(answer.items)[rows, None, :]
            strengths[rows, :, number] = (same * own[:, None, :]).sum(2)
        earlier = np.tril(items[rows, :, None] == items[rows, None, :], -1).any(2)
        items[rows] = np.where(earlier, -1, items[rows])
    return items, strengths


def best_filters(recommenders: Sequence[Recommender], validation: Validation) -> list[Recommender]:
    """Return the recommenders with the best results on validation, best first."""
    found = [(validation.score(validation.answer(each)), each) for each in recommenders]
    ordered = sorted(found, key=lambda pair: -pair[0])
    return [each for _, each in ordered[:_FILTERS]]
