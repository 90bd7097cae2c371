"""The protocol: every recommender answers the same stored queries in the same form."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ConfigDict, PositiveInt

from recinject.data.schema import Catalog, Flags, Floats, Integers, Interactions
from recinject.data.splitting import Part, Split, View
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged
from recinject.foundation.randomness import derive_rng
from recinject.foundation.settings import bind, listed
from recinject.identifiers.data import Data
from recinject.recommenders.filters import Filters
from recinject.registry import find

_OF_ALL_ROWS = (
    *("task", "answer", "keeps_seen", "allowed"),
    *("recommender", "values", "positive_rating"),
)
_REASONS = 3
Why = list[tuple[str, float]]
"""Why an item is in a list: texts with numbers, what they are says the recommender."""


@dataclass(frozen=True, eq=False)
class _Columns:
    def take(self, rows: Array) -> Self:
        """Return the columns at some of the rows, in the order of ``rows``."""
        columns = {name: each for name, each in vars(self).items() if name not in _OF_ALL_ROWS}
        taken: dict[str, Any] = {
            name: each[rows] if isinstance(each, np.ndarray) else [each[row] for row in rows]
            for name, each in columns.items()
            if each is not None
        }
        return replace(self, **taken)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of several parts one after another; what is of all rows is the first's.

        >>> parts = [Prediction("a", "rating", ratings=np.array([n])) for n in (1.0, 2.0)]
        >>> Prediction.joined(parts).ratings
        array([1., 2.])
        """
        first, *_ = parts
        columns = {n: each for n, each in vars(first).items() if n not in _OF_ALL_ROWS}
        joined = {
            name: np.concatenate([getattr(part, name) for part in parts])
            if isinstance(each, np.ndarray)
            else [row for part in parts for row in getattr(part, name)]
            for name, each in columns.items()
            if each is not None
        }
        return replace(first, **joined)


@dataclass(frozen=True, eq=False)
class Queries(_Columns):
    """The n stored questions of one task, as columns.

    Attributes:
        task: its name.
        sample_ids: the id of the stored sample of each query.
        prompts: for language models.
        users: indices, shape (n,).
        histories: each user's earlier items, oldest first.
        targets: the item that came next, or that was rated, shape (n,).
        candidates: the items to rank, shape (n, c); None but for ranking.
        labels: the true ratings, shape (n,); None but for rating.
        history_ratings: the ratings of each history; None where the log has none.
        answer: see :attr:`kind`, if that is not the task's name.
        keeps_seen: whether retrieval may recommend items of the history; see :attr:`barred`.
        positive_rating: the lowest label that counts as positive, in metrics of two classes; the
            median of the labels where None.
        seeds: of the run that asked each query, where several runs are pooled, shape (n,).
        allowed: the items that retrieval may recommend, shape (items,); all where None.
    """

    task: str
    sample_ids: Sequence[str]
    prompts: Sequence[str]
    users: Integers
    histories: Sequence[Integers]
    targets: Integers
    candidates: Integers | None = None
    labels: Floats | None = None
    history_ratings: Sequence[Floats] | None = None
    answer: str = ""
    keeps_seen: bool = False
    positive_rating: float | None = None
    seeds: Integers | None = None
    allowed: Flags | None = None

    @property
    def barred(self) -> Sequence[Integers]:
        """The items that each list of retrieval must not have: the history's, or none."""
        nothing = np.empty(0, np.int32)
        return [nothing] * len(self) if self.keeps_seen else self.histories

    @property
    def kind(self) -> str:
        """The way to answer: ``retrieval``, ``ranking`` of a slate of candidates, or ``rating``."""
        return self.answer or self.task

    @classmethod
    def of_ratings(cls, view: View, longest: int | None = None) -> Queries:
        """Ask for the rating of every target of a view, without prompts.

        ``longest`` is the most items of a history, the newest. A log without ratings is refused.
        """
        view = view.rated()
        log, events = view.interactions, view.targets.values
        if log.ratings is None:
            raise RecinjectError("the log has no ratings", hint="set data.columns.rating")
        past = view.histories(events, longest)
        ratings = past.of(log.ratings[past.values])
        return cls(
            task="rating",
            sample_ids=[str(event) for event in events],
            prompts=[""] * len(events),
            users=log.users[events],
            histories=[log.items[past[row]] for row in range(len(events))],
            targets=log.items[events],
            labels=log.ratings[events],
            history_ratings=[ratings[row] for row in range(len(events))],
        )

    def latest(self, longest: int | None) -> Queries:
        """Return the queries with the latest items of each history; all of them where None."""
        if longest is None:
            return self
        ratings = self.history_ratings
        return replace(
            self,
            histories=[history[-longest:] for history in self.histories],
            history_ratings=None if ratings is None else [past[-longest:] for past in ratings],
        )

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, eq=False)
class Prediction(_Columns):
    """One recommender's answers to one task's queries.

    Attributes:
        recommender: its name.
        task: the queries' task.
        items: indices, best first, -1 where there are fewer, shape (n, k).
        scores: their scores, -inf where there are fewer, shape (n, k).
        ahead: how many items scored higher than the target; inf if the target is not listed, (n,).
        tied: how many items scored as the target did, itself included, shape (n,).
        ratings: predicted ratings, shape (n,).
        probabilities: of each rating, where predicted, shape (n, values).
        values: the ratings of ``probabilities``, ascending, shape (values,).
        first: the chance that the first item is the target, where predicted, shape (n,).
        texts: answers from which ratings were read.
    """

    recommender: str
    task: str
    items: Integers | None = None
    scores: Floats | None = None
    ahead: Floats | None = None
    tied: Floats | None = None
    ratings: Floats | None = None
    probabilities: Floats | None = None
    values: Floats | None = None
    first: Floats | None = None
    texts: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class RatingsByLabel(Prediction):
    """Ratings read off the probabilities of labels.

    Attributes:
        mass: the probability, among all texts, that the answer begins with a label, shape (n,).
    """

    mass: Floats | None = None


