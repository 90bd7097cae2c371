import numpy as np
import torch

from recinject.models.building import wrap_tokenizer
from recinject.training.batches import LengthBuckets, make_collator

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
