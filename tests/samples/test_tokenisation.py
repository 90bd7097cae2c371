import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.samples import tokenisation
from recinject.samples.tokenisation import tokenise
from recinject.samples.tokenizer import load_tokenizer, train_tokenizer

LEARNT = train_tokenizer(["Which item comes next?", "#12 Rag Doll; Bear"], 400)
END, UNKNOWN = 1, 2


def samples(prompts, completions):
    columns = {"prompt": prompts, "completion": completions}
    return pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()})


texts = st.text(alphabet="ab Bear#1;é", max_size=12)


@settings(max_examples=50)
@given(st.lists(st.tuples(texts, texts), max_size=12), st.integers(2, 8), st.integers(2, 8))
def test_tokens_are_those_of_plain_encoding_cut_to_the_limits(rows, most_prompt, most_completion):
    table = samples([row[0] for row in rows], [row[1] for row in rows])
    dataset, facts = tokenise(table, LEARNT, most_prompt, most_completion)
    cut = unknown = 0
    for found, row in zip(dataset, rows, strict=True):
        for name, text, most in zip(
            ("input_ids", "labels"), row, (most_prompt, most_completion), strict=True
        ):
            plain = LEARNT.encode(text).ids
            assert found[name] == (plain if len(plain) <= most else [*plain[: most - 1], END])
            assert found[name][-1] == END
            cut += len(plain) > most
            unknown += found[name].count(UNKNOWN)
        assert found["length"] == len(found["input_ids"])
    lengths = [len(LEARNT.encode(row[0]).ids) for row in rows]
    assert (facts.truncated, facts.unknown_tokens) == (cut, unknown)
    assert (facts.samples, facts.max_prompt_tokens) == (len(rows), max(lengths, default=0))
    assert facts.mean_prompt_tokens == pytest.approx(sum(lengths) / max(1, len(rows)))


def test_batches_do_not_show(monkeypatch, built):
    rows = pa.table({"prompt": [f"Bear {n}" for n in range(10)], "completion": list("abcdefghij")})
    whole = tokenise(rows, LEARNT, 4, 4)
    monkeypatch.setattr(tokenisation, "_AT_ONCE", 3)
    parts = tokenise(rows, LEARNT, 4, 4)
    assert parts[0].to_list() == whole[0].to_list()
    assert parts[1] == whole[1]


def test_no_sample_at_all_gives_no_row():
    dataset, facts = tokenise(samples([], []), LEARNT, 8, 8)
    assert len(dataset) == 0
    assert (facts.samples, facts.mean_prompt_tokens, facts.truncated) == (0, 0.0, 0)


def test_t5s_own_tokenizer_ends_labels_too(shared_data):
    file = shared_data / "t5-tokenizer" / "tokenizer.json"
    if not file.is_file():
        pytest.skip(f"no tokenizer at {file}")
    tokenizer = load_tokenizer(file)
    table = samples(["hello world", "{braces} <extra_id_0>"], ["hello world", "4.5"])
    dataset, facts = tokenise(table, tokenizer, 8, 2)
    assert dataset["input_ids"][0] == [21820, 296, 1]
    assert dataset["labels"][0] == [21820, 1]
    assert all(labels[-1] == 1 for labels in dataset["labels"])
    assert tokenizer.token_to_id("<extra_id_0>") in dataset["input_ids"][1]
    assert facts.unknown_tokens == 2  # T5 has no curly brackets
