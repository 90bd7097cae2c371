import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from recinject.models.building import wrap_tokenizer
from recinject.samples.mixture import Phase, share_out
from recinject.training.batches import LengthBuckets, make_collator, order_by_phase

SIZES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 50), min_size=1)
LENGTHS = np.random.default_rng(0).integers(20, 400, 4000).tolist()


def padding(order, batch_size=16):
    batches = np.array(LENGTHS)[np.array(order)].reshape(-1, batch_size)
    return 1 - batches.sum() / (batches.max(1) * batch_size).sum()


def test_buckets_waste_little_on_padding():
    order = list(LengthBuckets(LENGTHS, 16, seed=1, epoch=lambda: 0))
    assert sorted(order) == list(range(4000))
    assert padding(order) < 0.03 < 0.3 < padding(range(4000))


def test_the_order_is_of_seed_and_epoch_alone():
    def order(seed, epoch):
        return list(LengthBuckets(LENGTHS, 16, seed, epoch=lambda: epoch))

    before = torch.random.get_rng_state()
    first = order(1, 0)
    torch.rand(3)
    assert order(1, 0) == first
    assert order(1, 1) != first and order(2, 0) != first
    torch.random.set_rng_state(before)
    assert order(1, 0) == first


def test_the_model_is_handed_what_it_reads_and_no_more(make_model, tokenizer, dataset):
    collate = make_collator(make_model(), wrap_tokenizer(tokenizer))
    batch = collate([dataset[0], dataset[5]])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "decoder_input_ids"}
    assert torch.equal(batch["attention_mask"], (batch["input_ids"] != 0).long())
    assert torch.equal(batch["decoder_input_ids"][:, 1:], batch["labels"][:, :-1].clamp(min=0))
    assert not batch["decoder_input_ids"][:, 0].any()


@given(SIZES, st.integers(1, 30), st.integers(1, 8), st.integers(0, 3))
def test_phases_follow_one_another_and_no_row_comes_twice_more_than_another(
    sizes, steps, batch_size, seed
):
    names = sorted(sizes)
    tasks = np.repeat(np.arange(len(names)), [sizes[name] for name in names])
    lengths = np.arange(len(tasks)) * 37 % 90 + 1
    phases = [Phase(1, {names[-1]: 1.0}), Phase(2, dict.fromkeys(names, 1.0))]
    order = order_by_phase(tasks, names, lengths, phases, steps, batch_size, seed)
    again = order_by_phase(tasks, names, lengths, phases, steps, batch_size, seed)
    assert len(order) == steps * batch_size and (order == again).all()
    first = share_out(steps, [1, 2])[0] * batch_size
    assert (tasks[order[:first]] == len(names) - 1).all()
    shares = np.bincount(tasks[order[first:]], minlength=len(names))
    assert shares.max() - shares.min() <= 1
    counts = np.bincount(order, minlength=len(tasks))
    for number in range(len(names)):
        drawn = counts[tasks == number]
        assert drawn.max() - drawn.min() <= 1
