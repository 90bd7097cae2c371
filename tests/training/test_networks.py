import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import derive_rng
from recinject.training.networks import (
    SCHEDULES,
    FitSettings,
    TensorRows,
    fit_network,
    global_chance,
)

SETTINGS = {"batch_size": 8, "learning_rate": 0.05, "epochs": 6}


class Line(nn.Module):
    """Squared error of a linear map, with dropout so that chance has a part."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        with global_chance(3):
            self.map = nn.Linear(4, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs, targets):
        return {"loss": (self.map(self.dropout(inputs))[:, 0] - targets).square().mean()}


INPUTS = torch.tensor(np.random.default_rng(0).normal(size=(42, 4)), dtype=torch.float32)
TARGETS = INPUTS @ torch.tensor([1.0, -2.0, 0.5, 3.0]) + 4.0
POINTS = TensorRows({"inputs": INPUTS, "targets": TARGETS})


class OneByOne(Dataset):
    def __len__(self):
        return 42

    def __getitem__(self, row):
        return INPUTS[row], TARGETS[row]


def collate(points):
    inputs, targets = map(torch.stack, zip(*points, strict=True))
    return {"inputs": inputs, "targets": targets}


def error(network):
    with torch.no_grad():
        return -float(network.eval()(INPUTS, TARGETS)["loss"])


def train(network=None, seed=5, validate=None, **settings):
    network = network or Line()
    fit = fit_network(network, POINTS, dict, FitSettings(**SETTINGS | settings), seed, validate)
    return network, fit


def same(one, other):
    return all(
        torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items()
    )


def test_it_learns():
    network, fit = train(Line(0.0), epochs=60)
    assert error(network) > -0.01
    assert (fit.epochs, fit.values, fit.best_epoch) == (60, (), 60)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_is_the_loop_written_out(schedule):
    found, fit = train(Line(0.0), schedule=schedule, weight_decay=0.3, steps=15)
    assert fit.epochs == 3  # the last one cut short
    network = Line(0.0)
    groups = [{"params": network.map.weight, "weight_decay": 0.3}, {"params": network.map.bias}]
    optimizer = torch.optim.AdamW(groups, 0.05, weight_decay=0.0)
    rates = LambdaLR(optimizer, lambda step: SCHEDULES[schedule](step / 15))
    for step in range(15):
        order = derive_rng(5, "batches", step // 6).permutation(42)
        some = torch.tensor(order[8 * (step % 6) : 8 * (step % 6) + 8])
        optimizer.zero_grad()
        network(INPUTS[some], TARGETS[some])["loss"].backward()
        optimizer.step()
        rates.step()
    torch.testing.assert_close(found.state_dict(), network.state_dict())


def test_schedules_start_at_the_rate_and_fall_to_nothing():
    assert all(schedule(0.0) == 1.0 for schedule in SCHEDULES.values())
    assert SCHEDULES["linear"](1.0) == 0.0 and SCHEDULES["cosine"](1.0) == pytest.approx(0.0)


def test_a_rate_is_warmed_up_over_its_schedule():
    settings = FitSettings(1.0, 8, schedule="linear", warmup_steps=3)
    rates = [settings.rate_at(step, 8) for step in range(8)]
    assert rates == [0.25, 0.5 * 7 / 8, 0.75 * 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    assert [FitSettings(1.0, 8).rate_at(step, 8) for step in range(8)] == [1.0] * 8


def test_the_same_call_gives_the_same_weights_and_another_seed_others():
    first, _ = train()
    torch.rand(7)
    assert same(first, train()[0])
    assert not same(first, train(seed=6)[0])


def test_rows_fetched_one_by_one_are_the_same_batch():
    network = Line()
    fit_network(network, OneByOne(), collate, FitSettings(**SETTINGS), 5)
    assert same(network, train()[0])


def test_no_global_random_state_is_left_changed():
    def states():
        legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return legacy, torch.get_rng_state().tolist()

    before = states()
    train(validate=error)
    assert states() == before


def test_the_best_epoch_is_kept_and_patience_ends_the_training():
    states, values = [], [1.0, 3.0, 2.0, 3.0, 2.5, 9.0]

    def measure(network):
        assert not network.training and not torch.is_grad_enabled()
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return values[len(states) - 1]

    network, fit = train(validate=measure, patience=3)
    assert (fit.epochs, fit.values, fit.best_epoch) == (5, (1.0, 3.0, 2.0, 3.0, 2.5), 2)
    assert all(torch.equal(network.state_dict()[name], states[1][name]) for name in states[1])
    assert not torch.equal(states[4]["map.weight"], states[1]["map.weight"])


def test_measuring_changes_nothing_but_the_choice():
    assert same(train(validate=error, learning_rate=0.001)[0], train(learning_rate=0.001)[0])


def test_what_is_no_number_ends_the_training():
    with pytest.raises(RecinjectError, match=r"validation gave nan after 1 epochs.*\n.*lower"):
        train(validate=lambda network: float("nan"))
    with pytest.raises(RecinjectError, match=r"the loss became (nan|inf) after"):
        train(learning_rate=1e30)


def test_gradients_are_clipped_to_a_norm():
    free, _ = train(Line(0.0), steps=1)
    tiny, _ = train(Line(0.0), steps=1, max_grad_norm=1e-12)
    start = Line(0.0).map.weight
    assert (free.map.weight - start).abs().max() > 0.04  # Adam's first step is the rate
    assert (tiny.map.weight - start).abs().max() < 1e-3


def test_the_registrys_optimizers_serve_networks_too():
    # A step of at most a hundredth of each weight: what a large rate would undo stays put.
    own = {"lam_rel": 0.01, "lam_abs": 0.0}
    network, _ = train(optimizer="clippy_adam", optimizer_settings=own, learning_rate=10.0, steps=1)
    before, after = Line().map.weight, network.map.weight
    moved = ((after - before) / before).abs().detach()
    assert 0 < moved.max() <= 0.01 + 1e-6


@pytest.mark.parametrize(
    "wrong", [{"lerning_rate": 1}, {"learning_rate": -1}, {"batch_size": 0}, {"schedule": "step"}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        FitSettings(**SETTINGS | wrong)


def test_settings_are_taken_from_a_recommender():
    class Some:
        def __init__(self):
            self.learning_rate, self.batch_size, self.width = 0.1, 4, 9

    assert FitSettings.of(Some(), batch_size=5) == FitSettings(learning_rate=0.1, batch_size=5)
