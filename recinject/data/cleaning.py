"""Makes a log fit to learn from: no event twice, tidy texts, nobody with too few events."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from recinject.data.schema import Catalog, Flags, Interactions, Log
from recinject.foundation.errors import RecinjectError

SPECIAL_TOKENS = re.compile(r"<(extra_id_\d+|item_\d+|/s|s|pad|unk)>")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@dataclass(frozen=True)
class CleaningStep:
    """What one step left of a log.

    Attributes:
        name: the step.
        detail: what it did, in words.
        users: how many users have events after it.
        items: how many items have events after it.
        events: how many events there are after it.
    """

    name: str
    detail: str
    users: int
    items: int
    events: int


def clean(log: Log, *, k_core: int) -> tuple[Log, list[CleaningStep]]:
    """Drop repeated events, tidy the catalogue's texts, keep the k-core, and number anew.

    Args:
        log: the log as read.
        k_core: how many events every user and every item must have; 0 and 1 ask for nothing.

    Returns:
        The clean log, whose users and items all have events and keep their order, and what each
        step left; the first step is the log as read.

    Raises:
        RecinjectError: nothing is left.
    """
    interactions = log.interactions
    steps = [_count("as read", log.source, interactions)]
    repeated = _repeated(interactions)
    interactions = interactions.select(~repeated)
    steps.append(_count("duplicates", f"{repeated.sum()} repeated events dropped", interactions))
    if k_core > 1:
        keep, rounds = k_core_events(interactions, k_core)
        interactions = interactions.select(keep)
        rule = f"{k_core} events for every user and item, after {rounds} rounds"
        steps.append(_count("k-core", rule, interactions))
    if not len(interactions):
        before = steps[-2]
        raise RecinjectError(
            f"data.k_core={k_core}: nothing is left of {before.users} users, {before.items} items "
            f"and {before.events} events",
            hint=f"ask for fewer events a user and item, e.g. data.k_core={max(k_core // 2, 0)}",
        )
    interactions, catalog = _number_anew(interactions, log.catalog)
    catalog, counts = clean_catalog(catalog)
    texts = ", ".join(f"{count} {what}" for what, count in counts.items()) or "all were tidy"
    steps.append(_count("texts", texts, interactions))
    return replace(log, interactions=interactions, catalog=catalog), steps


def k_core_events(interactions: Interactions, k: int) -> tuple[Flags, int]:
    """Find the largest set of events in which every user and every item has at least ``k``.

    Repeated use of an item counts each time.

    Returns:
        Which events are in it, shape (events,), and how many rounds dropped something.
    """
    keep = np.ones(len(interactions), bool)
    rounds = 0
    while True:
        users, items = interactions.users[keep], interactions.items[keep]
        enough = (np.bincount(users)[users] >= k) & (np.bincount(items)[items] >= k)
        if enough.all():
            return keep, rounds
        keep[keep] = enough
        rounds += 1


def clean_catalog(
    catalog: Catalog, special_tokens: re.Pattern[str] = SPECIAL_TOKENS
) -> tuple[Catalog, dict[str, int]]:
    """Unescape HTML, collapse white space and control characters, and disarm special tokens.

    A title such as ``Cord </s> <extra_id_0>`` would end a prompt or open a gap in it: the text
    becomes ``Cord (/s) (extra_id_0)``. Ids stay as they are: they are names, never prompts.

    Args:
        catalog: the items.
        special_tokens: what to disarm; the first group is what stays, in round brackets.

    Returns:
        The clean catalogue, and how many texts were ``tidied``, how many ``special tokens
        disarmed`` and how many ``items without a title`` there are, where not zero.
    """
    counts: Counter[str] = Counter()

    def tidy(text: str) -> str:
        clean_text, tokens = special_tokens.subn(r"(\1)", _plain_text(text))
        counts["special tokens disarmed"] += tokens
        counts["texts tidied"] += clean_text != text
        return clean_text

    frame = catalog.frame.copy()
    for name in frame.columns.drop("item_id"):
        frame[name] = pd.Series([_each(value, tidy) for value in frame[name]], dtype=object)
    frame["title"] = frame["title"].fillna("")
    counts["items without a title"] += int((frame["title"] == "").sum())
    return Catalog(frame), {what: count for what, count in counts.items() if count}


def _plain_text(text: str) -> str:
    # Shops escape twice ("&amp;amp;"), and what unescaping uncovers must not escape disarming.
    while (plain := html.unescape(text)) != text:
        text = plain
    return _BLANK.sub(" ", text).strip()


def _each(value: Any, tidy: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return tidy(value) or None
    if isinstance(value, list):
        return [text for text in dict.fromkeys(map(tidy, value)) if text] or None
    return value


def _repeated(interactions: Interactions) -> Flags:
    """Flag events with the user, item and time of an earlier one; unknown times are equal."""
    events = pd.DataFrame({"user": interactions.users, "item": interactions.items})
    if interactions.timestamps is not None:
        events["time"] = interactions.timestamps
    return events.duplicated().to_numpy(bool)


def _count(name: str, detail: str, interactions: Interactions) -> CleaningStep:
    users, items = np.unique(interactions.users), np.unique(interactions.items)
    return CleaningStep(name, detail, len(users), len(items), len(interactions))


def _number_anew(interactions: Interactions, catalog: Catalog) -> tuple[Interactions, Catalog]:
    kept_users, users = np.unique(interactions.users, return_inverse=True)
    kept_items, items = np.unique(interactions.items, return_inverse=True)
    dense = replace(
        interactions,
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        user_ids=[interactions.user_ids[user] for user in kept_users],
        n_items=len(kept_items),
    )
    return dense, Catalog(catalog.frame.iloc[kept_items].reset_index(drop=True))
