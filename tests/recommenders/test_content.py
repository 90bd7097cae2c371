import numpy as np
import pandas as pd
import pytest

from recinject.data.schema import Catalog
from recinject.data.splitting import Part
from recinject.recommenders.baselines import ContentKNN
from recinject.recommenders.protocol import Queries, Sources

TITLES = ["red car", "blue car", "red car toy", "paper kite", "kite of paper", "car blue"]


@pytest.fixture
def model(split_of):
    split = split_of([[0, 1, 2, 3, 0], [3, 4, 1, 0, 3]], n_items=6)  # none of item 5
    catalog = Catalog(pd.DataFrame({"item_id": list("abcdef"), "title": TITLES}))
    model = ContentKNN()
    model.read(Sources(catalog, split.view(Part.TRAIN)))
    model.fit(split.train, seed=1)
    return model


def test_items_that_nobody_used_are_found_by_what_they_say(model):
    histories = [np.array([0], np.int32), np.array([3], np.int32), np.array([1, 0], np.int32)]
    none = [""] * 3
    asked = Queries("retrieval", none, none, np.arange(3), histories, np.array([2, 4, 5]))
    found = model.predict(asked, 6)
    assert found.items[:, 0].tolist() == [2, 4, 5]
    np.testing.assert_array_equal(found.ahead, 0)
    assert all(not set(row) & set(own) for row, own in zip(found.items, histories, strict=True))


def test_the_score_is_the_cosine_with_the_mean(model):
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+").fit(TITLES[:5])
    rows = words.transform(TITLES).toarray()
    asked = Queries("retrieval", [""], [""], np.arange(1), [np.array([0, 3])], np.array([1]))
    expected = rows @ rows[[0, 3]].sum(0)
    np.testing.assert_allclose(model.score(asked, slice(0, 1))[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0, [[1, 3, -1, -1]]), (0.5, [[1, 2, 3, 5]]), (1, [[2, 5, 4, 1]])],
)
def test_new_items_have_a_fraction_of_the_list_to_themselves(model, fraction, expected):
    new = np.array([False, False, True, False, True, True])
    asked = Queries("retrieval", [""], [""], np.arange(1), [np.array([0])], np.array([5]))
    found = model.with_new_items(asked, new, fraction, 4)
    assert found.items.tolist() == expected
    assert found.recommender == f"content_knn_cold_{fraction:g}"
    places = [row.index(5) if 5 in row else np.inf for row in expected]
    assert found.ahead.tolist() == places and found.tied.tolist() == [1]
