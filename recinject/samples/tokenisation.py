"""From stored samples to token columns, with an account of everything that was cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset
from tokenizers import Tokenizer

from recinject.data.schema import Integers

_AT_ONCE = 10_000


@dataclass(frozen=True)
class TokenFacts:
    """What tokenisation did to the samples of one task and split.

    Attributes:
        samples: how many there are.
        mean_prompt_tokens: mean length of a prompt.
        max_prompt_tokens: the longest prompt, before anything was cut.
        truncated: how many prompts or completions were longer than allowed, and cut.
        unknown_tokens: how many tokens the vocabulary could not spell.
    """

    samples: int
    mean_prompt_tokens: float
    max_prompt_tokens: int
    truncated: int
    unknown_tokens: int


def tokenise(
    samples: pa.Table, tokenizer: Tokenizer, max_prompt_tokens: int, max_completion_tokens: int
) -> tuple[Dataset, TokenFacts]:
    """Turn samples into the columns ``input_ids``, ``labels`` and ``length``.

    Args:
        samples: rows of the sample schema.
        tokenizer: it appends the end marker itself.
        max_prompt_tokens: longest prompt, end marker included; what is longer is cut.
        max_completion_tokens: the same for completions.
    """
    prompts, prompt_facts = _encode(samples["prompt"], tokenizer, max_prompt_tokens)
    completions, completion_facts = _encode(samples["completion"], tokenizer, max_completion_tokens)
    table = pa.table(
        {
            "input_ids": prompts,
            "labels": completions,
            "length": pa.compute.list_value_length(prompts),
        }
    )
    lengths = prompt_facts[0]
    return Dataset(table), TokenFacts(
        samples=len(samples),
        mean_prompt_tokens=float(lengths.mean()) if len(lengths) else 0.0,
        max_prompt_tokens=int(lengths.max(initial=0)),
        truncated=int(np.sum(lengths > max_prompt_tokens))
        + int(np.sum(completion_facts[0] > max_completion_tokens)),
        unknown_tokens=prompt_facts[1] + completion_facts[1],
    )


def _encode(
    texts: pa.ChunkedArray, tokenizer: Tokenizer, limit: int
) -> tuple[pa.ChunkedArray, tuple[Integers, int]]:
    unknown, end = (int(tokenizer.token_to_id(token) or 0) for token in ("<unk>", "</s>"))
    chunks, lengths, unknowns = [], [np.empty(0, np.int32)], 0
    for start in range(0, len(texts), _AT_ONCE):
        batch = texts.slice(start, _AT_ONCE).to_pylist()
        rows: list[list[int]] = [encoding.ids for encoding in tokenizer.encode_batch_fast(batch)]
        lengths.append(np.array([len(row) for row in rows], np.int32))
        rows = [row if len(row) <= limit else [*row[: limit - 1], end] for row in rows]
        unknowns += sum(row.count(unknown) for row in rows)
        chunks.append(pa.array(rows, pa.list_(pa.int32())))
    return pa.chunked_array(chunks, pa.list_(pa.int32())), (np.concatenate(lengths), unknowns)
