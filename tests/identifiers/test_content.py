import re
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from recinject.data.schema import Catalog
from recinject.foundation.errors import RecinjectError
from recinject.identifiers import content
from recinject.identifiers.content import (
    embed_items,
    embedding_key,
    item_texts,
    read_embeddings,
    text_space,
)

KINDS = ("red bicycle pump", "green garden hose", "wooden chess set")
TITLES = [f"{kind} number {n}" for n in range(20) for kind in KINDS]


def catalog_of(titles, **columns):
    ids = [f"i{n:02}" for n in range(len(titles))]
    return Catalog(pd.DataFrame({"item_id": ids, "title": titles, **columns}, dtype=object))


def test_the_columns_that_describe_an_item_are_read_and_no_others():
    catalog = catalog_of(
        ["Pump", ""], brand=["Acme", None], categories=[["Bikes", "Air"], None], weight=[3, 4],
        reviews=["17", "2"], link=["a.com", "b.com"], description=["Blows", ""])  # fmt: skip
    assert item_texts(catalog) == ["Pump Acme Bikes Air Blows", ""]
    assert item_texts(catalog, ["link", "title"]) == ["a.com Pump", "b.com"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["title", "reviews"], "identifiers.content_columns: reviews holds numbers"),
        (["weight"], "identifiers.content_columns: weight holds numbers"),
        (["titel"], "the items have no column 'titel'"),
    ],
)
def test_numbers_and_unknown_columns_are_no_content(columns, said):
    catalog = catalog_of(["1984", "300"], reviews=["17", "2.5"], weight=[3, None])
    assert item_texts(catalog) == ["1984", "300"]
    with pytest.raises(RecinjectError, match=re.escape(said)):
        item_texts(catalog, columns)


def test_items_without_training_events_do_not_shape_the_space():
    known = np.arange(60) < 40
    seen = embed_items("tfidf", catalog_of(TITLES), 8, 1, known)
    others = [*TITLES[:40], *(["entirely other words of fiction"] * 19), TITLES[3]]
    for titles in (others, [*TITLES[:40], *["number"] * 20]):
        again = embed_items("tfidf", catalog_of(titles), 8, 1, known)
        np.testing.assert_array_equal(seen[:40], again[:40])
    np.testing.assert_allclose(embed_items("tfidf", catalog_of(others), 8, 1, known)[59], seen[3])
    assert not np.allclose(seen[:40], embed_items("tfidf", catalog_of(TITLES), 8, 1)[:40])
    keys = [embedding_key("tfidf", catalog_of(TITLES), 8, 1, flags) for flags in (None, known)]
    assert keys[0] != keys[1]


def test_items_alike_in_words_lie_close():
    vectors = embed_items("tfidf", catalog_of(TITLES), 8, 1)
    assert vectors.shape == (60, 8) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alike = vectors @ vectors.T
    own = np.arange(60) % 3 == (np.arange(60) % 3)[:, None]
    assert alike[own].min() > alike[~own].max()
    np.testing.assert_array_equal(vectors, embed_items("tfidf", catalog_of(TITLES), 8, 1))


def test_a_large_catalogue_is_embedded_in_blocks_to_the_same_bits(monkeypatch):
    whole = embed_items("tfidf", catalog_of(TITLES), 8, 1)
    monkeypatch.setattr(content, "_TEXTS_AT_ONCE", 7)
    np.testing.assert_array_equal(embed_items("tfidf", catalog_of(TITLES), 8, 1), whole)


def test_what_a_space_is_learnt_from_is_bounded(monkeypatch):
    monkeypatch.setattr(content, "_LEARNT_AT_MOST", 20)
    learnt = embed_items("tfidf", catalog_of(TITLES), 2, 1)
    some = text_space("tfidf", TITLES[::3], 2, 1)(TITLES)
    np.testing.assert_array_equal(learnt, some)


def test_where_words_are_few_no_decomposition_is_needed():
    vectors = embed_items("tfidf", catalog_of(["red pump", "red hose", "red red pump"]), 64, 1)
    assert vectors.shape == (3, 3)
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_there_may_be_fewer_items_than_dimensions():
    titles = [" ".join(f"word{n}{k}" for k in range(9)) for n in range(4)]
    assert embed_items("tfidf", catalog_of(titles), 30, 1).shape == (4, 4)


def test_new_items_lie_in_the_catalogue_s_own_space():
    space = text_space("tfidf", TITLES, 8, 1)
    known = embed_items("tfidf", catalog_of(TITLES), 8, 1)
    np.testing.assert_allclose(space(TITLES[5:7]), known[5:7], atol=1e-5)
    new = space(["a green garden hose that nobody knows", "zzz"])
    assert np.argmax(known @ new[0]) % 3 == 1
    np.testing.assert_array_equal(new[1], 0)


def test_items_without_text_are_refused():
    with pytest.raises(RecinjectError, match="2 of 3 items have no text, first item 'i01'"):
        embed_items("tfidf", catalog_of(["Pump", "", " - "]), 8, 1)


def test_the_key_of_vectors_changes_with_texts_and_settings():
    key = embedding_key("tfidf", catalog_of(TITLES), 8, 1)
    assert key == embedding_key("tfidf", catalog_of(TITLES), 8, 1)
    others = [(TITLES, 7, 1), (TITLES, 8, 2), (TITLES[:30], 8, 1)]
    assert key not in [embedding_key("tfidf", catalog_of(t), *rest) for t, *rest in others]
    assert embedding_key("own.npy", catalog_of(TITLES), 8, 1) is None


