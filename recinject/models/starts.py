"""Knowledge starts: rows of new item tokens that begin with what words, content or use say."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array
from tokenizers import Tokenizer
from torch import Tensor, nn

from recinject.data.schema import Catalog, Flags, Floats, Integers, Interactions
from recinject.foundation.errors import RecinjectError
from recinject.foundation.settings import Factor, Positive, bind
from recinject.identifiers.content import (
    FILES,
    TFIDF,
    Vectors,
    content_directions,
    read_embeddings,
    reduce_width,
    unit_rows,
)
from recinject.identifiers.data import Data
from recinject.models.building import Initialization
from recinject.registry import find, register
from recinject.samples.tokenizer import encode

_ROWS = "item_rows.safetensors"
_PLACE = "identifiers.start"
_LEAST = 1e-6
_RIDGE = 1.0


class TokenStart(Initialization):
    """Where the embeddings of new item tokens start; the constructor's arguments are settings.

    Attributes:
        data: the items with their events.
        tokenizer: gives each item's token its number.
        fresh: the items whose tokens the model has never trained, shape (items,).
    """

    reads_batches = False
    data: Data
    tokenizer: Tokenizer
    fresh: Flags

    def read(self, data: Data, tokenizer: Tokenizer, fresh: Flags | None = None) -> Self:
        """Note what :meth:`start` goes by; all items are fresh if not given."""
        self.data, self.tokenizer = data, tokenizer
        self.fresh = np.ones(len(data.catalog), bool) if fresh is None else fresh
        return self

    @abstractmethod
    def rows(self, table: Tensor, ids: Integers, seed: int) -> Vectors:
        """Return the rows that items start with, NaN where one keeps what it has.

        Args:
            table: embeddings of all tokens, (tokens, width), random in the rows ``ids``.
            ids: the token of each item, shape (items,).
            seed: of whatever is random.

        Returns:
            Shape (items, width).
        """

    def check(self, model: nn.Module) -> None:
        """Do nothing: rows keep their shape."""

    @torch.no_grad()
    def start(self, model: nn.Module, batches: Sequence[Mapping[str, Tensor]], seed: int) -> None:
        """Fill the rows of fresh tokens, in the output embeddings too where these are others."""
        known = self.tokenizer.get_vocab()
        ids = np.array([known[text] for text in self.data.identifiers.texts], np.int32)
        for table in _tables(model).values():
            rows = self.rows(table.detach().float().cpu(), ids, seed)
            kept = self.fresh & np.isfinite(rows).all(1)
            index = torch.from_numpy(ids[kept].astype(np.int64)).to(table.device)
            table[index] = torch.from_numpy(rows[kept]).to(table)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the embeddings."""
        tables = {name: table.detach().contiguous() for name, table in _tables(model).items()}
        save_file(tables, folder / _ROWS)

    @torch.no_grad()
    def load(self, model: nn.Module, folder: Path) -> None:
        """Take the embeddings that :meth:`save` wrote."""
        for name, table in load_file(folder / _ROWS).items():
            _tables(model)[name].copy_(table)


def _known(training: Interactions) -> Flags:
    """Return which items have training events, shape (items,)."""
    return np.bincount(training.items, minlength=training.n_items) > 0


