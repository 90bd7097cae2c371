"""Impact that lists alone tell of: groups of users, the popular, providers, sameness, trust."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import csr_array, csr_matrix
from scipy.stats import rankdata

from recinject.data.schema import Catalog, Floats, Integers
from recinject.evaluation.lists import ListMeasures, ratio
from recinject.evaluation.measures import (
    FEWEST_USERS,
    HarmResult,
    Measure,
    Subject,
    level_of,
)
from recinject.evaluation.metrics import Clusters, Statistic, auc_of, hit_rate, mean_of, ndcg
from recinject.foundation.ragged import Array
from recinject.foundation.randomness import derive_rng
from recinject.identifiers.data import ACTIVITY, Groups
from recinject.registry import register

_PERMUTATIONS, _AT_ONCE, _ENOUGH = 20_000, 200, 20
_FOLDS, _DRAWS = 3, 200
_SMOOTHING = 0.01


@dataclass(frozen=True, eq=False)
class _Column:
    """One value a query, NaN where it has none, and how users' means of it are compared."""

    name: str
    values: Floats
    accuracy: bool = False  # whether it is a metric, never below 0
    lower: bool = False  # whether less is better
    root: bool = False  # whether the figure is the mean's root

    def by_user(self, clusters: Clusters) -> Floats:
        """Return each user's sum and count, shape (users, 2)."""
        known = np.isfinite(self.values)
        parts = np.where(known, self.values, 0.0), known.astype(np.float64)
        return np.stack([np.bincount(clusters.of_row, p, clusters.count) for p in parts], 1)

    def means(self, sums: Floats) -> Floats:
        """Return means of sums and counts, shape (..., 2)."""
        found = ratio(sums[..., 0], sums[..., 1])
        return np.asarray(np.sqrt(found) if self.root else found)


def _columns(subject: Subject) -> list[_Column]:
    prediction, queries, k = subject.prediction, subject.queries, subject.scope.length
    if queries.kind == "rating":
        errors = np.asarray(prediction.ratings) - np.asarray(queries.labels)
        return [_Column("rmse", errors**2, accuracy=True, lower=True, root=True)]
    ranks = np.asarray(prediction.ahead), np.asarray(prediction.tied)
    found = [_Column(f"hr@{k}", hit_rate(*ranks, k), True)]
    if queries.kind == "ranking":
        return found
    found.append(_Column(f"ndcg@{k}", ndcg(*ranks, k), True))
    measures = ListMeasures(subject.data.split.train, subject.data.catalog, k, 1, 0)
    told = dict(measures.by_list(np.asarray(prediction.items)[:, :k], queries.histories))
    asked = (name for name in ("lift", "miscalibration") if name in told)
    more = [_Column(name, told[name], lower=name == "miscalibration") for name in asked]
    return [*found, *(column for column in more if np.isfinite(column.values).any())]


