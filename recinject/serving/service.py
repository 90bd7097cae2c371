"""The service without HTTP: finished runs by name, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from recinject.data.schema import Integers
from recinject.data.splitting import Part, View
from recinject.foundation.errors import RecinjectError, pick
from recinject.foundation.settings import Positive, bind
from recinject.identifiers.data import Data
from recinject.pipeline.recommend import recommender_of
from recinject.pipeline.run import Run
from recinject.recommenders.asking import rank_items, rate_items
from recinject.recommenders.filters import Filters
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Prediction, Recommender, Why
from recinject.samples.builder import REWORDED
from recinject.serving.batching import Batcher
from recinject.serving.forms import Asked, RankRequest, RateRequest, RecommendRequest
from recinject.serving.metrics import Metrics

MODEL = "language_model"
_MOST_FOUND = 20


@dataclass(frozen=True)
class Limits:
    """What one request, and all that wait, may ask for.

    Attributes:
        batch: how many requests are answered together, at most.
        wait: how many seconds the first of them waits for others.
        queue: how many requests wait for each recommender; more are refused with 429.
        seconds: how long a request may take; 504 then.
        body: the most bytes of a request; 413 for more.
        history: the most items of a history, and of a slate or a list.
    """

    batch: Positive = 32
    wait: Annotated[float, Field(ge=0, le=1)] = 0.002
    queue: Positive = 256
    seconds: Annotated[float, Field(gt=0)] = 30.0
    body: Positive = 1 << 20
    history: Positive = 1000


@dataclass(frozen=True, eq=False)
class Shop:
    """One run that is served: its data, and who is asked, by name; the first is the usual one."""

    name: str
    data: Data
    recommenders: Mapping[str, Recommender]

    @classmethod
    def of_run(cls, run: Run, baselines: Sequence[str] = ()) -> Shop:
        """Load a finished run's model, if it has one, and fit baselines."""
        asked = [MODEL] if run.recipe.training is not None else []
        names = dict.fromkeys([*asked, *baselines])
        found = {name: recommender_of(run, name) for name in names}
        if not found:
            raise RecinjectError(
                f"{run.recipe.folder}: no trained model in it", hint="name --recommender ease"
            )
        return cls(run.recipe.name, run.data, found)

    @cached_property
    def _folded(self) -> list[str]:
        return [title.casefold() for title in self.data.catalog.titles]

    def search(self, query: str, limit: int = _MOST_FOUND) -> list[dict[str, Any]]:
        """Find items whose title holds a text or whose id is one; titles that begin so come first.

        Examples:
            >>> from recinject import fit, prepare
            >>> from recinject.data.simulator import simulate_shop
            >>> log = simulate_shop(users=12, items=30, events_per_user=6, seed=1)
            >>> data = prepare(log, k_core=2)
            >>> shop = Shop("shop", data, {"ease": fit("ease", data)})
            >>> shop.search("PRESS", 1)[0]["title"]
            'Kettle & Oak Premium Ceramic French Press'
        """
        wanted = " ".join(query.casefold().split())
        held = [n for n, title in enumerate(self._folded) if wanted in title]
        own = [n for n, item in enumerate(self.data.catalog.item_ids) if item == query.strip()]
        held.sort(key=lambda n: not self._folded[n].startswith(wanted))
        return [self.item(n) for n in dict.fromkeys([*own, *held])][:limit]

    def item(self, number: int) -> dict[str, Any]:
        """Return an item's names."""
        catalog = self.data.catalog
        return {"item_id": catalog.item_ids[number], "title": catalog.titles[number]}

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each item, by its id."""
        return {item: number for number, item in enumerate(self.data.catalog.item_ids)}

    @cached_property
    def _view(self) -> View:
        return self.data.split.view(Part.TEST)

    @property
    def tests(self) -> int:
        """How many events the test has."""
        return len(self._view.targets.values)

    def person_numbers(self, number: int) -> tuple[int, Integers, int]:
        """Return user, history and what came next of one of the test's events, as numbers."""
        if not self.tests:
            raise RecinjectError(f"{self.name}: it has no test users", hint="pick items instead")
        view, log = self._view, self._view.interactions
        event = view.targets.values[[number % self.tests]]
        history = log.items[view.histories(event)[0]]
        return int(log.users[event[0]]), history, int(log.items[event[0]])

    def person(self, number: int) -> dict[str, Any]:
        """Return a user of the test, their history and what came next; any number names one."""
        user, history, target = self.person_numbers(number)
        liked = [self.item(int(item)) for item in history]
        known = str(self.data.split.interactions.user_ids[user])
        return {"user": known, "liked": liked, "target": self.item(target)}

    def find(self, texts: Sequence[str]) -> Integers:
        """Return the numbers of items by titles or ids, without a search for what was meant."""
        for text in texts:
            if not self.data.has_item(text):
                raise RecinjectError(
                    f"no item has the title or the id {_short(text)}",
                    hint="GET /v1/items?query=TEXT lists titles",
                )
        return self.data.find_items(texts)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


