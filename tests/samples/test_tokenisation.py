import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.samples import tokenizer as tokenizer_module
from recinject.samples.encoding import Dialect, TokenFacts, Tokens, token_table
from recinject.samples.tokenizer import encode, load_tokenizer, train_tokenizer

LEARNT = train_tokenizer(["Which item comes next?", "#12 Rag Doll; Bear"], 400)
READER = Dialect(LEARNT)
END, UNKNOWN = 1, 2


def tokens_of(rows, tokenizer=LEARNT):
    """The tokens of some prompts and completions, as one batch."""
    prompts, completions = zip(*rows, strict=True) if rows else ((), ())
    return Tokens(*(encode(tokenizer, texts, special=True) for texts in (prompts, completions)))


texts = st.text(alphabet="ab Bear#1;é", max_size=12)
samples = st.lists(st.tuples(texts, texts), max_size=12)


@settings(max_examples=50)
@given(samples, st.tuples(st.integers(2, 8), st.integers(2, 8)), st.integers(0, 12))
def test_tokens_are_those_of_plain_encoding_cut_to_the_limits(rows, limits, border):
    batches = [tokens_of(rows[:border]), tokens_of(rows[border:])]
    table, facts = token_table(batches, READER, limits)
    cut = unknown = 0
    assert len(table) == len(rows)
    for found, row in zip(table.to_pylist(), rows, strict=True):
        for name, text, most in zip(("input_ids", "labels"), row, limits, strict=True):
            plain = LEARNT.encode(text).ids
            assert found[name] == (plain if len(plain) <= most else [*plain[: most - 1], END])
            assert found[name][-1] == END
            cut += len(plain) > most
            unknown += plain.count(UNKNOWN)
        assert found["length"] == len(found["input_ids"])
    lengths = [len(LEARNT.encode(row[0]).ids) for row in rows]
    assert (facts.truncated, facts.samples) == (cut, len(rows))
    assert facts.unknown_tokens == unknown  # those that were cut off among them
    assert facts.max_prompt_tokens == max(lengths, default=0)
    assert facts.prompt_tokens == sum(lengths)


@settings(max_examples=20)
@given(samples, st.integers(0, 12))
def test_facts_of_shards_add_up_to_those_of_the_whole(rows, border):
    _, whole = token_table([tokens_of(rows)], READER, (4, 4))
    parts = [
        token_table([tokens_of(half)], READER, (4, 4))[1] for half in (rows[:border], rows[border:])
    ]
    assert TokenFacts.total(parts) == whole


def test_batches_do_not_show():
    rows = [(f"Bear {n}", letter) for n, letter in enumerate("abcdefghij")]
    whole = token_table([tokens_of(rows)], READER, (4, 4))
    parts = token_table([tokens_of(rows[n : n + 3]) for n in range(0, 10, 3)], READER, (4, 4))
    assert parts[0].equals(whole[0])
    assert parts[1] == whole[1]


def test_texts_are_encoded_in_parts_that_do_not_show(monkeypatch):
    texts = [f"Bear {'x' * n}" for n in range(10)]
    whole = encode(LEARNT, texts)
    assert whole.to_list() == [LEARNT.encode(t, add_special_tokens=False).ids for t in texts]
    monkeypatch.setattr(tokenizer_module, "_AT_ONCE", 3)
    assert encode(LEARNT, texts).to_list() == whole.to_list()


@pytest.mark.parametrize("batches", [[], [tokens_of([])]])
def test_no_sample_at_all_gives_no_row(batches):
    table, facts = token_table(batches, READER, (8, 8))
    assert len(table) == 0
    assert facts == TokenFacts(0, 0, 0, 0, 0)
    assert table.schema == token_table([tokens_of([("a", "b")])], READER, (8, 8))[0].schema


def test_a_large_vocabulary_takes_larger_integers():
    table, _ = token_table([tokens_of([("a", "b")])], READER, (8, 8))
    assert table["input_ids"].type == table["labels"].type == pa.list_(pa.uint16())
    large = train_tokenizer(["a b"], 400)
    large.add_tokens([f"<item_{n}>" for n in range(1 << 16)])
    number = large.token_to_id("<item_65535>")
    table, _ = token_table([tokens_of([("a <item_65535>", "b")], large)], Dialect(large), (8, 8))
    assert table["input_ids"].type == pa.list_(pa.int32())
    assert number > np.iinfo(np.uint16).max and number in table["input_ids"][0].as_py()


def test_t5s_own_tokenizer_ends_labels_too(shared_data):
    file = shared_data / "t5-tokenizer" / "tokenizer.json"
    if not file.is_file():
        pytest.skip(f"no tokenizer at {file}")
    tokenizer = load_tokenizer(file)
    rows = [("hello world", "hello world"), ("{braces} <extra_id_0>", "4.5")]
    table, facts = token_table([tokens_of(rows, tokenizer)], Dialect(tokenizer), (8, 2))
    dataset = table.to_pydict()
    assert dataset["input_ids"][0] == [21820, 296, 1]
    assert dataset["labels"][0] == [21820, 1]
    assert all(labels[-1] == 1 for labels in dataset["labels"])
    assert tokenizer.token_to_id("<extra_id_0>") in dataset["input_ids"][1]
    assert facts.unknown_tokens == 2  # T5 has no curly brackets
