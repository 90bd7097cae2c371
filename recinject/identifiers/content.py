"""Items as vectors: what their texts say, or what a file of the user's own does."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recinject.data.schema import Catalog
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import track
from recinject.foundation.storage import UNREADABLE_ARRAYS, hash_files, hash_value

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]
TFIDF = "tfidf"
FILES = (".npy", ".parquet")
_PLACE = "identifiers.content"
_AT_ONCE = 512
_NO_LENGTH = 1e-3


def item_texts(catalog: Catalog) -> list[str]:
    """Join everything that a catalogue says of each item: all columns of text but the id."""

    def words(value: Any) -> str:
        if isinstance(value, list):
            return " ".join(map(str, value))
        return value if isinstance(value, str) else ""

    columns = [catalog.frame[name].tolist() for name in catalog.frame.columns.drop("item_id")]
    return [" ".join(filter(None, map(words, values))) for values in zip(*columns, strict=True)]


def embed_items(source: str, catalog: Catalog, dimensions: int, seed: int) -> Vectors:
    """Give each item of a catalogue a vector of its content.

    The source is ``tfidf``, whose vectors have at most so many dimensions; a file of vectors, see
    :func:`read_embeddings`; or a sentence-transformers model by name or folder.

    Raises:
        RecinjectError: an item has no text, the model is not to be had, or the file is at fault.
    """
    if source.endswith(FILES):
        return read_embeddings(Path(source), catalog.item_ids)
    texts, ids = item_texts(catalog), catalog.item_ids
    blank = [item for item, text in zip(ids, texts, strict=True) if not re.search(r"\w", text)]
    if blank:
        raise RecinjectError(
            f"{_PLACE}: {len(blank)} of {len(texts)} items have no text, first item {blank[0]!r}",
            hint=f"give them a title in the item table, give vectors of your own with {_PLACE}="
            "FILE.npy, or choose another identifiers.kind",
        )
    return text_space(source, texts, dimensions, seed)(texts)


def embedding_key(source: str, catalog: Catalog, dimensions: int, seed: int) -> str | None:
    """Return a key that is the same where :func:`embed_items` gives the same; None of files."""
    if source.endswith(FILES):
        return None
    model = hash_files(Path(source)) if Path(source).is_dir() else source
    return hash_value([model, dimensions, seed, item_texts(catalog)])


def text_space(source: str, texts: Sequence[str], dimensions: int, seed: int) -> Embed:
    """Return what embeds a catalogue's texts, and those of new items in the same space."""
    return _tfidf(texts, dimensions, seed) if source == TFIDF else _sentence_model(source)


def _tfidf(texts: Sequence[str], dimensions: int, seed: int) -> Embed:
    # Seconds to import, for this content alone.
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+", dtype=np.float32)
    weights = words.fit_transform(texts)
    if weights.shape[1] <= dimensions:
        return lambda some: np.asarray(words.transform(some).toarray(), np.float32)
    plane = TruncatedSVD(min(dimensions, len(texts)), random_state=seed).fit(weights)

    def embed(some: Sequence[str]) -> Vectors:
        rows = plane.transform(words.transform(some))
        # What is left of a text whose words are all rare is noise, and must be no direction.
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.maximum(lengths, _NO_LENGTH), np.float32)

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


def read_embeddings(path: Path, item_ids: Sequence[str]) -> Vectors:
    """Read vectors that the user made, for items of ascending ids.

    The file is a ``.npy`` of shape (items, width) whose rows are the catalogue's items by ascending
    id; or a ``.parquet`` with the column ``item_id`` and one column of vectors, in any order.

    Raises:
        RecinjectError: the file cannot be read, its items are not the catalogue's, or not every
            row is a vector of as many finite numbers.
    """
    try:
        rows = np.load(path) if path.suffix == ".npy" else _in_order(path, item_ids)
        vectors = np.asarray(rows).astype(np.float32)
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