@dataclass(frozen=True)
class Question:
    """Whom a list is for: the numbers of a history's items, and the user's where it is one."""

    history: Integers
    user: int | None = None


@dataclass(frozen=True)
class ListKey:
    """What requests share that are decoded together."""

    k: int
    seen: bool = False
    only: tuple[str, ...] | None = None
    max_per: tuple[tuple[str, int], ...] = ()
    explain: bool = False
    reworded: bool = False


@dataclass(frozen=True)
class Pending:
    """A request that was taken in."""

    run: str
    recommender: str
    kind: str  # the name of what is answered
    future: Future[Any]

    def told(self, found: Any) -> dict[str, Any]:
        """Return the whole answer, given what the future gave."""
        own = found if isinstance(found, dict) else {self.kind: found}
        return {"run": self.run, "recommender": self.recommender, **own}


class Service:
    """Finished runs, loaded once, each recommender behind a queue of its own.

    Args:
        shops: by the name that requests give; the first is the usual one.
        limits: of a request and of the queues.
    """

    def __init__(self, shops: Sequence[Shop], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.shops = {shop.name: shop for shop in shops}
        if len(self.shops) < len(shops) or not shops:
            raise RecinjectError("serve: no run, or two of one name", hint="give each a name")
        self.metrics = Metrics({"recinject_queue_length": self.waiting})
        self._batchers: dict[tuple[str, str], Batcher] = {}
        for shop in shops:
            shop.find([])  # the tables of names are made now, and not by the first request
            for name, recommender in shop.recommenders.items():
                answer = partial(self._answer, shop, recommender)
                told = partial(self.metrics.batch, f"{shop.name}/{name}")
                own = (self.limits.batch, self.limits.wait, self.limits.queue, told)
                self._batchers[shop.name, name] = Batcher(answer, *own)

    def waiting(self) -> dict[str, float]:
        """Return how many requests wait for each recommender."""
        return {"/".join(names): len(own) for names, own in self._batchers.items()}

    def close(self) -> None:
        """Answer what waits, then stop."""
        for batcher in self._batchers.values():
            batcher.close()

    def shop(self, name: str | None) -> Shop:
        """Return a run by name, the first where None."""
        name = next(iter(self.shops)) if name is None else name
        return self.shops[pick(name, self.shops, "run: none is called")]

    def named(self, shop: Shop, name: str | None) -> str:
        """Return the name of a recommender, the first one's where None."""
        name = next(iter(shop.recommenders)) if name is None else name
        return pick(name, shop.recommenders, "recommender: none is called")

    def start(self, asked: Asked) -> Pending:
        """Check a request and put it into the queue of its recommender.

        Raises:
            RecinjectError: it names what is not there, or asks for more than is allowed.
            QueueFullError: too many requests wait.
        """
        shop = self.shop(asked.run)
        name = self.named(shop, asked.recommender)
        if isinstance(asked, RecommendRequest):
            kind, key, question = self._list(shop, asked)
        else:
            history = self.question(shop, asked.liked, None).history
            kind, key, question = self._judge(shop, asked, history)
        future = self._batchers[shop.name, name].ask(key, question)
        return Pending(shop.name, name, kind, future)

    def recommend(self, asked: RecommendRequest) -> dict[str, Any]:
        """Answer a request, and wait for that; see :meth:`start`."""
        return self._wait(asked)

    def rank(self, asked: RankRequest) -> dict[str, Any]:
        """Answer a request, and wait for that; see :meth:`start`."""
        return self._wait(asked)

    def _wait(self, asked: Asked) -> dict[str, Any]:
        pending = self.start(asked)
        return pending.told(pending.future.result(self.limits.seconds))

    def _list(self, shop: Shop, asked: RecommendRequest) -> tuple[str, Hashable, Question]:
        self._bound(asked.k, "k")
        question = self.question(shop, asked.liked, asked.user)
        only = None if asked.only is None else tuple(asked.only)
        if only is not None:
            self._bound(len(only), "only")
            shop.find(only)
        alike, reworded = tuple(sorted(asked.max_per.items())), asked.wording == "reworded"
        key = ListKey(asked.k, asked.seen, only, alike, asked.explain, reworded)
        return "items", key, question

    def _judge(self, shop: Shop, asked: Asked, history: Integers) -> tuple[str, Hashable, Any]:
        if isinstance(asked, RankRequest):
            self._bound(len(asked.items), "items")
            slate = shop.find(asked.items)
            return "items", ("rank", len(slate)), (history, slate)
        assert isinstance(asked, RateRequest)
        if asked.ratings is not None and len(asked.ratings) != len(history):
            raise RecinjectError("ratings: one for each item of liked is needed", hint="add some")
        question = (history, int(shop.find([asked.item])[0]), asked.ratings)
        return "rating", ("rate", asked.ratings is not None), question

    def _bound(self, count: int, what: str) -> None:
        if count > self.limits.history:
            fact = f"{what}: {count}, at most {self.limits.history} are allowed"
            raise RecinjectError(fact, hint="ask for fewer")

    def question(self, shop: Shop, liked: Sequence[str] | None, user: str | None) -> Question:
        """Say whom a request is about."""
        if (liked is None) == (user is None):
            fact = "both of liked and user" if user else "neither liked nor user"
            raise RecinjectError(f"{fact}: give one", hint='{"liked": ["A title", "An id"]}')
        if user is not None:
            number = int(shop.data.find_users([user])[0])
            return Question(shop.data.split.interactions.items_of(number), number)
        texts = liked or []
        if not 1 <= len(texts) <= self.limits.history:
            raise RecinjectError(
                f"liked: {len(texts)} items, from 1 to {self.limits.history} are allowed",
                hint="send the latest items",
            )
        return Question(shop.find(texts))

    def _answer(
        self, shop: Shop, recommender: Recommender, key: Any, questions: Sequence[Any]
    ) -> list[Any]:
        if isinstance(key, ListKey):
            return lists(shop, recommender, key, questions)
        kind, shown = key
        histories = [one[0] for one in questions]
        if kind == "rank":
            found = rank_items(recommender, histories, np.stack([one[1] for one in questions]))
            return _rows(shop, found, [])
        items = np.array([one[1] for one in questions], np.int32)
        ratings = [np.asarray(one[2], np.float64) for one in questions] if shown else None
        rated = rate_items(recommender, histories, items, ratings)
        return [float(value) for value in np.asarray(rated.ratings)]


def open_service(
    runs: Sequence[str | Path],
    baselines: Sequence[str],
    limits: Mapping[str, Any],
    *,
    trust_code: bool = False,
) -> Service:
    """Load finished runs, by folder or name, and put a queue before each recommender.

    ``baselines`` are fitted beside each run's model; for ``limits`` see :class:`Limits`, for
    ``trust_code`` :func:`recinject.load`.
    """
    bound = bind(Limits, limits, "serve")
    opened = [Run.open(run, trust_code=trust_code) for run in runs]
    return Service([Shop.of_run(run, baselines) for run in opened], bound)


def lists(
    shop: Shop, recommender: Recommender, key: ListKey, questions: Sequence[Question]
) -> list[dict[str, Any]]:
    """Recommend to several people at once; each gets ``items`` and, where explained, a prompt."""
    asked, strangers = recommender, shop.data.split.interactions.n_users
    if key.reworded:
        other = recommender.worded(REWORDED) if isinstance(recommender, LanguageModel) else None
        if other is None:
            raise RecinjectError(
                f"wording: {recommender.name} has no other one", hint="leave wording out"
            )
        asked = other
    if not asked.knows_strangers and any(one.user is None for one in questions):
        raise RecinjectError(
            f"{asked.name}: it knows the users of the log alone", hint='ask with {"user": ID}'
        )
    histories = [one.history for one in questions]
    numbers = [strangers + n if q.user is None else q.user for n, q in enumerate(questions)]
    filters = Filters(key.seen, key.only, None, dict(key.max_per))
    users = np.array(numbers, np.int32)
    found, why = asked.list_items(histories, key.k, filters, users=users, explain=key.explain)
    answers = [{"items": rows} for rows in _rows(shop, found, why)]
    if key.explain and isinstance(asked, LanguageModel):
        for answer, prompt in zip(answers, asked.ask(histories).prompts, strict=True):
            answer["prompt"] = {"text": prompt, "tokens": asked.tokens(prompt)}  # type: ignore[assignment]
    return answers


def _rows(
    shop: Shop, found: Prediction, why: Sequence[Sequence[Why]]
) -> list[list[dict[str, Any]]]:
    """Return each list as plain rows."""
    listed = []
    for query, (items, scores) in enumerate(
        zip(np.asarray(found.items).tolist(), np.asarray(found.scores).tolist(), strict=True)
    ):
        rows = []
        for place, (item, score) in enumerate(zip(items, scores, strict=True)):
            if item < 0:
                break
            row = {"rank": place + 1, **shop.item(item), "score": score}
            if why:
                row["why"] = [{"text": text, "value": value} for text, value in why[query][place]]
            rows.append(row)
        listed.append(rows)
    return listed
