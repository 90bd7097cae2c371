"""Which samples share a batch, and how they become tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast
from transformers.trainer_pt_utils import get_length_grouped_indices

from recinject.foundation.ragged import Ragged
from recinject.foundation.randomness import derive_rng
from recinject.models.adapters import RatingModel, without_wrapper
from recinject.samples.mixture import Phase, draw_phases
from recinject.training.networks import Tensors

Row: TypeAlias = Mapping[str, Any]

_COLUMNS = ("input_ids", "labels")
_BESIDE = ("task", "place")
_PAD_MULTIPLE = 8
_IGNORED = -100


class LengthBuckets(Sampler[int]):
    """Goes through all samples in an order that is a function of seed and epoch alone.

    A resumed run thus goes on where it was cut off. Samples of like length share a batch.

    Args:
        lengths: of the samples.
        batch_size: how many samples one optimizer step reads, over all devices.
        seed: of the order.
        epoch: returns the present epoch, as nobody calls ``set_epoch`` after a resume with several
            processes.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self._lengths, self._batch_size, self._seed, self._epoch = lengths, batch_size, seed, epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        chance = derive_rng(self._seed, "batches", self._epoch())
        return iter(order_by_length(self._lengths, self._batch_size, chance))


def order_by_length(
    lengths: Sequence[int], batch_size: int, chance: np.random.Generator
) -> list[int]:
    """Return a random order in which samples of like length share a batch."""
    generator = torch.Generator().manual_seed(int(chance.integers(2**62)))
    return list(get_length_grouped_indices(lengths, batch_size, generator=generator))


def order_by_phase(
    tasks: NDArray[np.int64],
    names: Sequence[str],
    lengths: NDArray[np.int64],
    phases: Sequence[Phase],
    steps: int,
    batch_size: int,
    seed: int,
) -> NDArray[np.int64]:
    """Order the samples of a whole training by phase, those of a batch of like length.

    The arguments are those of :func:`~recinject.samples.mixture.draw_phases`; ``lengths`` are the
    tokens of each sample's prompt. Returns indices of samples, shape (steps * batch_size,).
    """
    chosen = draw_phases(tasks, names, phases, steps, batch_size, seed)
    ordered = [
        rows[order_by_length(lengths[rows].tolist(), batch_size, derive_rng(seed, "phase", number))]
        for number, rows in enumerate(chosen)
        if len(rows)
    ]
    return np.concatenate(ordered)


def make_collator(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast
) -> Callable[[Sequence[Row]], Tensors]:
    """Return a function that pads samples into the model's tensors, and drops other columns.

    Each label stands at the position that predicts it: a causal model's labels are shifted here,
    and an encoder-decoder model gets its decoder's inputs.
    """
    multiple = _PAD_MULTIPLE if torch.cuda.is_available() else 1
    inner, padding = without_wrapper(model), tokenizer.pad_token_id or 0
    pad: Callable[[Sequence[Row]], Tensors]
    if isinstance(model, RatingModel):
        pad = partial(_with_ratings, padding=padding, multiple=multiple)
    elif inner.config.is_encoder_decoder:
        whole = DataCollatorForSeq2Seq(tokenizer, model=model, pad_to_multiple_of=multiple)
        pad = partial(_for_encoder_decoder, pad=whole)
    else:
        # Logits of a whole prompt are large, and nobody asks for them.
        trims = "logits_to_keep" in inspect.signature(inner.forward).parameters
        pad = partial(_for_causal, padding=padding, multiple=multiple, trims=trims)
    return partial(_collate, pad=pad)


def _collate(samples: Sequence[Row], *, pad: Callable[[Sequence[Row]], Tensors]) -> Tensors:
    batch = pad(samples)
    for name in _BESIDE:
        if name in samples[0]:
            # For the loss alone, which takes it out before the model is asked.
            batch[name] = torch.tensor([sample[name] for sample in samples])
    return batch


def _for_encoder_decoder(samples: Sequence[Row], *, pad: DataCollatorForSeq2Seq) -> Tensors:
    return dict(pad([{name: sample[name] for name in _COLUMNS} for sample in samples]))


def _for_causal(samples: Sequence[Row], *, padding: int, multiple: int, trims: bool) -> Tensors:
    wholes, labels = [], []
    for prompt, completion in ([sample[name] for name in _COLUMNS] for sample in samples):
        # The last token predicts nothing; the prompt's last one predicts the completion's first.
        wholes.append([*prompt, *completion][:-1])
        labels.append([*[_IGNORED] * (len(prompt) - 1), *completion])
    batch = _padded(wholes, padding, multiple)
    batch["labels"] = _grid(labels, _IGNORED, multiple)
    if trims:
        kept = (batch["labels"] != _IGNORED).any(0).nonzero()[:, 0]
        batch |= {"labels": batch["labels"][:, kept], "logits_to_keep": kept}
    return batch


def _with_ratings(samples: Sequence[Row], *, padding: int, multiple: int) -> Tensors:
    batch = _padded([sample["input_ids"] for sample in samples], padding, multiple)
    batch["labels"] = torch.tensor([sample["rating"] for sample in samples])
    return batch


def _padded(rows: Sequence[Sequence[int]], padding: int, multiple: int) -> Tensors:
    mask = _grid([[1] * len(row) for row in rows], 0, multiple)
    return {"input_ids": _grid(rows, padding, multiple), "attention_mask": mask}


def _grid(rows: Sequence[Sequence[int]], padding: int, multiple: int) -> torch.Tensor:
    """Stack rows, padded on the right to a multiple of a width."""
    return torch.from_numpy(Ragged.from_rows(rows, np.int64).to_grid(padding, multiple=multiple))
