"""Transformers over item sequences: the strongest baselines that know of order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, logsigmoid

from recinject.data.schema import Flags, Floats, Integers, Interactions
from recinject.foundation.ragged import Ragged
from recinject.foundation.randomness import derive_rng
from recinject.recommenders.baselines import item_counts
from recinject.recommenders.protocol import ItemScorer, Queries
from recinject.training.networks import Fit, fit_module, global_chance

Batch = dict[str, Tensor]
_LOGITS = 2**19  # about how many are in memory at once: what fits the processor's cache


class SequenceModule(nn.Module, ABC):
    """Reads item sequences with self-attention and scores every item as what comes next.

    Blocks are normalised after each sum, positions are learned and counted from a sequence's
    first item, and an item has one embedding, as what was used and as what may be next. A batch
    is a grid in which several short sequences share a row and do not see one another, so that
    little of it is padding.

    Args:
        n_items: how many items there are; the number after the last one is a blank.
        width: of an embedding.
        layers: how many blocks.
        heads: of a block.
        dropout: of embeddings, attention and blocks.
        longest: how many items a sequence has at most; of longer histories the latest count.

    Attributes:
        sees_ahead: whether a place reads what comes after it in its sequence.
    """

    sees_ahead: ClassVar[bool] = False

    def __init__(
        self,
        n_items: int,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.5,
        longest: int = 50,
    ) -> None:
        super().__init__()
        self._n_items, self._heads, self._longest = n_items, heads, longest
        self.items = nn.Embedding(n_items + 1, width)
        self.positions = nn.Embedding(longest, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    @abstractmethod
    def pieces(self, events: Integers) -> list[Integers]:
        """Cut a user's items, oldest first, into sequences to learn from."""

    @abstractmethod
    def collate(self, pieces: Sequence[Integers]) -> Batch:
        """Turn pieces into the arguments of ``forward``."""

    @abstractmethod
    def question(self, history: Integers) -> Integers:
        """Return the sequence after whose reading the last place tells what comes next."""

    def encode(self, items: Tensor, places: Tensor, sequences: Tensor) -> Tensor:
        """Encode a grid of sequences, shape (rows, columns), as one vector a place.

        ``places`` are the items' within their sequences, whose numbers are -1 for padding.
        """
        states = self.dropout(self.norm(self.items(items) + self.positions(places)))
        same = sequences[:, :, None] == sequences[:, None, :]
        seen = same if self.sees_ahead else same.tril()
        encoded: Tensor = self.blocks(states, ~seen.repeat_interleave(self._heads, 0))
        return encoded

    def score(self, histories: Sequence[Integers]) -> Tensor:
        """Score all items as what follows each history: shape (histories, items), on the CPU.

        Histories have at least one item each.
        """
        packed = pack([self.question(history) for history in histories], self._longest)
        batch = {name: grid.to(self.items.weight.device) for name, grid in packed.items()}
        last = _is_last(batch["sequences"])
        states = self.encode(**batch)[last]
        return (states[batch["sequences"][last].argsort()] @ self._item_weights().T).cpu()

    def _item_weights(self) -> Tensor:
        return self.items.weight[: self._n_items]


