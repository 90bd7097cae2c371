import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recinject.foundation.errors import RecinjectError
from recinject.methods.clippy.clippy import AgcAdagrad, AgcAdam, clip_units
from recinject.training.optimizers import log_entries

PAIRS = [(AgcAdagrad, torch.optim.Adagrad), (AgcAdam, torch.optim.Adam)]


def pair(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(4, 3, generator=rng)), torch.randn(4, 3, generator=rng)


def test_units_by_hand():
    weights = torch.tensor([[3.0, 4.0], [0.0, 0.0], [30.0, 40.0]])
    gradient = torch.tensor([[0.0, 1.0], [0.6, 0.8], [0.3, 0.4]])
    scales = clip_units(weights, gradient, 0.1, 0.01)
    torch.testing.assert_close(scales, torch.tensor([[0.5], [0.001], [1.0]]))
    wanted = torch.tensor([[0.0, 0.5], [0.0006, 0.0008], [0.3, 0.4]])
    torch.testing.assert_close(gradient, wanted)


@given(st.integers(0, 99), st.sampled_from([(5,), (4, 3), (2, 3, 4)]), st.floats(1e-3, 2))
def test_no_unit_has_more_than_its_share(seed, shape, factor):
    rng = torch.Generator().manual_seed(seed)
    weights, gradient = (torch.randn(shape, generator=rng).double() for _ in range(2))
    before = gradient.clone()
    scales = clip_units(weights, gradient, factor, 1e-3)
    units = [(weights, gradient)] if len(shape) == 1 else zip(weights, gradient, strict=True)
    for unit, clipped in units:
        assert clipped.norm() <= factor * unit.norm() * (1 + 1e-9)
    assert torch.equal(gradient, before * scales)


@pytest.mark.parametrize(("kind", "theirs"), PAIRS)
def test_it_is_torchs_optimizer_on_clipped_gradients(kind, theirs):
    (found, gradient), (wanted, _) = pair(), pair()
    ours, other = kind([("w", found)], 0.1, 0.02, 0.001), theirs([wanted], 0.1)
    for number in range(4):
        found.grad, wanted.grad = gradient / (number + 1), gradient / (number + 1)
        scales = clip_units(wanted, wanted.grad, 0.02, 0.001)
        ours.step()
        other.step()
        assert torch.equal(found, wanted)
        assert ours.scales == {"w": pytest.approx(scales.min().item())}
    assert log_entries(ours)["clip_share"] == 1.0


@pytest.mark.parametrize(("kind", "theirs"), PAIRS)
def test_a_huge_factor_or_a_group_of_its_own_clips_nothing(kind, theirs):
    (one, gradient), (two, _), (wanted, _) = pair(), pair(), pair()
    ours = [kind([one], 0.1, 1e9), kind([{"params": [two], "clip": False}], 0.1)]
    other = theirs([wanted], 0.1)
    for weights in (one, two, wanted):
        weights.grad = gradient.clone()
    for optimizer in (*ours, other):
        optimizer.step()
    assert torch.equal(one, wanted) and torch.equal(two, wanted)
    assert list(ours[0].scales.values()) == [1.0] and not ours[1].scales


def test_a_gradient_that_is_no_number_is_named():
    weights, gradient = pair()
    weights.grad = gradient * float("nan")
    with pytest.raises(RecinjectError, match="gradient of w is not finite"):
        AgcAdam([("w", weights)]).step()
    assert weights.isfinite().all()


@pytest.mark.parametrize("settings", [{"clip_factor": 0.0}, {"clip_eps": 0.0}, {"eps": -1.0}])
@pytest.mark.parametrize("kind", [AgcAdagrad, AgcAdam])
def test_values_that_make_no_sense_are_refused(kind, settings):
    with pytest.raises(ValueError, match="eps|clip_factor"):
        kind([pair()[0]], **settings)


@pytest.mark.parametrize("kind", [AgcAdagrad, AgcAdam])
def test_what_is_stored_goes_on_to_the_same_bits(kind):
    weights, gradient = pair()
    optimizer = kind([weights], 0.1, 0.05)
    weights.grad = gradient.clone()
    optimizer.step()
    stored = io.BytesIO()
    torch.save((weights, optimizer.state_dict()), stored)
    stored.seek(0)
    again, state = torch.load(stored, weights_only=False)
    resumed = kind([again])
    resumed.load_state_dict(state)
    for parameter, each in ((weights, optimizer), (again, resumed)):
        parameter.grad = gradient.clone()
        each.step()
    assert torch.equal(weights, again) and resumed.param_groups[0]["clip_factor"] == 0.05