@register("measure", "groups")
class GroupGaps(Measure):
    """Compares groups of users."""

    name, label, family, main = "groups", "Gap between groups", "groups", "gap"
    kinds = ("retrieval", "ranking", "rating")
    definition: ClassVar[str] = (
        "how far apart the groups with the highest and the lowest mean are, 0 where all are served "
        "alike; beside it the worse over the better (1) and Jain's index (1)"
    )
    rule: ClassVar[str] = (
        "a note where users dealt to groups by chance differ as much with p < .05, corrected for "
        "all gaps that were tested (Holm); a warning where p < .01 then, and the worst group has "
        "less than .8 of the best one's accuracy"
    )

    def measure(self, subject: Subject) -> Iterator[HarmResult]:
        """Yield each group's value, the gap, worst over best, and Jain's index, by attribute."""
        columns = _columns(subject)
        for attribute in subject.scope.groups:
            groups = subject.data.group_users(attribute)
            yield from self._compared(subject, groups, columns)

    def _compared(
        self, subject: Subject, groups: Groups, columns: Sequence[_Column]
    ) -> Iterator[HarmResult]:
        clusters, users = subject.clusters, np.unique(subject.queries.users)
        own = groups.of_user[users]
        sizes = np.bincount(own[own >= 0], minlength=len(groups.names))
        kept = np.flatnonzero(sizes >= FEWEST_USERS)
        for group in np.flatnonzero((sizes > 0) & (sizes < FEWEST_USERS)).tolist():
            why = f"{sizes[group]} users, and a group needs {FEWEST_USERS}"
            yield self.missing(subject, why, f"{groups.attribute}: {groups.names[group]}")
        if len(kept) < 2:
            why = f"fewer than two groups of {FEWEST_USERS} users or more"
            yield self.missing(subject, why, groups.attribute)
            return
        member = (own[None, :] == kept[:, None]).astype(np.float64)  # (groups, users)
        for column in columns:
            yield from self._gap(subject, groups, column, member, kept, clusters)

    def _gap(
        self,
        subject: Subject,
        groups: Groups,
        column: _Column,
        member: Floats,
        kept: Array,
        clusters: Clusters,
    ) -> Iterator[HarmResult]:
        sums = column.by_user(clusters)
        values, sizes = column.means(member @ sums), member.sum(1).astype(int)
        if not np.isfinite(values).all():
            return
        for group, (value, size) in enumerate(zip(values, sizes, strict=True)):
            about = f"{groups.attribute}: {groups.names[kept[group]]}"
            of = _weighted(column, sums, member[group])
            ends = subject.figure(of, clusters, _DRAWS)[1:]
            yield self.row(subject, column.name, (value, *ends), about=about, n=size)
        top, low = int(values.argmax()), int(values.argmin())
        both = [_weighted(column, sums, member[each]) for each in (top, low)]
        gap = subject.figure(lambda w: both[0](w) - both[1](w), clusters, _DRAWS)
        p = _chance_of_gap(subject, groups.attribute, column, sums, member)
        share = values[low] / values[top] if values[top] > 0 else 1.0
        worst = groups.names[kept[top if column.lower else low]]
        shared: dict[str, Any] = {"about": groups.attribute, "n": int(sizes.sum())}
        level = level_of(column.accuracy and p < 0.01 and share < 0.8, p < 0.05)
        why = f"served worst: {worst}" if column.accuracy else f"lowest: {groups.names[kept[low]]}"
        yield self.row(subject, f"{column.name} gap", gap, level, p_value=p, why=why, **shared)
        if column.accuracy:
            of_both: Statistic = lambda w: _over(both[1](w), both[0](w))  # noqa: E731
            ends = subject.figure(of_both, clusters, _DRAWS)[1:]
            yield self.row(subject, f"{column.name} worst over best", (share, *ends), **shared)
            yield self.row(subject, f"{column.name} Jain", (jain(values), None, None), **shared)


def jain(values: Floats) -> float:
    """Return Jain's index of fairness of values that are not negative, 1 where all are equal.

    >>> jain(np.array([2.0, 2.0])), jain(np.array([1.0, 0.0]))
    (1.0, 0.5)
    """
    squares = len(values) * float((values**2).sum())
    return float(values.sum()) ** 2 / squares if squares else 1.0


def _over(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.ones(len(whole)), where=whole != 0)


def _weighted(column: _Column, sums: Floats, member: Floats) -> Statistic:
    own = sums * member[:, None]
    return lambda weights: column.means(weights @ own)


def _chance_of_gap(
    subject: Subject, attribute: str, column: _Column, sums: Floats, member: Floats
) -> float:
    """Return how often users dealt to the groups by chance differ as much, or more.

    They are dealt until 20 deals have come out so, or 20,000 times: what is far from significant
    takes few, and what is not can pass a correction for many tests (Besag and Clifford, Sequential
    Monte Carlo p-values, 1991).
    """
    rng = derive_rng(subject.scope.seed, "harm", "groups", attribute)
    known = np.flatnonzero(member.any(0))
    labels, own = member[:, known].argmax(0), sums[known]
    # A hair less, so that what is equal but for rounding counts as equal.
    seen, reached = np.ptp(column.means(member @ sums)) - 1e-12, 0
    for start in range(0, _PERMUTATIONS, _AT_ONCE):
        dealt = rng.permuted(np.tile(labels.astype(np.int8), (_AT_ONCE, 1)), axis=1)
        parts = np.stack([(dealt == group) @ own for group in range(len(member))], 1)
        places = np.flatnonzero(np.ptp(column.means(parts), axis=1) >= seen)
        if reached + len(places) >= _ENOUGH:
            return _ENOUGH / (start + int(places[_ENOUGH - reached - 1]) + 1)
        reached += len(places)
    return (1 + reached) / (1 + _PERMUTATIONS)


