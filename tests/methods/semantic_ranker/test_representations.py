import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recinject.foundation.errors import RecinjectError
from recinject.methods.semantic_ranker.representations import (
    REPRESENTATIONS,
    CodedItems,
    item_rows,
    learn_pieces,
    spell,
)

LEVELS, SIZE = 3, 4
SINGLE = LEVELS * SIZE
ALL = np.stack(np.meshgrid(*[np.arange(SIZE)] * LEVELS, indexing="ij"), -1).reshape(-1, LEVELS)
ALL = ALL.astype(np.int32)
EVENTS = np.random.default_rng(0).integers(0, 30, len(ALL))
CODED = CodedItems(ALL, SIZE, EVENTS)
coded = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        arrays(np.int32, (n, LEVELS), elements=st.integers(0, SIZE - 1)),
        arrays(np.int64, n, elements=st.integers(0, 50)),
    )
)


@pytest.mark.parametrize("kind", REPRESENTATIONS)
@given(coded, st.integers(0, 9))
def test_an_item_has_one_row_to_one_a_level_whoever_else_is_there(kind, told, seed):
    codes, events = told
    items, rows = CodedItems(codes, SIZE, events), SINGLE
    found = item_rows(kind, items, rows, seed)
    assert len(found) == len(codes) and found.lengths.min() >= 1
    assert found.lengths.max() <= (1 if kind == "hashed_id" else LEVELS)
    assert found.values.min() >= 0 and found.values.max() < rows
    assert item_rows(kind, items, rows, seed).to_list() == found.to_list()
    if kind not in ("hashed_id", "sentencepiece"):  # those two go by more than an item's codes
        first = CodedItems(codes[:1], SIZE, events[:1])
        assert item_rows(kind, first, rows, seed).to_list() == found.to_list()[:1]


def test_unigrams_and_bigrams_have_the_rows_of_the_formula():
    assert item_rows("unigram", CODED, SINGLE, 0).to_list() == [
        [a, 4 + b, 8 + c] for a, b, c in ALL.tolist()
    ]
    pairs = item_rows("ngram", CODED, 2 * SIZE**2, 0)
    assert pairs.to_list() == [[4 * a + b, 16 + 4 * b + c] for a, b, c in ALL.tolist()]
    assert len(np.unique(pairs.values)) == 2 * SIZE**2, "every pair at every level has its own row"
    shared = item_rows("ngram", CODED, 2 * SIZE**2 - 1, 0)
    assert shared.values.max() < 2 * SIZE**2 - 1
    assert item_rows("ngram", CodedItems(ALL[:, :1], SIZE, EVENTS), 4, 0).lengths.max() == 1


def test_prefixes_share_rows_as_far_as_codes_are_the_same():
    rows = np.array(item_rows("prefix_ngram", CODED, 2**40, 0).to_list())
    for one, other in zip(np.repeat(np.arange(64), 64), np.tile(np.arange(64), 64), strict=True):
        same = np.cumprod(ALL[one] == ALL[other])
        assert ((rows[one] == rows[other]) == same).all()


def test_a_hash_of_numbers_is_even_and_a_matter_of_the_seed():
    many = CodedItems(np.zeros((8000, 0), np.int32), 1, np.ones(8000, int))
    rows = item_rows("hashed_id", many, 8, 1)
    assert np.abs(np.bincount(rows.values, minlength=8) - 1000).max() < 150
    assert not np.array_equal(item_rows("hashed_id", many, 8, 2).values, rows.values)


@given(st.integers(SINGLE, 30), st.integers(0, 2**16))
def test_pieces_concatenate_to_the_codes_and_nothing_is_unknown(rows, seed):
    events = np.random.default_rng(seed).integers(0, 9, len(ALL)) * (np.arange(len(ALL)) % 3 > 0)
    learned = learn_pieces(CodedItems(ALL, SIZE, events), rows)
    words = spell(ALL, SIZE)
    assert ["".join(pieces) for pieces in learned.encode(words, out_type=str)] == words
    assert all(0 not in pieces for pieces in learned.encode(words))


def test_single_characters_are_unigrams():
    found = item_rows("sentencepiece", CODED, SINGLE, 0)
    assert (found.lengths == LEVELS).all()
    unigrams = item_rows("unigram", CODED, SINGLE, 0).values
    pairs = set(zip(found.values.tolist(), unigrams.tolist(), strict=True))
    assert len(pairs) == SINGLE, "the same rows under other numbers"


def test_what_training_saw_often_has_a_row_of_its_own():
    often = CodedItems(ALL, SIZE, np.where(np.arange(64) == 27, 1000, EVENTS % 2))
    assert item_rows("sentencepiece", often, SINGLE + 2, 0).lengths[27] == 1
    unseen = CodedItems(ALL, SIZE, np.where(np.arange(64) == 5, 1000, 0))
    assert item_rows("sentencepiece", unseen, SINGLE + 2, 0).lengths[5] == 1


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(RecinjectError, match="12 single codes, and the table has 11 rows"):
        item_rows("sentencepiece", CODED, 11, 0)
    few = CodedItems(ALL[:2], SIZE, EVENTS[:2] + 1)
    with pytest.raises(RecinjectError, match="pieces of codes, and the table has 90 rows") as error:
        item_rows("sentencepiece", few, 90, 0)
    fits = int(error.value.hint.split()[2])
    assert SINGLE < fits < 90 and len(item_rows("sentencepiece", few, fits, 0)) == 2
    with pytest.raises(RecinjectError, match="unknown 'bigram'"):
        item_rows("bigram", CODED, 90, 0)
