"""From pieces to tokens: what a model reads and writes, and the columns that training reads."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from itertools import product
from typing import NamedTuple
from unicodedata import category

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders

from recinject.data.schema import Floats
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged, one_below_another, side_by_side
from recinject.samples.tokenizer import END, UNKNOWN, encode
from recinject.templating.phrases import Kind, Pieces

_WORD = "x"
_BLANKS = re.compile(r"\s+")
_BLANK_WITHIN, _AFTER_WORD = re.compile("[^\\sĠ▁][ Ġ▁]"), re.compile("[^\\s\ufffd] ")
_AROUND = 4  # how many rows of a table stand around texts
_ENDS, _OTHER_BLANKS = {" ": 0, "": 1}, 2  # as Ragged.edges has them: 1 for a sample's last piece
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
        return self.without_end(rows) if self.causal else rows

    def completions(self, texts: Sequence[str]) -> Ragged:
        """Return the tokens of each completion, the end token included."""
        if not self.causal:
            return encode(self.tokenizer, texts, special=True)
        rows = _after_blank(self.tokenizer, texts)
        if rows is None:
            joined = next(text for text in texts if _after_blank(self.tokenizer, [text]) is None)
            raise RecinjectError(
                f"the tokenizer joins {_BEFORE!r} and {joined!r}, which follows it",
                hint="use a kind of identifier that begins with a letter, or another model",
            )
        ends = Ragged.from_rows([[] if self.end is None else [self.end]] * len(rows))
        return side_by_side([rows, ends])

    def without_end(self, rows: Ragged) -> Ragged:
        """Take the end token off the rows that end in it."""
        if self.end is None:
            return rows
        return rows.keep((rows.edges % 2 == 0) | (rows.values != self.end))

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

    ``table`` has the tokens of each piece after a blank, those of each piece at the start of a text
    where some differ, and those around prompts and completions; it is None where only whole texts
    can be encoded. ``ends`` says how each piece ends, see :func:`_ends`; it is None where the
    tokenizer reads all blanks alike.
    """

    dialect: Dialect
    pieces: Pieces
    table: Ragged | None
    ends: Array | None = None

    @classmethod
    def make_all(
        cls, dialect: Dialect, pieces: Sequence[Pieces], splits_at_blanks: Sequence[bool]
    ) -> list[Encoder]:
        """Tokenise all pieces of several tasks, where that equals tokenising whole samples.

        It does if pieces end at blanks and the tokenizer joins nothing across a blank: T5's reads
        word by word, and byte-level ones read a word with the blank before it. This is tried on
        every word, on words of all kinds side by side, and on every run of blanks of any sample.
        """
        numbers: dict[str, int] = {}
        rows = [
            [[numbers.setdefault(w, len(numbers)) for w in text.split()] for text in own.texts]
            for own in pieces
        ]
        words, around = _read_words(dialect.tokenizer, list(numbers)), _around(dialect)
        # A prompt that ends in the end token would lose it.
        ended = dialect.causal and words is not None and dialect.end in words.values
        if words is None or around is None or ended:
            return [cls(dialect, own, None) for own in pieces]
        blanks = {run for own in pieces for text in own.texts for run in _BLANKS.findall(text)}
        begins = len(words) > len(numbers)
        alike = not begins and _reads_blanks_alike(dialect.tokenizer, blanks)
        return [
            cls(
                dialect,
                own,
                _table(words, begins, row, around) if splits else None,
                None if alike else _ends(own.texts),
            )
            for own, row, splits in zip(pieces, rows, splits_at_blanks, strict=True)
        ]

    def encode(self, samples: Ragged, *, completions: bool = False) -> Ragged:
        """Return the tokens of prompts, or of completions, given the numbers of their pieces."""
        whole = ~self.gathers(samples)
        if self.table is None or whole.all():
            return self._encode_whole(samples, completions)
        rows = self._rows(samples, completions)
        tokens = self.table.take(rows.values)
        found = Ragged(tokens.values, tokens.offsets[rows.offsets])
        if not whole.any():
            return found
        others = self._encode_whole(samples.take(np.flatnonzero(whole)), completions)
        places = np.where(whole, len(found) + np.cumsum(whole) - 1, np.arange(len(found)))
        return one_below_another([found, others]).take(places)

    def lengths(self, samples: Ragged, *, completions: bool = False) -> NDArray[np.int64]:
        """Return the number of tokens of each text, special ones included, shape (n,)."""
        if self.table is None or not self.gathers(samples).all():
            return self.encode(samples, completions=completions).lengths
        rows = self._rows(samples, completions)
        return rows.sums(self.table.lengths[rows.values])

    def gathers(self, samples: Ragged) -> NDArray[np.bool_]:
        """Say which samples have the tokens of their pieces, shape (n,)."""
        if self.table is None or self.ends is None:
            return np.full(len(samples), self.table is not None)
        return np.asarray(samples.sums(self.ends[samples.values] != samples.edges % 2) == 0)

    def _rows(self, samples: Ragged, completions: bool) -> Ragged:
        """Return the rows of the table that samples are put together from."""
        size, pieces = len(self.table or ()), len(self.pieces.texts)
        follows = completions and self.dialect.causal
        if size > pieces + _AROUND and not follows:
            samples = samples.of(samples.values + pieces * (samples.edges >= 2))
        first = size - _AROUND + 2 * completions
        before, after = (np.full(len(samples), first + n) for n in range(2))
        return side_by_side([Ragged.from_columns(before), samples, Ragged.from_columns(after)])

    def _encode_whole(self, samples: Ragged, completions: bool) -> Ragged:
        read = self.dialect.completions if completions else self.dialect.prompts
        return read(self.pieces.write(samples).to_pylist())

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
        texts, tokenizer = self.pieces.texts, self.dialect.tokenizer
        lengths, others = np.zeros(len(texts), np.int64), np.arange(len(texts))
        if self.table is not None:
            lengths = self.table.lengths[:-_AROUND].reshape(-1, len(texts)).max(0)
            others = others[:0] if self.ends is None else others[self.ends == _OTHER_BLANKS]
        wholes = [texts[number] for number in others]
        within = encode(tokenizer, [f" {text}" for text in wholes])
        lengths[others] = np.maximum(encode(tokenizer, wholes).lengths, within.lengths)
        return lengths