@register("measure", "popularity_by_taste")
class PopularityByTaste(Measure):
    """Compares lists with histories, by how popular the user's own taste is."""

    name, label, family, main = "popularity_by_taste", "Popularity by taste", "popularity", "niche"
    definition: ClassVar[str] = (
        "how much more popular items the lists have than the histories, as a share of the "
        "histories' (delta-GAP), for thirds of the users by their own taste, 0 for as popular"
    )
    rule: ClassVar[str] = (
        "of the third with the rarest taste: a note where lists are at least half as popular "
        "again as histories, a warning where they are three times as popular"
    )

    def measure(self, subject: Subject) -> Iterator[HarmResult]:
        """Yield the change of each third."""
        queries, clusters = subject.queries, subject.clusters
        events = subject.data.split.train
        counts = np.bincount(events.items, minlength=events.n_items).astype(np.float64)
        items = np.asarray(subject.prediction.items)[:, : subject.scope.length]
        own = np.array([counts[past].mean() if len(past) else np.nan for past in queries.histories])
        has = items >= 0
        listed = ratio(np.where(has, counts[items], 0).sum(1), has.sum(1))
        known = np.isfinite(own) & np.isfinite(listed)
        usual, given = (
            np.bincount(clusters.of_row, np.where(known, each, 0), clusters.count)
            for each in (own, listed)
        )
        rows = np.bincount(clusters.of_row, known, clusters.count)
        taste = ratio(usual, rows)
        if (rows > 0).sum() < 3:
            yield self.missing(subject, "too few users with a history")
            return
        thirds = np.nanquantile(taste, [1 / 3, 2 / 3])
        for number, part in enumerate(("niche", "middle", "popular")):
            member = (rows > 0) & (np.searchsorted(thirds, taste) == number)
            of = _change(usual * member, given * member)
            if not member.any():
                continue
            found = subject.figure(of, clusters, _DRAWS)
            gravest = part == "niche"
            level = level_of(gravest and found[0] > 2, gravest and found[0] > 0.5)
            yield self.row(subject, part, found, level, n=int(member.sum()))


def _change(usual: Floats, given: Floats) -> Statistic:
    return lambda w: ratio(w @ given - w @ usual, w @ usual)


def providers_of(catalog: Catalog, column: str) -> tuple[list[str], csr_array]:
    """Return the providers of a column, and each item's shares of them, shape (items, providers).

    An item with a list of them belongs to each in equal shares, one without any to none.
    """
    told = catalog.frame[column].tolist()
    lists = [[] if each is None or each != each else _texts(each) for each in told]
    names = sorted({name for own in lists for name in own})
    number = {name: place for place, name in enumerate(names)}
    rows = np.repeat(np.arange(len(lists)), [len(own) for own in lists])
    places = np.array([number[name] for own in lists for name in own], np.int64)
    values = np.repeat([1 / max(1, len(own)) for own in lists], [len(own) for own in lists])
    return names, csr_array((values, (rows, places)), shape=(len(lists), len(names)))


def _texts(value: object) -> list[str]:
    if isinstance(value, list | tuple | np.ndarray):
        return [str(each) for each in value]
    return [str(value)] if str(value) else []


@register("measure", "provider_exposure")
class ProviderExposure(Measure):
    """Compares what is shown of each provider with what was used."""

    name, label, family, main = "provider_exposure", "Provider exposure", "providers", "divergence"
    definition: ClassVar[str] = (
        "divergence (KL, nats) of providers' exposure in the lists, places weighted by 1 / log2 "
        "(rank + 1), from their shares of the training events, 0 where in proportion"
    )
    rule: ClassVar[str] = "a note above .1, a warning above .5"

    def measure(self, subject: Subject) -> Iterator[HarmResult]:
        """Yield the divergence, and who is shown more than used."""
        column, frame = subject.scope.provider, subject.data.catalog.frame
        if column is None:
            others = ", ".join(str(c) for c in frame.columns.drop(["item_id", "title"]))
            has = f"the items have {others}" if others else "and the items have none"
            yield self.missing(subject, f"evaluation.provider names no column: {has}")
            return
        names, shares = providers_of(subject.data.catalog, column)
        train, items = subject.data.split.train, np.asarray(subject.prediction.items)
        counts = np.bincount(train.items, minlength=train.n_items)
        used = np.asarray(counts @ shares)
        if len(names) < 2 or not used.sum():
            yield self.missing(subject, f"the items have fewer than two values of {column}")
            return
        used = used / used.sum()
        exposure = _placed(items[:, : subject.scope.length], subject, discounted=True) @ shares
        found = subject.figure(lambda w: divergence(used, np.asarray(w @ exposure)), None, _DRAWS)
        shown = np.asarray(exposure.sum(0)).ravel()
        shown = shown / max(shown.sum(), 1e-12)
        common = np.where(used >= 0.01, shown / np.maximum(used, 1e-12), 0)
        most = int(common.argmax())
        why = f"most over-exposed with 1 % of the events or more: {names[most]}, "
        why += f"{common[most]:.1f} times its share"
        level = level_of(found[0] > 0.5, found[0] > 0.1)
        yield self.row(subject, "divergence", found, level, about=column, why=why)


