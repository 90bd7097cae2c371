"""How names and numbers read in a report, the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from inspect import getdoc
from math import isfinite

from recinject.evaluation.lists import MEASURES
from recinject.evaluation.metrics import MAIN_METRICS, Metric
from recinject.registry import find, names

LANGUAGE_MODEL = "language_model"
SIGNIFICANT = 0.05
DASH, _MINUS = "\u2013", "\u2212"
_RECOMMENDERS = {
    "language_model": "language model",
    "language_model_reworded": "model, new wording",
    "language_model_shuffled": "model, shuffled history",
    "language_model_generated": "model, written answer",
    "item_knn": "item kNN",
    "ease": "EASE",
    "content_knn": "content kNN",
    "popularity_recent": "recent popularity",
    "markov_chain": "Markov chain",
    "als": "ALS",
    "bpr": "BPR",
}


def recommender_label(name: str) -> str:
    """Return a recommender's name as a person writes it."""
    return _RECOMMENDERS.get(name, name.replace("_", " "))


def metric_of(name: str) -> type[Metric] | None:
    """Return the registered metric of a name such as ``hr@10``; None where there is none."""
    family = name.partition("@")[0]
    return find("metric", family) if family in names("metric") else None


def metric_label(name: str) -> str:
    """Return a metric's name as a person writes it: ``HR@10``."""
    family, at, cutoff = name.partition("@")
    return f"{getattr(metric_of(family), 'label', family.upper())}{at}{cutoff}"


def lower_is_better(name: str) -> bool:
    """Say whether a lower value of a metric is better."""
    return getattr(metric_of(name), "better", "higher") == "lower"


def metric_meanings(metrics: Iterable[str]) -> list[str]:
    """Explain each family of metrics once, by the first line of its documentation."""
    said = []
    for family in dict.fromkeys(name.partition("@")[0] for name in metrics):
        if (metric := metric_of(family)) and (text := getdoc(metric)):
            line = text.partition("\n")[0].rstrip(".").replace("`", "")
            lower = "; lower is better" if lower_is_better(family) else ""
            said.append(f"{metric_label(family)}: {line[0].lower()}{line[1:]}{lower}")
    return said


def answer_of(task: str) -> str:
    """Return how a task is answered: as ``retrieval``, ``ranking`` or ``rating``."""
    known = task not in MAIN_METRICS and task in names("task")
    return str((known and find("task", task).answer) or task)


def list_meanings(measures: Iterable[str]) -> list[str]:
    """Explain each measure of lists once."""
    return [MEASURES[name] for name in dict.fromkeys(m.partition("@")[0] for m in measures)]


_WITHOUT = "the user's history is left out"


def task_meaning(task: str, sampled_candidates: int, seen_kept: bool = False) -> str:
    """Say what a task's values were measured on."""
    history = "items of the user's history may come again" if seen_kept else _WITHOUT
    meanings = {
        "retrieval": f"The whole catalogue is ranked; {history}.",
        "ranking": (
            f"Sampled metrics: 1 positive and {sampled_candidates} sampled candidates, stored once "
            "and the same for every recommender. Not comparable with retrieval."
        ),
        "rating": "A rating is predicted. Lower is better for all but AUC.",
    }
    return meanings.get(answer_of(task), "")


def number(value: float | None) -> str:
    """Write a value with three decimals, or a dash when there is none.

    >>> number(0.12345), number(-2.0), number(None)
    ('0.123', '−2.000', '–')
    """
    if value is None or not isfinite(value):
        return DASH
    return f"{value:,.3f}".replace("-0.000", "0.000").replace("-", _MINUS)


def signed(value: float) -> str:
    """Write a difference with its sign.

    >>> signed(0.02), signed(-0.02)
    ('+0.020', '−0.020')
    """
    text = number(value)
    return f"+{text}" if value > 0 and text != "0.000" else text


def interval(low: float | None, high: float | None) -> str:
    """Write a 95 % interval, or nothing when there is none.

    >>> interval(0.11, 0.136)
    '[0.110, 0.136]'
    """
    ends = [number(low), number(high)]
    return "" if DASH in ends else f"[{', '.join(ends)}]"


def p_value(p: float) -> str:
    """Write a p-value as papers do.

    >>> p_value(0.0001), p_value(0.0421), p_value(1.0)
    ('< .001', '= .042', '= 1.000')
    """
    if not isfinite(p):
        return DASH
    return "< .001" if p < 0.001 else "= " + f"{p:.3f}".removeprefix("0")


def unbroken(text: str) -> str:
    """Keep each p-value and each n of a sentence on one line."""
    return re.sub(r"\b([pn]) ([<=]) ", "\\1\u00a0\\2\u00a0", text)


def count(value: int | None) -> str:
    """Write a count with thousands separated, or a dash when there is none."""
    return DASH if value is None else f"{value:,}"


def counts(values: Iterable[int]) -> str:
    """Write the one count that all share, or the span of them.

    >>> counts([1200, 1200]), counts([3, 5])
    ('1,200', '3 to 5')
    """
    found = sorted(set(values))
    return " to ".join(count(value) for value in (found[:1] + found[-1:])[-len(found) :])


def large(value: int) -> str:
    """Write a number of parameters.

    >>> large(812), large(45_600), large(1_234_000)
    ('812', '45.6 k', '1.2 M')
    """
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return str(value)


def seconds(value: float) -> str:
    """Write a duration.

    >>> seconds(4.21), seconds(59.96), seconds(125), seconds(7500)
    ('4.2 s', '1 min 0 s', '2 min 5 s', '2 h 5 min')
    """
    if round(value, 1) < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def markdown(text: object) -> str:
    r"""Escape text for one line of Markdown, table cells and the start of a paragraph included.

    >>> print(markdown("a|b *c* <i> leave_one_out"))
    a\|b \*c\* &lt;i> leave_one_out
    """
    line = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(str(text).split()))
    line = re.sub(r"<(?=[\w/!?])", "&lt;", line)
    line = re.sub(r"[\\`*|~]|\](?=[(\[:])|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)
    return re.sub(r"^(\d*)(>|(?:[#+-]+|(?<=\d)[.)])(?=\s|$))", r"\1\\\2", line)
