"""Which tokens may come next, so that an answer names an item that exists. It needs numpy alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class AllowedTokens:
    """The tree of all items' tokens, read from ``trie.npz``.

    ``tokens`` are those of an answer so far: none of the prompt's, and of an encoder-decoder
    model not the token that the decoder starts with.
    """

    def __init__(self, file: str | Path) -> None:
        with np.load(file) as trie:
            self._tokens, self._first = trie["tokens"], trie["first_child"]
            self._items, self._ids = trie["items"], trie["item_ids"]
            self.depth = int(trie["depth"])

    def __call__(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens that may come next: none after an item's last, or after a wrong one."""
        node = self._find(tokens)
        if node is None:
            return []
        return [int(t) for t in self._tokens[self._first[node] : self._first[node + 1]]]

    def item(self, tokens: Sequence[int]) -> str | None:
        """Return the id of the item that an answer names, or None; padding may follow it."""
        ends = [self._find(tokens[:length]) for length in range(1, len(tokens) + 1)]
        found = [self._items[node] for node in ends if node is not None]
        return next((str(self._ids[item]) for item in found if item >= 0), None)

    def process(self, tokens: Sequence[int], logits: Any) -> Any:
        """Bar every other token: the callable ``(output_ids, logits)`` of vLLM's requests."""
        allowed = self(list(tokens))
        if allowed:
            kept = logits[allowed].clone()
            logits.fill_(float("-inf"))
            logits[allowed] = kept
        return logits

    def process_batch(self, logits: Any, params: Sequence[dict[str, Any]]) -> Any:
        """Do so for each row: the body of a ``CustomLogitProcessor`` of SGLang."""
        for row, own in enumerate(params):
            self.process(own["__req__"].output_ids, logits[row])
        return logits

    def _find(self, tokens: Sequence[int]) -> int | None:
        node = 0
        for token in tokens:
            start, stop = self._first[node], self._first[node + 1]
            node = int(start + np.searchsorted(self._tokens[start:stop], token))
            if node >= stop or self._tokens[node] != token:
                return None
        return node
