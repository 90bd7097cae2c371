from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recinject.data.schema import Catalog, Interactions
from recinject.data.splitting import Part, Split
from recinject.foundation.errors import RecinjectError
from recinject.methods.semantic_ranker.recommender import HashedRanker, SemanticRanker
from recinject.methods.semantic_ranker.representations import REPRESENTATIONS
from recinject.recommenders.protocol import Queries, Sources

GENRES, A_GENRE, USERS = 4, 12, 160
ITEMS = GENRES * A_GENRE
COLD = np.arange(0, ITEMS, A_GENRE)  # the first item of each genre is in no training event
SMALL = {"rows": 64, "codes": 4, "levels": 2, "epochs": 20, "batch_size": 64, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def training() -> Interactions:
    """Each user rates his own genre with 5 and another with 1, three items each."""
    rng = np.random.default_rng(0)
    own = np.arange(USERS) % GENRES
    other = (own + rng.integers(1, GENRES, USERS)) % GENRES
    items, ratings = np.empty((USERS, 6), np.int32), np.empty((USERS, 6))
    for user in range(USERS):
        pairs = [
            (genre * A_GENRE + 1 + item, rating)
            for genre, rating in ((own[user], 5.0), (other[user], 1.0))
            for item in rng.permutation(A_GENRE - 1)[:3]
        ]
        items[user], ratings[user] = zip(*rng.permutation(pairs), strict=True)
    users = np.repeat(np.arange(USERS, dtype=np.int32), 6)
    ids = [str(user) for user in range(USERS)]
    return Interactions(users, items.ravel(), ratings.ravel(), None, ids, ITEMS)


@pytest.fixture(scope="module")
def sources(training: Interactions) -> Sources:
    names = ["western desert horse", "space alien robot", "love paris wedding", "ghost night axe"]
    frame = pd.DataFrame({"item_id": [f"i{item}" for item in range(ITEMS)]})
    frame["title"] = [f"{names[item // A_GENRE]} w{item}" for item in range(ITEMS)]
    view = Split(training, np.zeros(len(training), np.int8)).view(Part.TRAIN)
    return Sources(Catalog(frame), view)


@pytest.fixture(scope="module")
def queries(training: Interactions) -> Queries:
    """The cold item of some genre; the label is the rating that the user gave to that genre."""
    users = np.arange(USERS, dtype=np.int32)
    targets = COLD[(users // 2) % GENRES].astype(np.int32)
    histories = [training.items_of(user) for user in users]
    rated = training.ratings.reshape(USERS, 6)
    labels = np.array(
        [
            np.append(rated[user][histories[user] // A_GENRE == targets[user] // A_GENRE], 3.0)[0]
            for user in users
        ]
    )
    return Queries(
        "rating", [""] * USERS, [""] * USERS, users, histories, targets, None, labels, list(rated)
    )


def fitted(training, sources, **settings) -> SemanticRanker:
    model = SemanticRanker(**{**SMALL, **settings})
    model.read(sources)
    model.fit(training, 1)
    return model


@pytest.mark.parametrize("kind", ["unigram", "prefix_ngram", "content"])
def test_a_cold_item_is_rated_by_what_it_is(training, sources, queries, kind):
    found = fitted(training, sources, representation=kind).predict(queries, 0).ratings
    liked, hated = found[queries.labels == 5], found[queries.labels == 1]
    assert liked.min() >= 1 and liked.max() <= 5
    assert liked.mean() - hated.mean() > 1.5
    chance = HashedRanker(**SMALL)
    chance.fit(training, 1)
    told = chance.predict(queries, 0).ratings
    gap = told[queries.labels == 5].mean() - told[queries.labels == 1].mean()
    assert gap < (liked.mean() - hated.mean()) / 2


@pytest.mark.parametrize("kind", REPRESENTATIONS)
def test_it_ranks_alike_alone_and_in_a_batch_and_the_same_again(training, sources, queries, kind):
    rows = 12 if kind == "sentencepiece" else 64
    model, again = (
        fitted(training, sources, representation=kind, rows=rows, epochs=1) for _ in range(2)
    )
    slates = np.random.default_rng(0).permuted(np.tile(np.arange(ITEMS), (USERS, 1)), axis=1)
    slates = slates[:, :8].astype(np.int32)
    asked = replace(queries, task="ranking", candidates=slates, targets=slates[:, 3])
    whole = model.predict(asked, 5)
    assert whole.items.shape == (USERS, 5) and whole.ahead.max() < 8
    alone = model.predict(asked.take(np.array([7, 3])), 5)
    same = again.predict(asked, 5)
    for name in ("items", "scores", "ahead", "tied"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name)[[7, 3]])
        np.testing.assert_array_equal(getattr(same, name), getattr(whole, name))
    assert len(model.predict(asked.take(np.array([], np.int32)), 5).items) == 0


def test_a_log_without_ratings_ranks_and_does_not_rate(training, sources, queries):
    bare = replace(training, ratings=None)
    view = Split(bare, np.zeros(len(bare), np.int8)).view(Part.TRAIN)
    model = fitted(bare, Sources(sources.catalog, view), epochs=1)
    asked = replace(queries, history_ratings=None)
    with pytest.raises(RecinjectError, match="no ratings to learn from"):
        model.predict(asked, 0)
    slates = np.stack([queries.targets, (queries.targets + 5) % ITEMS], 1)
    ranked = model.predict(replace(asked, task="ranking", candidates=slates), 2)
    assert np.isfinite(ranked.scores).all()
    with pytest.raises(RecinjectError, match="no candidates"):
        model.predict(replace(asked, task="retrieval"), 2)


def test_codes_need_texts(training):
    with pytest.raises(RecinjectError, match="none were read"):
        SemanticRanker().fit(training, 0)
