"""From pieces to tokens: what a model reads and writes, and the columns that training reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from recinject.data.schema import Floats
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged, one_below_another, side_by_side
from recinject.samples.tokenizer import END, UNKNOWN, encode
from recinject.templating.phrases import Kind, Pieces

_WORD = "x"
_BLANKS = re.compile(r"\s+")
# A causal model's completion is tokenised as if it followed ". ", so that its first token carries
# the leading blank; this prefix is then stripped.
_BEFORE = "."


class Tokens(NamedTuple):
    """The tokens of n samples, and the rating that each asks for, if any, shape (n,)."""

    prompts: Ragged
    completions: Ragged
    ratings: Floats | None = None


@dataclass(frozen=True, eq=False)
class Dialect:
    """How a kind of model reads prompts and writes completions, in tokens.

    An encoder-decoder model's prompts and completions are texts with the tokens that the tokenizer
    puts around every text. A causal model reads a prompt without the end token and continues it
    with the tokens that the completion has after ". ", and the end token.
    """

    tokenizer: Tokenizer
    causal: bool = False
    end: int | None = None  # the model's end token, if it has one

    @classmethod
    def of_model(
        cls, tokenizer: Tokenizer, causal: bool, ends: int | Sequence[int] | None
    ) -> Dialect:
        """Make the dialect of a model from its config.

        Of several ``ends`` the first is written; if the config names none, it is T5's end token,
        where the tokenizer has it.
        """
        named = [ends] if isinstance(ends, int) else list(ends or ())
        return cls(tokenizer, causal, named[0] if named else tokenizer.token_to_id(END))

    def prompts(self, texts: Sequence[str]) -> Ragged:
        """Return the tokens of each whole prompt."""
        rows = encode(self.tokenizer, texts, special=True)
        if not self.causal or self.end is None:
            return rows
        return rows.keep((rows.edges % 2 == 0) | (rows.values != self.end))

    def completions(self, texts: Sequence[str]) -> Ragged:
        """Return the tokens of each completion, the end token included."""
        if not self.causal:
            return encode(self.tokenizer, texts, special=True)
        before = encode(self.tokenizer, [_BEFORE]).values
        rows = encode(self.tokenizer, [f"{_BEFORE} {text}" for text in texts])
        if not np.array_equal(rows.first(len(before)).values, np.tile(before, len(rows))):
            found = zip(texts, rows.to_list(), strict=True)
            joined = next(text for text, ids in found if ids[: len(before)] != before.tolist())
            raise RecinjectError(
                f"the tokenizer joins {_BEFORE!r} and {joined!r}, which follows it",
                hint="use a kind of identifier that begins with a letter, or another model",
            )
        ends = Ragged.from_rows([[] if self.end is None else [self.end]] * len(rows))
        return side_by_side([rows.keep(rows.places >= len(before)), ends])

    def without_end(self, completions: Ragged) -> Ragged:
        """Take the end token off completions."""
        if self.end is None:
            return completions
        is_end = (completions.edges % 2 == 1) & (completions.values == self.end)
        return completions.keep(~is_end)

    def item_tokens(self, texts: Sequence[str]) -> Ragged | None:
        """Return the one token that each text is, where each is one that was added; else None.

        Such items tell themselves apart without an end token.
        """
        rows = self.without_end(self.completions(texts))
        added = np.fromiter(self.tokenizer.get_added_tokens_decoder(), np.int64)
        return rows if (rows.lengths == 1).all() and np.isin(rows.values, added).all() else None


@dataclass(frozen=True, eq=False)
class Encoder:
    """Gives samples exactly the tokens that a dialect gives their text.

    ``table`` has the tokens of each piece, then those that the tokenizer puts before a text and
    after it; it is None where only the whole text can be encoded.
    """

    dialect: Dialect
    pieces: Pieces
    table: Ragged | None

    @classmethod
    def make_all(
        cls, dialect: Dialect, pieces: Sequence[Pieces], splits_at_blanks: Sequence[bool]
    ) -> list[Encoder]:
        """Tokenise all pieces of several tasks, where that equals tokenising whole samples.

        It does if pieces end at blanks and the tokenizer reads word by word, as T5's does; this is
        tried on every word and every run of blanks of any sample. Samples for causal models are
        always tokenised whole.
        """
        tokenizer = dialect.tokenizer
        if dialect.causal:
            return [cls(dialect, own, None) for own in pieces]
        numbers: dict[str, int] = {}
        rows = [
            [[numbers.setdefault(w, len(numbers)) for w in text.split()] for text in own.texts]
            for own in pieces
        ]
        words, frame = encode(tokenizer, list(numbers)), _frame(tokenizer)
        blanks = {run for own in pieces for text in own.texts for run in _BLANKS.findall(text)}
        runs = encode(tokenizer, [f"{_WORD}{run}{_WORD}" for run in (" ", *blanks)]).to_list()
        by_word = _reads_word_by_word(tokenizer, list(numbers), words)
        if frame is None or not by_word or any(run != runs[0] for run in runs):
            return [cls(dialect, own, None) for own in pieces]
        return [
            cls(dialect, own, _table(words, row, frame) if splits else None)
            for own, row, splits in zip(pieces, rows, splits_at_blanks, strict=True)
        ]

    def encode(self, samples: Ragged, *, completions: bool = False) -> Ragged:
        """Return the tokens of prompts, or of completions, given the numbers of their pieces."""
        if self.table is None:
            read = self.dialect.completions if completions else self.dialect.prompts
            return read(self.pieces.write(samples).to_pylist())
        frame = (np.full(len(samples), len(self.table) - n) for n in (2, 1))
        before, after = map(Ragged.from_columns, frame)
        rows = side_by_side([before, samples, after])
        tokens = self.table.take(rows.values)
        return Ragged(tokens.values, tokens.offsets[rows.offsets])

    def most_tokens(self, kind: Kind) -> NDArray[np.int64]:
        """Return the most tokens of each text of a kind with what stands around it, shape (texts,).

        They are 0 if no sample writes the kind.
        """
        size = self.pieces.size(kind)
        starts = [start for (own, *_), start in self.pieces.starts.items() if own == kind]
        blocks = [self._piece_lengths[start : start + size] for start in starts]
        return np.max(blocks, axis=0) if blocks else np.zeros(size, np.int64)

    @cached_property
    def _piece_lengths(self) -> NDArray[np.int64]:
        if self.table is not None:
            return self.table.lengths[:-2]
        tokenizer, texts = self.dialect.tokenizer, self.pieces.texts
        within = encode(tokenizer, [f" {text}" for text in texts])
        return np.maximum(encode(tokenizer, texts).lengths, within.lengths)

    def lengths(self, samples: Ragged, *, completions: bool = False) -> NDArray[np.int64]:
        """Return the number of tokens of each text, special ones included, shape (n,)."""
        if self.table is None:
            return self.encode(samples, completions=completions).lengths
        counts = self.table.lengths
        return samples.sums(counts[samples.values]) + int(counts[-2:].sum())


def _table(words: Ragged, rows: Sequence[Sequence[int]], frame: Sequence[Array]) -> Ragged:
    """Join the tokens of words to those of pieces, and add the tokens around a text."""
    pieces = Ragged.from_rows(rows)
    tokens = words.take(pieces.values)
    lengths = np.diff(tokens.offsets[pieces.offsets])
    values = np.concatenate([tokens.values, *frame])
    return Ragged.from_lengths(values, np.concatenate([lengths, [len(part) for part in frame]]))


def _frame(tokenizer: Tokenizer) -> tuple[Array, Array] | None:
    """Return the tokens before and after every text; None if they depend on the text."""
    whole = tokenizer.encode(_WORD).ids
    bare = tokenizer.encode(_WORD, add_special_tokens=False).ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return np.array(whole[:start], int), np.array(whole[start + len(bare) :], int)
    return None


def _reads_word_by_word(tokenizer: Tokenizer, words: Sequence[str], tokens: Ragged) -> bool:
    """Whether every word has the same tokens between two others as alone."""
    between = encode(tokenizer, [f"{_WORD} {word} {_WORD}" for word in words])
    other = encode(tokenizer, [_WORD]).take(np.zeros(len(words), np.int64))
    expected = side_by_side([other, tokens, other])
    same = np.array_equal(between.offsets, expected.offsets)
    return same and np.array_equal(between.values, expected.values)


@dataclass(frozen=True)
class TokenFacts:
    """Counts of the tokens of one task's samples in one split."""

    samples: int
    prompt_tokens: int  # of all prompts
    max_prompt_tokens: int  # the length of the longest prompt before cutting
    truncated: int  # prompts and completions that were cut to their limit
    unknown_tokens: int  # for text that the vocabulary cannot spell

    @classmethod
    def total(cls, facts: Sequence[TokenFacts]) -> TokenFacts:
        """Add up the facts of several shards."""
        sums = cls(*map(sum, zip(*map(astuple, facts), strict=True)))
        return replace(sums, max_prompt_tokens=max(fact.max_prompt_tokens for fact in facts))


def token_table(
    batches: Sequence[Tokens], dialect: Dialect, limits: tuple[int, int]
) -> tuple[pa.Table, TokenFacts]:
    """Turn tokens into the columns that training reads.

    These are ``input_ids`` (the prompt), ``labels`` (the completion), ``length`` (the number of
    tokens that a forward pass reads: of the prompt, for a causal model of both) and, where samples
    ask for ratings, ``rating``. A prompt or completion beyond its limit loses the tokens before its
    last one, the end token.
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
    kind = np.uint16 if dialect.tokenizer.get_vocab_size() <= 1 << 16 else np.int32
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
