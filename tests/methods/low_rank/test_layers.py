import pytest
import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM

from recinject.foundation.errors import RecinjectError
from recinject.methods.low_rank.factors import METHODS, risk
from recinject.methods.low_rank.starts import (
    LowRank,
    LowRankLinear,
    capture_inputs,
    find_blocks,
    find_layers,
)
from recinject.models.building import build_model
from recinject.models.storing import save_trained
from recinject.samples.tokenizer import train_tokenizer

TINY = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
TOKENIZER = train_tokenizer(["red car", "blue car"], 300)
SIZE = TOKENIZER.get_vocab_size()
CHANCE = torch.Generator().manual_seed(0)
BATCH = {
    "input_ids": torch.randint(3, SIZE, (8, 9), generator=CHANCE),
    "attention_mask": (torch.arange(9) < torch.arange(2, 10)[:, None]).long(),
    "labels": torch.where(torch.arange(5) < 3, 7, -100).repeat(8, 1),
}
WO = "encoder.block.0.layer.1.DenseReluDense.wo"


@pytest.fixture(params=["relu", "gated-gelu"])
def model(request):
    return build_model({**TINY, "feed_forward_proj": request.param}, TOKENIZER, 0).eval()


def logits(model):
    with torch.no_grad():
        return model.eval()(**BATCH).logits


def captured(model, rows=2048, batches=(BATCH,)):
    return capture_inputs(model, batches, find_layers(model), rows)


@pytest.mark.parametrize("method", METHODS)
def test_full_rank_keeps_the_output(model, method):
    if method == "nkp" and model.config.is_gated_act:
        pytest.skip("no closed form")
    before = logits(model)
    low = LowRank(rank=16, method=method)
    ranks = low.ranks(model)
    low.factorise(model, captured(model))
    assert set(ranks) == {name for name, m in model.named_modules() if isinstance(m, LowRankLinear)}
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)


def test_weights_go_into_a_model_of_the_same_ranks_and_back_to_one_matrix(model, tmp_path):
    with torch.no_grad():
        model.get_submodule(WO).weight[:2] *= 5
    start = LowRank(energy=0.6)
    ranks = start.ranks(model)
    assert len(set(ranks.values())) > 1
    start.start(model, [BATCH], 0)
    start.save(model, tmp_path)
    low = logits(model)
    config = {**TINY, "feed_forward_proj": model.config.feed_forward_proj}
    again = build_model(config, TOKENIZER, 5)
    LowRank(energy=0.6).load(again, tmp_path)
    again.load_state_dict(model.state_dict())
    assert torch.equal(logits(again), low)
    save_trained(model, TOKENIZER, tmp_path)
    assert torch.equal(logits(model), low)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded), low, atol=1e-5, rtol=1e-5)


def test_what_is_captured_lowers_the_risk_and_the_pair_is_found(model):
    draw = {"generator": torch.Generator().manual_seed(1)}
    many = [
        {
            **BATCH,
            **{k: torch.randint(3, SIZE, BATCH[k].shape, **draw) for k in ("input_ids", "labels")},
        }
        for _ in range(20)
    ]
    inputs, layers = captured(model, batches=many), find_layers(model)
    blocks = find_blocks(model, layers)
    assert {len(names) for names, _ in blocks} == ({1, 2} if model.config.is_gated_act else {1})
    risks = {}
    for method in ("spectral", "lfai"):
        low = build_model(
            {**TINY, "feed_forward_proj": model.config.feed_forward_proj}, TOKENIZER, 0
        )
        LowRank(rank=3, method=method).factorise(low, inputs)
        made = dict(low.named_modules())
        weights = {name: made[name].plain().weight for name in layers}
        risks[method] = [
            risk(block, [weights[name] for name in names], inputs[names[0]])
            for names, block in blocks
        ]
    assert all(ours < theirs for ours, theirs in zip(risks["lfai"], risks["spectral"], strict=True))


def test_gradients_are_those_of_the_matrix():
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    up, down = torch.randn(5, 2), torch.randn(2, 6)
    low, inputs = LowRankLinear(up, down, layer.bias.detach()), torch.randn(7, 6)
    dense = low.plain()
    for module in (low, dense):
        module(inputs).square().sum().backward()
    torch.testing.assert_close(low(inputs), dense(inputs))
    torch.testing.assert_close(low.up.grad, dense.weight.grad @ down.T)
    torch.testing.assert_close(low.down.grad, up.T @ dense.weight.grad)
    torch.testing.assert_close(low.bias.grad, dense.bias.grad)


def test_padding_is_left_out_of_what_is_captured(model):
    names = list(find_layers(model))
    found = captured(model.train())
    assert model.training
    for name in names:
        useful = BATCH["attention_mask"].sum() if name.startswith("encoder") else 8 * 3
        assert len(found[name]) == useful
    few, same = captured(model, 10), captured(model, 10)
    assert all(len(few[name]) == 10 and torch.equal(few[name], same[name]) for name in names)
    whole = {tuple(row) for row in found[WO].tolist()}
    assert {tuple(row) for row in few[WO].tolist()} < whole


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 0}, "rank 0 for encoder"),
        ({"rank": 17}, "full rank is 16"),
        ({}, "give one of them"),
        ({"energy": 1.5}, "give one of them"),
        ({"rank": 2, "targets": ["woo"]}, "did you mean 'wo'"),
        ({"rank": 2, "method": "svd"}, "no initialization 'svd'"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_changes(model, settings, said):
    before = logits(model)
    with pytest.raises(RecinjectError, match=said):
        LowRank(**settings).factorise(model)
    assert torch.equal(logits(model), before)
