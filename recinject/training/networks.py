"""Training of every network that is no language model: one plain loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import torch
from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import track
from recinject.foundation.randomness import derive_rng
from recinject.training.optimizers import build_optimizer

Network = TypeVar("Network", bound=nn.Module)
Tensors: TypeAlias = dict[str, Tensor]
Rate: TypeAlias = Annotated[float, Field(gt=0)]
Weight: TypeAlias = Annotated[float, Field(ge=0)]
Dropout: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
}
"""The learning rate as a fraction of the first one, of the fraction of the steps taken."""


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FitSettings:
    """How to train a network.

    Attributes:
        learning_rate: of the first step.
        batch_size: rows a step.
        epochs: how often all rows are gone through, at most.
        steps: how many steps are taken, whatever ``epochs`` says.
        schedule: how the learning rate goes on, see :data:`SCHEDULES`.
        weight_decay: of matrices; vectors, such as biases, do not decay.
        max_grad_norm: the norm that gradients are clipped to; 0 leaves them as they are.
        optimizer: ``adamw``, or a name in the registry.
        optimizer_settings: arguments of the optimizer's class.
        patience: after how many epochs without gain training ends; None goes through all.
        device: ``cpu``, where a fit can be repeated to the bit, or ``auto``: a GPU if there is one.
    """

    learning_rate: Weight
    batch_size: PositiveInt
    epochs: PositiveInt = 1
    steps: PositiveInt | None = None
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: Weight = 0.0
    max_grad_norm: Weight = 0.0
    optimizer: str = "adamw"
    optimizer_settings: dict[str, Any] = field(default_factory=dict)
    patience: PositiveInt | None = None
    device: Literal["cpu", "auto"] = "cpu"

    @classmethod
    def of(cls, recommender: object, **others: Any) -> FitSettings:
        """Take the settings that a recommender has under the same names, and some others."""
        names = cls.__dataclass_fields__.keys() & vars(recommender).keys()
        return cls(**{name: getattr(recommender, name) for name in names} | others)


@dataclass(frozen=True)
class TrainingHistory:
    """How a training went."""

    epochs: int  # how many it took, those after the best one among them
    values: tuple[float, ...]  # what ``validate`` returned after each of them
    best_epoch: int  # the one whose weights were kept, from 1; the last where nothing was measured


class TensorRows(Dataset[Tensors]):
    """Rows of columns of equal length; a batch is fetched at once, and ``dict`` collates it."""

    def __init__(self, columns: Tensors) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitems__(self, rows: Sequence[int]) -> Tensors:
        index = torch.as_tensor(rows)
        return {name: column[index] for name, column in self.columns.items()}


def fit_network(
    network: Network,
    rows: Any,
    collate: Callable[[Any], Mapping[str, Tensor]],
    settings: FitSettings,
    seed: int,
    validate: Callable[[Network], float] | None = None,
) -> TrainingHistory:
    """Train a network in place.

    On a CPU the same call gives the same weights if ``forward`` draws from torch's global random
    state alone, which is left as it was.

    Args:
        network: ``forward(**batch)`` returns a mapping with ``loss``, a mean over the batch.
        rows: at least one, in a sequence or a dataset with a length; its ``__getitems__`` may
            fetch a batch at once.
        collate: turns fetched rows into the arguments of ``forward``.
        settings: how to train.
        seed: of the batches' order and of what ``forward`` draws.
        validate: measures the network after each epoch, the higher the better; the network ends
            with the weights of its best epoch.

    Raises:
        RecinjectError: the training diverges, or the optimizer or its settings are wrong.
    """
    values: list[float] = []
    best, epoch = dict[str, Tensor](), 0
    device = "cuda" if settings.device == "auto" and torch.cuda.is_available() else "cpu"
    total = settings.steps or settings.epochs * math.ceil(len(rows) / settings.batch_size)
    with global_chance(seed):
        optimizer = _make_optimizer(network.to(device), settings)
        schedule = LambdaLR(optimizer, lambda step: SCHEDULES[settings.schedule](step / total))
        batches = _batches(rows, collate, settings.batch_size, total, seed)
        for batch, ends_epoch in track(batches, f"Fitting {type(network).__name__}", total):
            inputs = {name: column.to(device) for name, column in batch.items()}
            loss = network.train()(**inputs)["loss"]
            _refuse_divergence(float(loss.detach()), "the loss became", epoch)
            optimizer.zero_grad()
            loss.backward()
            if settings.max_grad_norm:
                nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            epoch += ends_epoch
            if not ends_epoch or validate is None:
                continue
            with torch.no_grad():
                values.append(validate(network.eval()))
            _refuse_divergence(values[-1], "validation gave", epoch)
            if values[-1] > max(values[:-1], default=-math.inf):
                best = {name: each.detach().clone() for name, each in network.state_dict().items()}
            if settings.patience and epoch - 1 - values.index(max(values)) >= settings.patience:
                break
    if not values:
        return TrainingHistory(epoch, (), epoch)
    network.load_state_dict(best)
    return TrainingHistory(epoch, tuple(values), 1 + values.index(max(values)))


@contextmanager
def global_chance(seed: int) -> Iterator[None]:
    """Seed torch's global random state within the block, and leave it as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _batches(
    rows: Any, collate: Callable[[Any], Mapping[str, Tensor]], size: int, total: int, seed: int
) -> Iterator[tuple[Mapping[str, Tensor], bool]]:
    """Yield the batch of each step, and whether its epoch ends with it."""
    step = 0
    for epoch in count() if total else ():
        order = derive_rng(seed, "batches", epoch).permutation(len(rows)).tolist()
        loader = DataLoader(rows, size, sampler=order, collate_fn=collate)
        for left, batch in zip(range(len(loader))[::-1], loader, strict=True):
            step += 1
            yield batch, left == 0 or step == total
            if step == total:
                return


def _make_optimizer(network: nn.Module, settings: FitSettings) -> Optimizer:
    rate, decay, own = settings.learning_rate, settings.weight_decay, settings.optimizer_settings
    if settings.optimizer != "adamw":
        return build_optimizer(network, settings.optimizer, rate, own, decay)
    vectors = [each for each in network.parameters() if each.dim() < 2]
    matrices = [each for each in network.parameters() if each.dim() >= 2]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": decay}]
    groups += [{"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, rate, fused=True, **own)


def _refuse_divergence(value: float, what: str, epoch: int) -> None:
    if not math.isfinite(value):
        raise RecinjectError(
            f"training: {what} {value} after {epoch} epochs",
            hint="the weights diverged: lower the learning rate",
        )
