import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recinject.foundation.errors import RecinjectError
from recinject.identifiers.table import ITEM_TOKEN
from recinject.methods.semantic_ids.codes import (
    SemanticCodes,
    code_text,
    code_tokens,
    load_codes,
    make_unique,
    number_alike,
    save_codes,
)
from recinject.methods.semantic_ids.quantising import Residual
from recinject.registry import find
from recinject.samples.tokenizer import add_tokens, load_tokenizer, train_tokenizer

PREFIXES = arrays(
    np.int32, st.tuples(st.integers(1, 40), st.just(2)), elements=st.integers(0, 2)
)  # fmt: skip
SIZES = (3, 3, 40)


@given(PREFIXES, st.integers(0, 9))
def test_items_alike_are_numbered_from_zero_without_gaps(prefixes, seed):
    codes = make_unique(prefixes, SIZES, seed)
    assert np.array_equal(codes.prefixes, prefixes)
    for prefix in np.unique(prefixes, axis=0):
        last = codes.rows[(prefixes == prefix).all(1), -1]
        assert sorted(last) == list(range(len(last)))
    assert len(set(codes.texts)) == len(prefixes)
    shared = [(prefixes == row).all(1).sum() > 1 for row in prefixes]
    assert codes.collisions == sum(shared)


@given(PREFIXES, st.integers(0, 9), st.randoms(use_true_random=False))
def test_items_that_go_first_have_the_lower_numbers(prefixes, seed, chance):
    first = np.array([chance.random() < 0.5 for _ in prefixes])
    last = number_alike(prefixes, seed, first)
    for prefix in np.unique(prefixes, axis=0):
        alike = (prefixes == prefix).all(1)
        if first[alike].any() and not first[alike].all():
            assert last[alike & first].max() < last[alike & ~first].min()


def test_the_last_code_says_nothing_of_the_order_of_items():
    last = number_alike(np.zeros((500, 3), np.int32), 1)
    assert abs(np.corrcoef(last, np.arange(500))[0, 1]) < 0.1
    assert last.tolist() == number_alike(np.zeros((500, 3), np.int32), 1).tolist()


def test_more_items_alike_than_the_last_code_can_number_are_refused():
    prefixes = np.repeat(np.array([[1, 2]], np.int32), 5, 0)
    assert make_unique(prefixes, (3, 3, 5), 1).rows[:, -1].max() == 4
    fact = "5 items share the codes <a_1><b_2>, and the last code tells 4 apart"
    with pytest.raises(RecinjectError, match=re.escape(fact)) as error:
        make_unique(prefixes, (3, 3, 4), 1)
    assert "identifiers.last_codes=5" in error.value.hint


def test_every_text_is_made_of_the_level_s_own_tokens():
    codes = make_unique(np.array([[12, 201, 7], [0, 0, 0]], np.int32), (256, 256, 256, 4), 1)
    assert codes.texts == ("<a_12><b_201><c_7><d_0>", "<a_0><b_0><c_0><d_0>")
    tokens = code_tokens(codes.sizes)
    assert len(tokens) == len(set(tokens)) == 772
    assert {"<a_255>", "<d_3>"} <= set(tokens) and "<d_4>" not in tokens
    assert all(ITEM_TOKEN.fullmatch(token) for token in tokens)
    assert ITEM_TOKEN.sub("", f"buy {codes.texts[0]} now") == "buy  now"


CODES = make_unique(np.array([[1, 2], [1, 2], [0, 3], [3, 0]], np.int32), (4, 4, 8), 1)


@pytest.mark.parametrize("learnt", [True, False])
def test_a_tokenizer_reads_one_token_a_code_wherever_the_identifier_stands(learnt, request):
    if learnt:
        tokenizer = train_tokenizer(["buy this; or that", "Bear"], 400)
    else:
        folder = request.getfixturevalue("shared_data")
        tokenizer = load_tokenizer(folder / "t5-tokenizer")
    add_tokens(tokenizer, code_tokens(CODES.sizes))

    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    single = {token: tokenizer.token_to_id(token) for token in code_tokens(CODES.sizes)}
    for text in CODES.texts:
        assert ids(text) == [single[token] for token in re.findall("<[^>]+>", text)]
    first, second = CODES.texts[:2]
    mixed = f"buy Bear {first}; or {second} that"
    found = ids(mixed)
    assert [i for i in found if i in single.values()] == ids(first) + ids(second)
    assert ids(f"buy {first}") == ids("buy") + ids(first)
    assert ids(f"{first} {second}") == ids(first) + ids(second)
    assert ids(f"{first} Bear") == ids(first) + ids("Bear")


FITTERS = {name: find("quantiser", name) for name in ("rq_kmeans", "lsh", "random")}
VECTORS = np.random.default_rng(1).normal(size=(50, 5)).astype(np.float32)


def layers(*sizes):
    rng = np.random.default_rng(2)
    found = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        found += [rng.normal(size=(outputs, inputs)), rng.normal(size=outputs)]
    return tuple(layer.astype(np.float32) for layer in found)


def quantisers():
    yield from (fit(VECTORS, 2, 4, 1) for fit in FITTERS.values())
    yield Residual(VECTORS[:8].reshape(2, 4, 5), layers(5, 7, 6, 5), layers(5, 6, 7, 5))


@pytest.mark.parametrize("quantiser", list(quantisers()))
def test_codes_and_codebooks_come_back(tmp_path, quantiser):
    codes = make_unique(quantiser.encode(VECTORS), (4, 4, 50), 1)
    save_codes(tmp_path, codes, quantiser)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["codebooks.npz", "codes.npy"]
    again, frozen = load_codes(tmp_path, codes.texts)
    assert np.array_equal(again.rows, codes.rows) and again.sizes == codes.sizes
    new = VECTORS * 1.1
    assert np.array_equal(frozen.encode(new), quantiser.encode(new))
    if isinstance(quantiser, Residual):
        assert np.array_equal(frozen.decode(codes.prefixes), quantiser.decode(codes.prefixes))


def test_codebooks_of_another_catalogue_or_none_at_all_are_refused(tmp_path):
    with pytest.raises(RecinjectError, match="no codebooks to read") as error:
        load_codes(tmp_path, ())
    assert "recinject prepare" in error.value.hint
    quantiser = FITTERS["rq_kmeans"](VECTORS, 2, 4, 1)
    codes = make_unique(quantiser.encode(VECTORS), (4, 4, 50), 1)
    save_codes(tmp_path, codes, quantiser)
    for other in (codes.texts[:-1], codes.texts[::-1]):
        with pytest.raises(RecinjectError, match="belong to another catalogue"):
            load_codes(tmp_path, other)
    for name in ("codebooks.npz", "codes.npy"):
        for torn in (b"torn", b"", b"PK\x03\x04torn"):
            (tmp_path / name).write_bytes(torn)
            with pytest.raises(RecinjectError, match="no codebooks to read"):
                load_codes(tmp_path, codes.texts)
        save_codes(tmp_path, codes, quantiser)


def test_codes_need_not_be_learnt_to_be_a_table():
    rows = np.array([[0, 0], [0, 1]], np.int32)
    assert SemanticCodes(rows, (1, 2)).texts == (code_text([0, 0]), code_text([0, 1]))
