"""Users a second whose 100 candidates are scored together, against one forward a candidate.

    python benchmarks/candidate_scoring.py [--quick]

The model has TIGER's size (T5, 4 + 4 layers, 6 heads of 64, width 128, random weights) and items
are named by four codes. A prompt shows a history of 20 items; with the candidates in it, as a
ranking prompt has them, the reference would only be slower. It gives prompt and candidate to the
model as a Trainer would, pair by pair.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import T5Config, T5ForConditionalGeneration

from recinject.decoding.beam_search import score_candidates

PAD, END, FIRST_CODE, CODES, LEVELS = 0, 1, 2, 256, 4
CANDIDATES, HISTORY, CLOSE = 100, 20, 1e-4


def make_model() -> T5ForConditionalGeneration:
    """Build a T5 of TIGER's literal configuration, with random weights."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=FIRST_CODE + CODES * LEVELS + 6,
        d_model=128,
        d_kv=64,
        d_ff=1024,
        num_layers=4,
        num_heads=6,
        dropout_rate=0.0,
        decoder_start_token_id=PAD,
    )
    return T5ForConditionalGeneration(config).eval()


def forward_each(
    model: T5ForConditionalGeneration, prompts: torch.Tensor, candidates: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Sum the log-probabilities of each candidate's tokens in a forward of its own."""
    scores = np.zeros(candidates.shape[:2])
    for user, number in np.ndindex(scores.shape):
        labels = torch.from_numpy(candidates[user, number].astype(np.int64))[None]
        logits = model(input_ids=prompts[user : user + 1], labels=labels).logits
        gains = logits.log_softmax(-1).gather(2, labels[:, :, None])
        scores[user, number] = float(gains.sum())
    return scores


def seconds(score: Callable[[], Any]) -> tuple[float, Any]:
    """Return the time of a call, and what it gave."""
    started = time.perf_counter()
    found = score()
    return time.perf_counter() - started, found


def main() -> None:
    """Measure both, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer users")
    users, rounds = (1, 1) if parser.parse_args().quick else (8, 3)
    rng, model = np.random.default_rng(0), make_model()
    codes = rng.integers(CODES, size=(users, HISTORY + CANDIDATES, LEVELS))
    items = codes + FIRST_CODE + CODES * np.arange(LEVELS)
    ended = np.pad(items[:, HISTORY:], ((0, 0), (0, 0), (0, 1)), constant_values=END)
    candidates = ended.astype(np.int32)
    prompts = torch.from_numpy(
        np.pad(items[:, :HISTORY].reshape(users, -1), ((0, 0), (0, 1)), constant_values=END)
    )
    mask = torch.ones_like(prompts)
    with torch.inference_mode():
        together = [
            seconds(lambda: score_candidates(model, prompts, mask, candidates))
            for _ in range(rounds)
        ]
        slow, expected = seconds(lambda: forward_each(model, prompts, candidates))
    fast = min(second for second, _ in together)
    apart = float(np.abs(together[0][1] - expected).max())
    if apart > CLOSE:
        raise SystemExit(f"the scores are {apart:.1e} apart")
    print(f"{'users':>6} {'candidates':>11} {'users/s':>9} {'reference/s':>12} {'ratio':>7}")
    print(
        f"{users:>6} {CANDIDATES:>11} {users / fast:>9.2f} {users / slow:>12.2f} "
        f"{slow / fast:>7.1f}"
    )
    result = {"benchmark": "candidate_scoring", "value": round(users / fast, 2), "unit": "users/s"}
    result |= {"reference": round(users / slow, 3), "ratio": round(slow / fast, 2)}
    print(json.dumps({**result, "largest_difference": apart}))


if __name__ == "__main__":
    main()
