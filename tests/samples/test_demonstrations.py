"""Worked examples are other users' training samples, drawn by the question's key alone."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.engines import Engine
from recinject.foundation.errors import RecinjectError
from recinject.samples.builder import AFTER, BETWEEN, SHUFFLED
from recinject.samples.samples import build_samples
from recinject.samples.store import Forms
from recinject.samples.tokenizer import encode, train_tokenizer
from recinject.tasks.task import Rating, Retrieval

TOKENIZER = train_tokenizer(["A customer chose these items"], 500)
TASKS = [Rating(history_length=4), Retrieval()]


def rows(builder, numbers=None):
    numbers = np.arange(len(builder)) if numbers is None else np.array(numbers)
    return builder.table(builder.batch(numbers)).to_pylist()


def pairs(make, split, shots, **changes):
    """Builders of a factory with examples beside those of one without."""
    settings = {"tasks": TASKS, "tokenizer": TOKENIZER, "limits": (4000, 64)} | changes
    with_examples, plain = (make(split, shots=k, **settings).builders() for k in (shots, 0))
    return list(zip(with_examples, plain, strict=True))


def test_a_prompt_begins_with_training_samples_of_others(make, small_split):
    found = pairs(make, small_split, 2)
    assert {builder.split for builder, _ in found} > {"train", "validation", "test", SHUFFLED}
    for builder, plain in found:
        if builder.split == "train":
            assert builder.pool is None and rows(builder) == rows(plain)
            continue
        pool = rows(builder.pool)
        known = {row["prompt"] + BETWEEN + row["completion"]: row for row in pool}
        for row, own in zip(rows(builder), rows(plain), strict=True):
            *examples, question = row["prompt"].split(AFTER)
            assert question == own["prompt"] and len(set(examples)) == 2
            assert row | {"prompt": ""} == own | {"prompt": ""}
            for example in examples:
                assert known[example]["user_id"] != row["user_id"]
                assert known[example]["template"] in {own["template"]}


def test_the_seed_decides_and_every_other_user_is_drawn(make, small_split):
    def shown(seed):
        builder, _ = pairs(make, small_split, 1, seed=seed)[2]
        pool = {r["prompt"]: r["user_id"] for r in rows(builder.pool)}
        row = rows(builder, [0])[0]
        texts = {text: user for text, user in pool.items() if row["prompt"].startswith(text)}
        return row["prompt"], row["user_id"], max(texts.items())[1]

    found = [shown(seed) for seed in range(40)]
    assert len({text for text, _, _ in found}) > 20 and shown(3) == found[3]
    assert len({user for _, _, user in found}) >= 4 and found[0][1] not in {u for *_, u in found}


@settings(max_examples=15)
@given(data=st.data())
def test_neither_batches_nor_order_nor_limit_change_an_example(make, small_split, data):
    whole, _ = pairs(make, small_split, 3)[2]
    limited, _ = pairs(make, small_split, 3, limit=4)[2]
    every = rows(whole)
    numbers = data.draw(st.permutations(range(len(whole))))
    size = data.draw(st.integers(1, len(whole)))
    assert rows(whole, numbers[:size]) == [every[n] for n in numbers[:size]]
    assert rows(limited) == every[:4]


def test_the_tokens_are_those_of_the_text(make, small_split):
    for builder, _ in pairs(make, small_split, 2)[2:4]:
        batch = builder.batch(np.arange(len(builder)))
        texts = [row["prompt"] for row in rows(builder)]
        assert builder.wording.encoder.table is not None
        assert builder.tokens(batch).prompts.to_list() == [TOKENIZER.encode(t).ids for t in texts]


@pytest.mark.parametrize("causal", [False, True])
def test_examples_and_question_share_the_limit_by_whole_items(make, small_split, causal):
    limit = 1000
    for builder, plain in pairs(make, small_split, 2, limits=(limit, 20), causal=causal)[2:4]:
        for row, own in zip(rows(builder), rows(plain), strict=True):
            assert encode(TOKENIZER, [row["prompt"]]).lengths[0] < limit
            *examples, question = row["prompt"].split(AFTER)
            assert len(examples) == 2 and question[-20:] == own["prompt"][-20:]
    with pytest.raises(RecinjectError, match=r"fewer samples\.shots") as caught:
        rows(pairs(make, small_split, 12, limits=(limit, 20), causal=causal)[2][0])
    enough = int(re.search(r"max_prompt_tokens=(\d+)", caught.value.hint)[1])
    for builder, _ in pairs(make, small_split, 12, limits=(enough, 20), causal=causal)[2:4]:
        assert len(rows(builder)) == len(builder)


@pytest.mark.slow
def test_too_few_others_are_refused_and_shards_do_not_depend_on_workers(
    make, small_split, tmp_path, monkeypatch
):
    with pytest.raises(RecinjectError, match=r"samples\.shots: 99 examples .* rating"):
        rows(pairs(make, small_split, 99)[2][0])
    monkeypatch.setattr("recinject.samples.store.SAMPLES_PER_SHARD", 2)
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        made = make(small_split, tasks=TASKS[:1], tokenizer=TOKENIZER, shots=2, limits=(4000, 64))
        build_samples(made, folder, Forms(tokens=False), engine=Engine(workers=workers))
    one, two = (
        {f.relative_to(tmp_path / n): f.read_bytes() for f in (tmp_path / n).rglob("*.parquet")}
        for n in "12"
    )
    assert one == two
