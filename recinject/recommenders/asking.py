"""Questions of one's own beside lists: the order of a slate, and the rating of an item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from recinject.data.schema import Floats, Integers
from recinject.foundation.errors import RecinjectError
from recinject.identifiers.data import Data
from recinject.recommenders.language_model import LanguageModel, RankedByRetrieval
from recinject.recommenders.protocol import Prediction, Queries, Recommender


def rank(
    recommender: Recommender, histories: Sequence[Sequence[str]], slates: Sequence[Sequence[str]]
) -> pd.DataFrame:
    """Put each slate of items in the order in which they come next after a history.

    A language model goes by the likelihood of each item after its prompt of retrieval.

    Args:
        recommender: fitted, with data.
        histories: titles or item ids, oldest first.
        slates: the items to order, as many sequences; each item once.

    Returns:
        A row an item: ``query``, ``rank`` from 1, ``item_id``, ``title`` and ``score``.

    Raises:
        RecinjectError: an item is unknown or stands in a slate twice, or the recommender ranks
            nothing.

    Examples:
        >>> from recinject import fit, prepare
        >>> from recinject.data.simulator import simulate_shop
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> titles = data.catalog.titles
        >>> frame = rank(fit("popularity", data), [titles[:1]], [titles[1:5]])
        >>> frame["score"].tolist()
        [2.0, 1.0, 1.0, 1.0]
    """
    data = _data_of(recommender)
    past = [data.find_items(texts) for texts in histories]
    rows = []
    for query, (history, texts) in enumerate(zip(past, slates, strict=True)):
        slate = data.find_items(texts)
        found = rank_items(recommender, [history], slate[None])
        items, scores = np.asarray(found.items)[0], np.asarray(found.scores)[0]
        for place, (item, score) in enumerate(zip(items, scores, strict=True), 1):
            names = data.catalog.item_ids[item], data.catalog.titles[item]
            rows.append((query, place, *names, float(score)))
    return pd.DataFrame(rows, columns=["query", "rank", "item_id", "title", "score"])


def rank_items(
    recommender: Recommender, histories: Sequence[Integers], slates: Integers
) -> Prediction:
    """Do what :func:`rank` does in numbers of items; ``slates`` have the shape (n, c)."""
    asked: Recommender = recommender
    if isinstance(recommender, LanguageModel):
        if not RankedByRetrieval.can_ask(recommender):
            raise RecinjectError(
                f"{recommender.name}: it ranks by its prompt of retrieval, which it lacks",
                hint="train with the task retrieval, without worked examples",
            )
        asked = RankedByRetrieval(recommender)
    if "ranking" not in asked.tasks:
        raise RecinjectError(f"{recommender.name}: it ranks nothing", hint="ask ease, for example")
    if any(len({*slate}) < len(slate) for slate in slates.tolist()):
        raise RecinjectError("rank: an item stands in a slate twice", hint="name each once")
    queries = replace(recommender.ask(histories), answer="ranking", candidates=slates)
    return asked.predict(queries, slates.shape[1])


def rate(
    recommender: Recommender,
    histories: Sequence[Sequence[str]],
    items: Sequence[str],
    ratings: Sequence[Sequence[float]] | None = None,
) -> Floats:
    """Predict how a stranger with each history rates an item.

    Args:
        recommender: one that rates, with data.
        histories: titles or item ids, oldest first.
        items: one for each history.
        ratings: of the items of each history, values of the log; models that read them need them.

    Returns:
        The ratings, shape (n,).

    Raises:
        RecinjectError: an item or a rating is unknown, or the recommender rates nothing, or knows
            the users of its log alone.

    Examples:
        >>> from recinject import fit, prepare
        >>> from recinject.data.simulator import simulate_shop
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> titles = data.catalog.titles
        >>> rate(fit("item_mean", data), [titles[:1]], titles[1:2]).tolist()
        [4.0]
    """
    data = _data_of(recommender)
    past = [data.find_items(texts) for texts in histories]
    given = None if ratings is None else [np.asarray(row, np.float64) for row in ratings]
    found = rate_items(recommender, past, data.find_items(items), given)
    return np.asarray(found.ratings)


def rate_items(
    recommender: Recommender,
    histories: Sequence[Integers],
    items: Integers,
    ratings: Sequence[Floats] | None = None,
) -> Prediction:
    """Do what :func:`rate` does in numbers of items."""
    if "rating" not in recommender.tasks:
        raise RecinjectError(
            f"{recommender.name}: it rates nothing", hint="ask item_mean or biases"
        )
    if ratings is not None and [*map(len, ratings)] != [*map(len, histories)]:
        raise RecinjectError(
            "rate: a history has more or fewer ratings than items", hint="give one for each item"
        )
    task, prompts = "rating", [""] * len(histories)
    if isinstance(recommender, LanguageModel):
        task, prompts = recommender.rating_prompts(histories, items, ratings)
    n, strangers = len(histories), _data_of(recommender).split.interactions.n_users
    queries = Queries(
        task=task,
        answer="rating",
        sample_ids=[""] * n,
        prompts=prompts,
        users=np.full(n, strangers, np.int32),
        histories=histories,
        targets=items,
        history_ratings=ratings,
    )
    try:
        return recommender.predict(queries, 1)
    except IndexError as error:  # of a table of users that has no row for strangers
        raise RecinjectError(
            f"{recommender.name}: it knows the users of its log alone", hint="ask item_mean"
        ) from error


def _data_of(recommender: Recommender) -> Data:
    if recommender.data is None:
        raise RecinjectError(
            f"{recommender.name}: it has no data to name items by",
            hint="fit it with recinject.fit(recommender, data)",
        )
    return recommender.data
