from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.foundation.errors import RecinjectError
from recinject.samples.mixture import (
    draw_passes,
    mix_tasks,
    mixture_counts,
    share_out,
    task_rates,
    token_columns,
    validation_samples,
)
from recinject.samples.samples import build_samples
from recinject.samples.store import Forms, read_samples
from recinject.tasks.task import MaskedItemModelling, Retrieval


def encoded(factory, rows):
    """What a trainer reads of samples, encoded one by one from their texts."""
    found = []
    for row in rows:
        prompt, completion = (
            factory.tokenizer.encode(row[s]).ids for s in ("prompt", "completion")
        )
        found.append({"input_ids": prompt, "labels": completion, "length": len(prompt)})
    return found


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(0, 150), st.integers(0, 9))
def test_no_sample_is_taken_twice_more_often_than_another(size, count, seed):
    rows = draw_passes(seed, "bpr", size=size, count=count).tolist()
    taken = Counter(rows)
    assert len(rows) == count and set(rows) <= set(range(size))
    assert {taken[row] for row in range(size)} <= {count // size, -(-count // size)}
    # A larger share goes on where a smaller one ends, and each pass takes everything once.
    assert rows[: count // 2] == draw_passes(seed, "bpr", size=size, count=count // 2).tolist()
    assert all(len(set(rows[at : at + size])) == size for at in range(0, count - size + 1, size))


def test_passes_differ_by_seed_task_and_pass():
    first = draw_passes(1, "bpr", size=30, count=60).tolist()
    others = [draw_passes(*key, size=30, count=30) for key in ((2, "bpr"), (1, "rating"))]
    orders = [first[:30], first[30:], *(other.tolist() for other in others)]
    assert len({tuple(order) for order in orders}) == 4


@settings(max_examples=50)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 1000), min_size=1),
    st.data(),
)
def test_rates_share_an_epoch_in_proportion(sizes, data):
    assert mixture_counts(sizes, {}) == sizes
    names = data.draw(st.sets(st.sampled_from(sorted(sizes)), min_size=1))
    rates = {name: data.draw(st.floats(0.1, 10), label=name) for name in sorted(names)}
    counts = mixture_counts(sizes, rates)
    total = sum(sizes[name] for name in names)
    assert counts.keys() == names
    assert abs(sum(counts.values()) - total) <= len(names) / 2
    for name in names:
        assert counts[name] == pytest.approx(total * rates[name] / sum(rates.values()), abs=0.51)


@pytest.mark.parametrize(
    ("rates", "fragments"),
    [
        ({"retreival": 1}, ["training.mixture: retreival", "did you mean 'retrieval'"]),
        ({"retrieval": 0}, ["retrieval: 0 is no rate", "rates are above 0"]),
        ({"retrieval": -1.0}, ["retrieval: -1.0 is no rate"]),
        ({"retrieval": 1, "bpr": 1}, ["bpr: 1 is no rate of a task with samples"]),
    ],
)
def test_bad_rates_are_refused(rates, fragments):
    with pytest.raises(RecinjectError) as caught:
        mixture_counts({"retrieval": 10, "bpr": 0}, rates)
    assert all(fragment in str(caught.value) for fragment in fragments)


@given(st.integers(0, 500), st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_what_is_shared_out_is_all_of_it_and_each_gets_its_due(total, shares):
    parts = share_out(total, shares)
    assert sum(parts) == total
    assert all(abs(n - total * s / sum(shares)) < 1 for n, s in zip(parts, shares, strict=True))


def test_temperature_and_cap_even_tasks_out():
    sizes = {"big": 10_000, "small": 100, "none": 0}
    assert task_rates(sizes) == {"big": 10_000, "small": 100}
    assert task_rates(sizes, temperature=2) == {"big": 100, "small": 10}
    assert task_rates(sizes, cap=400) == {"big": 400, "small": 100}
    assert task_rates(sizes, temperature=2, cap=400) == {"big": 20, "small": 10}
    flat = task_rates(sizes, temperature=1e6)
    assert flat["big"] == pytest.approx(flat["small"], rel=1e-4)


def test_an_epoch_holds_each_task_in_its_measure(built):
    factory, folder, _ = built
    names = ["retrieval", "bpr", "rating"]
    rates = {"retrieval": 3.0, "bpr": 1.0}
    sizes = {name: len(read_samples(folder, name, "train")) for name in names}
    mixed = mix_tasks(folder, names, rates, seed=5)
    counts = mixture_counts(sizes, rates)
    assert Counter(mixed["task"]) == {names.index(name): count for name, count in counts.items()}
    expected = []
    for name, count in counts.items():
        rows = draw_passes(5, "mixture", name, size=sizes[name], count=count)
        drawn = read_samples(folder, name, "train").take(rows).to_pylist()
        expected += [row | {"task": names.index(name)} for row in encoded(factory, drawn)]
    assert mixed.to_list() == expected
    assert mix_tasks(folder, names, rates, seed=5).to_list() == expected


def test_the_token_columns_are_all_samples_in_order(built):
    factory, folder, _ = built
    for name in ("bpr", "masked_language_modelling"):
        rows = read_samples(folder, name, "train").to_pylist()
        assert token_columns(folder, name, "train").to_list() == encoded(factory, rows)


def test_a_task_without_samples_takes_no_part(make, small_split, tmp_path):
    tasks = [Retrieval(), MaskedItemModelling(shortest=50, longest=50)]
    factory = make(small_split, tasks=tasks)
    build_samples(factory, tmp_path, Forms())
    names = [task.name for task in tasks]
    mixed = mix_tasks(tmp_path, names, {}, seed=1)
    n_retrieval = len(read_samples(tmp_path, "retrieval", "train"))
    assert Counter(mixed["task"]) == {0: n_retrieval} and n_retrieval > 0
    assert len(token_columns(tmp_path, "masked_item_modelling", "train")) == 0


@pytest.mark.parametrize("count", [1, 4, 5, 1000])
def test_validation_deals_out_the_first_of_each_task(built, count):
    factory, folder, _ = built
    names = ["retrieval", "rating", "ranking"]
    tables = [read_samples(folder, name, "validation") for name in names]
    expected = [
        row
        for turn, table in enumerate(tables)
        for row in table.to_pylist()[: len(range(count)[turn::3])]
    ]
    dataset = validation_samples(folder, {name: names.index(name) + 1 for name in names}, count)
    assert len(dataset) == len(expected) == min(count, sum(map(len, tables)))
    assert dataset["task"] == [names.index(row["task"]) + 1 for row in expected]
    dataset = dataset.remove_columns("task")
    if "rating" in dataset.column_names:
        assert dataset["rating"] == [row["label"] for row in expected]
        dataset = dataset.remove_columns("rating")
    assert dataset.to_list() == encoded(factory, expected)
