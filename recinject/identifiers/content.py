"""Items as vectors: what their texts say, or what a file of the user's own does."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recinject.data.schema import Catalog, Flags
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import track
from recinject.foundation.randomness import derive_rng
from recinject.foundation.storage import UNREADABLE_ARRAYS, hash_files, hash_value
from recinject.registry import pick

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]
TFIDF = "tfidf"
COLUMNS = ("title", "brand", "category", "categories", "description")
"""The columns of an item table whose words are its content, if no others are named."""
FILES = (".npy", ".parquet")
_PLACE = "identifiers.content"
_AT_ONCE = 512
_TEXTS_AT_ONCE, _LEARNT_AT_MOST = 50_000, 1_000_000  # what bounds the memory of large catalogues
_NO_LENGTH = 1e-3
_LEAST = 1e-6


def item_texts(catalog: Catalog, columns: Sequence[str] | None = None) -> list[str]:
    """Join what named columns say of each item, or :data:`COLUMNS` as far as there are any.

    A column may hold texts or lists of them. Counts and ratings of an item are known only after
    people used it, so a column of numbers is none to read.

    Raises:
        RecinjectError: a named column is not there, or holds numbers.
    """
    known = catalog.frame.columns.drop("item_id")
    if columns is None:
        columns = [name for name in COLUMNS if name in known]
    for name in columns:
        pick(name, known, f"{_PLACE}_columns: the items have no column")
        if name not in COLUMNS and _holds_numbers(catalog.frame[name].tolist()):
            hint = "name columns of words; numbers of use, such as counts, would tell of the test"
            raise RecinjectError(f"{_PLACE}_columns: {name} holds numbers", hint=hint)
    cells = [[_words(value) for value in catalog.frame[name]] for name in columns]
    return [" ".join(filter(None, row)) for row in zip(*cells, strict=True)] or [""] * len(catalog)


def _words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return value if isinstance(value, str) else ""


def _holds_numbers(values: Sequence[Any]) -> bool:
    known = [value for value in values if value not in (None, "")]
    numbers = pd.to_numeric(pd.Series(known, dtype=object), errors="coerce").notna()
    return bool(known) and bool(numbers.all())


def embed_items(
    source: str,
    catalog: Catalog,
    dimensions: int,
    seed: int,
    known: Flags | None = None,
    columns: Sequence[str] | None = None,
) -> Vectors:
    """Give each item of a catalogue a vector of its content.

    The source is ``tfidf``, whose vectors have at most so many dimensions; a file of vectors, see
    :func:`read_embeddings`; or a sentence-transformers model by name or folder. Words and their
    weights are learnt from the items that are flagged as ``known``, those with training events, or
    else from all; the others are embedded as new items would be. ``columns`` are those of
    :func:`item_texts`.

    Raises:
        RecinjectError: an item has no text, the model is not to be had, or the file is at fault.
    """
    if source.endswith(FILES):
        return read_embeddings(Path(source), catalog.item_ids)
    texts, ids = item_texts(catalog, columns), catalog.item_ids
    blank = [item for item, text in zip(ids, texts, strict=True) if not re.search(r"\w", text)]
    if blank:
        raise RecinjectError(
            f"{_PLACE}: {len(blank)} of {len(texts)} items have no text, first item {blank[0]!r}",
            hint=f"give them a title in the item table, name more columns in {_PLACE}_columns, "
            f"give vectors of your own with {_PLACE}=FILE.npy, or choose another identifiers.kind",
        )
    learnt = texts if known is None or not known.any() else list(compress(texts, known))
    return text_space(source, learnt, dimensions, seed)(texts)


def embedding_key(
    source: str,
    catalog: Catalog,
    dimensions: int,
    seed: int,
    known: Flags | None = None,
    columns: Sequence[str] | None = None,
) -> str | None:
    """Return a key that is the same where :func:`embed_items` gives the same; None of files."""
    if source.endswith(FILES):
        return None
    model = hash_files(Path(source)) if Path(source).is_dir() else source
    learnt = None if known is None else np.flatnonzero(known).tolist()
    return hash_value([model, dimensions, seed, learnt, item_texts(catalog, columns)])


def text_space(source: str, texts: Sequence[str], dimensions: int, seed: int) -> Embed:
    """Return what embeds texts in the space of these: those of known items, and of new ones."""
    return _tfidf(texts, dimensions, seed) if source == TFIDF else _sentence_model(source)


def _tfidf(texts: Sequence[str], dimensions: int, seed: int) -> Embed:
    # Seconds to import, for this content alone.
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+", dtype=np.float32)
    weights = words.fit_transform(texts[:: -(-len(texts) // _LEARNT_AT_MOST)])
    if weights.shape[1] <= dimensions:
        return lambda some: np.asarray(words.transform(some).toarray(), np.float32)
    plane = TruncatedSVD(min(dimensions, len(texts)), random_state=seed).fit(weights)

    def embed(some: Sequence[str]) -> Vectors:
        vectors = np.empty((len(some), plane.n_components), np.float32)
        for start in range(0, len(some), _TEXTS_AT_ONCE):
            block = slice(start, start + _TEXTS_AT_ONCE)
            rows = plane.transform(words.transform(some[block]))
            # What is left of a text whose words are all rare is noise, and must be no direction.
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            vectors[block] = rows / np.maximum(lengths, _NO_LENGTH)
        return vectors

    return embed


def _sentence_model(name: str) -> Embed:
    try:
        library = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise RecinjectError(
            f"{_PLACE}: {name} is for sentence-transformers, which is not installed",
            hint=f"pip install 'recinject[semantic]', or set {_PLACE}={TFIDF}",
        ) from error
    try:
        model = library.SentenceTransformer(name)
    except (OSError, ValueError) as error:
        raise RecinjectError(
            f"{_PLACE}: no sentence-transformers model at {name} ({error})".split("\n")[0],
            hint=f"give {TFIDF}, a model's folder, a name such as "
            "sentence-transformers/all-MiniLM-L6-v2 (once with a network), or a .npy or .parquet",
        ) from error

    def embed(texts: Sequence[str]) -> Vectors:
        settings = {"normalize_embeddings": True, "show_progress_bar": False}
        starts = range(0, len(texts), _AT_ONCE)
        parts = [
            model.encode(list(texts[start : start + _AT_ONCE]), **settings)
            for start in track(starts, f"Embedding items, {_AT_ONCE} at once")
        ]
        return np.concatenate(parts).astype(np.float32)

    return embed


def content_directions(
    catalog: Catalog,
    width: int,
    seed: int,
    known: Flags,
    source: str = TFIDF,
    columns: Sequence[str] | None = None,
    dimensions: int | None = None,
) -> Vectors:
    """Return what each item's text says as a unit vector, shape (items, width); 0 without a text.

    The space is learnt from the items flagged as ``known``, those with training events, and centred
    on them. The other arguments are those of :func:`embed_items`; ``dimensions`` are of the content
    before it is brought to ``width``.

    Raises:
        RecinjectError: no item has a text.
    """
    texts = item_texts(catalog, columns)
    told = np.array([re.search(r"\w", text) is not None for text in texts])
    learnt = list(compress(texts, known & told if (known & told).any() else told))
    if not learnt:
        hint = "give a table of items with titles, or start from collaborative or random"
        raise RecinjectError(f"{_PLACE}: no item has a text to start from", hint=hint)
    vectors = np.array(text_space(source, learnt, dimensions or width, seed)(texts))
    vectors[~told] = 0
    return unit_rows(reduce_width(vectors, width, known, seed))


def reduce_width(
    vectors: Vectors, width: int, known: Flags | None = None, seed: int = 0
) -> Vectors:
    """Return vectors of a width, in which distances are kept as well as they can be.

    They are centred on those of the ``known`` items; wider ones lose the directions in which the
    known ones differ least, narrower ones are turned at random. Vectors that are 0 stay 0.
    """
    told: Flags = np.asarray(vectors.any(1))
    learnt = told if known is None or not (known & told).any() else known & told
    if known is not None:
        vectors = np.where(told[:, None], vectors - vectors[learnt].mean(0), 0)
    size = vectors.shape[1]
    if size > width:
        spread = vectors[learnt].T @ vectors[learnt]
        return np.asarray(vectors @ np.linalg.eigh(spread)[1][:, ::-1][:, :width], np.float32)
    turn = np.linalg.qr(derive_rng(seed, "turn").normal(size=(width, size)))[0]
    return vectors if size == width else np.asarray(vectors @ turn.T, np.float32)


def unit_rows(vectors: Vectors) -> Vectors:
    """Give each vector the length 1, or 0 where there is none to speak of."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(lengths > _LEAST, vectors / np.maximum(lengths, _LEAST), 0)


