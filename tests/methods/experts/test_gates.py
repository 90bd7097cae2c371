import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import Adafactor

from recinject.methods.clippy.clippy import ClippyAdam, clippy_groups
from recinject.methods.experts.gates import DSelectK, Softmax, TopK, part_gate, select, smooth_step


def logits_of(alpha, codes):
    """The numbers that a DSelect-k gate reads: the selectors' weights, then their codes."""
    return torch.cat([torch.as_tensor(alpha).float(), torch.as_tensor(codes).float().flatten()])[
        None
    ]


def numbers(low, high, *shape):
    return arrays(np.float64, shape, elements=st.floats(low, high))


def test_the_smooth_step_and_its_ends():
    found = smooth_step(torch.tensor([-0.25, 0.25]), 1.0)
    assert found.tolist() == [0.15625, 0.84375]
    for gamma in (0.1, 0.3, 1.0, 7.0):
        ends = torch.tensor([-9.0, -gamma / 2, gamma / 2, 9.0], requires_grad=True)
        values = smooth_step(ends, gamma)
        values.sum().backward()
        assert values.tolist() == [0, 0, 1, 1] and not ends.grad.any()
        inside = torch.linspace(-gamma / 2, gamma / 2, 9, dtype=torch.float64)
        cubic = -2 * inside**3 / gamma**3 + 3 * inside / (2 * gamma) + 0.5
        torch.testing.assert_close(smooth_step(inside, gamma), cubic)


def test_codes_have_the_most_significant_bit_first():
    routing = DSelectK(4, 1, tasks=1).decide(logits_of([0.0], [0.25, -0.1]))
    expected = torch.tensor([[0.10125, 0.055, 0.54675, 0.297]])
    torch.testing.assert_close(routing.weights, expected)
    assert routing.entropy.item() == pytest.approx(
        -(expected * expected.log()).sum().item(), abs=1e-4
    )


@given(numbers(-2, 2, 2, 3), st.floats(0.1, 3))
def test_select_is_the_product_over_bits_and_sums_to_one(codes, gamma):
    bits = smooth_step(torch.from_numpy(codes), gamma)
    weights = select(bits)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=torch.float64))
    for code in range(8):
        digits = [int(digit) for digit in f"{code:03b}"]
        parts = [bits[:, b] if digit else 1 - bits[:, b] for b, digit in enumerate(digits)]
        torch.testing.assert_close(weights[:, code], parts[0] * parts[1] * parts[2])


@given(numbers(-2, 2, 9), st.integers(2, 8), st.integers(1, 2))
def test_weights_are_never_negative_and_sum_to_one_where_every_code_has_an_expert(raw, n, k):
    gate = DSelectK(n, k, tasks=1)
    routing = gate.decide(torch.from_numpy(raw[: gate.count_logits()])[None])
    total = routing.weights.sum().item()
    assert (routing.weights >= 0).all() and total <= 1 + 1e-6
    if n in (2, 4, 8):
        assert total == pytest.approx(1) and not routing.excess.any()
    else:
        assert routing.excess >= -1e-6  # lowest, 0, where no weight is on codes of nobody


@pytest.mark.parametrize(("n", "k"), [(4, 1), (4, 2), (6, 3)])
def test_a_saturated_gate_picks_experts_exactly_and_has_no_gradient(n, k):
    gate = DSelectK(n, k, gamma=0.3, tasks=1)
    codes = torch.tensor([[-1.0, 0.15, -0.2], [0.15, -0.3, -0.2], [-1, -1, -1]])
    codes = (codes if n == 6 else codes[:, :2])[:k]
    raw = logits_of([0.3, -0.2, 1.0][:k], codes).requires_grad_()
    routing = gate.decide(raw)
    picks = [int("".join(str(int(v > 0)) for v in row), 2) for row in codes.tolist()]
    assert routing.is_saturated.all() and routing.chosen.tolist() == [picks]
    expected = torch.zeros(1, n).scatter_add(1, routing.chosen, routing.shares.detach())
    assert torch.equal(routing.weights, expected)
    assert routing.support()[0].nonzero()[:, 0].tolist() == sorted(set(picks))
    (routing.weights[0, 0] + routing.entropy.sum() + routing.excess.sum()).backward()
    assert not raw.grad[0, k:].any()
    shifted = raw.detach().clone()
    shifted[0, k] = 0.1
    assert not gate.decide(shifted).is_saturated.any()


def test_a_selector_on_nobodys_code_adds_nothing():
    routing = DSelectK(3, 1, tasks=1).decide(logits_of([0.0], [1.0, 1.0]))
    assert not routing.weights.any() and not routing.shares.any()
    assert routing.excess.isfinite().all() and routing.excess > 1000


