import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recinject.foundation.errors import RecinjectError
from recinject.methods.low_rank.factors import (
    METHODS,
    Block,
    find_factors,
    relu_correlation,
    risk,
)

RELU = nn.ReLU()


def matrix(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def risks(block, rank, methods=("spectral", "nkp", "lfai"), inputs=None):
    ranks = [rank] * len(block.weights)
    return [risk(block, find_factors(block, ranks, method, inputs), inputs) for method in methods]


def test_the_identity_s_risks_are_those_derived_by_hand():
    block = Block([torch.eye(2, dtype=torch.float64)], activation=RELU)
    spectral, nkp, lfai = risks(block, 1)
    assert (spectral, nkp) == pytest.approx((0.5, (1 - np.pi**-2) / 2))
    # Brute force over all lines through the origin.
    angles = torch.linspace(0, np.pi, 20_001, dtype=torch.float64)
    inside = torch.stack([angles.cos(), angles.sin()]).abs()
    assert lfai == pytest.approx(
        float((1 - relu_correlation(inside) ** 2).sum(0).min() / 2), abs=1e-6
    )


def test_the_closed_forms_are_what_sampling_finds():
    block = Block([matrix(1, 12, 8)], activation=RELU)
    rows = matrix(2, 200_000, 8)
    for method in METHODS:
        factors = find_factors(block, [2], method)
        assert risk(block, factors) == pytest.approx(risk(block, factors, rows), rel=0.02)
    columns = find_factors(block, [2], "nkp")[0].product()
    scaled = [risk(block, [columns * scale]) for scale in (0.98, 1.0, 1.02)]
    assert min(scaled) == scaled[1]


shapes = st.tuples(st.integers(2, 7), st.integers(2, 7), st.integers(0, 9))


@settings(max_examples=25, deadline=None)
@given(shapes, st.data())
def test_the_risks_are_in_order_and_scale_and_turn_with_the_weight(shape, data):
    outputs, width, seed = shape
    rank = data.draw(st.integers(1, min(outputs, width)))
    weight = matrix(seed, outputs, width)
    found = risks(Block([weight], activation=RELU), rank)
    size = float(weight.square().sum())
    spectral, nkp, lfai = found
    assert lfai <= nkp + 1e-9 * size and nkp <= spectral + 1e-9 * size
    if rank == min(outputs, width):
        assert found == pytest.approx([0, 0, 0], abs=1e-6 * size)
    scaled = risks(Block([3 * weight], activation=RELU), rank)
    assert scaled == pytest.approx([9 * value for value in found], abs=1e-6 * size)
    turn = torch.linalg.qr(matrix(seed + 50, width, width))[0]
    turned = risks(Block([weight @ turn], activation=RELU), rank)
    assert turned == pytest.approx(found, abs=1e-4 * size)
    for method in ("spectral", "nkp"):
        ours = find_factors(Block([weight], activation=RELU), [rank], method)[0].product()
        theirs = find_factors(Block([weight @ turn], activation=RELU), [rank], method)[0].product()
        torch.testing.assert_close(theirs, ours @ turn, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_layer_gets_its_truncated_svd_and_the_best_for_its_inputs(method):
    weight, rows = matrix(1, 6, 9), matrix(2, 500, 9) @ matrix(3, 9, 9)
    u, values, v = torch.linalg.svd(weight, full_matrices=False)
    truncated = u[:, :2] * values[:2] @ v[:2]
    found = find_factors(Block([weight]), [2], method)[0]
    torch.testing.assert_close(found.product(), truncated)
    torch.testing.assert_close(found.up.norm(dim=0), found.down.norm(dim=1))
    if method != "spectral":
        found = find_factors(Block([weight]), [2], method, rows)
        best = torch.linalg.svdvals(rows @ weight.T)[2:].square().sum() / len(rows)
        assert risk(Block([weight]), found, rows) == pytest.approx(float(best))


def test_nkp_with_inputs_is_nkp_of_the_whitened_weight():
    weight, root = matrix(1, 12, 6), torch.linalg.cholesky(matrix(2, 6, 6).T @ matrix(2, 6, 6))
    rows = torch.linalg.qr(matrix(3, 400, 6))[0] * 20 @ root.T  # second moment: root root^T
    found = find_factors(Block([weight], activation=RELU), [2], "nkp", rows)[0].product()
    white = find_factors(Block([weight @ root], activation=RELU), [2], "nkp")[0].product()
    torch.testing.assert_close(found @ root, white, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("activation", [RELU, nn.GELU(), nn.SiLU()], ids=["relu", "gelu", "silu"])
@pytest.mark.parametrize("layers", [1, 2])
def test_descent_lowers_the_risk_on_inputs_it_has_not_seen(activation, layers):
    block = Block([matrix(n, 10, 6) for n in range(layers)], [matrix(9, 10)] * 2, activation)
    mixed = matrix(5, 6, 6)
    seen, fresh = matrix(6, 1000, 6) @ mixed, matrix(7, 4000, 6) @ mixed
    found = [find_factors(block, [2] * layers, method, seen) for method in ("spectral", "lfai")]
    spectral, lfai = (risk(block, factors, fresh) for factors in found)
    assert lfai < 0.97 * spectral
    sampled = risks(block, 2, ["spectral", "lfai"])
    assert sampled[1] < 0.99 * sampled[0]


def test_what_inputs_alone_gain_is_told_from_what_the_activation_gains():
    block, mixed = Block([matrix(1, 12, 8)], activation=RELU), matrix(5, 8, 8)
    seen, fresh = matrix(6, 1000, 8) @ mixed, matrix(7, 4000, 8) @ mixed
    found = {m: find_factors(block, [2], m, seen) for m in ("spectral", "data", "lfai")}
    linear = {m: risk(Block(block.weights), factors, fresh) for m, factors in found.items()}
    lost = {m: risk(block, factors, fresh) for m, factors in found.items()}
    assert linear["data"] < linear["lfai"] and linear["data"] < linear["spectral"]
    assert lost["lfai"] < lost["data"] < 0.7 * lost["spectral"]


def test_the_gradient_is_finite_at_the_ends_and_that_of_the_function():
    ends = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    relu_correlation(ends).sum().backward()
    torch.testing.assert_close(ends.grad, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    inner = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(relu_correlation, inner)


@pytest.mark.parametrize("weight", [torch.zeros(4, 3), torch.ones(4, 3)], ids=["zero", "rank one"])
@pytest.mark.parametrize("inputs", [None, torch.zeros(8, 3), torch.ones(3, 3)])
def test_degenerate_layers_and_inputs_give_numbers(weight, inputs):
    for method in METHODS:
        factors = find_factors(Block([weight], activation=RELU), [2], method, inputs)[0]
        torch.testing.assert_close(factors.product(), weight, atol=1e-4, rtol=0)
        assert factors.up.dtype == torch.float32


def test_nkp_has_no_form_for_other_activations():
    with pytest.raises(RecinjectError, match="choose lfai"):
        find_factors(Block([torch.eye(3)], activation=nn.GELU()), [1], "nkp")
