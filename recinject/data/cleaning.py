"""Makes a log fit to learn from: no event twice, tidy texts, nobody with too few events."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recinject.data.schema import Catalog, Flags, Integers, Interactions, Log
from recinject.foundation.errors import RecinjectError

SPECIAL_TOKENS = re.compile(r"<(extra_id_\d+|(?:item|user|[a-z])_\d+|/s|s|pad|unk)>")
Repeats = Literal["keep", "first", "last"]
MOST_LETTERS = 10_000
_EVENTS_AT_ONCE = 1 << 20
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@dataclass(frozen=True)
class CleaningStep:
    """What one step left of a log: how many users and items have events, and how many events."""

    name: str
    detail: str  # what it did, in words
    users: int
    items: int
    events: int


def clean(
    log: Log, *, k_core: int, repeats: Repeats = "first", max_text: int = MOST_LETTERS
) -> tuple[Log, list[CleaningStep]]:
    """Drop repeated events, tidy the catalogue's texts, keep the k-core, and number anew.

    Args:
        log: as it was read, each user's events in order.
        k_core: see :func:`k_core_events`.
        repeats: which of a user's events with one item and one time stay: the ``first``, the
            ``last``, or all of them.
        max_text: characters of an item's text; what is longer is cut.

    Returns:
        The clean log, whose users and items all have ``k_core`` events or more and keep their
        order, and what each step left; the first step is the log as read.

    Raises:
        RecinjectError: nothing is left.
    """
    events = log.interactions
    # Flags, and one copy at the end: a copy a step would take most of a large log's memory.
    keep = np.ones(len(events), bool)
    steps = [_count("as read", log.source, events, keep)]
    repeated, others = _repeated(events, repeats)
    keep = np.ones(len(events), bool) if repeats == "keep" else ~repeated
    steps.append(_count("duplicates", _said(repeated, others, repeats), events, keep))
    if k_core > 1:
        whole, (keep, rounds) = keep, k_core_events(events, k_core, keep)
        rule = f"{k_core} events for every user and item, after {rounds} rounds"
        steps.append(_count("k-core", rule, events, keep))
    if not keep.any():
        before = steps[-2]
        raise RecinjectError(
            f"data.k_core={k_core}: nothing is left of {before.users} users, {before.items} items "
            f"and {before.events} events",
            hint=_smaller_core(events, k_core, whole),
        )
    interactions, catalog, kept_users = _number_anew(events.select(keep), log.catalog)
    users = None if log.users is None else log.users.iloc[kept_users].reset_index(drop=True)
    catalog, counts = clean_catalog(catalog, max_text)
    texts = ", ".join(f"{count} {what}" for what, count in counts.items()) or "all were tidy"
    steps.append(replace(steps[-1], name="texts", detail=texts))
    return replace(log, interactions=interactions, catalog=catalog, users=users), steps


def _smaller_core(interactions: Interactions, k_core: int, among: Flags) -> str:
    """Name the largest k that leaves something, and something to test on."""
    for k in range(k_core - 1, 0, -1):
        kept = interactions.users[k_core_events(interactions, k, among)[0]]
        if len(kept) and np.bincount(kept).max() > 1:
            return f"data.k_core={k} is the largest that leaves something: {len(kept)} events"
    return "no user has two events, so there is nothing to test on: take a longer log"


def k_core_events(
    interactions: Interactions, k: int, among: Flags | None = None
) -> tuple[Flags, int]:
    """Find the largest set of events in which every user and every item has at least ``k``.

    Repeated use of an item counts each time. ``among`` flags the events to choose among.

    Returns:
        Which events are in it, shape (events,), and how many rounds dropped something.
    """
    keep = np.ones(len(interactions), bool) if among is None else among.copy()
    rounds = 0
    while True:
        enough = np.ones(np.count_nonzero(keep), bool)
        for numbers in (interactions.users[keep], interactions.items[keep]):
            enough &= (np.bincount(numbers) >= k)[numbers]
        if enough.all():
            return keep, rounds
        keep[keep] = enough
        rounds += 1


def clean_catalog(catalog: Catalog, max_text: int = MOST_LETTERS) -> tuple[Catalog, dict[str, int]]:
    """Unescape HTML, compose accents (NFC), collapse blanks, and disarm special tokens.

    A title such as ``Cord </s> <extra_id_0>`` would end a prompt or open a gap in it: the text
    becomes ``Cord (/s) (extra_id_0)``. Ids stay as they are: they are names, never prompts.

    Returns:
        The clean catalogue, and by name the counts that are not zero.
    """
    counts: Counter[str] = Counter()

    def tidy(text: str) -> str:
        # One that is far too long would take long to tidy, too.
        plain, before = text[: 2 * max_text], ""
        # Shops escape twice ("&amp;amp;"), and what unescaping uncovers must not escape disarming.
        while plain != before:
            plain, before = html.unescape(plain), plain
        composed = unicodedata.normalize("NFC", plain)
        clean_text, tokens = SPECIAL_TOKENS.subn(r"(\1)", _BLANK.sub(" ", composed).strip())
        counts["texts composed (Unicode NFC)"] += composed != plain
        counts["special tokens disarmed"] += tokens
        counts["texts tidied"] += clean_text != text
        counts[f"texts cut at {max_text:,} characters"] += len(clean_text) > max_text
        return clean_text[:max_text].rstrip()

    frame = catalog.frame.copy()
    for name in frame.columns.drop("item_id"):
        frame[name] = pd.Series([_each(value, tidy) for value in frame[name]], dtype=object)
    frame["title"] = frame["title"].fillna("")
    counts["items without a title"] += int((frame["title"] == "").sum())
    return Catalog(frame), {what: count for what, count in counts.items() if count}


def _each(value: Any, tidy: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return tidy(value) or None
    if isinstance(value, list):
        return [text for text in dict.fromkeys(map(tidy, value)) if text] or None
    return value


def _said(repeated: Flags, others: int, repeats: Repeats) -> str:
    """Say how many events repeat another, and what became of them."""
    count = np.count_nonzero(repeated)
    if repeats == "keep":
        return f"{count} repeated events kept" if count else "no event is repeated"
    said = f"{count} repeated events dropped"
    if others:
        later = {"first": "last", "last": "first"}[repeats]
        said += f", {others} of them with another rating than the {repeats}, which stays "
        said += f"(data.repeats={later} keeps the {later})"
    return said


def _repeated(interactions: Interactions, repeats: Repeats) -> tuple[Flags, int]:
    """Flag events with the user, item and time of another; unknown times are equal.

    Returns:
        Those after the first of their kind, or before the last, and how many of these have
        another rating than it.
    """
    columns: dict[str, NDArray[Any]] = {"user": interactions.users, "item": interactions.items}
    if interactions.timestamps is not None:
        columns["time"] = interactions.timestamps
    # Some users at a time, since a table of all events would be larger than the events.
    starts = np.arange(0, len(interactions), _EVENTS_AT_ONCE)
    ends = np.unique(np.searchsorted(interactions.offsets, starts))
    edges = [*interactions.offsets[ends].tolist(), len(interactions)]
    kept: Literal["first", "last"] = "last" if repeats == "last" else "first"
    blocks, others = [np.zeros(0, bool)], 0
    for start, stop in pairwise(edges):
        frame = pd.DataFrame({name: column[start:stop] for name, column in columns.items()})
        blocks.append(frame.duplicated(keep=kept).to_numpy())
        if interactions.ratings is not None and blocks[-1].any():
            alike = frame[frame.duplicated(keep=False)]
            own = pd.Series(interactions.ratings[start:stop])[alike.index]
            stays = own.groupby([alike[name] for name in columns], dropna=False).transform(kept)
            others += int((own != stays)[own.notna() & stays.notna()].sum())
    return np.concatenate(blocks), others


def _count(name: str, detail: str, interactions: Interactions, keep: Flags) -> CleaningStep:
    both = interactions.users[keep], interactions.items[keep]
    users, items = (int(np.count_nonzero(np.bincount(numbers))) for numbers in both)
    return CleaningStep(name, detail, users, items, len(both[0]))


def _number_anew(
    interactions: Interactions, catalog: Catalog
) -> tuple[Interactions, Catalog, NDArray[np.int64]]:
    kept_users, users = _dense(interactions.users)
    kept_items, items = _dense(interactions.items)
    ids = [interactions.user_ids[user] for user in kept_users]
    dense = replace(interactions, users=users, items=items, user_ids=ids, n_items=len(kept_items))
    return dense, Catalog(catalog.frame.iloc[kept_items].reset_index(drop=True)), kept_users


def _dense(numbers: Integers) -> tuple[NDArray[np.int64], Integers]:
    """Return the numbers in use, ascending, and the place of each event's among them."""
    used = np.bincount(numbers) > 0
    places = np.cumsum(used, dtype=np.int32) - 1
    return np.flatnonzero(used), places[numbers]