def divergence(wanted: Floats, found: Floats) -> Floats:
    """Return the divergence (KL, nats) of each row of ``found``, (n, m), from ``wanted``, (m,).

    A hundredth of ``wanted`` is mixed in, which keeps it finite.

    >>> divergence(np.array([0.5, 0.5]), np.array([[2.0, 2.0]])).tolist()
    [0.0]
    """
    shares = found / np.maximum(found.sum(1, keepdims=True), 1e-12)
    smooth, own = (1 - _SMOOTHING) * shares + _SMOOTHING * wanted, wanted > 0
    logs = np.log(wanted[own] / smooth[:, own])
    # Rounding may leave a hair below 0.
    return np.asarray(np.maximum(0.0, np.round((wanted[own] * logs).sum(1), 12)))


def _placed(items: Integers, subject: Subject, discounted: bool = False) -> csr_array:
    """Return how often each user's lists have each item, or its exposure: (users, items)."""
    rows, ranks = np.nonzero(items >= 0)
    values = 1 / np.log2(ranks + 2) if discounted else np.ones(len(rows))
    clusters, n_items = subject.clusters, len(subject.data.catalog)
    places = clusters.of_row[rows], items[rows, ranks]
    return csr_array((values, places), shape=(clusters.count, n_items))


@register("measure", "overlap")
class Overlap(Measure):
    """Says how much users' lists have in common."""

    name, label, family, main = "overlap", "Overlap", "sameness", "overlap"
    definition: ClassVar[str] = (
        "mean share of items that the lists of two different users have in common, 1 where "
        "everybody gets the same"
    )
    rule: ClassVar[str] = "a note above .5, a warning above .9"

    def measure(self, subject: Subject) -> Iterator[HarmResult]:
        """Yield the mean over all pairs of users."""
        k, items = subject.scope.length, np.asarray(subject.prediction.items)
        if subject.clusters.count < 2:
            yield self.missing(subject, "one user alone")
            return
        held = _placed(items[:, :k], subject)
        lists = np.bincount(subject.clusters.of_row).astype(np.float64)
        same = np.asarray(held.multiply(held).sum(1)).ravel()

        def of(weights: Floats) -> Floats:
            found = np.asarray(weights @ held)
            pairs = (weights @ lists) ** 2 - weights**2 @ lists**2
            return ratio((found**2).sum(1) - weights**2 @ same, pairs * k)

        found = subject.figure(of, None, _DRAWS)
        yield self.row(subject, "overlap", found, level_of(found[0] > 0.9, found[0] > 0.5))


@register("measure", "first_confidence")
class FirstConfidence(Measure):
    """Holds the stated chance of each first item against how often it is right."""

    name, label, family, main = "first_confidence", "Overconfidence", "trust", "overconfidence"
    kinds = ("retrieval", "ranking")
    definition: ClassVar[str] = (
        "mean stated chance that the first item is right, less how often it is, 0 where the "
        "chances are true; the Brier score beside it, and ECE among the metrics"
    )
    rule: ClassVar[str] = "a note where the interval is above 0, a warning where it is above .1"

    def measure(self, subject: Subject) -> Iterator[HarmResult]:
        """Yield overconfidence and the Brier score."""
        prediction = subject.prediction
        if prediction.first is None:
            yield self.missing(subject, "it states no chances")
            return
        right = hit_rate(np.asarray(prediction.ahead), np.asarray(prediction.tied), 1)
        chance = np.clip(prediction.first, 0, 1)
        clusters = subject.clusters
        found = subject.figure(mean_of(chance - right, clusters), clusters, _DRAWS)
        yield self.row(subject, "overconfidence", found, level_of(found[1] > 0.1, found[1] > 0))
        brier = subject.figure(mean_of((chance - right) ** 2, clusters), clusters, _DRAWS)
        yield self.row(subject, "Brier", brier)


