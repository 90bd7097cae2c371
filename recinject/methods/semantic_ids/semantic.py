"""Semantic identifiers: content to vectors, vectors to codes, and how good the codes are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recinject.data.schema import Catalog, Flags
from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.randomness import derive_rng
from recinject.foundation.storage import write_json
from recinject.identifiers.content import embed_items
from recinject.methods.semantic_ids.codes import (
    Row,
    SemanticCodes,
    describe_codes,
    make_unique,
    save_codes,
)
from recinject.methods.semantic_ids.quantising import (
    FITTERS,
    Fitter,
    Quantiser,
    Vectors,
    check_enough,
)
from recinject.pipeline.recipe import bind
from recinject.pipeline.sections import SemanticSection

RQ_VAE = "rq_vae"
QUANTISERS = (*FITTERS, RQ_VAE)
QUALITY = "quality.json"
CONTENT = "content.npz"
_TRAINING = {"learning_rate": 1e-3, "batch_size": 1024, "steps": 3000}


@dataclass(frozen=True, eq=False)
class Semantic:
    """Codes with what made them.

    Attributes:
        codes: of every item of the catalogue.
        quantiser: what gives codes to new items.
        quality: see :func:`~recinject.methods.semantic_ids.codes.describe_codes`.
        content: what the embeddings were made by.
    """

    codes: SemanticCodes
    quantiser: Quantiser
    quality: list[Row]
    content: str

    def save(self, folder: Path, catalog: Catalog) -> None:
        """Write codes, codebooks and quality into the identifiers' folder."""
        save_codes(folder, self.codes, self.quantiser, catalog, self.content)
        write_json(folder / QUALITY, self.quality)


def make_semantic(
    settings: SemanticSection,
    catalog: Catalog,
    known: Flags,
    seed: int,
    folder: Path | None = None,
) -> Semantic:
    """Give every item of a catalogue codes of its content.

    Args:
        settings: the recipe's.
        catalog: the items.
        known: the items that codebooks may be learnt from, shape (items,): those with training
            events. The others are encoded by the frozen codebooks, as new items are.
        seed: of whatever is random.
        folder: where embeddings of texts are kept; those of the same texts and settings that are
            there already are taken as they are.

    Raises:
        RecinjectError: an unknown quantiser; the content, or the number of codes, is at fault.
    """
    fit = _fitter(settings)
    cache = None if folder is None else folder / CONTENT
    embeddings = embed_items(settings.content, catalog, settings.dimensions, seed, cache)
    quantiser = fit(embeddings[known], settings.levels, settings.codes, seed)
    prefixes = quantiser.encode(embeddings)
    sizes = (*[settings.codes] * settings.levels, settings.last_codes)
    codes = make_unique(prefixes, sizes, seed, known)
    quality = describe_codes(prefixes, embeddings, quantiser, settings.codes, seed)
    return Semantic(codes, quantiser, quality, settings.content)


def _fitter(settings: SemanticSection) -> Fitter:
    if settings.quantiser not in QUANTISERS:
        raise RecinjectError(
            f"identifiers.semantic.quantiser: unknown {settings.quantiser!r}",
            hint=did_you_mean(settings.quantiser, QUANTISERS),
        )
    if settings.quantiser == RQ_VAE:
        return partial(fit_rq_vae, training=settings.training)
    return FITTERS[settings.quantiser]


def fit_rq_vae(
    embeddings: Vectors, levels: int, codes: int, seed: int, training: Mapping[str, Any]
) -> Quantiser:
    """Train TIGER's autoencoder, and freeze its codebooks.

    Args:
        embeddings: shape (items, width).
        levels: how many codes name an item.
        codes: how many codes a level has.
        seed: of the weights, the batches' order and the codebooks' start.
        training: see :class:`~recinject.training.networks.FitSettings`.

    Raises:
        RecinjectError: there are fewer items than codes, or a setting is wrong.
    """
    import torch

    from recinject.methods.semantic_ids.rq_vae import RQVAE
    from recinject.training.networks import FitSettings, TensorRows, fit_network, global_chance

    check_enough(embeddings, codes)
    settings = bind(FitSettings, {**_TRAINING, **training}, "identifiers.semantic.training")
    start = int(derive_rng(seed, RQ_VAE).integers(2**31))
    with global_chance(start):
        module = RQVAE(embeddings.shape[1], levels, codes)
    rows = TensorRows({"embeddings": torch.from_numpy(np.ascontiguousarray(embeddings))})
    fit_network(module, rows, dict, settings, seed)
    return module.frozen()
