"""SASRec and BERT4Rec: transformers over the sequence of a history's items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import embedding, logsigmoid

from recinject.data.schema import Flags, Floats, Integers, Interactions
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged
from recinject.foundation.settings import MOST
from recinject.recommenders.baselines import item_counts
from recinject.recommenders.protocol import ItemScorer, Queries
from recinject.training.networks import (
    Dropout,
    FitSettings,
    Fraction,
    Rate,
    Tensors,
    TrainingHistory,
    fit_network,
    global_chance,
)

_LOGITS = 2**19  # about how many are in memory at once: as many as fit the processor's cache


class SequenceModule(nn.Module):
    """Reads item sequences with self-attention and scores every item as what comes next.

    Blocks are normalised after each sum, positions are learned and counted from a sequence's
    first item, and inputs and outputs share an item's embedding. In a batch several short sequences
    share a row, without attention to one another.

    The index after the last item is the mask; the other arguments are :class:`SelfAttention`'s.

    Attributes:
        sees_ahead: whether a position attends to later positions of its sequence.
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

    def windows(self, events: Integers) -> list[Integers]:
        """Cut a user's items, oldest first, at every ``longest`` from the end, to learn from.

        Where a position predicts the next item, neighbouring windows share one item.
        """
        shared = int(not self.sees_ahead)
        ends = range(len(events), shared, -self._longest)
        return [events[max(0, end - self._longest - shared) : end] for end in ends]

    def collate(self, windows: Sequence[Integers]) -> Tensors:
        """Turn windows into the arguments of ``forward``."""
        return pack(windows, self._longest)

    def query(self, history: Integers) -> Integers:
        """Return the sequence, the latest items, whose last position predicts the next one."""
        return history[-self._longest :]

    def encode(self, items: Tensor, positions: Tensor, sequences: Tensor) -> Tensor:
        """Encode a grid of sequences, shape (rows, columns), as one vector a position.

        ``positions`` count from 0 within each sequence; ``sequences`` numbers these, -1 in padding.
        """
        states = self.dropout(self.norm(self.items(items) + self.positions(positions)))
        same = sequences[:, :, None] == sequences[:, None, :]
        seen = same if self.sees_ahead else same.tril()
        encoded: Tensor = self.blocks(states, ~seen.repeat_interleave(self._heads, 0))
        return encoded

    def score(self, histories: Sequence[Integers]) -> Tensor:
        """Score all items as the next of each history, none empty: (histories, items)."""
        packed = pack([self.query(history) for history in histories], self._longest)
        batch = {name: grid.to(self.items.weight.device) for name, grid in packed.items()}
        last = _is_last(batch["sequences"])
        states = self.encode(**batch)[last]
        return (states[batch["sequences"][last].argsort()] @ self._item_weights().T).cpu()

    def _item_weights(self) -> Tensor:
        return self.items.weight[: self._n_items]


class SASRecModule(SequenceModule):
    """Learns the next item at every position of a sequence (Kang and McAuley, ICDM 2018).

    The loss is the cross-entropy over the whole catalogue; the paper's own is
    :class:`BinarySASRecModule`.
    """

    def collate(self, windows: Sequence[Integers]) -> Tensors:
        """Pack all items but each window's last; ``targets`` are what followed, -1 in padding."""
        batch = pack([window[:-1] for window in windows], self._longest)
        follows = pack([window[1:] for window in windows], self._longest)["items"]
        return {**batch, "targets": torch.where(batch["sequences"] < 0, -1, follows)}

    def forward(
        self, items: Tensor, positions: Tensor, sequences: Tensor, targets: Tensor
    ) -> Tensors:
        """Return the loss of a batch made by :meth:`collate`."""
        states = self.encode(items, positions, sequences)
        known = targets >= 0
        return {"loss": cross_entropy(states[known], self._item_weights(), targets[known])}