def read_embeddings(path: Path, item_ids: Sequence[str]) -> Vectors:
    """Read vectors that the user made, for items of ascending ids.

    The file is a ``.npy`` of shape (items, width) whose rows are the catalogue's items by ascending
    id; or a ``.parquet`` with the column ``item_id`` and one column of vectors, in any order.

    Raises:
        RecinjectError: the file cannot be read, its items are not the catalogue's, or not every
            row is a vector of as many finite numbers.
    """
    try:
        # Mapped, so that what is not read of a large file takes no memory.
        is_array = path.suffix == ".npy"
        rows = np.load(path, mmap_mode="c") if is_array else _in_order(path, item_ids)
        vectors = np.asarray(rows, np.float32)
    except (*UNREADABLE_ARRAYS, TypeError) as error:
        raise _bad(path, f"cannot be read as vectors ({error})".split("\n")[0]) from error
    if vectors.ndim != 2 or len(vectors) != len(item_ids) or not vectors.shape[1]:
        raise _bad(path, f"shape {vectors.shape}, and there are {len(item_ids)} items")
    wrong = np.flatnonzero(~np.isfinite(vectors).all(1))
    if wrong.size:
        first = item_ids[wrong[0]]
        raise _bad(path, f"{wrong.size} vectors with NaN or infinity, first item {first!r}")
    return vectors


def _in_order(path: Path, item_ids: Sequence[str]) -> Vectors:
    frame = pd.read_parquet(path)
    others = frame.columns.drop("item_id", errors="ignore")
    if len(others) != 1 or len(frame.columns) != 2:
        raise _bad(path, f"columns {', '.join(map(str, frame.columns))}")
    given = frame["item_id"].astype(str)
    for what, ids in (
        ("twice", given[given.duplicated()].tolist()),
        ("unknown", sorted(set(given) - set(item_ids))),
        ("missing", sorted(set(item_ids) - set(given))),
    ):
        if ids:
            raise _bad(path, f"{len(ids)} items {what}, first {ids[0]!r}")
    vectors = dict(zip(given, frame[others[0]], strict=True))
    return np.stack([np.asarray(vectors[item], np.float32) for item in item_ids])


def _bad(path: Path, fact: str) -> RecinjectError:
    return RecinjectError(
        f"{_PLACE}: {path}: {fact}",
        hint="give .npy rows, or .parquet columns item_id and vector, of the items in the run's "
        "data/items.parquet and no others, each vector as many finite numbers",
    )
