import random
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import recinject as ri
from recinject.data.simulator import simulate_shop
from recinject.foundation.errors import RecinjectError
from recinject.samples.tokenizer import (
    SENTINELS,
    add_tokens,
    encode,
    load_tokenizer,
    train_tokenizer,
)

TITLES = ["The  Brick\tHouse", "Brick by brick", "Pokémon cards, 60 pieces", "rag doll (blue)"] * 3
LEARNT = train_tokenizer(TITLES, 400)


def plain(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_special_tokens_are_those_of_t5():
    assert [LEARNT.token_to_id(token) for token in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]
    assert all(plain(LEARNT, sentinel) == [LEARNT.token_to_id(sentinel)] for sentinel in SENTINELS)
    assert LEARNT.encode("Brick").ids[-1] == 1
    assert LEARNT.get_vocab_size() <= 400


def test_round_trip_collapses_white_space():
    ids = LEARNT.encode(" The  Brick\n\tHouse ").ids
    assert LEARNT.decode(ids) == "The Brick House"


def test_all_it_saw_and_ascii_can_be_spelled():
    assert all(2 not in plain(LEARNT, title) for title in TITLES)
    assert 2 not in plain(LEARNT, "Quiz {42} ~never seen~")
    assert 2 in plain(LEARNT, "снег")


def test_the_same_texts_give_the_same_tokenizer_in_any_order():
    shuffled = random.Random(0).sample(TITLES, len(TITLES))
    assert train_tokenizer(iter(TITLES), 400).to_str() == LEARNT.to_str()
    assert train_tokenizer(shuffled, 400).to_str() == LEARNT.to_str()


@given(st.text(max_size=12), st.text(max_size=12))
def test_tokens_of_joined_texts_are_joined_tokens(left, right):
    assert plain(LEARNT, f"{left} {right}") == plain(LEARNT, left) + plain(LEARNT, right)


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(RecinjectError, match="200 tokens leave no room"):
        train_tokenizer(TITLES, 200)


def test_loading_from_folder_and_file(tmp_path):
    LEARNT.save(str(tmp_path / "tokenizer.json"))
    for source in (tmp_path, str(tmp_path / "tokenizer.json")):
        assert load_tokenizer(source).to_str() == LEARNT.to_str()


def test_what_is_not_there_fails_at_once(tmp_path, monkeypatch):
    with pytest.raises(RecinjectError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    for name in ("nobody/has-this-model", "no such/folder/anywhere"):
        with pytest.raises(RecinjectError, match="download it once"):
            load_tokenizer(name)
    assert time.monotonic() - started < 20


def test_t5s_own_tokenizer(shared_data: Path):
    tokenizer = load_tokenizer(shared_data / "t5-tokenizer")
    assert tokenizer.encode("hello world").ids == [21820, 296, 1]
    assert plain(tokenizer, "a toy  car") == plain(tokenizer, "a toy") + plain(tokenizer, "car")


@pytest.mark.parametrize("learnt", [True, False])
def test_an_added_token_is_one_token_wherever_it_stands(learnt, request, tmp_path):
    if learnt:
        tokenizer = Tokenizer.from_str(LEARNT.to_str())
    else:
        folder = request.getfixturevalue("shared_data") / "t5-tokenizer"
        if not folder.is_dir():
            pytest.skip(f"no tokenizer at {folder}")
        tokenizer = load_tokenizer(folder)
    before = plain(tokenizer, "rag doll; (A) brick")
    size = tokenizer.get_vocab_size()
    for _ in range(2):  # what is there already is not added again
        add_tokens(tokenizer, ["<item_1>", "<item_12>"])
        assert tokenizer.get_vocab_size() == size + 2
    one, twelve = (tokenizer.token_to_id(text) for text in ("<item_1>", "<item_12>"))
    assert plain(tokenizer, "<item_12> <item_1><item_1>") == [twelve, one, one]
    assert tokenizer.encode("<item_12>").ids == [twelve, 1]
    listed = plain(tokenizer, "(A) <item_12>; (B) <item_1>, rated 4")
    assert plain(tokenizer, "(A)") == listed[: listed.index(twelve)]
    assert listed.count(twelve) == listed.count(one) == 1
    assert plain(tokenizer, "rag doll; (A) brick") == before
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert plain(load_tokenizer(tmp_path), "<item_12>") == [twelve]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["padding", "truncation", "both"])
def test_padding_and_truncation_of_a_file_are_switched_off(kind, side, tmp_path):
    """What ``tokenizer(..., padding="max_length", truncation=True)`` leaves behind when saved."""
    saved = Tokenizer.from_str(LEARNT.to_str())
    if kind != "truncation":
        saved.enable_padding(length=256, direction=side)
    if kind != "padding":
        saved.enable_truncation(4, direction=side)
    saved.save(str(tmp_path / "tokenizer.json"))
    texts = ["Brick by brick, the brick house", "Brick"]
    loaded = load_tokenizer(tmp_path)
    for special in (True, False):
        expected, found = (encode(each, texts, special=special) for each in (LEARNT, loaded))
        assert found.to_list() == expected.to_list()
    as_saved = encode(Tokenizer.from_str(saved.to_str()), texts)
    assert as_saved.to_list() != encode(LEARNT, texts).to_list()


def test_a_tokenizer_that_pads_can_be_given_as_it_is():
    padding = Tokenizer.from_str(LEARNT.to_str())
    padding.enable_padding(length=256)
    padding.enable_truncation(4)
    data = ri.prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
    one, other = (
        ri.build_samples(data, ["retrieval"], tokenizer=each)["retrieval"]["train"].to_pandas()
        for each in (Tokenizer.from_str(LEARNT.to_str()), padding)
    )
    pd.testing.assert_frame_equal(one, other)
    assert padding.padding["length"] == 256  # the caller's own is left as it was
