from functools import partial

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from recinject.foundation.ragged import Ragged
from recinject.methods.semantic_ranker.networks import (
    ExpertTrunk,
    ExpertTrunkSettings,
    Ranker,
    SharedTrunk,
)
from recinject.training.networks import FitSettings, TensorRows, fit_network

TASKS = ("rating", "click")


def make(**settings):
    torch.manual_seed(0)
    return ExpertTrunk(TASKS, 6, 4, 0.0, ExpertTrunkSettings(**settings))


def saturate(trunk, picks):
    """Make DSelect-k's selectors of each task pick given experts, with equal shares."""
    k, bits = trunk.gate.k, trunk.gate.logits.weight.shape[1] // trunk.gate.k - 1
    with torch.no_grad():
        for task, chosen in enumerate(picks):
            codes = [
                [2 * (pick >> bit & 1) - 1 for bit in reversed(range(bits))] for pick in chosen
            ]
            trunk.gate.logits.weight[task] = torch.tensor([0.0] * k + sum(codes, [])).float()


@pytest.mark.parametrize("gate", ["dselect_k", "softmax", "top_k"])
def test_a_task_gets_the_gated_sum_of_all_experts(gate):
    trunk, features = make(gate=gate), torch.randn(5, 3, 6)
    weights = trunk.routing().weights
    every = torch.stack([expert(features) for expert in trunk.experts])
    for task, found in trunk(features).items():
        expected = (weights[TASKS.index(task)][:, None, None, None] * every).sum(0)
        torch.testing.assert_close(found, expected)


def test_saturated_it_is_the_chosen_experts_alone_and_the_others_are_not_run():
    trunk, features = make(), torch.randn(7, 6)
    saturate(trunk, [(2, 2), (0, 2)])
    calls = [0] * 4
    for number, expert in enumerate(trunk.experts):
        expert.register_forward_hook(lambda *_, n=number: calls.__setitem__(n, calls[n] + 1))
    found = trunk(features)
    assert calls == [1, 0, 1, 0]
    torch.testing.assert_close(found["rating"], trunk.experts[2](features))
    both = trunk.experts[0](features) + trunk.experts[2](features)
    torch.testing.assert_close(found["click"], both / 2)


def test_an_expert_without_weight_has_no_gradient_and_so_none_is_missed():
    trunk, features = make(), torch.randn(7, 6)
    saturate(trunk, [(2, 2), (0, 2)])
    weights = trunk.routing().weights
    every = torch.stack([expert(features) for expert in trunk.experts])
    torch.tensordot(weights, every, dims=1).square().sum().backward()
    whole = [p.grad.clone() if p.grad is not None else None for p in trunk.parameters()]
    trunk.zero_grad()
    torch.stack(list(trunk(features).values())).square().sum().backward()
    for parameter, expected in zip(trunk.parameters(), whole, strict=True):
        given = torch.zeros_like(expected) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(given, expected)


def test_the_penalty_is_the_entropy_of_the_selectors():
    trunk = make(regularization=0.5)
    entropy = trunk.routing().entropy
    torch.testing.assert_close(trunk.penalty(), 0.5 * entropy.sum())
    assert make(experts=3).penalty() > 0, "of codes that no expert has"
    assert make(gate="softmax").penalty() == 0
    assert SharedTrunk(TASKS, 6, 4, 0.0).penalty() == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"gate": "hard"},
        {"k": 5},
        {"k": 0},
        {"experts": 1},
        {"gamma": 0.0},
        {"regularization": -1.0},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        make(**settings)


def test_a_ranker_with_experts_learns_and_its_gate_saturates():
    rng = np.random.default_rng(0)
    liked = rng.integers(0, 2, 20)
    items = torch.from_numpy(rng.integers(0, 20, 400))
    samples = {
        "candidates": items,
        "history": torch.full((400, 3), 20),
        "history_ratings": torch.full((400, 3), torch.nan),
        "ratings": torch.tensor([4.0 if liked[item] else 2.0 for item in items]),
    }
    trunk = partial(ExpertTrunk, settings=ExpertTrunkSettings(regularization=0.1))
    torch.manual_seed(1)
    module = Ranker(
        Ragged.from_rows([[item] for item in range(20)], np.int64), 20, np.arange(20), 3.0,
        width=4, hidden=8, dropout=0.0, trunk=trunk,
    )  # fmt: skip
    settings = FitSettings(learning_rate=0.02, batch_size=64, steps=400)
    fit_network(module, TensorRows(samples), dict, settings, 0)
    read = torch.full((1, 3), 20), torch.full((1, 3), torch.nan)
    with torch.no_grad():
        rated = module.eval().rate(torch.arange(20)[None], *read)[0]
    assert (rated - torch.from_numpy(np.where(liked, 4.0, 2.0))).abs().mean() < 0.2
    assert module.trunk.routing().is_saturated.all()
