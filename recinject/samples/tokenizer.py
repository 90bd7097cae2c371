"""Tokenizers: loaded from a file or the hub, or learnt from the texts with T5's conventions."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))
_FILE = "tokenizer.json"
_HUB_SECONDS = 5.0
_AT_ONCE = 10_000


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a tokenizer with T5's conventions: the same texts give the same tokenizer.

    Byte-pair encoding, because training a Unigram model is not reproducible. White space splits
    first, so tokens(a + " " + b) = tokens(a) + tokens(b). ``<pad>`` is 0, ``</s>`` 1 and
    ``<unk>`` 2; the hundred sentinels come last; ASCII can always be spelled.

    Raises:
        RecinjectError: ``vocab_size`` leaves no room beside the special tokens.
    """
    room = vocab_size - len(SENTINELS)
    if room <= 3 + len(string.printable):
        raise RecinjectError(
            f"model.vocab_size: {vocab_size} tokens leave no room for pieces of words",
            hint="set it to 1000 or more; 8000 suits a catalogue of ten thousand titles",
        )
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=room,
        min_frequency=1,
        show_progress=False,
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=list(string.ascii_letters + string.digits + string.punctuation),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in SENTINELS]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return tokenizer


def add_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> None:
    """Make a tokenizer read each text as one token; new ones go to the end of its vocabulary."""
    # A blank before such a token would be a token of its own to some tokenizers.
    tokenizer.add_tokens([AddedToken(text, normalized=False, lstrip=True) for text in texts])


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Load a tokenizer from a ``tokenizer.json``, a folder that has one, or by name from the hub.

    Raises:
        RecinjectError: there is no such file, and the hub cannot be reached or has no such name.
    """
    path = Path(source)
    if not path.exists():
        path = local_copy(str(source), [_FILE])
    file = path / _FILE if path.is_dir() else path
    if not file.is_file():
        raise RecinjectError(
            f"{path}: no {_FILE}",
            hint="save it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained()",
        )
    return unpadded(Tokenizer.from_file(str(file)))


def unpadded(tokenizer: Tokenizer) -> Tokenizer:
    """Switch off the padding and truncation that a tokenizer was saved with, and return it."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str], *, special: bool = False) -> Ragged:
    """Return the tokens of each text; with ``special`` also those put around a text."""
    parts = [np.empty(0, np.int32)]
    lengths: list[int] = []
    # In parts: the library's objects take far more memory than the numbers in them.
    for start in range(0, len(texts), _AT_ONCE):
        batch = list(texts[start : start + _AT_ONCE])
        rows = [e.ids for e in tokenizer.encode_batch_fast(batch, add_special_tokens=special)]
        lengths += map(len, rows)
        parts.append(np.fromiter(chain.from_iterable(rows), np.int32))
    return Ragged.from_lengths(np.concatenate(parts), np.array(lengths, np.int64))


def local_copy(name: str, patterns: Sequence[str]) -> Path:
    """Return the folder of a hub repository's files, which are fetched if they are not here yet.

    Files that were fetched before are taken as they are: the hub is not asked for newer ones.

    Raises:
        RecinjectError: the files are not here and the hub cannot be reached or knows no such name.
    """
    # A tenth of a second to import, and most runs ask no hub.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = list(patterns)
    try:
        with suppress(LocalEntryNotFoundError):  # never fetched: ask the hub
            folder = Path(snapshot_download(name, allow_patterns=wanted, local_files_only=True))
            if any(file for pattern in wanted for file in folder.glob(pattern)):
                return folder
        return Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=_HUB_SECONDS))
    except Exception as error:  # the HTTP client behind the hub raises errors of its own, too
        fact = "not on this machine, and the hub cannot be reached"
        if isinstance(error, HFValidationError):
            fact = "no such file or folder, and no name that a hub has"
        elif isinstance(error, HfHubHTTPError):
            fact = f"the hub refuses it ({error.response.status_code})"
        raise RecinjectError(
            f"{name}: {fact}",
            hint="download it once with a network, give a local folder, or set model.config to "
            "build a small model whose tokenizer is learnt from the catalogue",
        ) from error
