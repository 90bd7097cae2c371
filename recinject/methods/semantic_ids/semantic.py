"""Semantic identifiers: content to vectors, vectors to codes, and how good the codes are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import AfterValidator, Field

from recinject.data.schema import Catalog, Flags
from recinject.data.splitting import Split
from recinject.foundation.settings import MOST, bind
from recinject.foundation.storage import UNREADABLE_ARRAYS, read_json, write_json
from recinject.identifiers.content import FILES, TFIDF, embed_items, embedding_key
from recinject.identifiers.table import Identifiers
from recinject.methods.semantic_ids.codes import (
    Row,
    SemanticCodes,
    code_tokens,
    describe_codes,
    join_cold_items,
    load_codes,
    make_unique,
    save_codes,
)
from recinject.methods.semantic_ids.quantising import Quantiser, Vectors
from recinject.recommenders.protocol import Prediction, Queries
from recinject.registry import find

QUALITY, CONTENT = "quality.json", "content.npz"
_Positive = Annotated[int, Field(ge=1, le=MOST)]


def _known_quantiser(name: str) -> str:
    find("quantiser", name, "identifiers.quantiser")
    return name


@dataclass(frozen=True, eq=False, kw_only=True)
class SemanticIdentifiers(Identifiers):
    """Items named by a token for each of their codes.

    Source: TIGER, Rajput et al. 2023 (arXiv 2305.05065).

    Attributes:
        codes: of every item of the catalogue.
        quantiser: gives codes to new items.
        quality: see :func:`~recinject.methods.semantic_ids.codes.describe_codes`.
        vectors: of the items' content, with the key of their texts and settings; None where they
            are a file of the user's own.
    """

    has_tokens: ClassVar[bool] = True
    joins_cold_items: ClassVar[bool] = True

    codes: SemanticCodes
    quantiser: Quantiser
    quality: list[Row]
    vectors: tuple[str, Vectors] | None = field(default=None, repr=False)

    @classmethod
    def make(
        cls,
        catalog: Catalog,
        split: Split,
        seed: int,
        *,
        content: str = TFIDF,
        content_columns: list[str] | None = None,
        dimensions: _Positive = 256,
        quantiser: Annotated[str, AfterValidator(_known_quantiser)] = "rq_kmeans",
        levels: Annotated[int, Field(ge=1, le=25)] = 3,
        codes: Annotated[int, Field(ge=2, le=MOST)] = 256,
        last_codes: _Positive = 256,
        training: dict[str, Any] | None = None,
        earlier: Path | None = None,
    ) -> SemanticIdentifiers:
        """Give every item of a catalogue codes of its content.

        Items with training events give the content's space and the codebooks, which then encode
        the others too.

        Args:
            catalog: the items.
            split: says which items have training events.
            seed: of whatever is random.
            content: ``tfidf``, a ``.npy`` or ``.parquet`` of vectors, or a sentence-transformers
                model.
            content_columns: of the item table, whose words are the content; see
                :func:`~recinject.identifiers.content.item_texts`.
            dimensions: of ``tfidf``'s vectors, at most.
            quantiser: its name in the registry.
            levels: how many codes an item has, without the last one that tells items apart.
            codes: how many codes a level has.
            last_codes: how many items may share all other codes.
            training: keyword arguments of the quantiser.
            earlier: a folder with vectors to take if their texts and settings are the same.

        Raises:
            RecinjectError: the content, the number of codes or a setting is wrong.
        """
        known = np.bincount(split.train.items, minlength=len(catalog)) > 0
        asked = content, catalog, dimensions, seed, known, content_columns
        key = embedding_key(*asked)
        vectors = _stored(earlier / CONTENT, key) if key and earlier else None
        if vectors is None:
            vectors = embed_items(*asked)
        fit = find("quantiser", quantiser, "identifiers.quantiser")
        given = {"embeddings": vectors[known], "levels": levels, "codes": codes, "seed": seed}
        fitted: Quantiser = bind(fit, training or {}, "identifiers.training", **given)
        prefixes = fitted.encode(vectors)
        made = make_unique(prefixes, (*[codes] * levels, last_codes), seed, known)
        quality = describe_codes(prefixes, vectors, fitted, codes, seed)
        return cls._of(made, fitted, quality, (key, vectors) if key else None)

    @classmethod
    def _of(
        cls,
        codes: SemanticCodes,
        quantiser: Quantiser,
        quality: list[Row],
        vectors: tuple[str, Vectors] | None = None,
    ) -> SemanticIdentifiers:
        named: dict[str, Any] = {"kind": "semantic", "texts": codes.texts}
        named["duplicates_resolved"] = codes.collisions
        return cls(**named, codes=codes, quantiser=quantiser, quality=quality, vectors=vectors)

    @property
    def tokens(self) -> tuple[str, ...]:
        """Every code of every level, as the token that stands for it."""
        return code_tokens(self.codes.sizes)

    def save(self, folder: Path, catalog: Catalog) -> None:
        """Write the table and what made it."""
        super().save(folder, catalog)
        save_codes(folder, self.codes, self.quantiser)
        write_json(folder / QUALITY, self.quality)
        if self.vectors is not None:
            key, vectors = self.vectors
            np.savez(folder / CONTENT, key=np.array(key), embeddings=vectors)

    @classmethod
    def restore(cls, folder: Path, table: pd.DataFrame) -> SemanticIdentifiers:
        """Read all but the vectors; refuse codes that are not the table's."""
        codes = load_codes(folder, tuple(table["identifier"]))
        return cls._of(*codes, read_json(folder / QUALITY))

    @classmethod
    def input_files(cls, settings: Mapping[str, Any]) -> list[Path]:
        """Return the user's own vectors, where items are named by them."""
        content = Path(settings.get("content", TFIDF))
        return [content] if content.suffix in FILES else []

    def describe(self) -> list[Row]:
        """Return the quality of the codes, a row a level."""
        return self.quality

    def join_cold_items(
        self, listed: Prediction, queries: Queries, cold: Flags, fraction: float, k: int
    ) -> Prediction:
        """See :func:`~recinject.methods.semantic_ids.codes.join_cold_items`."""
        return join_cold_items(listed, queries, self.codes.prefixes, cold, fraction, k)


def _stored(path: Path, key: str) -> Vectors | None:
    try:
        with np.load(path) as stored:
            return stored["embeddings"] if str(stored["key"]) == key else None
    except (*UNREADABLE_ARRAYS, KeyError):
        return None  # none, or one that was not written to its end
