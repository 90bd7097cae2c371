"""What a step of an optimizer goes through: tensors, rows of them, or pieces that fit a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# A piece of everything that a step needs fits the cache of a core; memory is then read once.
_PIECE = 65_536

Batch = tuple[list[Tensor], ...]  # weights, gradients, and then what the optimizer remembers


@dataclass(frozen=True)
class Entry:
    """What a step does to one tensor: all of it, or copies of the rows that have a gradient."""

    name: str
    weights: Tensor
    gradient: Tensor
    memory: list[Tensor]  # what the optimizer remembers of each weight
    steps: int  # how many there were, this one among them
    put_back: Callable[[], None] | None = None  # writes the rows where they were copied from

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that a step reads or writes."""
        return self.weights, self.gradient, *self.memory


def rows_of(
    name: str, weights: Tensor, gradient: Tensor, memory: list[Tensor], steps: int
) -> Entry:
    """Return copies of the rows for which a sparse gradient has values, each row once."""
    numbers, whole = gradient.indices()[0], (weights, *memory)
    parts = [tensor[numbers] for tensor in whole]

    def put_back() -> None:
        for tensor, part in zip(whole, parts, strict=True):
            tensor.index_copy_(0, numbers, part)

    return Entry(name, parts[0], gradient.values(), parts[1:], steps, put_back)


def works_in_pieces(tensor: Tensor) -> bool:
    """Whether a tensor is walked through in pieces: on the CPU, where that spares memory's time."""
    return tensor.is_cpu


def in_batches(entries: Iterable[Entry]) -> Iterator[tuple[list[Entry], list[Batch]]]:
    """Yield what is scaled together: a device's tensors at once, or one on the CPU in pieces."""
    by_device: dict[torch.device, list[Entry]] = {}
    for entry in entries:
        if works_in_pieces(entry.weights):
            yield [entry], [tuple([piece] for piece in row) for row in _pieces(entry.tensors)]
        else:
            by_device.setdefault(entry.weights.device, []).append(entry)
    for together in by_device.values():
        yield together, [tuple(map(list, zip(*(e.tensors for e in together), strict=True)))]


def _pieces(tensors: Sequence[Tensor]) -> Iterable[tuple[Tensor, ...]]:
    if not all(tensor.is_contiguous() for tensor in tensors):
        return [tuple(tensors)]
    size = _PIECE * torch.get_num_threads()
    return zip(*(torch.split(tensor.view(-1), size) for tensor in tensors), strict=True)
