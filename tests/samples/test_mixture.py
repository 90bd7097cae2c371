from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.foundation.errors import RecinjectError
from recinject.samples.build import build_samples
from recinject.samples.mixture import draw_passes, mix_tasks, mixture_counts, validation_samples
from recinject.samples.store import read_samples
from recinject.samples.tokenisation import tokenise
from recinject.tasks.masked_item_modelling import MaskedItemModelling
from recinject.tasks.retrieval import Retrieval

LIMITS = (512, 64)


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(0, 150), st.integers(0, 9))
def test_no_sample_is_taken_twice_more_often_than_another(size, count, seed):
    rows = draw_passes(seed, "bpr", size, count).tolist()
    taken = Counter(rows)
    assert len(rows) == count and set(rows) <= set(range(size))
    assert {taken[row] for row in range(size)} <= {count // size, -(-count // size)}
    # A larger share goes on where a smaller one ends, and each pass takes everything once.
    assert rows[: count // 2] == draw_passes(seed, "bpr", size, count // 2).tolist()
    assert all(len(set(rows[at : at + size])) == size for at in range(0, count - size + 1, size))


def test_passes_differ_by_seed_task_and_pass():
    first = draw_passes(1, "bpr", 30, 60).tolist()
    others = [draw_passes(2, "bpr", 30, 30), draw_passes(1, "rating", 30, 30)]
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


def test_an_epoch_holds_each_task_in_its_measure(built):
    factory, folder, _ = built
    names = ["retrieval", "bpr", "rating"]
    rates = {"retrieval": 3.0, "bpr": 1.0}
    sizes = {name: len(read_samples(folder, name, "train")) for name in names}
    mixed, facts = mix_tasks(folder, names, rates, factory.tokenizer, LIMITS, seed=5)
    counts = mixture_counts(sizes, rates)
    assert {name: fact.samples for name, fact in facts.items()} == counts
    expected = []
    for name, count in counts.items():
        table = read_samples(folder, name, "train")
        rows = draw_passes(5, name, sizes[name], count)
        expected += tokenise(table.take(rows), factory.tokenizer, *LIMITS)[0].to_list()
    assert mixed.to_list() == expected
    again, _ = mix_tasks(folder, names, rates, factory.tokenizer, LIMITS, seed=5)
    assert again.to_list() == mixed.to_list()


def test_a_task_without_samples_takes_no_part(make, small_split, tmp_path):
    tasks = [Retrieval(), MaskedItemModelling(shortest=50, longest=50)]
    factory = make(small_split, tasks=tasks)
    build_samples(factory, tmp_path, workers=1, jsonl=False)
    names = [task.name for task in tasks]
    mixed, facts = mix_tasks(tmp_path, names, {}, factory.tokenizer, LIMITS, seed=1)
    assert len(mixed) == facts["retrieval"].samples > 0
    assert facts["masked_item_modelling"].samples == 0


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
    dataset = validation_samples(folder, names, count, factory.tokenizer, LIMITS)
    assert len(dataset) == len(expected) == min(count, sum(map(len, tables)))
    prompts = [factory.tokenizer.encode(row["prompt"]).ids for row in expected]
    assert dataset["input_ids"][:] == prompts
