"""The residual-quantised autoencoder whose codes name items in TIGER."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import derive_rng
from recinject.methods.semantic_ids.quantising import Residual, Vectors, check_enough, kmeans
from recinject.training.networks import FitSettings, TensorRows, Tensors, fit_network, global_chance

_HIDDEN = (512, 256, 128)


class RQVAE(nn.Module):
    """Encodes vectors, quantises them to residual codes, and decodes these.

    The loss is ``|x - decoded|^2 + sum_l |sg[r_l] - e_l|^2 + beta |r_l - sg[e_l]|^2``, summed over
    dimensions and averaged over the batch; the decoder's gradient goes straight through the codes
    to the encoder. K-means on the first batch initialises the codebooks. After ``revive_after``
    steps without use a code moves to an item of the batch.

    Source: Rajput et al. 2023 (arXiv 2305.05065), section 3.1 and appendix; Zeghidour et al. 2021
    (arXiv 2107.03312) for the initialisation and the moves.
    The decoder mirrors the encoder's ``hidden`` widths.
    """

    codebooks: nn.Parameter
    idle: Tensor
    started: Tensor

    def __init__(
        self,
        width: int,
        levels: int = 3,
        codes: int = 256,
        latent: int = 32,
        hidden: Sequence[int] = _HIDDEN,
        beta: float = 0.25,
        revive_after: int = 30,
    ) -> None:
        super().__init__()
        sizes = [width, *hidden, latent]
        self.encoder, self.decoder = _network(sizes), _network(sizes[::-1])
        self.codebooks = nn.Parameter(torch.zeros(levels, codes, latent))
        self._beta, self._revive_after = beta, revive_after
        self.register_buffer("idle", torch.zeros(levels, codes, dtype=torch.long))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, embeddings: Tensor) -> Tensors:
        """Return ``loss`` and its part ``reconstruction`` for vectors of shape (batch, width)."""
        latents = self.encoder(embeddings)
        if self.training:
            self._keep_alive(latents.detach())
        chosen, commitment = self.quantise(latents)
        decoded = self.decoder(straight_through(latents, chosen))
        reconstruction = (embeddings - decoded).square().sum(1).mean()
        return {"loss": reconstruction + commitment, "reconstruction": reconstruction.detach()}

    def quantise(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the chosen codes, shape (batch, latent), and the loss of the codes."""
        left, chosen, loss = latents, torch.zeros_like(latents), latents.new_zeros(())
        for level, book in enumerate(self.codebooks):
            numbers = _nearest(left, book)
            code = book[numbers]
            loss = loss + (left.detach() - code).square().sum(1).mean()
            loss = loss + self._beta * (left - code.detach()).square().sum(1).mean()
            left, chosen = left - code.detach(), chosen + code
            if self.training:
                self.idle[level] += 1
                self.idle[level, numbers] = 0
        return chosen, loss

    @torch.no_grad()
    def _keep_alive(self, latents: Tensor) -> None:
        """Initialise the codebooks, or move codes that no item chooses to items."""
        left = latents
        for level in range(len(self.codebooks)):
            if not self.started:
                self.codebooks[level] = self._start(left)
            elif len(dead := torch.nonzero(self.idle[level] >= self._revive_after)[:, 0]):
                drawn = torch.randint(len(left), (len(dead),))
                self.codebooks[level, dead] = left[drawn.to(left.device)]
                self.idle[level, dead] = 0
            left = left - self.codebooks[level][_nearest(left, self.codebooks[level])]
        self.started.fill_(True)

    def _start(self, left: Tensor) -> Tensor:
        codes, seed = self.codebooks.shape[1], int(torch.randint(2**31 - 1, ()))
        if len(left) < codes:
            raise RecinjectError(
                f"identifiers: the first batch has {len(left)} items to start {codes} codes from",
                hint=f"set identifiers.training.batch_size to {codes} or more",
            )
        return torch.from_numpy(kmeans(left.cpu().numpy(), codes, seed)).to(left)

    def frozen(self) -> Residual:
        """Return the trained quantiser, in numpy."""
        layers = (tuple(map(_array, each.parameters())) for each in (self.encoder, self.decoder))
        return Residual(_array(self.codebooks), *layers)


def fit_rq_vae(
    embeddings: Vectors,
    levels: int,
    codes: int,
    seed: int,
    *,
    learning_rate: float = 1e-3,
    batch_size: int = 1024,
    steps: int = 3000,
    optimizer: str = "adamw",
    optimizer_settings: dict[str, Any] | None = None,
) -> Residual:
    """Train TIGER's autoencoder, and freeze its codebooks.

    Args:
        embeddings: shape (items, width).
        levels: how many codes name an item.
        codes: how many codes a level has.
        seed: of the weights, the batches' order and the codebooks' start.
        learning_rate: see :class:`~recinject.training.networks.FitSettings`, as for the others.
        batch_size: items a step, at least as many as ``codes``.
        steps: of the optimizer.
        optimizer: ``adamw``, or a name in the registry.
        optimizer_settings: arguments of the optimizer's class.

    Raises:
        RecinjectError: there are fewer items than codes, or training diverges.
    """
    check_enough(embeddings, codes)
    own = optimizer_settings or {}
    settings = FitSettings(
        learning_rate, batch_size, steps=steps, optimizer=optimizer, optimizer_settings=own
    )
    with global_chance(int(derive_rng(seed, "rq_vae").integers(2**31))):
        network = RQVAE(embeddings.shape[1], levels, codes)
    rows = TensorRows({"embeddings": torch.from_numpy(np.ascontiguousarray(embeddings))})
    fit_network(network, rows, dict, settings, seed)
    return network.frozen()


def straight_through(latents: Tensor, chosen: Tensor) -> Tensor:
    """Return the chosen vectors, with the latents' gradient."""
    return latents + (chosen - latents).detach()


def _network(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _nearest(vectors: Tensor, centres: Tensor) -> Tensor:
    return (vectors @ centres.T - centres.square().sum(1) / 2).argmax(1)


def _array(tensor: Tensor) -> Vectors:
    return np.asarray(tensor.detach().cpu().float().numpy(), np.float32)