class SASRecModule(SequenceModule):
    """Learns what comes next at every place of a sequence (Kang and McAuley, ICDM 2018).

    The loss is the cross-entropy over the whole catalogue; the paper's own is
    :class:`BinarySASRecModule`.
    """

    def pieces(self, events: Integers) -> list[Integers]:
        """Cut at every ``longest`` items from the end; neighbouring pieces share one item."""
        ends = range(len(events), 1, -self._longest)
        return [events[max(0, end - self._longest - 1) : end] for end in ends]

    def collate(self, pieces: Sequence[Integers]) -> Batch:
        """Pack all items but each piece's last; ``targets`` are what followed, -1 in padding."""
        batch = pack([piece[:-1] for piece in pieces], self._longest)
        follows = pack([piece[1:] for piece in pieces], self._longest)["items"]
        return {**batch, "targets": torch.where(batch["sequences"] < 0, -1, follows)}

    def question(self, history: Integers) -> Integers:
        """Return the latest items."""
        return history[-self._longest :]

    def forward(
        self, items: Tensor, places: Tensor, sequences: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss of a batch made by :meth:`collate`."""
        states = self.encode(items, places, sequences)
        known = targets >= 0
        return {"loss": cross_entropy(states[known], self._item_weights(), targets[known])}


class BinarySASRecModule(SASRecModule):
    """SASRec with its own loss: the next item against one drawn uniformly, at every place.

    A drawn item that stands in the sequence itself counts for nothing.
    """

    def forward(
        self, items: Tensor, places: Tensor, sequences: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss of a batch made by :meth:`collate`."""
        states = self.encode(items, places, sequences)
        drawn = torch.randint_like(items, self._n_items)
        same = sequences[:, :, None] == sequences[:, None, :]
        used = (drawn[:, :, None] == items[:, None]) | (drawn[:, :, None] == targets[:, None])
        known = targets >= 0
        outside = known & ~(used & same).any(2)
        likes = (states[known] * embedding(targets[known], self.items.weight)).sum(1)
        dislikes = (states[outside] * embedding(drawn[outside], self.items.weight)).sum(1)
        total = logsigmoid(likes).sum() + logsigmoid(-dislikes).sum()
        return {"loss": -total / known.sum()}


class BERT4RecModule(SequenceModule):
    """Learns the blanked items of a sequence from both sides (Sun et al., CIKM 2019).

    Args:
        blanked: the chance that an item of a sequence is blanked.
        last_only: the share of sequences of which the last item alone is blanked, as in
            prediction.
    """

    sees_ahead: ClassVar[bool] = True

    def __init__(
        self, n_items: int, blanked: float = 0.2, last_only: float = 0.1, **shape: Any
    ) -> None:
        super().__init__(n_items, **shape)
        self._blanked, self._last_only = blanked, last_only

    def pieces(self, events: Integers) -> list[Integers]:
        """Cut at every ``longest`` items from the end."""
        ends = range(len(events), 0, -self._longest)
        return [events[max(0, end - self._longest) : end] for end in ends]

    def collate(self, pieces: Sequence[Integers]) -> Batch:
        """Pack whole pieces."""
        return pack(pieces, self._longest)

    def question(self, history: Integers) -> Integers:
        """Return the latest items and a blank."""
        latest = history[max(0, len(history) - self._longest + 1) :]
        return np.append(latest, np.int32(self._n_items))

    def forward(self, items: Tensor, places: Tensor, sequences: Tensor) -> dict[str, Tensor]:
        """Return the loss of a batch made by :meth:`collate`, with blanks drawn anew."""
        blank = self._draw(sequences)
        states = self.encode(torch.where(blank, self._n_items, items), places, sequences)
        return {"loss": cross_entropy(states[blank], self._item_weights(), items[blank])}

    def _draw(self, sequences: Tensor) -> Tensor:
        chance = torch.rand(sequences.shape, device=sequences.device)
        whole = torch.rand(int(sequences.max()) + 1, device=sequences.device)
        last_only = whole[sequences] < self._last_only
        last = _is_last(sequences)
        blank = torch.where(last_only, last, chance < self._blanked) & (sequences >= 0)
        # A batch without any blank would have nothing to learn.
        return blank if blank.any() else last


def pack(sequences: Sequence[Integers], columns: int) -> Batch:
    """Put sequences into the rows of a grid, the longest first, each where it first fits.

    None is empty or longer than a row. What is returned :meth:`SequenceModule.encode` reads.
    """
    flat = Ragged.from_rows(sequences, np.int64)
    starts, used = np.empty(len(flat), np.int64), list[int]()
    for number in np.argsort(-flat.lengths, kind="stable"):
        length = int(flat.lengths[number])
        fits = (row for row, taken in enumerate(used) if taken + length <= columns)
        row = next(fits, len(used))
        used += [0] * (row == len(used))
        starts[number] = row * columns + used[row]
        used[row] += length
    cells = starts[flat.rows] + flat.places
    values = {"items": flat.values, "places": flat.places, "sequences": flat.rows}
    grids = {name: np.full(len(used) * columns, -(name == "sequences")) for name in values}
    for name, grid in grids.items():
        grid[cells] = values[name]
    return {name: torch.from_numpy(grid.reshape(-1, columns)) for name, grid in grids.items()}


def _is_last(sequences: Tensor) -> Tensor:
    following = torch.cat([sequences[:, 1:], torch.full_like(sequences[:, :1], -1)], dim=1)
    return (sequences >= 0) & (following != sequences)


def cross_entropy(states: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of the logits ``states @ weights.T``, shape (n, items).

    Its gradient is computed on the way, a few rows of logits at a time, which takes half the
    time of holding them all.
    """
    loss: Tensor = _CrossEntropy.apply(states, weights, targets)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
        loss, rows = states.new_zeros(()), max(32, _LOGITS // len(weights))
        for_states, for_weights = torch.empty_like(states), torch.zeros_like(weights)
        blocks = (torch.split(whole, rows) for whole in (states, targets, for_states))
        for some, wanted, gradient in zip(*blocks, strict=True):
            logits = some @ weights.T
            highest, column = logits.amax(1, keepdim=True), wanted[:, None]
            right = logits.gather(1, column) - highest
            chances = logits.sub_(highest).exp_()
            sums = chances.sum(1, keepdim=True)
            loss += (sums.log() - right).sum()
            # Dividing the short rows of numbers by the sums spares the long ones.
            torch.mm(chances, weights, out=gradient)
            gradient.div_(sums)
            for_weights.addmm_(chances.T, some / sums)
        for_states -= weights[targets]
        for_weights.index_add_(0, targets, states, alpha=-1)
        ctx.save_for_backward(for_states / len(states), for_weights / len(states))
        return loss / len(states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        for_states, for_weights = ctx.saved_tensors
        return for_states * gradients[0], for_weights * gradients[0], None


_CUTOFF = 10


class SelfAttention(ItemScorer):
    """Scores items by a transformer that reads the query's history.

    The history knows the events between the training part and the query, as item-kNN's does. A
    user without one gets the scores of item popularity; an item that was never trained on has
    only ever been what did not come next.

    The epoch is chosen within the training part: the last training event of some of its users
    is held out, measured after each epoch by NDCG@10 over the whole catalogue, and never
    trained on. That the steps fall, and for how many epochs, was chosen on the validation events
    of Amazon Beauty; the other defaults are the usual ones for logs of its size.

    Args:
        width: numbers in an item's embedding.
        layers: how many blocks of self-attention.
        heads: attention heads of a block.
        dropout: of embeddings, attention and blocks.
        longest: how many of a history's latest items are read.
        learning_rate: Adam's first step; the steps fall to nothing over the epochs.
        batch_size: how many sequences a step learns from.
        epochs: how often the training events are gone through at most.
        patience: after how many epochs without gain it ends.
        held_out: the share of users whose last training event chooses the epoch.
        use_cpu: fit on the CPU even where there is a GPU, so that the fit can be repeated.
    """

    kind: ClassVar[type[SequenceModule]]

    def __init__(
        self,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.5,
        longest: int = 50,
        learning_rate: float = 1e-3,
        batch_size: int = 128,
        epochs: int = 30,
        patience: int = 10,
        held_out: float = 0.1,
        use_cpu: bool = True,
    ) -> None:
        self._shape: dict[str, Any] = {
            "width": width,
            "layers": layers,
            "heads": heads,
            "dropout": dropout,
            "longest": longest,
        }
        self._arguments = {
            "learning_rate": learning_rate,
            "per_device_train_batch_size": batch_size,
            "num_train_epochs": epochs,
            "lr_scheduler_type": "linear",
            "use_cpu": use_cpu,
        }
        self._patience, self._held_out = patience, held_out
        self.course: Fit | None = None

    def fit(self, training: Interactions, seed: int) -> None:
        """Learn from the training events but those held out, and keep the best epoch."""
        held_out = _hold_out(training, self._held_out, derive_rng(seed, self.name, "held_out"))
        learned = training.select(~held_out)
        with global_chance(int(derive_rng(seed, self.name).integers(2**31))):
            module = self.kind(training.n_items, **self._shape)
        users = range(training.n_users)
        pieces = [piece for user in users for piece in module.pieces(learned.items_of(user))]
        if pieces:
            histories = [learned.items_of(user) for user in training.users[held_out]]
            validate = partial(_mean_ndcg, histories=histories, targets=training.items[held_out])
            self.course = fit_module(
                module,
                pieces,
                module.collate,
                self._arguments,
                None,
                seed,
                validate=validate if histories else None,
                patience=self._patience,
            )
        self._popularity = item_counts(training)
        # Double precision swallows what an answer owes to the company of its query.
        self._module = module.cpu().double().eval() if pieces else None

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Let the transformer read each query's history."""
        histories = queries.histories[rows]
        scores = np.tile(self._popularity, (len(histories), 1))
        read = [row for row, history in enumerate(histories) if len(history)]
        if self._module is not None and read:
            with torch.inference_mode():
                found = self._module.score([histories[row] for row in read])
            scores[read] = found.float().numpy()
        return scores


class SASRec(SelfAttention):
    """Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

    Learned with the cross-entropy over the whole catalogue, which makes far more of the same
    network than the paper's own loss (Klenitskiy and Vasilev, Turning dross into gold loss,
    RecSys 2023).
    """

    name: ClassVar[str] = "sasrec"
    kind: ClassVar[type[SequenceModule]] = SASRecModule


class BinarySASRec(SelfAttention):
    """SASRec as published: each next item against one drawn uniformly from the others."""

    name: ClassVar[str] = "sasrec_bce"
    kind: ClassVar[type[SequenceModule]] = BinarySASRecModule

    def __init__(self, epochs: int = 100, **settings: Any) -> None:
        super().__init__(epochs=epochs, **settings)


class BERT4Rec(SelfAttention):
    """Items guessed from both sides of a history (Sun et al., CIKM 2019)."""

    name: ClassVar[str] = "bert4rec"
    kind: ClassVar[type[SequenceModule]] = BERT4RecModule

    def __init__(self, epochs: int = 100, **settings: Any) -> None:
        super().__init__(epochs=epochs, **settings)


def _hold_out(training: Interactions, share: float, rng: np.random.Generator) -> Flags:
    """Flag the last events of a share of the users with at least three: shape (events,)."""
    users = np.flatnonzero(np.diff(training.offsets) >= 3)
    chosen = rng.permutation(users)[: round(share * len(users))]
    flags = np.zeros(len(training), bool)
    flags[training.offsets[1:][chosen] - 1] = True
    return flags


def _mean_ndcg(module: SequenceModule, histories: Sequence[Integers], targets: Integers) -> float:
    """Measure NDCG@10 over all items outside each history."""
    total = 0.0
    for start in range(0, len(targets), 512):
        some = histories[start : start + 512]
        scores = module.score(some)
        wanted = torch.from_numpy(targets[start : start + 512].astype(np.int64))[:, None]
        own = scores.gather(1, wanted)
        for row, history in enumerate(some):
            scores[row, history] = -torch.inf
        ahead = (scores > own).sum(1)
        total += float((1 / torch.log2(ahead[ahead < _CUTOFF] + 2.0)).sum())
    return total / len(targets)