def _tables(model: Any) -> dict[str, Tensor]:
    """Return a model's embeddings of tokens: one table, or two where outputs have their own."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    found = {"input": inputs.weight}
    if outputs is not None and outputs.weight is not inputs.weight:
        found["output"] = outputs.weight
    return found


def token_start(asked: str | Mapping[str, Mapping[str, Any] | None]) -> TokenStart:
    """Make a start of item tokens by its name, or by its name with settings, or of a file.

    Raises:
        RecinjectError: there is no such start, or it takes no such setting.

    Examples:
        >>> token_start({"content": {"columns": ["title"]}}).columns
        ['title']
    """
    if isinstance(asked, str) and asked.endswith(FILES):
        asked = {"vectors": {"file": asked}}
    named = {asked: None} if isinstance(asked, str) else dict(asked)
    if len(named) != 1:
        hint = "write a name, {name: {setting: value}}, or a .npy file"
        raise RecinjectError(f"{_PLACE}: {asked!r} is no start of item tokens", hint=hint)
    (name, settings), *_ = named.items()
    kind = find("initialization", name, _PLACE)
    if not (isinstance(kind, type) and issubclass(kind, TokenStart)):
        hint = "take random, words, content, collaborative, content+collaborative or a .npy file"
        raise RecinjectError(f"{_PLACE}: {name} starts no rows of item tokens", hint=hint)
    return bind(kind, settings or {}, f"{_PLACE}.{name}")


@register("initialization", "random")
class RandomStart(TokenStart):
    """Rows stay as random as they are."""

    def rows(self, table: Tensor, ids: Integers, seed: int) -> Vectors:
        """Keep every row."""
        return np.full((len(ids), table.shape[1]), np.nan, np.float32)


@register("initialization", "words")
class WordStart(TokenStart):
    """A row starts as the mean of the model's own embeddings of the title's tokens.

    Items without a title start at the mean of all tokens that are no items.
    """

    def rows(self, table: Tensor, ids: Integers, seed: int) -> Vectors:
        """Take the mean over the tokens of each title."""
        words = encode(self.tokenizer, self.data.catalog.titles)
        words = words.keep(~np.isin(words.values, ids))
        lengths = words.lengths
        counts = csr_array(
            (np.ones(len(words.values)), words.values, words.offsets), (len(ids), len(table))
        )
        sums = counts @ table.numpy()
        others = _others(table, ids).mean(0).numpy()
        means = np.where(lengths[:, None] > 0, sums / np.maximum(lengths, 1)[:, None], others)
        return np.asarray(means, np.float32)


@register("initialization", "content")
class ContentStart(TokenStart):
    """A row starts from what the item's text says, learnt from items with training events.

    Vectors are reduced to the model's width, and as long as its other rows times ``scale``.

    Args:
        source: ``tfidf``, whose vectors are an SVD of TF-IDF weights; or a sentence-transformers
            model.
        columns: whose words, see :func:`~recinject.identifiers.content.item_texts`.
        dimensions: the most numbers of a vector before it is reduced; the model's width if None.
        scale: the longer rows are, the longer training keeps what they said.
    """

    def __init__(
        self,
        *,
        source: str = TFIDF,
        columns: list[str] | None = None,
        dimensions: Positive | None = None,
        scale: Factor = 1.0,
    ) -> None:
        self.source, self.columns, self.dimensions = source, columns, dimensions
        self.scale = scale

    def rows(self, table: Tensor, ids: Integers, seed: int) -> Vectors:
        """Give each row its item's direction."""
        own = self.data.catalog, self.data.split.train, table.shape[1], seed
        return self.scale * _scaled(self.directions(*own), table, ids)

    def directions(
        self, catalog: Catalog, training: Interactions, width: int, seed: int
    ) -> Vectors:
        """Return each item's unit vector, shape (items, width), or 0 where nothing is known."""
        own = self.source, self.columns, self.dimensions
        return content_directions(catalog, width, seed, _known(training), *own)


