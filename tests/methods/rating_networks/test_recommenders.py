from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recinject.data.schema import Catalog
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part, Split, learn_from, split_by, without_validation
from recinject.methods.rating_networks.recommenders import Biases, attribute_numbers
from recinject.recommenders.baselines import GlobalMean
from recinject.recommenders.protocol import Queries, Recommender, Sources
from recinject.registry import find

LEARNED = ["biases", "matrix_factorisation", "mlp", "wide_deep", "transformer_mlp"]


@pytest.fixture(scope="module")
def sources() -> tuple[Split, Catalog]:
    log = simulate_shop(users=300, items=60, events_per_user=15, seed=2)
    return without_validation(split_by("random", log.interactions, 0.2)), log.catalog


def rmse(model: Recommender, queries: Queries) -> float:
    ratings = model.predict(queries, 10).ratings
    assert ratings is not None and queries.labels is not None
    return float(np.sqrt(np.mean((ratings - queries.labels) ** 2)))


def fitted(name: str, split: Split, catalog: Catalog) -> Recommender:
    model = find("recommender", name)()
    model.read(Sources(catalog, split.view(Part.TRAIN)))
    model.fit(split.train, seed=1)
    return model


def test_biases_are_the_ridge_regression_s(sources: tuple[Split, Catalog]) -> None:
    training, rating = sources[0].train, Queries.of_ratings(sources[0].view(Part.TEST))
    model = Biases(user_ridge=2.0, item_ridge=3.0)
    model.fit(training, seed=0)
    rows, users = np.arange(len(training)), training.n_users
    design = np.zeros((len(training), users + training.n_items))
    design[rows, training.users] = design[rows, users + training.items] = 1
    ridge = np.diag(np.repeat([2.0, 3.0], [users, training.n_items]))
    mean = training.ratings.mean()
    offsets = np.linalg.solve(design.T @ design + ridge, design.T @ (training.ratings - mean))
    expected = mean + offsets[rating.users] + offsets[users + rating.targets]
    found = model.predict(rating, 10).ratings
    np.testing.assert_allclose(found, np.clip(expected, 1, 5), atol=1e-7)


@pytest.mark.parametrize("name", LEARNED)
def test_each_beats_the_mean(name: str, sources: tuple[Split, Catalog]) -> None:
    split, _ = sources
    queries, mean = Queries.of_ratings(split.view(Part.TEST)), GlobalMean()
    mean.fit(split.train, 0)
    assert rmse(fitted(name, *sources), queries) < 0.95 * rmse(mean, queries)


@pytest.mark.parametrize("name", ["wide_deep", "transformer_mlp"])
def test_only_targets_are_learned_from_and_strangers_are_answered(
    name: str, sources: tuple[Split, Catalog]
) -> None:
    split, catalog = sources
    few = learn_from(split, 0.1, seed=1)
    queries, log = Queries.of_ratings(few.view(Part.TEST)), few.interactions
    # Ratings that stand in histories alone may move inputs, never labels: of all-equal labels
    # only those can be learned.
    level = np.where(few.parts == Part.TRAIN, 4.0, log.ratings)
    model = fitted(name, replace(few, interactions=replace(log, ratings=level)), catalog)
    found = model.predict(queries, 10).ratings
    assert found is not None and np.all(found == 4.0)


def test_the_transformer_reads_the_latest_ratings_and_no_user(
    sources: tuple[Split, Catalog],
) -> None:
    queries = Queries.of_ratings(sources[0].view(Part.TEST))
    model = find("recommender", "transformer_mlp")(history_length=4, epochs=2)
    model.read(Sources(sources[1], sources[0].view(Part.TRAIN)))
    model.fit(sources[0].train, seed=1)
    base = model.predict(queries, 10).ratings
    cut = replace(
        queries,
        users=np.zeros_like(queries.users),
        histories=[history[-4:] for history in queries.histories],
        history_ratings=[ratings[-4:] for ratings in queries.history_ratings],
    )
    np.testing.assert_array_equal(model.predict(cut, 10).ratings, base)
    lower = replace(queries, history_ratings=[0 * r + 1 for r in queries.history_ratings])
    changed = model.predict(lower, 10).ratings
    assert np.mean(changed) < np.mean(base) - 0.1


def test_the_transformer_reads_as_many_ratings_as_everybody(sources: tuple[Split, Catalog]) -> None:
    """Its own default was 200, where the language model beside it read 10."""
    queries = Queries.of_ratings(sources[0].view(Part.TEST))
    model = find("recommender", "transformer_mlp")(epochs=1)
    model.read(Sources(sources[1], sources[0].view(Part.TRAIN), {"rating": 4}))
    model.fit(sources[0].train, seed=1)
    base, cut = (model.predict(asked, 10).ratings for asked in (queries, queries.latest(4)))
    assert max(map(len, queries.histories)) > 4
    np.testing.assert_array_equal(cut, base)


def test_attributes_are_numbered_across_columns() -> None:
    frame = pd.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "title": ["A", "B", "C"],
            "brand": ["Acme", None, "Acme"],
            "categories": [["Toy", "Acme"], [], ["Toy"]],
        }
    )
    assert attribute_numbers(Catalog(frame)).tolist() == [[0] * 3, [1, 2, 3], [0] * 3, [1, 2, 0]]
    assert attribute_numbers(Catalog(frame[["item_id", "title"]])).tolist() == [[0]] * 4