@dataclass(frozen=True, eq=False)
class WrittenRatings(Prediction):
    """Ratings read off texts.

    Attributes:
        parsed: which texts state a rating; the others have the fallback, shape (n,).
    """

    parsed: Flags | None = None


@dataclass(frozen=True, eq=False)
class Sources:
    """What a recommender may learn from beside the training events.

    Attributes:
        catalog: what the items are.
        view: the training view, whose targets are the training events.
        history_lengths: how many items of a history everybody reads, by the way of answering
            (:attr:`Queries.kind`); whole histories where none is given.
    """

    catalog: Catalog
    view: View
    history_lengths: Mapping[str, int] = field(default_factory=dict)


class Recommender(ABC):
    """Answers queries. Fitting sees the training view only."""

    name: ClassVar[str]
    tasks: ClassVar[frozenset[str]]
    reads_prompts: ClassVar[bool] = False
    """Whether it reads the queries' prompts, so that their wording matters to it."""
    knows_strangers: ClassVar[bool] = True
    """Whether it recommends to people who have a history but are no users of the log."""
    knows_truth: ClassVar[bool] = False
    """Whether it knows what drew the log, so that it is a ceiling and no baseline."""
    data: ClassVar[Data | None] = None
    """What :meth:`recommend` names items by; set by :func:`recinject.fit`."""
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """The values of each setting that are tried where settings are chosen on validation."""
    history_length: int | None = None
    """The most items of a history that it reads, where that is its own and not everybody's."""
    # Of the subclasses that are pydantic dataclasses: unknown settings are refused.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    _sources: Sources | None = None

    def _chance(self, seed: int, *keys: str | int) -> np.random.Generator:
        """Return a stream of random numbers that stays the same whatever results call this."""
        return derive_rng(seed, type(self).name, *keys)

    def read(self, sources: Sources) -> None:
        """Note what :meth:`fit`, which is called later, may learn from."""
        self._sources = sources

    def _longest(self, kind: str, usual: int | None = None) -> int | None:
        """Return the most items of a history that it reads, the latest, or the usual number."""
        lengths = self._sources.history_lengths if self._sources is not None else {}
        return self.history_length or lengths.get(kind, usual)

    def _training_view(self, training: Interactions) -> View:
        """Return the training view that was read, or one of the training events."""
        if self._sources is not None:
            return self._sources.view
        return Split(training, np.zeros(len(training), np.int8)).view(Part.TRAIN)

    @abstractmethod
    def fit(self, training: Interactions, seed: int) -> None:
        """Learn from the training events."""

    @abstractmethod
    def predict(self, queries: Queries, k: int) -> Prediction:
        """Answer queries of one of :attr:`tasks`, with lists of ``k`` items where it lists."""

    def recommend(
        self,
        histories: Sequence[Sequence[str]] | None = None,
        k: int = 10,
        *,
        users: Sequence[str] | None = None,
        explain: bool = False,
        **filters: Any,
    ) -> pd.DataFrame:
        """Recommend the items that come next, none of them from the history unless asked for.

        Args:
            histories: titles or item ids, oldest first, one sequence a list.
            k: items a list; fewer where fewer are left.
            users: in place of histories, ids of the log's users, whose whole histories count.
            explain: whether to say why each item is in a list.
            filters: see :class:`~recinject.recommenders.filters.Filters`: ``seen=True``,
                ``only=[...]``, ``where="category = 'Books'"``, ``max_per={"brand": 2}``.

        Returns:
            A row an item: ``query`` (the position in ``histories``) or ``user_id``, ``rank`` from
            1, ``item_id``, ``title`` and ``score``, in the recommender's own unit; and ``why``,
            if asked for: see :meth:`explain`.

        Raises:
            RecinjectError: both or neither of ``histories`` and ``users`` are given, one of their
                names is unknown, ``k`` exceeds the catalogue, or the recommender does not
                retrieve, has no data, or knows no strangers.
        """
        users = None if users is None else listed(users, "recommend: users")
        asked, data = bind(Filters, filters, "recommend"), self._data_for(histories, users, k)
        log, numbers = data.split.interactions, None
        if histories is None:
            numbers = data.find_users(users or [])
            known = [log.items_of(int(user)) for user in numbers]
        else:
            known = [data.find_items(texts) for texts in listed(histories, "recommend: histories")]
        found, why = self.list_items(known, k, asked, users=numbers, explain=explain)
        items, scores = np.asarray(found.items), np.asarray(found.scores)
        rows, columns = np.nonzero(items >= 0)
        chosen = items[rows, columns]
        named = ("query", rows) if users is None else ("user_id", np.array(users, object)[rows])
        frame = pd.DataFrame(
            {
                named[0]: named[1],
                "rank": columns + 1,
                "item_id": np.array(data.catalog.item_ids, object)[chosen],
                "title": np.array(data.catalog.titles, object)[chosen],
                "score": scores[rows, columns],
            }
        )
        if explain:
            given: Any = [why[row][column] for row, column in zip(rows, columns, strict=True)]
            frame["why"] = given
        return frame

    def list_items(
        self,
        histories: Sequence[Integers],
        k: int,
        filters: Filters,
        *,
        users: Integers | None = None,
        explain: bool = False,
    ) -> tuple[Prediction, list[list[Why]]]:
        """Do what :meth:`recommend` does, in numbers of items and users.

        Returns:
            The lists; and why each item is in them, nothing where that was not asked for.
        """
        data = self._data_for(histories, None, k, users is not None)
        queries = self.ask(histories, users)
        queries = replace(queries, keeps_seen=filters.seen, allowed=filters.mask(data))

        def listed_to(most: int) -> Prediction:
            if not filters.new:
                return self.predict(queries, most)
            return self.with_new(queries, filters.new, most)

        found = filters.capped(data, listed_to, k)
        items = np.asarray(found.items)
        if queries.allowed is not None and not queries.allowed[items[items >= 0]].all():
            raise RecinjectError(
                f"{self.name}: it lists items that the filters bar",
                hint="let its predict heed queries.allowed, or leave the filters out",
            )
        return found, self.explain(queries, items) if explain else []

    def ask(self, histories: Sequence[Integers], users: Integers | None = None) -> Queries:
        """Ask what comes next after histories of users of the log, or of strangers."""
        task, prompts = self._ask(histories)
        n, first = len(histories), self.data.split.interactions.n_users if self.data else 0
        return Queries(
            task=task,
            answer="retrieval",
            sample_ids=[str(row) for row in range(n)],
            prompts=prompts,
            users=(first + np.arange(n)).astype(np.int32) if users is None else users,
            histories=histories,
            targets=np.full(n, -1, np.int32),
        )

    def with_new(self, queries: Queries, fraction: float, k: int) -> Prediction:
        """Retrieve lists of which items without training events may take a fraction.

        Raises:
            RecinjectError: the recommender does not know items by their content.
        """
        data, longer = self.data, self.predict(queries, 2 * k) if self.reads_prompts else None
        if data is not None and longer is not None:
            try:
                new = self._new_items(queries)
                found = data.identifiers.join_cold_items(longer, queries, new, fraction, k)
            except NotImplementedError:
                pass
            else:
                assert isinstance(found, Prediction)
                return found
        raise RecinjectError(
            f"{self.name}: it does not know items without training events",
            hint="ask content_knn, or a model whose identifiers.kind is semantic",
        )

    def _new_items(self, queries: Queries) -> Flags:
        """Return which items have no training events and may be recommended, shape (items,)."""
        assert self.data is not None
        items = len(self.data.catalog)
        new: Flags = np.bincount(self.data.split.train.items, minlength=items) == 0
        return new if queries.allowed is None else new & queries.allowed

    def explain(self, queries: Queries, items: Integers) -> list[list[Why]]:
        """Say why items are in the lists of queries; nothing where a recommender cannot.

        A language model gives the pieces of the item's name with the probability of each; a
        baseline the titles of the history's items that speak most for the item, with the score
        that each gives it alone.

        Args:
            queries: of retrieval.
            items: their lists, -1 where there are fewer, shape (n, k).
        """
        return [[[] for _ in row] for row in items]

    def _data_for(self, histories: object, users: object, k: int, known: bool = False) -> Data:
        if "retrieval" not in self.tasks:
            raise RecinjectError(
                f"{self.name}: it recommends nothing, it answers {', '.join(sorted(self.tasks))}",
                hint="take a recommender that retrieves, such as ease",
            )
        if self.data is None:
            raise RecinjectError(
                f"{self.name}: it has no data to name items by",
                hint="fit it with recinject.fit(recommender, data)",
            )
        if (histories is None) == (users is None):
            raise RecinjectError(
                f"recommend: {'neither' if users is None else 'both'} of histories and users",
                hint="give titles or item ids, one list a person; or users=[...]",
            )
        if users is None and not known and not self.knows_strangers:
            raise RecinjectError(
                f"{self.name}: it knows the users of its training events alone",
                hint="ask for users=[...], or take another recommender",
            )
        n = len(self.data.catalog)
        if not isinstance(k, int | np.integer) or k < 1:
            raise RecinjectError(f"k={k!r} is no number of items", hint=f"ask for 1 to {n}")
        if k > n:
            raise RecinjectError(f"k={k}: the catalogue has {n} items", hint=f"ask for {n} or less")
        return self.data

    def _ask(self, histories: Sequence[Integers]) -> tuple[str, list[str]]:
        """Return the retrieval task's name, and its prompts about histories."""
        return "retrieval", [""] * len(histories)