def _table(
    words: Ragged, begins: bool, rows: Sequence[Sequence[int]], around: Sequence[Array]
) -> Ragged:
    """Join the tokens of words to those of pieces, and add the tokens around a text.

    If ``begins``, the second half of the words are those at the start of a text.
    """
    pieces = Ragged.from_rows(rows)
    if begins:
        first = pieces.of(pieces.values + len(words) // 2 * (pieces.edges >= 2))
        pieces = one_below_another([pieces, first])
    tokens = words.take(pieces.values)
    joined = Ragged(tokens.values, tokens.offsets[pieces.offsets])
    return one_below_another([joined, Ragged.from_rows(around)])


def _around(dialect: Dialect) -> list[Array] | None:
    """Return the tokens before and after every prompt, then before and after every completion.

    There are none if they depend on the text.
    """
    whole = dialect.prompts([_WORD]).values
    bare = encode(dialect.tokenizer, [_WORD]).values
    for start in range(len(whole) - len(bare) + 1):
        rest = start + len(bare)
        if np.array_equal(whole[start:rest], bare):
            ends = np.array([] if dialect.end is None else [dialect.end], np.int32)
            prompt = [whole[:start], whole[rest:]]
            return prompt + ([ends[:0], ends] if dialect.causal else prompt)
    return None


def _after_blank(tokenizer: Tokenizer, texts: Sequence[str]) -> Ragged | None:
    """Return the tokens of texts after another and a blank; None if these are joined to some."""
    before = encode(tokenizer, [_BEFORE]).values
    rows = encode(tokenizer, [f"{_BEFORE} {text}" for text in texts])
    if not np.array_equal(rows.first(len(before)).values, np.tile(before, len(rows))):
        return None
    return rows.keep(rows.places >= len(before))


def _read_words(tokenizer: Tokenizer, words: Sequence[str]) -> Ragged | None:
    """Return the tokens of words after a blank, then those at the start of a text if some differ.

    Returns None if texts may have other tokens than their words: where words are joined, or depend
    on their neighbours, which is tried on every word and on pairs of all kinds of them.
    """
    later, other = _after_blank(tokenizer, words), _after_blank(tokenizer, [_WORD])
    if later is None or other is None or _spans_blanks(tokenizer):
        return None
    first, before = encode(tokenizer, words), encode(tokenizer, [_BEFORE])
    same = first.to_list() == later.to_list()
    lasts, firsts = ({_sort_of(word[end]): n for n, word in enumerate(words)} for end in (-1, 0))
    left, right = np.array([*product(lasts.values(), firsts.values())], int).reshape(-1, 2).T
    pairs = [f"{_BEFORE} {words[u]} {words[v]} {_WORD}" for u, v in zip(left, right, strict=True)]
    sound = (
        _have(tokenizer, [f"{_BEFORE} {word} {_WORD}" for word in words], before, later, other)
        and _have(tokenizer, pairs, before, later.take(left), later.take(right), other)
        and (same or _have(tokenizer, [f"{word} {_WORD}" for word in words], first, other))
    )
    return (later if same else one_below_another([later, first])) if sound else None


def _have(tokenizer: Tokenizer, texts: Sequence[str], *parts: Ragged) -> bool:
    """Whether texts have the tokens of their parts; a part of one row belongs to every text."""
    each = np.zeros(len(texts), np.int64)
    rows = side_by_side([part.take(each) if len(part) == 1 else part for part in parts])
    found = encode(tokenizer, texts)
    same = np.array_equal(found.offsets, rows.offsets)
    return same and np.array_equal(found.values, rows.values)


def _sort_of(character: str) -> str:
    """Name what a tokenizer may tell characters apart by: marks of ASCII each for itself."""
    return character if character in string.punctuation else category(character)


def _spans_blanks(tokenizer: Tokenizer) -> bool:
    """Whether a token has a blank after something else, and may so belong to two words."""
    decode = decoders.ByteLevel().decode
    suspects = (token for token in tokenizer.get_vocab() if _BLANK_WITHIN.search(token))
    # Where tokens are bytes, other white space is written in several letters, too.
    return any(_AFTER_WORD.search(decode([token]).replace("▁", " ")) for token in suspects)


def _reads_blanks_alike(tokenizer: Tokenizer, runs: Iterable[str]) -> bool:
    """Whether any blanks between words are read as one, and none around a text."""
    between = encode(tokenizer, [f"{_WORD}{run}{_WORD}" for run in (" ", "  ", *runs)]).to_list()
    beside = encode(tokenizer, [_WORD, f" {_WORD}", f"{_WORD} "]).to_list()
    return all(row == rows[0] for rows in (between, beside) for row in rows)


def _ends(texts: Sequence[str]) -> Array:
    """Say of each piece that it ends in a word, or in a blank, or has other blanks or no words."""
    plain = (" ".join(text.split()) for text in texts)
    found = (
        _ENDS.get(text.removeprefix(words), _OTHER_BLANKS) if words else _OTHER_BLANKS
        for text, words in zip(texts, plain, strict=True)
    )
    return np.fromiter(found, np.int8, len(texts))


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