class BinarySASRecModule(SASRecModule):
    """SASRec with the paper's loss: each next item against one drawn uniformly.

    Drawn items that are in the sequence itself are left out.
    """

    def forward(
        self, items: Tensor, positions: Tensor, sequences: Tensor, targets: Tensor
    ) -> Tensors:
        """Return the loss of a batch made by :meth:`collate`."""
        states = self.encode(items, positions, sequences)
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
    """Learns the masked items of a sequence from both sides (Sun et al., CIKM 2019).

    Args:
        masked: the probability that an item of a sequence is masked.
        last_only: the fraction of sequences of which only the last item is masked, as in
            prediction.
    """

    sees_ahead: ClassVar[bool] = True

    def __init__(
        self, n_items: int, masked: float = 0.2, last_only: float = 0.1, **shape: Any
    ) -> None:
        super().__init__(n_items, **shape)
        self._masked, self._last_only = masked, last_only

    def query(self, history: Integers) -> Integers:
        """Return the latest items and a mask."""
        latest = history[max(0, len(history) - self._longest + 1) :]
        return np.append(latest, np.int32(self._n_items))

    def forward(self, items: Tensor, positions: Tensor, sequences: Tensor) -> Tensors:
        """Return the loss of a batch made by :meth:`collate`, with masks drawn anew."""
        mask = self._draw(sequences)
        states = self.encode(torch.where(mask, self._n_items, items), positions, sequences)
        return {"loss": cross_entropy(states[mask], self._item_weights(), items[mask])}

    def _draw(self, sequences: Tensor) -> Tensor:
        chance = torch.rand(sequences.shape, device=sequences.device)
        whole = torch.rand(int(sequences.max()) + 1, device=sequences.device)
        last_only = whole[sequences] < self._last_only
        last = _is_last(sequences)
        mask = torch.where(last_only, last, chance < self._masked) & (sequences >= 0)
        # A batch without any mask would have nothing to learn.
        return mask if mask.any() else last


def pack(sequences: Sequence[Integers], columns: int) -> Tensors:
    """Put sequences into grids for :meth:`SequenceModule.encode`, each where it first fits."""
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
    values = {"items": flat.values, "positions": flat.places, "sequences": flat.rows}
    grids = {name: np.full(len(used) * columns, -(name == "sequences")) for name in values}
    for name, grid in grids.items():
        grid[cells] = values[name]
    return {name: torch.from_numpy(grid.reshape(-1, columns)) for name, grid in grids.items()}


def _is_last(sequences: Tensor) -> Tensor:
    following = torch.cat([sequences[:, 1:], torch.full_like(sequences[:, :1], -1)], dim=1)
    return (sequences >= 0) & (following != sequences)


