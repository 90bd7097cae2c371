"""What could make the figures mean less than they seem to: leaks, ties, doubles, cut prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from recinject.data.schema import Catalog
from recinject.data.splitting import Part, Split, time_facts
from recinject.recommenders.language_model import RatingsByLabel, WrittenRatings
from recinject.recommenders.protocol import Prediction, Queries

Verdict = Literal["ok", "note", "warning"]
_MOST_UNPARSED = 0.05


@dataclass(frozen=True)
class Finding:
    """One thing that was looked into.

    Attributes:
        check: what was checked, a short stable name.
        value: what was found.
        verdict: ``ok``; ``note`` for what a reader should know; ``warning`` for what makes the
            figures doubtful.
        explanation: what the value means, in one sentence.
    """

    check: str
    value: float | int | str
    verdict: Verdict
    explanation: str


def time_order(split: Split) -> list[Finding]:
    """Say how far the split respects time; see :func:`recinject.data.splitting.time_facts`."""
    facts = time_facts(split)
    if not facts:
        reason = "the log has no timestamps: the order of its events is taken on trust"
        return [Finding("time_order", "unknown", "note", reason)]
    tied, future = facts["tie_rate"], facts["future_share"]
    return [
        Finding(
            "time_ties",
            tied,
            "note" if tied > 0.01 else "ok",
            "share of tested users whose test event has the very time of the event before it, so "
            "that only the log's own order, or a hash, says which came last",
        ),
        Finding(
            "future_training",
            future,
            "note" if future > 0.01 else "ok",
            "share of training events later than the average test event: the split is not "
            "by date, so popularity is partly known from the future",
        ),
    ]


def highest_id_rule(numbers: NDArray[np.integer] | None, queries: Queries) -> list[Finding]:
    """Try the rule "the highest number in the history plus one" on retrieval queries.

    Item numbers given in the order of appearance tell who follows whom, and this rule alone then
    finds targets far above chance (4 to 7 % on Amazon reviews).

    Args:
        numbers: the number in each item's identifier, shape (items,); None where identifiers
            carry none.
        queries: retrieval queries.
    """
    if numbers is None or not len(queries):
        return []
    # Without a history the rule has no answer: nothing comes after the highest number of all.
    last = numbers.max()
    highest = np.array([numbers[past].max() if len(past) else last for past in queries.histories])
    step = numbers[queries.targets] - highest
    return [_highest_id_finding(step, k, len(numbers)) for k in (1, 10)]


def _highest_id_finding(step: NDArray[np.integer], k: int, n_items: int) -> Finding:
    hits, chance = int(np.sum((step >= 1) & (step <= k))), min(1.0, k / n_items)
    rate = hits / len(step)
    leaks = rate > 3 * chance and binom.sf(hits - 1, len(step), chance) < 0.001
    return Finding(
        f"highest_id_rule_hr@{k}",
        rate,
        "warning" if leaks else "ok",
        f"hit rate of the {k} next item numbers after the history's highest; chance: {chance:.2g}"
        + (": the item numbers tell who follows whom" if leaks else ""),
    )


def duplicates(catalog: Catalog, identifiers: Sequence[str]) -> list[Finding]:
    """Count the items that share their title, in any case, or their identifier with another."""
    plain = [" ".join(title.casefold().split()) for title in catalog.titles]
    titles = _shared([title for title in plain if title])
    names = _shared(identifiers)
    return [
        Finding(
            "duplicate_titles",
            titles,
            "note" if titles else "ok",
            "items that share their title with another; hits are counted by item, never by title",
        ),
        Finding(
            "duplicate_identifiers",
            names,
            "warning" if names else "ok",
            "items that share their identifier with another, so that no answer can tell them apart",
        ),
    ]


def _shared(names: Sequence[str]) -> int:
    return sum(count for count in Counter(names).values() if count > 1)


def held_out_in_training(split: Split, named: Iterable[tuple[int, Iterable[int]]]) -> Finding:
    """Count how often a training sample names an item that is held out from its user.

    Args:
        split: the split of the run.
        named: a user number and the item numbers that a training sample names, sample by sample.
    """
    log, train = split.interactions, split.train
    held_out: dict[int, set[int]] = {}
    later = split.parts > Part.TRAIN
    for user, item in zip(log.users[later].tolist(), log.items[later].tolist(), strict=True):
        held_out.setdefault(user, set()).add(item)
    for user, items in held_out.items():
        items.difference_update(train.items_of(user).tolist())
    leaked = sum(int(i) in held_out.get(user, ()) for user, items in named for i in items)
    return Finding(
        "held_out_in_training",
        leaked,
        "warning" if leaked else "ok",
        "times that a training sample names an item held out from the same user",
    )


def recommended_lists(prediction: Prediction, queries: Queries, n_items: int) -> list[Finding]:
    """Count the places in the lists that hold no legal recommendation.

    Args:
        prediction: the answers; -1 in its lists is an empty place, not an item.
        queries: what was asked.
        n_items: how many items the catalogue has.
    """
    items = prediction.items
    if items is None:
        return []
    real = (items >= 0) & (items < n_items)
    ordered = np.sort(np.where(real, items, -1), axis=1)
    counts = {
        "empty": (int(np.sum(items == -1)), "empty places"),
        "outside": (int(np.sum(~real & (items != -1))), "items that the catalogue does not have"),
        "repeated": (
            int(np.sum((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0))),
            "items that stand in the same list twice",
        ),
        "illegal": (int(np.sum(real & ~_legal(items, queries))), _ILLEGAL[queries.kind]),
    }
    source = f"{prediction.recommender} on {queries.task}"
    return [
        Finding(
            f"{check}_recommendations:{prediction.recommender}:{queries.task}",
            count,
            "ok" if not count else "note" if check == "empty" else "warning",
            f"{what} in the lists of {source}",
        )
        for check, (count, what) in counts.items()
    ]


_ILLEGAL = {
    "retrieval": "items that the user had used before",
    "ranking": "items that are not among the candidates",
}


def _legal(items: NDArray[np.int32], queries: Queries) -> NDArray[np.bool_]:
    if queries.candidates is not None:
        allowed = [np.isin(row, c) for row, c in zip(items, queries.candidates, strict=True)]
        return np.array(allowed, bool).reshape(items.shape)
    unseen = [np.isin(row, h, invert=True) for row, h in zip(items, queries.histories, strict=True)]
    return np.array(unseen, bool).reshape(items.shape)


def read_ratings(prediction: Prediction) -> list[Finding]:
    """Say how far a language model answered with ratings at all, where it answered in words."""
    source = prediction.recommender
    if isinstance(prediction, WrittenRatings) and prediction.parsed is not None:
        share = 1 - float(prediction.parsed.mean())
        return [
            Finding(
                f"unparsed_ratings:{source}",
                share,
                "warning" if share > _MOST_UNPARSED else "note" if share else "ok",
                f"share of the texts of {source} that state no rating of the scale; its answer "
                "there is the mean of the ratings in the query's history, or of all",
            )
        ]
    if isinstance(prediction, RatingsByLabel) and prediction.mass is not None:
        mass = float(prediction.mass.mean())
        return [
            Finding(
                f"label_mass:{source}",
                mass,
                "ok" if mass >= 1 - _MOST_UNPARSED else "note",
                f"mean probability, by {source}, that an answer begins with one of the ratings; "
                "the predicted rating is the mean over these alone",
            )
        ]
    return []


def prompts(count: int, truncated: int, unknown_tokens: int) -> list[Finding]:
    """Report what the tokenizer lost of the prompts.

    Args:
        count: how many prompts there are.
        truncated: how many of them were cut to the longest length allowed.
        unknown_tokens: how many tokens of theirs the tokenizer could not spell.
    """
    share = truncated / max(count, 1)
    return [
        Finding(
            "truncated_prompts",
            share,
            "warning" if share > 0.05 else "note" if truncated else "ok",
            "share of prompts that were cut, so that part of their words was never read",
        ),
        Finding(
            "unknown_tokens",
            unknown_tokens,
            "note" if unknown_tokens else "ok",
            "tokens that the tokenizer could not spell, each read as <unk>",
        ),
    ]
