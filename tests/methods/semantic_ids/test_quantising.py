import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recinject.foundation.errors import RecinjectError
from recinject.methods.semantic_ids.quantising import (
    Residual,
    fit_lsh,
    fit_rq_kmeans,
    kmeans,
    nearest,
    residual_codes,
)
from recinject.registry import find

FITTERS = {name: find("quantiser", name) for name in ("rq_kmeans", "lsh", "random")}

RNG = np.random.default_rng(0)
SPREAD = (RNG.normal(size=(20, 6))[RNG.integers(0, 20, 400)] * 3).astype(np.float32)
SPREAD += RNG.normal(size=SPREAD.shape).astype(np.float32)
whole = st.integers(-9, 9).map(float)  # sums of squares are exact, so that ties are ties
BOOKS = arrays(np.float32, (3, 4, 2), elements=whole)
ROWS = arrays(np.float32, st.tuples(st.integers(0, 9), st.just(2)), elements=whole)


def test_the_worked_example():
    books = np.array([[[0, 0], [10, 0]], [[0, 0], [0, 1]]], np.float32)
    codes, left = residual_codes(np.array([[10, 1]], np.float32), books)
    assert codes.tolist() == [[1, 1]] and left.tolist() == [[0, 0]]


@given(ROWS, BOOKS)
def test_greedy_codes_are_those_of_brute_force_and_add_up_with_what_is_left(rows, books):
    codes, left = residual_codes(rows, books)
    assert codes.shape == (len(rows), 3) and codes.dtype == np.int32
    for row, chosen, rest in zip(rows, codes, left, strict=True):
        for book, code in zip(books, chosen, strict=True):
            distances = [float(((row - other) ** 2).sum()) for other in book]
            assert code == distances.index(min(distances))
            row = row - book[code]
        assert np.array_equal(row, rest)
    assert np.array_equal(Residual(books).decode(codes) + left, rows)


def test_the_nearest_of_many_is_found_part_by_part(monkeypatch):
    centres = RNG.normal(size=(7, 6)).astype(np.float32)
    whole = nearest(SPREAD, centres)
    monkeypatch.setattr("recinject.methods.semantic_ids.quantising._ROWS_AT_ONCE", 33)
    assert np.array_equal(nearest(SPREAD, centres), whole)
    distances = np.linalg.norm(SPREAD[:, None] - centres, axis=2)
    assert np.array_equal(whole, distances.argmin(1))


@pytest.mark.parametrize("seed", range(3))
def test_reconstruction_does_not_rise_with_levels(seed):
    quantiser = fit_rq_kmeans(SPREAD, 4, 16, seed)
    codes = quantiser.encode(SPREAD)
    errors = [((SPREAD - quantiser.decode(codes[:, :n])) ** 2).sum() for n in range(1, 5)]
    assert errors == sorted(errors, reverse=True)
    spread = ((SPREAD - SPREAD.mean(0)) ** 2).sum()
    assert errors[0] < 0.4 * spread and errors[-1] < 0.1 * spread


def test_centres_are_the_means_of_their_own():
    centres = kmeans(SPREAD, 8, 3)
    own = nearest(SPREAD, centres)
    means = [SPREAD[own == n].mean(0) for n in range(8)]
    np.testing.assert_allclose(centres, means, atol=1e-4)


@pytest.mark.parametrize("kind", FITTERS)
def test_frozen_codebooks_give_the_same_codes_alone_and_among_others(kind):
    quantiser = FITTERS[kind](SPREAD, 3, 8, 1)
    codes = quantiser.encode(SPREAD)
    assert codes.shape == (400, 3) and codes.dtype == np.int32
    assert codes.min() >= 0 and codes.max() < 8
    for row in (0, 7, 399):
        assert np.array_equal(quantiser.encode(SPREAD[row : row + 1])[0], codes[row])
    assert np.array_equal(FITTERS[kind](SPREAD, 3, 8, 1).encode(SPREAD), codes)
    assert not np.array_equal(FITTERS[kind](SPREAD, 3, 8, 2).encode(SPREAD), codes)
    assert quantiser.encode(SPREAD[:0]).shape == (0, 3)


def test_lsh_codes_are_sides_of_planes_and_random_ones_are_even():
    lsh = fit_lsh(SPREAD, 2, 8, 1)
    sides = (SPREAD - SPREAD.mean(0)) @ lsh.planes.reshape(6, 6).T > 0
    bits = [int("".join("01"[int(side)] for side in row[:3][::-1]), 2) for row in sides]
    assert lsh.encode(SPREAD)[:, 0].tolist() == bits
    assert lsh.decode(lsh.encode(SPREAD)) is None
    drawn = FITTERS["random"](SPREAD, 2, 4, 1).encode(SPREAD)
    assert np.bincount(drawn.ravel(), minlength=4).min() > 150


def test_codes_of_no_power_of_two_are_none_for_planes():
    with pytest.raises(RecinjectError, match="not 100") as error:
        fit_lsh(SPREAD, 2, 100, 1)
    assert error.value.hint == "set identifiers.codes=64 or 128"


def test_more_codes_than_items_are_refused():
    with pytest.raises(RecinjectError, match="256 codes a level, and only 40 items") as error:
        fit_rq_kmeans(SPREAD[:40], 3, 256, 1)
    assert "identifiers.codes=10" in error.value.hint


@pytest.mark.parametrize("kind", ["rq_kmeans", "lsh"])
def test_vectors_of_another_width_are_refused(kind):
    quantiser = FITTERS[kind](SPREAD, 2, 8, 1)
    with pytest.raises(RecinjectError, match="vectors of 5 numbers, and the codebooks were learnt"):
        quantiser.encode(SPREAD[:, :5])


def test_items_that_are_all_the_same_get_the_same_codes():
    same = np.ones((30, 4), np.float32)
    quantiser = fit_rq_kmeans(same, 2, 8, 1)
    assert len(np.unique(quantiser.encode(same), axis=0)) == 1
    np.testing.assert_allclose(quantiser.decode(quantiser.encode(same)), same, atol=1e-6)