IDS = ["a", "b", "c"]
VECTORS = np.arange(6, dtype=np.float64).reshape(3, 2)


def test_vectors_of_the_user_s_own_are_read_in_either_form(tmp_path):
    np.save(tmp_path / "own.npy", VECTORS)
    table = pd.DataFrame({"item_id": ["c", "a", "b"], "vector": [*VECTORS[[2, 0, 1]]]})
    table.to_parquet(tmp_path / "own.parquet")
    for name in ("own.npy", "own.parquet"):
        np.testing.assert_array_equal(read_embeddings(tmp_path / name, IDS), VECTORS)
    catalog = Catalog(pd.DataFrame({"item_id": IDS, "title": ["", "", ""]}))
    found = embed_items(str(tmp_path / "own.npy"), catalog, 8, 1)
    np.testing.assert_array_equal(found, VECTORS)


@pytest.mark.parametrize(
    ("rows", "fact"),
    [
        (VECTORS[:2], "shape (2, 2), and there are 3 items"),
        (np.vstack([VECTORS, VECTORS]), "shape (6, 2), and there are 3 items"),
        (VECTORS[:, 0], "shape (3,), and there are 3 items"),
        (VECTORS[:, :0], "shape (3, 0), and there are 3 items"),
        (np.where(VECTORS == 3, np.nan, VECTORS), "1 vectors with NaN or infinity, first item 'b'"),
        (np.full((3, 2), np.inf), "3 vectors with NaN or infinity, first item 'a'"),
        (np.array([["x", "y"]] * 3), "cannot be read as vectors"),
        (np.array([{"x": 1}] * 3), "cannot be read as vectors"),
    ],
)
def test_a_wrong_npy_is_refused(tmp_path, rows, fact):
    np.save(tmp_path / "own.npy", rows)
    with pytest.raises(RecinjectError, match=re.escape(fact)) as error:
        read_embeddings(tmp_path / "own.npy", IDS)
    assert "data/items.parquet" in error.value.hint


@pytest.mark.parametrize("content", [b"", b"torn", b"PK\x03\x04torn"])
@pytest.mark.parametrize("name", ["own.npy", "own.parquet"])
def test_a_torn_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecinjectError, match="cannot be read as vectors"):
        read_embeddings(tmp_path / name, IDS)


@pytest.mark.parametrize(
    ("ids", "vectors", "fact"),
    [
        (["a", "b"], VECTORS[:2], "1 items missing, first 'c'"),
        (["a", "b", "c", "d"], VECTORS[[0, 1, 2, 0]], "1 items unknown, first 'd'"),
        (["a", "b", "b", "c"], VECTORS[[0, 1, 2, 0]], "1 items twice, first 'b'"),
        (IDS, [[1.0], [1.0, 2.0], [3.0]], "cannot be read as vectors"),
        (IDS, [[1.0], [np.nan], [3.0]], "1 vectors with NaN or infinity, first item 'b'"),
        (IDS, [1.0, 2.0, 3.0], "shape (3,)"),
    ],
)
def test_a_wrong_parquet_is_refused(tmp_path, ids, vectors, fact):
    pd.DataFrame({"item_id": ids, "vector": [*vectors]}).to_parquet(tmp_path / "own.parquet")
    with pytest.raises(RecinjectError, match=re.escape(fact)):
        read_embeddings(tmp_path / "own.parquet", IDS)


def test_a_parquet_of_other_columns_and_a_missing_file_are_refused(tmp_path):
    pd.DataFrame({"item": IDS, "x": [1.0, 2.0, 3.0]}).to_parquet(tmp_path / "own.parquet")
    with pytest.raises(RecinjectError, match="columns item, x"):
        read_embeddings(tmp_path / "own.parquet", IDS)
    with pytest.raises(RecinjectError, match="No such file"):
        read_embeddings(tmp_path / "none.npy", IDS)


def test_a_model_without_its_library_names_the_one_line_that_helps(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(RecinjectError, match="not installed") as error:
        embed_items("some/model", catalog_of(TITLES), 8, 1)
    assert "pip install 'recinject[semantic]'" in error.value.hint


class Letters:
    """Counts letters, with the interface of a sentence-transformers model."""

    def __init__(self, name):
        if name != "letters":
            raise OSError(f"no {name}\nand more")

    def encode(self, texts, **settings):
        assert settings["normalize_embeddings"]
        counts = np.array([[text.count(letter) for letter in "aeiou"] for text in texts], float)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_a_model_embeds_all_items_in_their_order(monkeypatch):
    library = ModuleType("sentence_transformers")
    library.SentenceTransformer = Letters
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    catalog = catalog_of([f"{title} {'u' * (n % 9)}" for n, title in enumerate(TITLES * 10)])
    vectors = embed_items("letters", catalog, 8, 1)
    assert vectors.shape == (600, 5) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, Letters("letters").encode(
        item_texts(catalog), normalize_embeddings=True), atol=1e-6)  # fmt: skip
    with pytest.raises(RecinjectError, match="no sentence-transformers model at numbers"):
        embed_items("numbers", catalog, 8, 1)
