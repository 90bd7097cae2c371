"""What could make the figures mean less than they seem to: leaks, ties, doubles, cut prompts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import binom

from recinject.data.schema import Catalog
from recinject.data.splitting import Part, Split, time_facts
from recinject.evaluation.lists import ListResult
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import is_among
from recinject.identifiers.data import Data
from recinject.recommenders.protocol import Prediction, Queries, RatingsByLabel, WrittenRatings
from recinject.samples.samples import Samples
from recinject.samples.store import shards

Verdict = Literal["ok", "note", "warning"]
_MOST_UNPARSED = 0.05
_SAMPLED = 2000
SEEN_KEPT = "seen_kept"
_COLUMNS = ["user", "target", "candidates", "prompt", "completion"]
_SPAN = 1 << 32  # a user's number times this, plus an item's, is one key


@dataclass(frozen=True)
class Finding:
    """One thing that was looked into.

    A ``note`` is what a reader should know, a ``warning`` what makes the figures doubtful.
    """

    check: str  # a short stable name
    value: float | int | str
    verdict: Verdict
    explanation: str  # what the value means, in one sentence


_UNTIMED = {
    "time": "the order of its events is taken on trust",
    "rows": "the order of its rows is taken on trust, as data.order=rows asks",
    "position": "its positions are each user's order",
    "random": "each user's events stand in random order, so that the tested item is any of them",
}


def time_order(split: Split) -> list[Finding]:
    """Say how far the split respects time; see :func:`recinject.data.splitting.time_facts`."""
    facts = time_facts(split)
    if not facts:
        reason = f"the log has no timestamps: {_UNTIMED[split.order]}"
        return [Finding("time_order", "unknown", "note", reason)]
    meanings = {
        "tie_rate": "share of tested users whose test event has the very time of the event before "
        "it, so that only the log's own order, or a hash, says which came last",
        "future_share": "share of training events later than the average test event: the split is "
        "not by date, so popularity is partly known from the future",
    }
    checks = {"tie_rate": "time_ties", "future_share": "future_training"}
    return [
        Finding(checks[fact], facts[fact], "note" if facts[fact] > 0.01 else "ok", meaning)
        for fact, meaning in meanings.items()
    ]


def repeated_targets(split: Split) -> float:
    """Return the share of the test targets that stand in their own history."""
    view = split.view(Part.TEST)
    log, targets = view.interactions, view.targets.values
    keys = log.users * np.int64(_SPAN) + log.items
    past = np.flatnonzero(view.is_history)
    pairs, first = np.unique(keys[past], return_index=True)
    if not len(pairs) or not len(targets):
        return 0.0
    places = np.minimum(np.searchsorted(pairs, keys[targets]), len(pairs) - 1)
    again = (pairs[places] == keys[targets]) & (past[first[places]] < targets)
    return float(again.mean())


def seen_targets(share: float, kept: bool) -> Finding:
    """Say what a share of :func:`repeated_targets` means where seen items stay, or are left out."""
    what = "share of the test targets that stand in their own history: "
    if kept:
        how = "items of the history may be recommended, by everybody alike"
        return Finding(SEEN_KEPT, share, "note", what + how)
    how = "they are left out of every list, so that each is a miss for everybody"
    fix = "; evaluation.seen=keep lets them be found" if share else ""
    return Finding("seen_left_out", share, "note" if share > 0.01 else "ok", what + how + fix)


def highest_id_rule(numbers: NDArray[np.integer] | None, queries: Queries) -> list[Finding]:
    """Try the rule "the highest number in the history plus one" on retrieval queries.

    Item numbers given in the order of appearance tell who follows whom, and this rule alone then
    finds targets far above chance (4 to 7 % on Amazon reviews). ``numbers`` are those in the items'
    identifiers, shape (items,); None where identifiers have none.
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
    meaning = f"hit rate of the {k} next item numbers after the history's highest; chance: "
    meaning += f"{chance:.2g}: the item numbers tell who follows whom" if leaks else f"{chance:.2g}"
    return Finding(f"highest_id_rule_hr@{k}", rate, "warning" if leaks else "ok", meaning)


def duplicates(catalog: Catalog, identifiers: Sequence[str]) -> list[Finding]:
    """Count the items that share their title, in any case, or their identifier with another."""
    plain = [" ".join(title.casefold().split()) for title in catalog.titles]
    titles, names = _shared([title for title in plain if title]), _shared(identifiers)
    by_title = "items that share their title with another; hits are counted by item, never by title"
    by_name = (
        "items that share their identifier with another, so that no answer can tell them apart"
    )
    return [
        Finding("duplicate_titles", titles, "note" if titles else "ok", by_title),
        Finding("duplicate_identifiers", names, "warning" if names else "ok", by_name),
    ]


def _shared(names: Sequence[str]) -> int:
    return sum(count for count in Counter(names).values() if count > 1)


