import numpy as np
import pytest

from recinject.methods.semantic_ids.codes import describe_codes
from recinject.methods.semantic_ids.quantising import Residual
from recinject.registry import find

FITTERS = {name: find("quantiser", name) for name in ("rq_kmeans", "lsh", "random")}
RNG = np.random.default_rng(0)
KINDS = RNG.normal(size=(8, 12)).astype(np.float32)
VECTORS = (KINDS[np.arange(240) % 8] * 4 + RNG.normal(size=(240, 12))).astype(np.float32)


def describe(kind, codes=8, levels=3):
    quantiser = FITTERS[kind](VECTORS, levels, codes, 1)
    return describe_codes(quantiser.encode(VECTORS), VECTORS, quantiser, codes, 1)


def test_figures_of_codes_whose_quality_is_known():
    books = np.array([[[0, 0], [4, 0], [9, 9]], [[0, 0], [0, 2], [0, 0]]], np.float32)
    vectors = np.array([[0, 0], [0, 0], [4, 0], [4, 2]], np.float32)
    quantiser = Residual(books)
    codes = quantiser.encode(vectors)
    first, second = describe_codes(codes, vectors, quantiser, 3, 1)
    assert first | {"neighbours": 0} == {
        "level": 1, "used": pytest.approx(2 / 3), "entropy": 1.0, "perplexity": 2.0,
        "error": pytest.approx(4 / 19), "groups": 2, "largest": 2, "collisions": 4,
        "neighbours": 0,
    }  # fmt: skip
    assert (second["error"], second["groups"], second["collisions"]) == (0, 3, 2)
    # All three others are neighbours; one of them is in the own group at level 1.
    assert first["neighbours"] == pytest.approx(1 / 3)
    assert second["neighbours"] == pytest.approx(2 / 12)


def test_learnt_codes_keep_more_neighbours_than_planes_and_planes_more_than_chance():
    kept = {kind: describe(kind)[0]["neighbours"] for kind in FITTERS}
    assert kept["rq_kmeans"] > 0.99 and kept["rq_kmeans"] > kept["lsh"] > kept["random"] + 0.1
    assert kept["random"] == pytest.approx(1 / 8, abs=0.04)


def test_errors_fall_and_codes_that_stand_for_nothing_have_none():
    errors = [row["error"] for row in describe("rq_kmeans")]
    assert errors == sorted(errors, reverse=True) and errors[0] < 0.2
    assert {row["error"] for row in describe("lsh")} == {None}
    rows = describe("random")
    assert all(0 < row["perplexity"] <= 8 for row in rows)
    assert [row["groups"] for row in rows] == sorted(row["groups"] for row in rows)


def test_of_many_items_some_are_asked(monkeypatch):
    whole = describe("lsh")[0]["neighbours"]
    monkeypatch.setattr("recinject.methods.semantic_ids.codes._ASKED", 60)
    some = describe("lsh")[0]["neighbours"]
    assert some != whole and some == pytest.approx(whole, abs=0.15)
