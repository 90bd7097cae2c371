"""Clippy's steps over pieces, transposed weights, all tensors of a GPU, and sparse rows."""

import pytest
import torch
from torch import nn

from recinject.methods.clippy.clippy import ClippyAdagrad, ClippyAdam
from recinject.training import clippy, step_entries

HUGE = {"lam_rel": 1e9, "lam_abs": 1e9}


@pytest.mark.parametrize("update_first", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_pieces_give_what_whole_tensors_give(tensors, steps, monkeypatch, update_first, decay):
    settings = {"update_first": update_first, "initial_accumulator_value": 0.1}
    settings |= {"lam_acc": 0.001, "weight_decay": decay}
    whole = ClippyAdagrad(tensors(), **settings)
    wanted = steps(whole)
    monkeypatch.setattr(step_entries, "_PIECE", 2)
    pieces = ClippyAdagrad(tensors(), **settings)
    for one, other in zip(steps(pieces), wanted, strict=True):
        assert torch.equal(one, other)
    assert pieces.scales == whole.scales and min(whole.scales.values()) < 1.0


@pytest.mark.parametrize("kind", [ClippyAdagrad, ClippyAdam])
def test_a_gpu_takes_all_tensors_at_once_and_gives_the_same(tensors, steps, monkeypatch, kind):
    wanted = kind(tensors(), lam_acc=0.001)
    one_by_one = steps(wanted)
    for module in (step_entries, clippy):
        monkeypatch.setattr(module, "works_in_pieces", lambda tensor: False)
    found = kind(tensors(), lam_acc=0.001)
    for one, other in zip(steps(found), one_by_one, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert found.scales == pytest.approx(wanted.scales) and min(found.scales.values()) < 1.0


def test_a_transposed_weight_is_a_weight():
    straight, turned = (nn.Parameter(torch.arange(12.0).view(3, 4)) for _ in range(2))
    turned.data = turned.data.t().contiguous().t()
    for weights in (straight, turned):
        optimizer = ClippyAdagrad([weights])
        weights.grad = torch.ones(3, 4)
        optimizer.step()
    assert torch.equal(straight, turned) and not turned.is_contiguous()


def table_and_rows(kind, **settings):
    """Train a table with sparse gradients, and its rows one by one as a tensor of their own."""
    table = nn.Embedding(6, 3, sparse=True, _weight=torch.randn(6, 3, generator=rng(4)))
    rows = nn.Parameter(table.weight.detach()[[1, 4]].clone())
    untouched = table.weight.detach()[[0, 2, 3, 5]].clone()
    sparse, dense = (kind([w], 0.1, **settings) for w in (table.weight, rows))
    for number in range(4):
        factors = torch.randn(3, 3, generator=rng(number))
        table.zero_grad()
        (table(torch.tensor([4, 1, 4])) * factors).sum().backward()
        rows.grad = torch.stack([factors[1], factors[0] + factors[2]])
        sparse.step()
        dense.step()
    assert torch.equal(table.weight.detach()[[0, 2, 3, 5]], untouched)
    return table.weight.detach()[[1, 4]], rows.detach(), sparse, dense


def rng(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", [ClippyAdagrad, ClippyAdam])
def test_of_a_sparse_gradient_only_its_rows_count(kind):
    found, wanted, sparse, dense = table_and_rows(kind)
    torch.testing.assert_close(found, wanted)
    ((_, scale),) = sparse.scales.items()
    assert scale == pytest.approx(next(iter(dense.scales.values()))) and scale < 1.0
    (state,) = sparse.state.values()
    assert all(not state[key][[0, 2, 3, 5]].any() for key in kind.memory)


@pytest.mark.parametrize(
    ("kind", "theirs"), [(ClippyAdagrad, torch.optim.Adagrad), (ClippyAdam, torch.optim.SparseAdam)]
)
def test_sparse_and_unclipped_it_is_torchs_sparse_optimizer(kind, theirs):
    found, wanted = (nn.Parameter(torch.randn(6, 3, generator=rng(4))) for _ in range(2))
    optimizers = kind([found], 0.1, **HUGE), theirs([wanted], 0.1)
    for number in range(4):
        rows = torch.tensor([[number, 5, number]])
        values = torch.randn(3, 3, generator=rng(number))
        for weights, optimizer in zip((found, wanted), optimizers, strict=True):
            weights.grad = torch.sparse_coo_tensor(rows, values, (6, 3), check_invariants=True)
            optimizer.step()
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


def test_a_gradient_without_any_row_changes_nothing():
    weights = nn.Parameter(torch.ones(4, 2))
    optimizer = ClippyAdagrad([weights])
    empty = torch.zeros(1, 0, dtype=torch.long), torch.zeros(0, 2)
    weights.grad = torch.sparse_coo_tensor(*empty, (4, 2), check_invariants=True)
    optimizer.step()
    assert torch.equal(weights, torch.ones(4, 2)) and optimizer.scales == {}