def refuse_strangers(samples: pa.Table, data: Data, part: Part | None = None) -> None:
    """Refuse samples that were not made of these data: their histories would be others'.

    ``part`` is what their events must belong to; None allows any, and samples without an event.
    """
    if part is None:
        samples = samples.filter(pc.is_valid(samples["event"]))
    log = data.split.interactions
    event, user, target = (samples[name].to_numpy() for name in ("event", "user", "target"))
    ids, users = np.array(data.catalog.item_ids, object), np.array(log.user_ids, object)
    known = len(samples) == 0 or (
        event.max() < len(log)
        and np.array_equal(log.users[event], user)
        and np.array_equal(log.items[event], target)
        and (part is None or bool((data.split.parts[event] == part).all()))
        and ids[target].tolist() == samples["target_item_id"].to_pylist()
        and users[user].tolist() == samples["user_id"].to_pylist()
    )
    if not known:
        hint = "give the data that build_samples had, or build samples of these"
        raise RecinjectError("the samples were not made of these data", hint=hint)


def stored_samples(samples: Samples) -> list[Finding]:
    """Read the files that training reads, and look for what is held out from each sample's user.

    A training sample should neither ask for a held-out item of its user nor name one in its text,
    see :class:`Leaks`; and the tokens that are trained on should be those of the text, which is
    tried on some samples of each task.
    """
    if samples.data is None:
        return []
    barred, named, unlike = held_out_items(samples.data.split), 0, 0
    for task in samples.sizes:
        leaks = Leaks(barred, samples.factory.wordings[task].phrases)
        files = shards(samples.folder, task, Part.TRAIN.label, ".parquet")
        for file in files:
            table = pq.read_table(file, columns=_COLUMNS)
            named += leaks.count(table)
            if (tokens := file.with_suffix(".arrow")).is_file():
                most, is_open = -(-_SAMPLED // len(files)), samples.factory.asker(task).is_open
                unlike += _unlike_tokens(samples, table, tokens, most, is_open)
    leak = "stored training samples that name an item held out from the same user"
    other = f"stored training samples, of about {_SAMPLED} a task, whose tokens are not those of "
    return [
        Finding("held_out_in_training", named, "warning" if named else "ok", leak),
        Finding("tokens_unlike_text", unlike, "warning" if unlike else "ok", f"{other}their text"),
    ]


def held_out_items(split: Split) -> dict[int, set[int]]:
    """Return the items of each user's later parts that no training event of theirs has."""
    log, train = split.interactions, split.train
    held_out: dict[int, set[int]] = {}
    later = split.parts > Part.TRAIN
    for user, item in zip(log.users[later].tolist(), log.items[later].tolist(), strict=True):
        held_out.setdefault(user, set()).add(item)
    return {user: items - set(train.items_of(user).tolist()) for user, items in held_out.items()}


class Leaks:
    """Finds stored samples that ask for a barred item of their user, or name one in words.

    A text gives nobody away that several items have, that stands within the longer text of another
    item, or of which words are cut out. ``phrases`` are the items' texts by slot.
    """

    def __init__(
        self, barred: Mapping[int, set[int]], phrases: Mapping[str, Sequence[str]]
    ) -> None:
        pairs = [(user, item) for user, items in barred.items() for item in items]
        users, items = np.array(pairs, np.int64).reshape(-1, 2).T
        self._barred = np.sort(users * _SPAN + items)
        self._phrases = list(dict.fromkeys(map(tuple, phrases.values())))
        counts = [Counter(texts) for texts in self._phrases]
        self._sought: dict[int, list[tuple[int, str]]] = {}
        for user, item in pairs:
            self._sought.setdefault(user, []).extend(
                (kind, texts[item])
                for kind, texts in enumerate(self._phrases)
                if texts[item] and counts[kind][texts[item]] == 1
            )
        self._longer: dict[tuple[int, str], list[str]] = {}

    def count(self, table: pa.Table) -> int:
        """Return how many of some stored samples leak."""
        users = table["user"].to_numpy().astype(np.int64)
        lists = table["candidates"].combine_chunks()
        rows = pc.list_parent_indices(lists).to_numpy()
        slates = users[rows] * _SPAN + lists.flatten().to_numpy()
        leaks = is_among(users * _SPAN + table["target"].fill_null(-1).to_numpy(), self._barred)
        leaks[rows[is_among(slates, self._barred)]] = True
        texts = zip(table["prompt"].to_pylist(), table["completion"].to_pylist(), strict=True)
        for row, (user, (prompt, completion)) in enumerate(zip(users.tolist(), texts, strict=True)):
            if not leaks[row] and (sought := self._sought.get(user)):
                text = f"{prompt} {completion}"
                leaks[row] = any(own[1] in text and self._names(text, *own) for own in sought)
        return int(leaks.sum())

    def _names(self, text: str, kind: int, words: str) -> bool:
        # Whether the text has these words where no longer text of another item has them.
        if (kind, words) not in self._longer:
            others = [own for own in self._phrases[kind] if words in own and own != words]
            self._longer[kind, words] = sorted(others, key=len, reverse=True)
        for longer in self._longer[kind, words]:
            text = text.replace(longer, " ")
        return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def _unlike_tokens(
    samples: Samples, table: pa.Table, file: Path, most: int, is_open: bool = False
) -> int:
    """Count the rows without tokens, and of ``most`` rows those whose tokens are others.

    ``is_open`` says that completions have no end token.
    """
    with pa.memory_map(str(file)) as source:
        tokens = pa.ipc.open_stream(source).read_all()
        both = min(len(tokens), len(table))
        chosen = np.linspace(0, both - 1, min(both, most)).astype(np.int64)
        texts, stored = table.take(chosen), tokens.take(chosen)
    unlike = np.zeros(len(chosen), bool)
    dialect, limits = samples.dialect, samples.settings.limits
    for name, column, encode, limit in (
        ("prompt", "input_ids", dialect.prompts, limits[0]),
        ("completion", "labels", dialect.completions, limits[1]),
    ):
        rows = encode(texts[name].to_pylist())
        found = (dialect.without_end(rows) if is_open and column == "labels" else rows).to_list()
        pairs = zip(found, stored[column].to_pylist(), strict=True)
        unlike |= np.array([len(own) <= limit and own != kept for own, kept in pairs], bool)
    return int(unlike.sum()) + abs(len(table) - len(tokens))


def recommended_lists(prediction: Prediction, queries: Queries, n_items: int) -> list[Finding]:
    """Count the places in the lists that hold no legal recommendation; -1 is an empty place."""
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
        if check != "illegal" or queries.kind != "retrieval" or not queries.keeps_seen
    ]


