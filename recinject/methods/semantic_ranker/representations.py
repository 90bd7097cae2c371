"""Items as rows of one table of embeddings: by a hash, or by n-grams of their semantic codes."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from recinject.data.schema import Integers
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Array, Ragged
from recinject.foundation.randomness import Bits, combine, derive_bits
from recinject.registry import pick

_FIRST_CHARACTER = 0xF0000  # of Unicode's planes for private use, which no text rule changes
# SentencePiece's trainer leaves the words as they are, and merges alike on any machine.
_SETTINGS: dict[str, Any] = {
    "input_format": "tsv",
    "model_type": "bpe",
    "normalization_rule_name": "identity",
    "character_coverage": 1.0,
    "add_dummy_prefix": False,
    "split_by_unicode_script": False,
    "split_by_number": False,
    "split_by_whitespace": False,
    "hard_vocab_limit": False,
    "bos_id": -1,
    "eos_id": -1,
    "num_threads": 1,
    "minloglevel": 2,
}


@dataclass(frozen=True, eq=False)
class CodedItems:
    """Items as representations read them."""

    codes: Integers  # coarse to fine, (items, levels)
    size: int  # how many codes a level has
    events: NDArray[np.integer[Any]]  # how many training events each item has, (items,)


def item_rows(kind: str, items: CodedItems, rows: int, seed: int) -> Ragged:
    """Give each item the rows of a table whose sum is its embedding (arXiv 2306.08121).

    If the table has a row for every possible n-gram, each has its own; otherwise a hash maps
    n-grams to rows.

    Args:
        kind: ``hashed_id`` (one row, by a hash of the item: the control), ``unigram`` (each code
            at its level), ``ngram`` (each pair of neighbouring codes), ``prefix_ngram`` (the first
            code, the first two, and so on, always hashed) or ``sentencepiece`` (runs of codes that
            are frequent in training, see :func:`learn_pieces`).
        items: ``hashed_id`` needs no codes.
        rows: of the table.
        seed: of the hash.

    Raises:
        RecinjectError: the kind is unknown, or the table's size does not fit it.
    """
    return REPRESENTATIONS[pick(kind, REPRESENTATIONS, "representation: unknown")](
        items, rows, seed
    )


def _hashed_id(items: CodedItems, rows: int, seed: int) -> Ragged:
    numbers = np.arange(len(items.codes))
    return Ragged.from_columns(_fold(combine(derive_bits(seed, "hashed_id"), numbers), rows))


def _ngram(items: CodedItems, rows: int, seed: int, order: int = 2) -> Ragged:
    order = min(order, items.codes.shape[1])
    windows = sliding_window_view(items.codes, order, axis=1).astype(np.int64)
    levels = windows.shape[1]
    if levels * items.size**order <= rows:
        weights = items.size ** np.arange(order)[::-1]
        return Ragged.from_columns(np.arange(levels) * items.size**order + windows @ weights)
    bits = np.full(windows.shape[:2], derive_bits(seed, "ngram", order), np.uint64)
    for numbers in (np.arange(levels)[None], *np.moveaxis(windows, 2, 0)):
        bits = combine(bits, numbers)
    return Ragged.from_columns(_fold(bits, rows))


def _prefix_ngram(items: CodedItems, rows: int, seed: int) -> Ragged:
    bits = np.full(len(items.codes), derive_bits(seed, "prefix_ngram"), np.uint64)
    columns = [bits := combine(bits, column) for column in items.codes.T]
    return Ragged.from_columns(_fold(np.stack(columns, axis=1), rows))


def _sentencepiece(items: CodedItems, rows: int, seed: int) -> Ragged:
    words = spell(items.codes, items.size)
    pieces = Ragged.from_rows(learn_pieces(items, rows).encode(words), np.int64)
    return pieces.of(pieces.values - 1)  # piece 0 is <unk>, which no item has


def _fold(bits: Bits, rows: int) -> Array:
    return (bits % np.uint64(rows)).astype(np.int64)


REPRESENTATIONS: dict[str, Callable[[CodedItems, int, int], Ragged]] = {
    "hashed_id": _hashed_id,
    "unigram": partial(_ngram, order=1),
    "ngram": _ngram,
    "prefix_ngram": _prefix_ngram,
    "sentencepiece": _sentencepiece,
}
"""Functions of the items, the table's size and a seed that return each item's rows."""


def spell(codes: Integers, size: int) -> list[str]:
    """Write each item's codes as a word, with a character for every code of every level."""
    numbers = np.arange(codes.shape[1]) * size + codes + _FIRST_CHARACTER
    return ["".join(map(chr, row)) for row in numbers.tolist()]


def learn_pieces(items: CodedItems, rows: int) -> Any:
    """Learn the most frequent runs of codes, each item counted once a training event.

    Returns:
        A ``SentencePieceProcessor`` for words of :func:`spell`: all single codes, and the byte-pair
        merges of SentencePiece's ``bpe``; piece 0 is ``<unk>``.

    Raises:
        RecinjectError: there are more single codes than rows, or runs for less than half of the
            other rows.
    """
    import sentencepiece  # no other representation needs it

    single = items.codes.shape[1] * items.size
    if rows < single:
        raise _wrong_size(f"{single} single codes", rows, f"at least {single}, or fewer codes")
    seen = items.events > 0
    words = zip(spell(items.codes[seen], items.size), items.events[seen].tolist(), strict=True)
    letters = [chr(_FIRST_CHARACTER + number) for number in range(single)]
    # Each letter is also a word of its own, as one that no item has would become no piece.
    lines = [f"{word}\t{count}" for word, count in (*words, *((letter, 1) for letter in letters))]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=rows + 1,
        required_chars="".join(letters),
        max_sentencepiece_length=max(2, items.codes.shape[1]),
        **_SETTINGS,
    )
    learned = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    found = learned.get_piece_size() - 1
    if 2 * (found - single) < rows - single:
        raise _wrong_size(f"{found} pieces of codes", rows, f"{found} or fewer")
    return learned


def _wrong_size(fact: str, rows: int, fix: str) -> RecinjectError:
    return RecinjectError(
        f"sentencepiece: there are {fact}, and the table has {rows} rows",
        hint=f"give it {fix}; or take prefix_ngram, which fits a table of any size",
    )
