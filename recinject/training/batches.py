"""Which samples share a batch, and how they become tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerFast
from transformers.trainer_pt_utils import get_length_grouped_indices

from recinject.foundation.randomness import derive_rng

_COLUMNS = ("input_ids", "labels")
_PAD_MULTIPLE = 8


class LengthBuckets(Sampler[int]):
    """Goes through all samples so that those of one batch are of like length.

    The order is a function of seed and epoch alone, so that a resumed run goes on where it was
    cut off; transformers' own sampler draws from the global random state.

    Args:
        lengths: the samples' lengths in tokens.
        batch_size: how many samples one optimizer step reads, over all devices.
        seed: of the order.
        epoch: tells the present epoch. It is asked, because after a resume with several
            processes nobody calls a sampler's ``set_epoch``.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        chance = derive_rng(self._seed, "batches", self._epoch())
        generator = torch.Generator().manual_seed(int(chance.integers(2**62)))
        indices = get_length_grouped_indices(self._lengths, self._batch_size, generator=generator)
        return iter(indices)


def make_collator(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> SampleCollator:
    """Return what pads samples into tensors, the decoder's inputs among them.

    With the decoder's inputs in the batch, the labels can be taken out before the forward pass:
    the loss is then ours to normalise.
    """
    padding = _PAD_MULTIPLE if torch.cuda.is_available() else None
    return SampleCollator(tokenizer, model=model, pad_to_multiple_of=padding)


class SampleCollator(DataCollatorForSeq2Seq):  # type: ignore[misc]  # transformers is untyped here
    """Pads the columns that the model reads and leaves the others out."""

    def __call__(
        self, features: Sequence[Mapping[str, Any]], return_tensors: str | None = None
    ) -> Mapping[str, torch.Tensor]:
        """Collate samples: see ``transformers.DataCollatorForSeq2Seq``."""
        kept = [{name: feature[name] for name in _COLUMNS} for feature in features]
        batch: Mapping[str, torch.Tensor] = super().__call__(kept, return_tensors)
        return batch