_ILLEGAL = {
    "retrieval": "items that the user had used before",
    "ranking": "items that are not among the candidates",
}


def _legal(items: NDArray[np.int32], queries: Queries) -> NDArray[np.bool_]:
    no_slates = queries.candidates is None
    known: Any = queries.barred if no_slates else queries.candidates
    among = np.array([np.isin(*pair) for pair in zip(items, known, strict=True)], bool)
    return np.asarray(among.reshape(items.shape) != no_slates)


def positive_from(rating: float) -> Finding:
    """Say from which rating on the metrics of two classes count a rating as positive."""
    meaning = "the lowest rating that AUC and ECE count as positive"
    return Finding("positive_rating", rating, "ok", meaning)


def slate_order(found: ListResult, readers: Collection[str]) -> list[Finding]:
    """Say how far the place of the target in the slate matters to a model that reads the slate."""
    if found.recommender not in readers or found.ci_low is None or found.ci_high is None:
        return []
    by_chance = found.ci_low <= 0 <= found.ci_high
    meaning = (
        f"change of the hit rate of {found.recommender} over ten slots of the slate "
        f"(95 % interval {found.ci_low:.3f} to {found.ci_high:.3f}), 0 where order does not matter"
    )
    verdict: Verdict = "ok" if by_chance else "warning"
    return [Finding(f"position_slope:{found.recommender}", found.value, verdict, meaning)]


def read_ratings(prediction: Prediction) -> list[Finding]:
    """Say how far a language model answered with ratings at all, where it answered in words."""
    source = prediction.recommender
    if isinstance(prediction, WrittenRatings) and prediction.parsed is not None:
        share = 1 - float(prediction.parsed.mean())
        verdict = _graded(share, _MOST_UNPARSED)
        meaning = (
            f"share of the texts of {source} that state no rating of the scale; its answer "
            "there is the mean of the ratings in the query's history, or of all"
        )
        return [Finding(f"unparsed_ratings:{source}", share, verdict, meaning)]
    if isinstance(prediction, RatingsByLabel) and prediction.mass is not None:
        mass = float(prediction.mass.mean())
        meaning = (
            f"mean probability, by {source}, that an answer begins with one of the ratings; "
            "the predicted rating is the mean over these alone"
        )
        whole = mass >= 1 - _MOST_UNPARSED
        return [Finding(f"label_mass:{source}", mass, "ok" if whole else "note", meaning)]
    return []


def _graded(share: float, most: float) -> Verdict:
    return "warning" if share > most else "note" if share else "ok"


def prompts(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Report what fitting and tokenising took from the prompts, by the samples' rows."""
    tokens = [row["tokens"] for row in rows if row["split"] == "train" and row["tokens"]]
    cut = sum(facts["truncated"] for facts in tokens)
    unknown = sum(facts["unknown_tokens"] for facts in tokens)
    share = cut / max(sum(facts["samples"] for facts in tokens), 1)
    unread = "share of prompts that were cut, so that part of their words was never read"
    unspelt = "tokens that the tokenizer could not spell, each read as <unk>"
    return [
        *(_trimmed(rows, split) for split in dict.fromkeys(row["split"] for row in rows)),
        Finding("truncated_prompts", share, _graded(share, 0.05), unread),
        Finding("unknown_tokens", unknown, "note" if unknown else "ok", unspelt),
    ]


def _trimmed(rows: Sequence[Mapping[str, Any]], split: str) -> Finding:
    own = [row for row in rows if row["split"] == split]
    count = sum(row["trimmed"] for row in own)
    share = count / max(sum(row["samples"] for row in own), 1)
    meaning = (
        f"share of the {split} prompts whose oldest items were left out to fit, so that a "
        "recommender that reads no prompt knows more of the history"
    )
    return Finding(f"trimmed_histories:{split}", share, _graded(share, 0.5), meaning)