def cross_entropy(states: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of ``states @ weights.T``, a few rows at a time."""
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
            probabilities = logits.sub_(highest).exp_()
            sums = probabilities.sum(1, keepdim=True)
            loss += (sums.log() - right).sum()
            # Dividing the products, which are narrow, is cheaper than dividing the probabilities.
            torch.mm(probabilities, weights, out=gradient)
            gradient.div_(sums)
            for_weights.addmm_(probabilities.T, some / sums)
        for_states -= weights[targets]
        for_weights.index_add_(0, targets, states, alpha=-1)
        ctx.save_for_backward(for_states / len(states), for_weights / len(states))
        return loss / len(states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        for_states, for_weights = ctx.saved_tensors
        return for_states * gradients[0], for_weights * gradients[0], None


_CUTOFF, _LEAST = 10, 1e-6


@dataclass(eq=False)
class SelfAttention(ItemScorer):
    """Scores items by a transformer that reads the query's history.

    A user without a history gets the scores of item popularity. The epoch is chosen by NDCG@10 over
    the whole catalogue on the last training event of some users, held out. The linear schedule and
    its number of epochs were chosen on the validation events of Amazon Beauty; the other defaults
    are the usual ones for logs of its size.

    Args:
        width: numbers in an item's embedding, a multiple of ``heads``.
        layers: blocks of self-attention.
        heads: attention heads of a block.
        dropout: of embeddings, attention and blocks.
        longest: the most items of a history that are read, the latest.
        learning_rate: AdamW's first one; it falls linearly to 0 over the epochs.
        batch_size: sequences a step.
        epochs: how often the training events are gone through at most.
        patience: after how many epochs without gain training ends.
        held_out: the fraction of users whose last training event chooses the epoch.
        start: where the items' embeddings start: ``random``, or as a language model's item tokens
            do, such as ``content`` or ``{"content+collaborative": {"scale": 3}}``; see
            :class:`~recinject.models.starts.ContentStart`.
        device: see :class:`~recinject.training.networks.FitSettings`.
    """

    kind: ClassVar[type[SequenceModule]]
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "dropout": (0.2, 0.35, 0.5, 0.65),
        "learning_rate": (5e-4, 1e-3, 2e-3),
    }

    width: PositiveInt = 64
    layers: PositiveInt = 2
    heads: PositiveInt = 2
    dropout: Dropout = 0.5
    longest: Annotated[int, Field(ge=2, le=MOST)] = 50
    learning_rate: Rate = 1e-3
    batch_size: PositiveInt = 128
    epochs: PositiveInt = 30
    patience: PositiveInt = 10
    held_out: Fraction = 0.1
    start: str | dict[str, dict[str, Any]] = "random"
    device: Literal["cpu", "auto"] = "cpu"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        self.training_history: TrainingHistory | None = None

    def fit(self, training: Interactions, seed: int) -> None:
        """Learn from the training events but those held out, and keep the best epoch."""
        held_out = _hold_out(training, self.held_out, self._chance(seed, "held_out"))
        learned = training.select(~held_out)
        sizes = {size: getattr(self, size) for size in ("width", "layers", "heads", "dropout")}
        # One more than everybody reads, for the mask that some put behind a history.
        most = self._longest("retrieval", self.longest) or self.longest
        longest = min(self.longest, most + int(self.kind.sees_ahead))
        with global_chance(int(self._chance(seed).integers(2**31))):
            module = self.kind(training.n_items, **sizes, longest=max(2, longest))
        if self.start != "random":
            self._start_items(module.items.weight, training, seed)
        users = range(training.n_users)
        windows = [window for user in users for window in module.windows(learned.items_of(user))]
        if windows:
            histories = [learned.items_of(user) for user in training.users[held_out]]
            measure = partial(_mean_ndcg, histories=histories, targets=training.items[held_out])
            how, validate = FitSettings.of(self, schedule="linear"), measure if histories else None
            self.training_history = fit_network(
                module, windows, module.collate, how, seed, validate
            )
        self._popularity = item_counts(training)
        # In double precision a query's scores do not depend on which queries share its batch.
        self._module = module.cpu().double().eval() if windows else None

    def _start_items(self, table: Tensor, training: Interactions, seed: int) -> None:
        """Turn items' rows to where knowledge points; their length is the mean one, scaled."""
        from recinject.models.starts import ContentStart, token_start  # with it comes transformers

        start = token_start(self.start)
        if self._sources is None or not isinstance(start, ContentStart):
            hint = "fit it on a log with its items, and start from content or collaborative"
            raise RecinjectError(f"{self.name}: start={self.start} cannot be had here", hint=hint)
        found = start.directions(self._sources.catalog, training, table.shape[1], seed)
        directions = torch.from_numpy(found)
        directions /= directions.norm(dim=1, keepdim=True).clamp(min=_LEAST)
        told = directions.any(1)
        with torch.no_grad():
            table[: training.n_items][told] = (
                directions[told] * table.norm(dim=1).mean() * start.scale
            )

    def score(self, queries: Queries, rows: slice) -> Floats:
        """Let the transformer read each query's history."""
        histories = queries.histories[rows]
        scores = np.tile(self._popularity, (len(histories), 1))
        filled = [row for row, history in enumerate(histories) if len(history)]
        if self._module is not None and filled:
            with torch.inference_mode():
                predicted = self._module.score([histories[row] for row in filled])
            scores[filled] = predicted.float().numpy()
        return scores


@dataclass(eq=False)
class SASRec(SelfAttention):
    """Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

    It learns by the cross-entropy over the whole catalogue, which does far better than the paper's
    own loss (Klenitskiy and Vasilev, Turning dross into gold loss, RecSys 2023).
    """

    name: ClassVar[str] = "sasrec"
    kind: ClassVar[type[SequenceModule]] = SASRecModule


@dataclass(eq=False)
class ContentSASRec(SASRec):
    """SASRec whose items start from their content, as a language model's item tokens do.

    It is the control of a language model's knowledge: what the content gives without a language.
    """

    name: ClassVar[str] = "sasrec_content"

    start: str | dict[str, dict[str, Any]] = "content"


@dataclass(eq=False)
class BinarySASRec(SelfAttention):
    """SASRec as published: each next item against one drawn uniformly from the others."""

    name: ClassVar[str] = "sasrec_bce"
    kind: ClassVar[type[SequenceModule]] = BinarySASRecModule

    epochs: PositiveInt = 100


@dataclass(eq=False)
class BERT4Rec(SelfAttention):
    """Masked items predicted from both sides of a history (Sun et al., CIKM 2019)."""

    name: ClassVar[str] = "bert4rec"
    kind: ClassVar[type[SequenceModule]] = BERT4RecModule

    epochs: PositiveInt = 100


def _hold_out(training: Interactions, fraction: float, rng: np.random.Generator) -> Flags:
    """Flag the last events of a fraction of the users with at least three: shape (events,)."""
    users = np.flatnonzero(np.diff(training.offsets) >= 3)
    chosen = rng.permutation(users)[: round(fraction * len(users))]
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
        target_scores = scores.gather(1, wanted)
        for row, history in enumerate(some):
            scores[row, history] = -torch.inf
        ahead = (scores > target_scores).sum(1)
        total += float((1 / torch.log2(ahead[ahead < _CUTOFF] + 2.0)).sum())
    return total / len(targets)
