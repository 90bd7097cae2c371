"""Users a second of constrained beam search, against transformers' ``generate``.

    python benchmarks/beam_search.py [--quick]

Three cases, all with random weights: items named by titles of 24 tokens and a T5 of FLAN-T5-small's
size, items named by four codes and the same model, and the codes with a model of TIGER's size (T5,
4 + 4 layers, 6 heads of 64, width 128). The reference is ``generate`` with
``prefix_allowed_tokens_fn`` over a trie of dicts. Both search the same prompts with the same beams,
in turns, in this process. A fourth case names each item by one token and asks TIGER's size: one
step and the best tokens against the beam search, which must give the same lists.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration

from recinject.decoding.beam_search import constrained_beam_search, score_next
from recinject.decoding.trie import Trie
from recinject.recommenders.protocol import top_k

PAD, END, FIRST, CODES, LEVELS, TITLE, WORDS = 0, 1, 2, 256, 4, 24, 32_000
Items = list[list[int]]
TIGER: dict[str, Any] = {"d_model": 128, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_heads": 6}
SMALL: dict[str, Any] = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
SMALL |= {"feed_forward_proj": "gated-gelu"}


@dataclass(frozen=True)
class Case:
    """What is searched: by which model, for how many items, users and beams.

    Attributes:
        name: its name in the table.
        sizes: the model's, as T5's config names them.
        vocabulary: how many tokens it knows.
        titles: whether items are named by titles and not by codes.
        shown: how many items a prompt shows.
    """

    name: str
    sizes: dict[str, Any]
    vocabulary: int
    titles: bool
    shown: int
    items: int
    users: int
    beams: int
    rounds: int

    @property
    def quick(self) -> Case:
        """The same with little to do."""
        sizes = self.sizes | {"num_layers": 2}
        return replace(self, sizes=sizes, shown=4, items=1000, users=2, beams=10, rounds=1)


# The last one is what the whole benchmark is known by.
CASES = (
    Case("flan-t5-small, titles", SMALL, 32_128, True, 10, 11_924, 4, 20, 2),
    Case("flan-t5-small, codes", SMALL, 32_128, False, 20, 12_000, 16, 20, 2),
    Case("tiger, codes", TIGER, FIRST + CODES * LEVELS + 6, False, 20, 12_000, 32, 20, 3),
)


def make_model(case: Case) -> T5ForConditionalGeneration:
    """Build a T5 with random weights."""
    torch.manual_seed(0)
    config = T5Config(
        **case.sizes,
        vocab_size=case.vocabulary,
        dropout_rate=0.0,
        decoder_start_token_id=PAD,
    )
    return T5ForConditionalGeneration(config).eval()


def make_items(case: Case, rng: np.random.Generator) -> Items:
    """Name items by codes or by titles and the end token, no two alike."""
    if case.titles:
        # Few words are frequent, as in real titles, above all the first: brands.
        words = rng.zipf(1.2, size=(case.items, TITLE)) % WORDS
        rows = np.unique(words, axis=0) + FIRST
    else:
        codes = np.unique(rng.integers(CODES, size=(case.items, LEVELS)), axis=0)
        rows = codes + FIRST + CODES * np.arange(LEVELS)
    return [[*row, END] for row in rows.tolist()]


def generate(
    model: T5ForConditionalGeneration, prompts: torch.Tensor, items: Items, beams: int
) -> np.ndarray[Any, Any]:
    """Search with ``generate`` and a trie of dicts."""
    root: dict[int, Any] = {}
    numbers = {}
    for number, tokens in enumerate(items):
        numbers[tuple(tokens)] = number
        node = root
        for token in tokens:
            node = node.setdefault(token, {})

    def allowed(_: int, prefix: torch.Tensor) -> list[int]:
        node = root
        for token in prefix.tolist()[1:]:
            node = node.get(token, {})
        return list(node) or [PAD]

    found = model.generate(
        input_ids=prompts,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=len(items[0]),
        prefix_allowed_tokens_fn=allowed,
        length_penalty=0.0,
        early_stopping=False,
        do_sample=False,
    )
    rows = [numbers[tuple(row[1:])] for row in found.tolist()]
    return np.array(rows).reshape(len(prompts), beams)


def seconds(search: Callable[[], Any]) -> tuple[float, Any]:
    """Return the time of a call, and what it gave."""
    started = time.perf_counter()
    found = search()
    return time.perf_counter() - started, found


def measure(case: Case) -> dict[str, Any]:
    """Search both ways in turns; see :func:`told`."""
    rng = np.random.default_rng(0)
    model, items = make_model(case), make_items(case, rng)
    trie = Trie.build(items)
    histories = rng.integers(len(items), size=(case.users, case.shown))
    prompts = torch.tensor([[t for i in row for t in items[i][:-1]] + [END] for row in histories])
    mask = torch.ones_like(prompts)
    ours, theirs = [], []
    with torch.inference_mode():
        for _ in range(case.rounds):
            ours.append(
                seconds(lambda: constrained_beam_search(model, prompts, mask, trie, case.beams))
            )
            theirs.append(seconds(lambda: generate(model, prompts, items, case.beams)))
    same = np.mean([np.isin(a, b) for a, b in zip(ours[0][1][0], theirs[0][1], strict=True)])
    return told(case, ours, theirs, same)


def told(case: Case, ours: list[Any], theirs: list[Any], same: float) -> dict[str, Any]:
    """Print a row of a table, and return what belongs into the JSON object."""
    fast, slow = (case.users / min(second for second, _ in side) for side in (ours, theirs))
    print(
        f"{case.name:22} {case.items:>7,} {case.users:>6} {case.beams:>6} {fast:>9.2f} "
        f"{slow:>12.2f} {fast / slow:>7.1f}"
    )
    result = {"benchmark": "beam_search", "case": case.name, "value": round(fast, 3)}
    result |= {"unit": "users/s", "reference": round(slow, 3), "ratio": round(fast / slow, 2)}
    return {**result, "same_items": round(float(same), 4)}


def measure_one_token(case: Case) -> dict[str, Any]:
    """Search items of one token each, by one step and by beams, as :func:`measure` does."""
    rng = np.random.default_rng(0)
    model = make_model(replace(case, vocabulary=case.items + FIRST))
    tokens = np.arange(case.items, dtype=np.int32) + FIRST
    trie, prompts = Trie.build(tokens[:, None].tolist()), rng.choice(tokens, (case.users, 20))
    asked = model, torch.from_numpy(prompts).long(), torch.ones(prompts.shape, dtype=torch.long)
    one, beams = [], []
    for _ in range(case.rounds):
        one.append(seconds(lambda: top_k(score_next(*asked, tokens), case.beams)))
        beams.append(seconds(lambda: constrained_beam_search(*asked, trie, case.beams)))
    same = float(np.mean(one[0][1][0] == beams[0][1][0]))
    return told(case, one, beams, same)


def main() -> None:
    """Measure every case, and print a table and one JSON object a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer items, users and layers")
    quick = parser.parse_args().quick
    print(
        f"{'case':22} {'items':>7} {'users':>6} {'beams':>6} {'users/s':>9} {'reference/s':>12} "
        f"{'ratio':>7}"
    )
    cases = [case.quick if quick else case for case in CASES]
    one_token = replace(cases[-1], name="tiger, one token")
    results = [measure_one_token(one_token), *(measure(case) for case in cases)]
    print("\n".join(map(json.dumps, results)))


if __name__ == "__main__":
    main()
