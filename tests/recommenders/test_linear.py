from dataclasses import replace

import numpy as np
import pytest

from recinject.data.schema import Interactions
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.baselines import EASE, history_matrix, user_item_matrix
from recinject.recommenders.protocol import Queries


@pytest.mark.parametrize("regularization", [0.5, 100.0])
def test_weights_are_a_ridge_regression_of_each_item_on_all_others(
    training: Interactions, retrieval: Queries, regularization: float
) -> None:
    model = EASE(regularization)
    model.fit(training, seed=0)
    used = user_item_matrix(training).toarray()
    weights = np.zeros((training.n_items, training.n_items))
    for item in range(training.n_items):
        others = np.delete(np.arange(training.n_items), item)
        rest = used[:, others]
        gram = rest.T @ rest + regularization * np.eye(len(others))
        weights[others, item] = np.linalg.solve(gram, rest.T @ used[:, item])
    histories = history_matrix(retrieval.histories, training.n_items).toarray()
    scores = model.score(retrieval, slice(0, len(retrieval)))
    np.testing.assert_allclose(scores, histories @ weights, atol=1e-5)


def test_transposed_weights_are_those_of_the_items_in_the_history(
    training: Interactions, retrieval: Queries
) -> None:
    one_item = [np.array([item], np.int32) for item in range(training.n_items)]
    queries = replace(retrieval, histories=one_item)
    scores = []
    for transposed in (False, True):
        model = EASE(10.0, transposed)
        model.fit(training, seed=0)
        scores.append(model.score(queries, slice(0, training.n_items)))
    assert not np.allclose(*scores, atol=1e-3)
    np.testing.assert_allclose(scores[0], scores[1].T, atol=1e-6)


def test_a_catalogue_too_large_is_refused_before_any_work(training: Interactions) -> None:
    with pytest.raises(RecinjectError, match=r"50,000 items would take 20\.0 GB") as caught:
        EASE().fit(replace(training, n_items=50_000), seed=0)
    assert "evaluation.baselines" in str(caught.value)
