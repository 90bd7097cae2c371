"""The token columns that training reads, with an account of everything that was cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recinject.foundation.ragged import Ragged, one_below_another
from recinject.samples.encoding import Dialect, Tokens
from recinject.samples.tokenizer import UNKNOWN

_WIDEST_SHORT = 1 << 16


@dataclass(frozen=True)
class TokenFacts:
    """What tokenisation did to the samples of one task and split.

    Attributes:
        prompt_tokens: how many tokens their prompts have together.
        max_prompt_tokens: the longest prompt, before anything was cut.
        truncated: how many prompts or completions were longer than allowed, and cut.
        unknown_tokens: how many tokens the vocabulary could not spell.
    """

    samples: int
    prompt_tokens: int
    max_prompt_tokens: int
    truncated: int
    unknown_tokens: int

    @classmethod
    def total(cls, facts: Sequence[TokenFacts]) -> TokenFacts:
        """Add up the facts of several shards."""
        return cls(
            samples=sum(fact.samples for fact in facts),
            prompt_tokens=sum(fact.prompt_tokens for fact in facts),
            max_prompt_tokens=max(fact.max_prompt_tokens for fact in facts),
            truncated=sum(fact.truncated for fact in facts),
            unknown_tokens=sum(fact.unknown_tokens for fact in facts),
        )


def token_table(
    batches: Sequence[Tokens], dialect: Dialect, limits: tuple[int, int]
) -> tuple[pa.Table, TokenFacts]:
    """Turn tokens into the columns that training reads.

    These are ``input_ids`` (the prompt), ``labels`` (the completion), ``length`` (the tokens that
    one forward pass reads at most: the prompt's, for a causal model the completion's too) and,
    where samples ask for ratings, ``rating``. A prompt or completion beyond its limit is cut
    before its last token, the end marker.
    """
    empty = Ragged.from_rows([])
    prompts = one_below_another([empty, *(batch.prompts for batch in batches)])
    completions = one_below_another([empty, *(batch.completions for batch in batches)])
    unknown = dialect.tokenizer.token_to_id(UNKNOWN)
    sides = list(zip((prompts, completions), limits, strict=True))
    facts = TokenFacts(
        samples=len(prompts),
        prompt_tokens=len(prompts.values),
        max_prompt_tokens=int(prompts.lengths.max(initial=0)),
        truncated=sum(int((side.lengths > most).sum()) for side, most in sides),
        unknown_tokens=sum(int((side.values == unknown).sum()) for side, _ in sides),
    )
    inputs, labels = (_cut(side, most) for side, most in sides)
    kind = np.uint16 if dialect.tokenizer.get_vocab_size() <= _WIDEST_SHORT else np.int32
    lengths = inputs.lengths + (labels.lengths if dialect.causal else 0)
    columns = {
        "input_ids": _lists(inputs, kind),
        "labels": _lists(labels, kind),
        "length": pa.array(lengths, pa.int32()),
    }
    ratings = [batch.ratings for batch in batches if batch.ratings is not None]
    if ratings:
        columns["rating"] = pa.array(np.concatenate(ratings), pa.float64())
    return pa.table(columns), facts


def _cut(rows: Ragged, most: int) -> Ragged:
    if not (rows.lengths > most).any():
        return rows
    return rows.keep((rows.places < most - 1) | (rows.edges % 2 == 1))


def _lists(rows: Ragged, kind: type[np.generic]) -> pa.ListArray:
    values = pa.array(rows.values.astype(kind))
    return pa.ListArray.from_arrays(pa.array(rows.offsets, pa.int32()), values)
