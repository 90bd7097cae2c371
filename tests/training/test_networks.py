import json
import os
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from recinject.foundation.errors import RecinjectError
from recinject.training.batches import Shuffle
from recinject.training.networks import fit_module, global_chance
from recinject.training.trainer import MARKER, newest_complete

SETTINGS = {
    "per_device_train_batch_size": 8,
    "learning_rate": 0.05,
    "num_train_epochs": 6,
    "logging_steps": 1,
}


class Line(nn.Module):
    """Squared error of a linear map, with dropout so that chance has a part."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        with global_chance(3):
            self.map = nn.Linear(4, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs, targets):
        return {"loss": (self.map(self.dropout(inputs))[:, 0] - targets).square().mean()}


class Points(Dataset):
    def __init__(self, noise: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        self.inputs = torch.tensor(rng.normal(size=(40, 4)), dtype=torch.float32)
        self.targets = self.inputs @ torch.tensor([1.0, -2.0, 0.5, 3.0]) + 4.0

    def __len__(self):
        return 40

    def __getitem__(self, number):
        return self.inputs[number], self.targets[number]


class PointsAtOnce(Points):
    def __getitems__(self, numbers):
        return self.inputs[numbers], self.targets[numbers]


def collate(points):
    inputs, targets = map(torch.stack, zip(*points, strict=True))
    return {"inputs": inputs, "targets": targets}


def collate_at_once(points):
    return {"inputs": points[0], "targets": points[1]}


def error(module):
    points = Points()
    with torch.no_grad():
        return -float(module.eval()(points.inputs, points.targets)["loss"])


def train(module=None, folder=None, seed=5, settings=SETTINGS, **more):
    module = module or Line()
    return module, fit_module(module, Points(), collate, settings, folder, seed, **more)


def same(one, other):
    return all(
        torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items()
    )


def cut(folder, step):
    """Leave a folder as it was when training was killed after a step's checkpoint."""
    for path in folder.glob("checkpoint-*"):
        if int(path.name.partition("-")[2]) > step:
            (path / MARKER).unlink()


def test_it_learns_and_keeps_a_log(tmp_path):
    log_path, settings = tmp_path / "train.jsonl", SETTINGS | {"num_train_epochs": 60}
    module, fit = train(Line(0.0), log_path=log_path, settings=settings)
    assert error(module) > -0.01
    assert (fit.epochs, fit.values, fit.best_epoch) == (60, (), 60)
    losses = [json.loads(line)["loss"] for line in log_path.read_text().splitlines()]
    assert len(losses) == 300 and losses[-1] < 0.01 < losses[0]
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


def test_the_same_call_gives_the_same_weights_and_another_seed_others():
    first, _ = train()
    torch.rand(7)
    assert same(first, train()[0])
    assert not same(first, train(seed=6)[0])


def test_a_batch_fetched_at_once_is_the_same_batch():
    module = Line()
    fit_module(module, PointsAtOnce(), collate_at_once, SETTINGS, None, 5)
    assert same(module, train()[0])


def test_no_global_random_state_is_left_changed():
    def states():
        legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return random.getstate(), legacy, torch.get_rng_state().tolist()

    before = states()
    train(validate=error)
    assert states() == before


def test_the_best_epoch_is_put_back_and_patience_ends_the_training():
    states, values = [], [1.0, 3.0, 2.0, 3.0, 2.5, 9.0]

    def measure(module):
        assert not module.training and not torch.is_grad_enabled()
        states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        return values[len(states) - 1]

    module, fit = train(validate=measure, patience=3)
    assert (fit.epochs, fit.values, fit.best_epoch) == (5, (1.0, 3.0, 2.0, 3.0, 2.5), 2)
    assert all(torch.equal(module.state_dict()[name], states[1][name]) for name in states[1])
    assert not torch.equal(states[4]["map.weight"], states[1]["map.weight"])


def test_measuring_changes_nothing_but_the_choice():
    assert same(train(validate=error, settings=SETTINGS | {"learning_rate": 0.001})[0],
                train(settings=SETTINGS | {"learning_rate": 0.001})[0])  # fmt: skip


@pytest.mark.parametrize(("step", "measured"), [(5, False), (14, True), (20, True)])
def test_a_training_cut_off_and_resumed_ends_as_one_that_was_not(tmp_path, step, measured):
    # An epoch has five steps, and its measurement comes after its last checkpoint.
    # The aim is met at the second epoch, so that what was best before the cut must be remembered.
    def measure(module):
        return -abs(error(module) + 24.8)

    settings = SETTINGS | {"save_steps": 1, "save_total_limit": 40}
    whole, fit = train(validate=measure, patience=3, settings=settings | {"save_strategy": "no"})
    train(validate=measure, patience=3, settings=settings, folder=tmp_path / "cut")
    cut(tmp_path / "cut", step)
    if not measured:
        (tmp_path / "cut" / "best.pt").unlink()
    assert newest_complete(tmp_path / "cut").name == f"checkpoint-{step}"
    resumed, again = train(validate=measure, patience=3, settings=settings, folder=tmp_path / "cut")
    assert same(whole, resumed)
    assert again == fit
    assert 1 < fit.best_epoch < fit.epochs


def test_a_finished_training_is_not_gone_on_with(tmp_path):
    steps = []

    def measure(module):
        steps.append(1)
        return -float(len(steps))

    module, fit = train(validate=measure, patience=2, folder=tmp_path)
    assert (fit.epochs, fit.best_epoch) == (3, 1)
    again, same_fit = train(validate=measure, patience=2, folder=tmp_path)
    assert same(module, again) and same_fit.best_epoch == 1


def test_it_waits_for_no_other_process(monkeypatch):
    launched = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost",
                "ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": "bf16"}  # fmt: skip
    alone, _ = train()
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert same(alone, train()[0])
    assert {name: os.environ[name] for name in launched} == launched


def test_what_is_no_number_ends_the_training():
    with pytest.raises(RecinjectError, match=r"validation gave nan after epoch 1.*\n.*lower"):
        train(validate=lambda module: float("nan"))


def test_settings_are_checked_like_a_recipes():
    with pytest.raises(RecinjectError, match="did you mean 'learning_rate'"):
        train(settings={"lerning_rate": 1})


def test_the_projects_optimizers_serve_modules_too():
    # A step of at most a hundredth of each weight: what a large rate would undo stays put.
    module, _ = train(
        optimizer="clippy_adam",
        optimizer_settings={"lam_rel": 0.01, "lam_abs": 0.0},
        settings=SETTINGS | {"learning_rate": 10.0, "max_steps": 1},
    )
    before, after = Line().map.weight, module.map.weight
    moved = ((after - before) / before).abs().detach()
    assert 0 < moved.max() <= 0.01 + 1e-6


def test_each_epoch_has_an_order_of_its_own():
    def order(seed, epoch):
        return list(Shuffle(50, seed, lambda: epoch))

    assert sorted(order(1, 0)) == list(range(50))
    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1) != order(2, 1)