@pytest.mark.parametrize("sizes", [{"tasks": 2}, {"size": 4}, {"tasks": 2, "size": 4}])
def test_a_selector_on_nobodys_code_is_started_anew_and_learns(sizes):
    gate = DSelectK(3, 2, **sizes)
    source = torch.ones(2, 4) if "size" in sizes else torch.arange(2)
    tasks = torch.arange(2) if len(sizes) == 2 else None
    with torch.no_grad():
        for weights in gate.parameters():
            rules = weights if "size" not in sizes else weights.unflatten(0, (-1, 6))
            rules[-1][2:4] = 1.0  # both bits of the first selector: the code of a fourth expert
            rules[-1][4:6] = -1.0
    kept = [weights.clone() for weights in gate.parameters()]
    assert not gate.eval()(source, tasks).weights[-1, 1:].any()
    assert all(torch.equal(*pair) for pair in zip(kept, gate.parameters(), strict=True))
    optimizer = torch.optim.Adam(gate.parameters(), 0.01)
    for _ in range(200):
        routing = gate.train()(source, tasks)
        assert routing.excess.max() < 10
        optimizer.zero_grad()
        (-routing.weights[-1, 1] + routing.excess.sum()).backward()
        optimizer.step()
    routing = gate.eval()(source, tasks)
    assert routing.weights[-1, 1] > 0.5 and routing.chosen[-1].tolist() == [1, 0]


def test_a_gate_a_task_reads_each_row_by_the_rule_of_its_task():
    both = DSelectK(4, 2, tasks=3, size=5)
    rows, tasks = torch.randn(6, 5), torch.tensor([0, 2, 1, 1, 0, 2])
    found = both(rows, tasks)
    for row, task in enumerate(tasks.tolist()):
        alone = DSelectK(4, 2, size=5)
        for own, all_rules in zip(alone.parameters(), both.parameters(), strict=True):
            own.data = all_rules.data.unflatten(0, (3, -1))[task]
        torch.testing.assert_close(found.weights[row], alone(rows[row : row + 1]).weights[0])
    assert not torch.equal(found.weights[2:4], both(rows[2:4], torch.tensor([0, 0])).weights)


def test_dselect_moves_without_a_jump_where_top_k_has_one():
    path = torch.linspace(-1, 1, 2001)[:, None]
    codes = torch.cat([0 * path, path, -0.6 * path], 1)
    smooth = DSelectK(4, 1, tasks=1).decide(codes).weights
    hard = TopK(4, 1, tasks=1).decide(torch.cat([path, -path, path - 9, path - 9], 1)).weights
    jumps = [(rows[1:] - rows[:-1]).abs().max().item() for rows in (smooth, hard)]
    assert jumps[0] < 0.005 and jumps[1] == 1


@given(numbers(-5, 5, 6, 5))
def test_top_k_is_a_softmax_over_the_largest(raw):
    logits = torch.from_numpy(raw).float()
    routing = TopK(5, 2, tasks=1).decide(logits)
    for row, weights in zip(logits, routing.weights, strict=True):
        best = row.argsort(descending=True, stable=True)[:2]
        assert weights.sum().item() == pytest.approx(1) and (weights > 0).sum() == 2
        assert sorted(weights[weights > 0].tolist()) == pytest.approx(
            sorted(row[best].softmax(0).tolist())
        )
    torch.testing.assert_close(Softmax(5, 1, tasks=1).decide(logits).weights, logits.softmax(1))


def test_gates_start_small_for_tasks_and_sequences_alike():
    by_task, by_row = DSelectK(4, 2, 3.0, tasks=5), DSelectK(4, 2, 3.0, size=7)
    for gate, source in ((by_task, torch.arange(5)), (by_row, torch.eye(7)[:5])):
        assert all(0.01 < p.abs().max() <= 0.03 for p in gate.parameters())
        routing = gate(source)
        assert routing.weights.shape == (5, 4) and routing.chosen.shape == (5, 2)
        torch.testing.assert_close(routing.weights, torch.full((5, 4), 0.25), atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", ["adamw", "clippy", "adafactor"])
def test_the_gate_gets_a_group_of_its_own(kind):
    model = torch.nn.ModuleDict({"gate": DSelectK(4, 2, tasks=3), "rest": torch.nn.Linear(3, 3)})
    if kind == "clippy":
        optimizer = ClippyAdam(clippy_groups(model, 0.1), lr=0.01)
    elif kind == "adafactor":
        optimizer = Adafactor(model.parameters(), lr=0.01, relative_step=False)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    part_gate(optimizer, model["gate"], 20)
    *others, own = optimizer.param_groups
    assert own["lr"] == pytest.approx(0.2) and own["weight_decay"] == 0
    assert [id(p) for p in own["params"]] == [id(p) for p in model["gate"].parameters()]
    rest = [id(p) for group in others for p in group["params"]]
    assert sorted(rest) == sorted(id(p) for p in model["rest"].parameters())
    assert all(group["lr"] == 0.01 and group["params"] for group in others)
    before = model["gate"].logits.weight.clone()
    model["gate"](torch.arange(3)).weights[:, 0].sum().backward()
    optimizer.step()
    moved = (model["gate"].logits.weight - before)[:, 2:].abs()
    assert moved.min() > 0.05  # a gate that starts near 0 must move all the same
