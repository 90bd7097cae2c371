import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recinject.foundation.errors import RecinjectError
from recinject.methods.clippy.clippy import ClippyAdagrad, ClippyAdam

HUGE = {"lam_rel": 1e9, "lam_abs": 1e9}
size = st.floats(-8, 8).map(lambda value: 0.0 if abs(value) < 1e-3 else value)
threshold = st.sampled_from([0.0, 1e-3, 0.1, 0.5, 3.0])


def vector(count=6):
    return st.lists(size, min_size=count, max_size=count).map(lambda v: torch.tensor(v).double())


@given(
    st.sampled_from([ClippyAdagrad, ClippyAdam]),
    vector(),
    st.lists(vector(), min_size=1, max_size=4),
    *(threshold, threshold, st.floats(1e-3, 1e3)),
)
def test_no_weight_moves_further_than_its_bound(kind, start, gradients, lam_rel, lam_abs, lr):
    weights = nn.Parameter(start.clone())
    optimizer = kind([("w", weights)], lr, lam_rel, lam_abs)
    for gradient in gradients:
        before = weights.detach().clone()
        weights.grad = gradient
        optimizer.step()
        bound, moved = lam_rel * before.abs() + lam_abs, (weights.detach() - before).abs()
        slack = 1e-12 * (1 + before.abs() + bound)
        assert (moved <= bound + slack).all()
        if optimizer.scales["w"] < 1.0:
            assert ((moved - bound).abs() <= slack).any()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(ClippyAdagrad, torch.optim.Adagrad), (ClippyAdam, torch.optim.Adam)]
)
def test_with_huge_thresholds_it_is_torchs_optimizer(tensors, steps, ours, theirs, decay):
    found = ours(tensors(), **HUGE, weight_decay=decay)
    wanted = theirs(tensors(), weight_decay=decay, foreach=True)
    for one, other in zip(steps(found), steps(wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert set(found.scales.values()) == {1.0}


def test_a_first_step_from_an_empty_accumulator_is_the_whole_rate_whatever_the_gradient():
    moved = {}
    for start in (0.0, 0.1):
        weights = nn.Parameter(torch.zeros(2))
        weights.grad = torch.tensor([1e-4, 0.1])
        ClippyAdagrad([("w", weights)], 3.0, **HUGE, initial_accumulator_value=start).step()
        moved[start] = weights.detach().abs().tolist()
    assert moved[0.0] == pytest.approx([3.0, 3.0], rel=1e-4) and max(moved[0.1]) < 1.0


def by_the_book(weights, gradients, rates, lam, update_first, start):
    """Go through the paper's lines in numpy, one tensor, in double precision."""
    lam_rel, lam_abs, lam_acc = lam
    total, scales = np.full_like(weights, start), []
    for gradient, rate in zip(gradients, rates, strict=True):
        total = total + gradient**2 if update_first else total
        change = rate * gradient / np.sqrt(total)
        bound = lam_rel * abs(weights) + lam_abs + lam_acc / np.sqrt(total)
        scales.append(min(1.0, (bound / abs(change)).min()))
        weights = weights - scales[-1] * change
        total = total if update_first else total + gradient**2
    return weights, scales


@pytest.mark.parametrize("update_first", [True, False])
@pytest.mark.parametrize("lam", [(0.5, 0.01, 0.0), (0.1, 1e-7, 0.0), (0.1, 0.0, 0.05)])
def test_adagrad_by_the_book(update_first, lam):
    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=(4, 3)), rng.normal(size=(6, 4, 3))
    rates = [0.5, 0.1, 0.02, 0.3, 0.003, 1.0]
    weights = nn.Parameter(torch.tensor(start))
    settings = {"update_first": update_first, "initial_accumulator_value": 0.1, "eps": 0.0}
    optimizer, scales = ClippyAdagrad([("w", weights)], 1.0, *lam, **settings), []
    for gradient, rate in zip(gradients, rates, strict=True):
        weights.grad = torch.tensor(gradient)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        scales.append(optimizer.scales["w"])
    wanted = by_the_book(start, gradients, rates, lam, update_first, 0.1)
    np.testing.assert_allclose(weights.detach().numpy(), wanted[0], rtol=1e-10)
    np.testing.assert_allclose(scales, wanted[1], rtol=1e-10)
    assert min(scales) < 1.0


@pytest.mark.parametrize("kind", [ClippyAdagrad, ClippyAdam])
def test_the_first_step_has_the_largest_scale_within_the_bounds(tensors, give_gradients, kind):
    # In the first step both go by the gradient's sign alone.
    weights = tensors()
    optimizer = kind([(str(number), tensor) for number, tensor in enumerate(weights)], 0.2)
    give_gradients(weights, 3)
    wanted = [((0.5 * w.abs() + 0.01) / 0.2).amin().clamp(max=1).item() for w in weights]
    optimizer.step()
    assert list(optimizer.scales.values()) == pytest.approx(wanted, rel=1e-5)
    assert min(wanted) < 1.0


def test_a_group_that_is_not_clipped_is_torchs_and_has_no_scale(tensors, give_gradients):
    clipped, free, alone = (tensors(seed) for seed in (1, 2, 2))
    groups = [{"params": clipped}, {"params": free, "clip": False}]
    optimizer, theirs = ClippyAdagrad(groups, 1.0), torch.optim.Adagrad(alone, 1.0)
    give_gradients(clipped, 1)
    for parameters in (free, alone):
        give_gradients(parameters, 2)
    optimizer.step()
    theirs.step()
    for one, other in zip(free, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert len(optimizer.scales) == len(clipped) and max(optimizer.scales.values()) < 1.0


@pytest.mark.parametrize("kind", [ClippyAdagrad, ClippyAdam])
def test_what_is_stored_goes_on_to_the_same_bits(tensors, steps, kind):
    optimizer = kind(tensors())
    steps(optimizer, 3)
    stored = io.BytesIO()
    torch.save((optimizer.param_groups[0]["params"], optimizer.state_dict()), stored)
    stored.seek(0)
    weights, state = torch.load(stored, weights_only=True)
    resumed = kind([nn.Parameter(tensor.detach()) for tensor in weights], lr=7.0, lam_rel=7.0)
    resumed.load_state_dict(state)
    again = steps(optimizer, 3, first=3), steps(resumed, 3, first=3)
    assert all(map(torch.equal, *again)) and optimizer.scales == resumed.scales
    assert str(optimizer.state_dict()) == str(resumed.state_dict())


def test_a_transposed_weight_is_a_weight():
    straight, turned = (nn.Parameter(torch.arange(12.0).view(3, 4)) for _ in range(2))
    turned.data = turned.data.t().contiguous().t()
    for weights in (straight, turned):
        optimizer = ClippyAdagrad([weights])
        weights.grad = torch.ones(3, 4)
        optimizer.step()
    assert torch.equal(straight, turned) and not turned.is_contiguous()


def test_tensors_without_a_gradient_stay(tensors, give_gradients):
    weights = tensors()
    optimizer, before = ClippyAdam(weights), [tensor.clone() for tensor in weights]
    give_gradients(weights[:2], 1)
    optimizer.step()
    assert [torch.equal(*pair) for pair in zip(weights, before, strict=True)] == [False] * 2 + [
        True
    ] * 3
    assert len(optimizer.scales) == 2


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"lam_rel": -0.1}, "lam_rel"),
        ({"lam_abs": float("nan")}, "lam_abs"),
        ({"lr": -1.0}, "lr"),
        ({"update_first": False}, "update_first"),
    ],
)
def test_values_that_make_no_sense_are_refused(tensors, settings, place):
    with pytest.raises(ValueError, match=place):
        ClippyAdagrad(tensors(), **settings)


def test_betas_that_keep_all_are_refused(tensors):
    with pytest.raises(ValueError, match="betas"):
        ClippyAdam(tensors(), betas=(0.9, 1.0))


def test_a_matrix_of_zeros_needs_room_to_leave_them():
    bias, matrix = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3, 2))
    ClippyAdagrad([bias], lam_abs=1e-7)
    ClippyAdagrad([matrix])
    ClippyAdagrad([{"params": [matrix], "clip": False}], lam_abs=1e-7)
    with pytest.raises(RecinjectError, match=r"lam_abs: 1e-07 would freeze w, which starts at 0"):
        ClippyAdam([("w", matrix)], lam_abs=1e-7)