class ItemScorer(Recommender):
    """A recommender that gives every item of the catalogue a score.

    Items of the whole history are left out of the lists, however much of it is read, unless the
    queries keep them.

    Examples:
        >>> import numpy as np
        >>> from recinject import fit, prepare
        >>> from recinject.data.simulator import simulate_shop
        >>> class Longest(ItemScorer):
        ...     name = "longest"
        ...
        ...     def fit(self, training, seed):
        ...         self.lengths = np.array([len(title) for title in self._sources.catalog.titles])
        ...
        ...     def score(self, queries, rows):
        ...         return np.tile(self.lengths, (len(queries.users[rows]), 1))
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> fit(Longest(), data).recommend([data.catalog.titles[:2]], k=1)["title"].tolist()
        ['Kettle & Oak Premium Ceramic French Press']
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"retrieval", "ranking"})
    knows_new_items: ClassVar[bool] = False
    """Whether its scores tell items apart that have no training events."""
    _rows_at_once = 512

    @abstractmethod
    def score(self, queries: Queries, rows: slice) -> NDArray[np.floating[Any]]:
        """Score all items for some of the queries: shape (rows, items)."""

    def predict(self, queries: Queries, k: int) -> Prediction:
        """Rank the catalogue without the history, or the candidates, by score."""
        blocks = list[Any]()
        for rows, scores in self._scored(queries):
            targets = queries.targets[rows]
            if queries.candidates is None:
                blocks.append((*top_k(scores, k), *places(scores, targets)))
            else:
                candidates = queries.candidates[rows]
                chosen = np.take_along_axis(scores, candidates, axis=1)
                blocks.append(rank_candidates(chosen, candidates, targets, k))
        columns: list[Any] = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
        return Prediction(self.name, queries.task, *columns)

    def with_new_items(self, queries: Queries, new: Flags, fraction: float, k: int) -> Prediction:
        """Retrieve lists with the best new items as high as a fraction of each list allows.

        Args:
            queries: of retrieval.
            new: the items without training events, shape (items,).
            fraction: the largest that they may take of the first r items, at every r; with 1 the
                lists hold new items alone.
            k: the length of the lists.
        """
        lists = list[list[int]]()
        for _, scores in self._scored(queries):
            ranked = [top_k(np.where(own, scores, -np.inf), k)[0] for own in (new, ~new)]
            for row in np.concatenate(ranked, axis=1).tolist():
                found = [item for item in row if item >= 0]
                lists.append(within_fraction(found, new, fraction, k))
        return listed_with_new(self.name, queries, lists, fraction, k)

    def with_new(self, queries: Queries, fraction: float, k: int) -> Prediction:
        """Retrieve lists of which items without training events may take a fraction."""
        if not self.knows_new_items:
            return super().with_new(queries, fraction, k)
        return self.with_new_items(queries, self._new_items(queries), fraction, k)

    def _scored(self, queries: Queries) -> Iterator[tuple[slice, Floats]]:
        """Yield the scores of all items, some rows at a time; -inf for what is not retrieved."""
        shown = queries.latest(self._longest(queries.kind))
        for start in range(0, max(len(queries), 1), self._rows_at_once):
            rows = slice(start, start + self._rows_at_once)
            scores = self._checked(np.array(self.score(shown, rows), np.float64), queries, rows)
            if queries.candidates is None:
                for row, barred in enumerate(queries.barred[rows]):
                    scores[row, barred] = -np.inf
                if queries.allowed is not None:
                    scores[:, ~queries.allowed] = -np.inf
            yield rows, scores

    def explain(self, queries: Queries, items: Integers) -> list[list[Why]]:
        """Name the history's items that speak most for each item: the scores that each gives alone.

        An item that speaks for any other as well explains nothing.
        """
        found: list[list[Why]] = [[[] for _ in row] for row in items]
        if self.data is None or not self.knows_strangers:
            return found
        shown = queries.latest(self._longest(queries.kind)).histories
        pairs = [(row, int(own)) for row, past in enumerate(shown) for own in dict.fromkeys(past)]
        titles, last = self.data.catalog.titles, len(self.data.catalog) - 1
        usual = np.array(self.score(self._alone([0, min(1, last)]), slice(None)))
        for start in range(0, len(pairs), self._rows_at_once):
            block = pairs[start : start + self._rows_at_once]
            alone = self._alone([own for _, own in block])
            scores = np.array(self.score(alone, slice(None)), np.float64)
            for (row, own), given in zip(block, scores, strict=True):
                other = usual[int(own == 0)]
                for place, item in enumerate(items[row].tolist()):
                    if item >= 0 and np.isfinite(given[item]) and given[item] > other[item]:
                        found[row][place].append((titles[own], float(given[item])))
        return [[sorted(why, key=lambda w: -w[1])[:_REASONS] for why in row] for row in found]

    def _alone(self, items: Sequence[int]) -> Queries:
        """Return queries of strangers who have one item each."""
        return self.ask([np.array([item], np.int32) for item in items])

    def _checked(self, scores: Floats, queries: Queries, rows: slice) -> Floats:
        expected = len(queries.users[rows]), len(self.data.catalog) if self.data else None
        if scores.ndim != 2 or expected not in (scores.shape, (len(scores), None)):
            raise RecinjectError(
                f"{self.name}: scores of the shape {scores.shape}",
                hint=f"score must return a row a query and a column an item: {expected}",
            )
        if np.isnan(scores.min(initial=0)):  # which hands NaN on
            raise RecinjectError(
                f"{self.name}: some scores are not numbers, so nothing can be ranked by them",
                hint="its fit diverged: lower its learning rate or raise its regularisation",
            )
        return scores


def make_recommender(
    asked: str | Mapping[str, Mapping[str, Any] | Sequence[Any] | None] | Recommender,
) -> Recommender:
    """Make an unfitted recommender, or take one as it is.

    Args:
        asked: its name in the registry, or a mapping from this to its constructor's arguments; a
            list stands for its ``members``, as in ``{"blend": ["ease", "markov_chain"]}``.
            Two more are everybody's: ``name`` is its name in the results, ``history_length`` how
            many items of a history it reads, where not as many as the others.

    Raises:
        RecinjectError: no recommender has that name, it has no such argument, or refuses a value;
            or what was made has no name.

    Examples:
        >>> make_recommender({"ease": {"regularization": 500.0, "name": "ease_500"}}).name
        'ease_500'
    """
    place = "evaluation.baselines"
    if isinstance(asked, Recommender):
        return _with_name(asked, getattr(asked, "name", None))
    named = {asked: None} if isinstance(asked, str) else asked
    given = list(named.values()) if isinstance(named, Mapping) else []
    given = [{"members": each} if isinstance(each, list) else each for each in given]
    if len(given) != 1 or not isinstance(given[0], Mapping | None):
        raise RecinjectError(
            f"{place}: {asked!r} is no recommender",
            hint="write its name, or its settings below its name, as in "
            "{'ease': {'regularization': 500}}; one's own is given as Class()",
        )
    name = next(iter(named))
    kind, settings = find("recommender", name, place), dict(given[0] or {})
    called = settings.pop("name", None)
    has_own = "history_length" in inspect.signature(kind).parameters
    longest = None if has_own else settings.pop("history_length", None)
    recommender: Recommender = bind(kind, settings, f"{place}.{name}")
    if longest is not None:
        bind(_read, {"history_length": longest}, f"{place}.{name}", recommender=recommender)
    return _with_name(recommender, called or getattr(recommender, "name", None))


def _read(recommender: Recommender, history_length: PositiveInt) -> None:
    recommender.history_length = history_length


def _with_name(recommender: Recommender, name: object) -> Recommender:
    if not isinstance(name, str) or not name or "/" in name:  # it names a file of predictions, too
        raise RecinjectError(
            f"{type(recommender).__name__}: {name!r} is no name of a recommender",
            hint="give the class a line such as: name = 'loyal'",
        )
    recommender.name = name  # type: ignore[misc]  # a name of its own, beside its class's
    return recommender


def rank_candidates(
    scores: Floats, candidates: Integers, targets: Integers, k: int
) -> tuple[Integers, Floats, Floats, Floats]:
    """Rank each row's candidates by their scores, both of shape (n, c).

    Returns:
        ``items``, ``scores``, ``ahead`` and ``tied`` as in :class:`Prediction`.
    """
    columns, top_scores = top_k(scores, k)
    items = np.where(columns < 0, -1, np.take_along_axis(candidates, columns, axis=1))
    is_target = candidates == targets[:, None]
    target_columns = np.where(is_target.any(1), np.argmax(is_target, axis=1), -1).astype(np.int32)
    return (items.astype(np.int32), top_scores, *places(scores, target_columns))


def top_k(scores: Floats, k: int) -> tuple[Integers, Floats]:
    """Return the columns and values of each row's k largest scores, ties in column order.

    Rows with fewer than ``k`` scores above -inf end in columns of -1 with scores of -inf.

    Examples:
        >>> columns, values = top_k(np.array([[0.1, 0.9, 0.9, -np.inf]]), 4)
        >>> columns.tolist(), values.tolist()
        ([[1, 2, 0, -1]], [[0.9, 0.9, 0.1, -inf]])
    """
    rows, columns = scores.shape
    blocks = columns // _BLOCK
    if blocks < 2 * k or not rows:
        return _top_of_few(scores, k)
    # The k-th largest of the blocks' maxima is at most the k-th largest score: few are as large.
    peaks = scores[:, : blocks * _BLOCK].reshape(rows, blocks, _BLOCK).max(2)
    least = np.partition(peaks, blocks - k, axis=1)[:, blocks - k, None]
    hopeful = np.flatnonzero(scores >= least)
    if len(hopeful) > rows * columns // _BLOCK:  # many are equal
        return _top_of_few(scores, k)
    found = Ragged.from_lengths(hopeful % columns, np.bincount(hopeful // columns, minlength=rows))
    values = found.of(np.ravel(scores)[hopeful]).to_grid(-np.inf)
    chosen, best = _top_of_few(values, k)
    at = np.take_along_axis(found.to_grid(-1), chosen, axis=1)
    return np.where(chosen < 0, -1, at).astype(np.int32), best


_BLOCK = 64


def _top_of_few(scores: Floats, k: int) -> tuple[Integers, Floats]:
    """Do what :func:`top_k` does, in a time that grows with the columns."""
    rows, columns = scores.shape
    width = min(k, columns)
    least = np.partition(scores, columns - width, axis=1)[:, columns - width, None]
    above, level = scores > least, scores == least
    # A plain partition would choose arbitrarily among equal scores.
    room = width - above.sum(1, keepdims=True)
    kept = above | (level & (np.cumsum(level, axis=1, dtype=np.int32) <= room))
    chosen = (np.flatnonzero(kept) % columns).reshape(rows, width)
    values = np.take_along_axis(scores, chosen, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    top = np.full((rows, k), -1, np.int32)
    top_scores = np.full((rows, k), -np.inf)
    top[:, :width] = np.take_along_axis(chosen, order, axis=1)
    top_scores[:, :width] = np.take_along_axis(values, order, axis=1)
    return np.where(np.isneginf(top_scores), np.int32(-1), top), top_scores


def places(scores: Floats, targets: Integers) -> tuple[Floats, Floats]:
    """Count the columns ahead of each row's target, and those tied with it, itself included.

    A target that can't be recommended, because its column is -1 or its score -inf, has
    infinitely many ahead of it.

    Examples:
        >>> ahead, tied = places(np.array([[0.1, 0.9, 0.5, 0.5]]), np.array([2]))
        >>> ahead.tolist(), tied.tolist()
        ([1.0], [2.0])
    """
    if (targets < 0).all():
        return np.full(len(targets), np.inf), np.ones(len(targets))
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    ahead, tied = (scores > own).sum(1), (scores == own).sum(1)
    absent = (targets < 0) | np.isneginf(own[:, 0])
    return np.where(absent, np.inf, ahead), np.where(absent, 1.0, tied)


def within_fraction(items: Sequence[int], new: Flags, fraction: float, k: int) -> list[int]:
    """Take items in order; new ones wait until those above them leave them room.

    Examples:
        >>> within_fraction([3, 4, 0, 1, 2], np.array([False] * 3 + [True] * 2), 0.5, 4)
        [0, 3, 1, 4]
    """
    ranked = list(enumerate(items))
    known, waiting = (deque(p for p in ranked if new[p[1]] == is_new) for is_new in (0, 1))
    chosen: list[int] = []
    joined = 0
    while len(chosen) < k and (known or waiting):
        # The least surplus keeps 0.1 of 10 items from being less than one.
        room = joined + 1 <= fraction * (len(chosen) + 1) + 1e-9
        if waiting and room and (not known or waiting[0] < known[0]):
            chosen.append(waiting.popleft()[1])
            joined += 1
        elif known:
            chosen.append(known.popleft()[1])
        else:
            break
    return chosen


def listed_with_new(
    recommender: str, queries: Queries, lists: Sequence[Sequence[int]], fraction: float, k: int
) -> Prediction:
    """Make a prediction of lists that new items joined; scores are minus the ranks."""
    joined = np.full((len(queries), k), -1, np.int32)
    for row, items in enumerate(lists):
        joined[row, : len(items)] = items
    found, order = joined == queries.targets[:, None], np.arange(float(k))
    return Prediction(
        f"{recommender}_cold_{fraction:g}",
        queries.task,
        joined,
        np.where(joined >= 0, -order, -np.inf),
        np.where(found.any(1), found.argmax(1), np.inf),
        np.ones(len(queries)),
    )
