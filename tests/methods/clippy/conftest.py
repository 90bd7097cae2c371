import pytest
import torch
from torch import nn

from recinject.models.building import build_model
from recinject.samples.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def make_model():
    tokenizer = train_tokenizer(["red blue green car doll brick"] * 9, 300)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return lambda: build_model({**sizes, "dropout_rate": 0.0}, tokenizer, seed=0)


@pytest.fixture(scope="session")
def tensors():
    shapes = ((7, 5), (5,), (), (3, 2, 4), (1, 1))

    def make(seed=0):
        rng = torch.Generator().manual_seed(seed)
        return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]

    return make


@pytest.fixture(scope="session")
def give_gradients():
    def give(parameters, seed):
        rng = torch.Generator().manual_seed(seed)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=rng)

    return give


@pytest.fixture(scope="session")
def steps(give_gradients):
    """Take steps of an optimizer at rates that rise; return copies of its tensors."""

    def take(optimizer, count=8, first=0):
        (group,) = optimizer.param_groups
        for number in range(first, first + count):
            give_gradients(group["params"], number)
            group["lr"] = 0.05 * (number + 1)  # as a schedule would
            optimizer.step()
        return [parameter.detach().clone() for parameter in group["params"]]

    return take
