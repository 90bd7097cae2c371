import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

from recinject.data.schema import Interactions
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.baselines import user_item_matrix
from recinject.recommenders.factorisation import ALS, BPR, Factorisation
from recinject.recommenders.protocol import Queries, make_recommender

MODELS = [ALS, BPR]


@pytest.fixture
def implicit() -> None:
    pytest.importorskip("implicit", reason="needs the extra recinject[cf]")


@pytest.mark.usefixtures("implicit")
@pytest.mark.parametrize("model", MODELS)
def test_a_newcomer_gets_what_is_popular(
    model: type[Factorisation], training: Interactions, retrieval: Queries
) -> None:
    fitted = model()
    fitted.fit(training, seed=1)
    scores = fitted.score(retrieval, slice(training.n_users - 1, training.n_users))
    np.testing.assert_array_equal(scores[0], np.bincount(training.items, minlength=30))


@pytest.mark.usefixtures("implicit")
@pytest.mark.parametrize("model", MODELS)
def test_fits_quietly(model: type[Factorisation], training: Interactions) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model().fit(training, seed=1)


@pytest.mark.usefixtures("implicit")
def test_als_reads_the_history_of_the_query(training: Interactions, retrieval: Queries) -> None:
    model = ALS()
    model.fit(training, seed=1)
    other_block = replace(retrieval, histories=[training.items_of(30)] * len(retrieval))
    got = model.predict(other_block, 4).items
    assert got is not None and np.all(got // 10 == 2)


@pytest.mark.usefixtures("implicit")
def test_als_solves_its_normal_equations(training: Interactions, retrieval: Queries) -> None:
    regularization, alpha = 0.7, 4.0
    model = ALS(factors=5, regularization=regularization, alpha=alpha)
    model.fit(training, seed=1)
    items = model._item_factors
    liked = user_item_matrix(training).toarray()[:3]
    expected = [
        items
        @ np.linalg.solve(
            items.T @ (items * np.where(row, alpha, 1)[:, None]) + regularization * np.eye(5),
            alpha * items.T @ row,
        )
        for row in liked
    ]
    np.testing.assert_allclose(model.score(retrieval, slice(0, 3)), expected, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_a_missing_library_is_said_before_anything_is_fitted(
    model: type[Factorisation], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("implicit.als", "implicit.bpr"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RecinjectError, match=r"recinject\[cf\]"):
        make_recommender(model.name)
