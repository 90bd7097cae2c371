import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recinject.foundation.errors import RecinjectError
from recinject.samples.tokenizer import SENTINELS, load_tokenizer, train_tokenizer

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