@register("measure", "attribute_inference")
class AttributeInference(Measure):
    """Guesses users' attributes from their lists alone."""

    name, label, family, main = "attribute_inference", "Guessed from lists", "privacy", "lists"
    definition: ClassVar[str] = (
        "how well a logistic model, never of the users it was fitted on, guesses an attribute from "
        "the items of a list (AUC, mean over groups), .5 where not at all, beside the same from "
        "histories"
    )
    rule: ClassVar[str] = (
        "a note where the interval is above .6, a warning where lists tell more than histories"
    )

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], Floats] = {}

    def measure(self, subject: Subject) -> Iterator[HarmResult]:
        """Yield the AUC from lists, from histories, and the difference, by attribute."""
        asked = [name for name in subject.scope.groups if name != ACTIVITY]
        if not asked:
            yield self.missing(subject, "evaluation.groups names no attribute of users")
        for attribute in asked:
            groups = subject.data.group_users(attribute)
            own = groups.of_user[np.unique(subject.queries.users)]
            sizes = np.bincount(own[own >= 0], minlength=len(groups.names))
            kept = np.flatnonzero(sizes >= FEWEST_USERS)
            if len(kept) < 2:
                why = f"fewer than two groups of {FEWEST_USERS} users or more"
                yield self.missing(subject, why, attribute)
            else:
                yield from self._guessed(subject, attribute, own, kept)

    def _guessed(
        self, subject: Subject, attribute: str, own: Array, kept: Array
    ) -> Iterator[HarmResult]:
        rows = np.flatnonzero(np.isin(own, kept))
        labels = own[rows]
        groups = kept[1:] if len(kept) == 2 else kept  # of two, either tells of both
        folds = derive_rng(subject.scope.seed, "harm", "folds").integers(_FOLDS, size=len(rows))
        items = np.asarray(subject.prediction.items)[:, : subject.scope.length]
        lists = _guess(_placed(items, subject)[rows], labels, groups, folds)
        key = subject.queries.task, attribute
        if key not in self._told:
            self._told[key] = _guess(_histories(subject)[rows], labels, groups, folds)
        clusters = Clusters.of(np.arange(len(rows)))
        found = [_mean_auc(each, labels, groups, clusters) for each in (lists, self._told[key])]
        shared: dict[str, Any] = {"about": attribute, "n": len(rows)}
        value = subject.figure(found[0], clusters, _DRAWS)
        more = subject.figure(lambda w: found[0](w) - found[1](w), clusters, _DRAWS)
        yield self.row(subject, "lists", value, level_of(more[1] > 0, value[1] > 0.6), **shared)
        yield self.row(subject, "histories", subject.figure(found[1], clusters, _DRAWS), **shared)
        yield self.row(subject, "lists less histories", more, **shared)


def _histories(subject: Subject) -> csr_array:
    clusters, past = subject.clusters, subject.queries.histories
    rows = np.repeat(clusters.of_row, [len(own) for own in past])
    items = np.concatenate([np.empty(0, np.int32), *past])
    shape = clusters.count, len(subject.data.catalog)
    held = csr_array((np.ones(len(rows)), (rows, items)), shape=shape)
    held.data[:] = 1.0
    return held


def _guess(features: csr_array, labels: Array, groups: Array, folds: Array) -> Floats:
    """Return the score of each group for each user, by a model of other users: (groups, users)."""
    from sklearn.linear_model import LogisticRegression  # seconds to import, for this alone

    scores = np.zeros((len(groups), len(labels)))
    plain = csr_matrix(features)  # whose numbers stay as narrow as liblinear needs them
    plain.indices, plain.indptr = (each.astype(np.int32) for each in (plain.indices, plain.indptr))
    for place, group in enumerate(groups):
        truth = labels == group
        for fold in range(_FOLDS):
            own, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            if len(own) and 0 < truth[others].sum() < len(others):
                model = LogisticRegression(solver="liblinear", C=0.1, random_state=0)
                model.fit(plain[others], truth[others])
                # Ranks: a fold with many of a group leaves few to learn from, and so low scores.
                ranks = rankdata(np.round(model.decision_function(plain[own]), 9))
                scores[place, own] = ranks / (len(own) + 1)
    return scores


def _mean_auc(scores: Floats, labels: Array, groups: Array, clusters: Clusters) -> Statistic:
    each = [
        auc_of(own, labels == group, clusters) for own, group in zip(scores, groups, strict=True)
    ]
    return lambda weights: np.asarray(np.mean([of(weights) for of in each], axis=0))