@register("initialization", "collaborative")
class CollaborativeStart(ContentStart):
    """A row starts from who used the item: an SVD of the shifted PPMI of items' common users.

    Items without training events start where a ridge regression from their content puts them.
    Source: Levy and Goldberg, Neural word embedding as implicit matrix factorization, 2014.

    Args:
        shift: pairs of items count that are met this many times as often as by chance.
        source: see :class:`ContentStart`; so are the next three.
    """

    def __init__(
        self,
        *,
        shift: float = 1.0,
        source: str = TFIDF,
        columns: list[str] | None = None,
        dimensions: Positive | None = None,
        scale: Factor = 1.0,
    ) -> None:
        super().__init__(source=source, columns=columns, dimensions=dimensions, scale=scale)
        self.shift = shift

    def directions(
        self, catalog: Catalog, training: Interactions, width: int, seed: int
    ) -> Vectors:
        """Return each item's unit vector; where content tells nothing of a new item, 0."""
        known, vectors = _known(training), pair_vectors(training, width, self.shift, seed)
        found = unit_rows(reduce_width(vectors, width))
        if known.all():
            return found
        try:
            content = ContentStart.directions(self, catalog, training, width, seed)
        except RecinjectError:
            return found  # without texts, new items stay random
        seen = content[known]
        weights = np.linalg.solve(seen.T @ seen + _RIDGE * np.eye(width), seen.T @ found[known])
        found[~known] = content[~known] @ weights
        return unit_rows(found)


@register("initialization", "content+collaborative")
class BothStart(CollaborativeStart):
    """Half of a row starts from the item's content, the other half from who used it."""

    def directions(
        self, catalog: Catalog, training: Interactions, width: int, seed: int
    ) -> Vectors:
        """Return each item's two halves, each a unit vector, shape (items, width)."""
        half, own = width // 2, (catalog, training)
        content = ContentStart.directions(self, *own, width - half, seed)
        return np.concatenate([content, super().directions(*own, half, seed)], axis=1)


@register("initialization", "vectors")
class VectorStart(TokenStart):
    """A row starts from a vector of the user's own; items whose vector is 0 stay random.

    Args:
        file: a ``.npy`` or ``.parquet``, see
            :func:`~recinject.identifiers.content.read_embeddings`.
    """

    def __init__(self, *, file: Path) -> None:
        self.file = file

    def rows(self, table: Tensor, ids: Integers, seed: int) -> Vectors:
        """Read, reduce and scale the vectors."""
        vectors = read_embeddings(self.file, self.data.catalog.item_ids)
        known = _known(self.data.split.train)
        return _scaled(unit_rows(reduce_width(vectors, table.shape[1], known, seed)), table, ids)


def pair_vectors(training: Interactions, width: int, shift: float, seed: int) -> Vectors:
    """Return an SVD of the positive, shifted, pointwise mutual information of pairs of items.

    A pair counts once for each user with training events of both. Returns left singular vectors,
    each times the root of its value, shape (items, at most ``width``).
    """
    from sklearn.utils.extmath import randomized_svd  # seconds to import, for this alone

    shape = (training.n_users, training.n_items)
    pairs = np.unique(np.stack([training.users, training.items]), axis=1)
    used = csr_array((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), shape)
    together = csr_array(used.T @ used).tocoo()
    apart = together.row != together.col
    rows, columns, counts = together.row[apart], together.col[apart], together.data[apart]
    sums = np.bincount(rows, counts, training.n_items)
    strength = np.log(counts * counts.sum() / (sums[rows] * sums[columns])) - np.log(shift)
    kept = strength > 0
    places = rows[kept], columns[kept]
    matrix = csr_array((strength[kept], places), (training.n_items, training.n_items))
    left, values, _ = randomized_svd(matrix, min(width, training.n_items), random_state=seed)
    return np.asarray(left * np.sqrt(values), np.float32)


def _scaled(directions: Vectors, table: Tensor, ids: Integers) -> Vectors:
    """Give directions the mean length of a table's other rows; NaN where there is none."""
    lengths: Floats = np.linalg.norm(directions, axis=1, keepdims=True)
    usual = float(_others(table, ids).norm(dim=1).mean())
    rows = usual * directions / np.maximum(lengths, _LEAST)
    return np.asarray(np.where(lengths > _LEAST, rows, np.nan), np.float32)


def _others(table: Tensor, ids: Integers) -> Tensor:
    """Return the rows of a table that are of no item."""
    kept = torch.ones(len(table), dtype=torch.bool)
    kept[torch.from_numpy(ids.astype(np.int64))] = False
    return table[kept]
