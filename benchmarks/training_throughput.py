"""Useful tokens a second of training, against the stock Trainer on texts that it tokenises.

    python benchmarks/training_throughput.py [--quick] [--steps 60]

Useful tokens are those of prompts and completions, padding left out; seconds are the processor's,
so that a busy machine does not matter. The model has FLAN-T5-small's size (random weights; a small
one with --quick), the prompts are histories of titles from Amazon Beauty, or of a simulated shop
where there is no such data (RECINJECT_DATA names its place). The reference is transformers' Trainer
with random batches, tokenised on the fly, and the model's own loss. Each side has a whole epoch's
batches, and trains on some of them, spread evenly over their sizes, in turns.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from transformers import PrinterCallback, Trainer, TrainerCallback

from recinject.models.building import build_model, wrap_tokenizer
from recinject.samples.tokenizer import train_tokenizer
from recinject.training.arguments import training_arguments
from recinject.training.batches import LengthBuckets, make_collator
from recinject.training.fitting import TokenTrainer

SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
TINY = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
SHAPE = {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.1}
BATCH, TURNS = 16, 3
SIDES = ("prompt", "label")


def read_titles(folder: Path) -> tuple[list[str], list[list[int]]]:
    """Read Beauty's titles, and the items of each user in their order."""
    with gzip.open(folder / "items.jsonl.gz", "rt", encoding="utf-8") as stream:
        items = [json.loads(line) for line in stream]
    numbers = {item["item_id"]: number for number, item in enumerate(items)}
    histories: dict[str, list[int]] = {}
    with gzip.open(folder / "interactions.tsv.gz", "rt", encoding="utf-8") as stream:
        next(stream)
        for line in stream:
            user, item, *_ = line.rstrip("\n").split("\t")
            histories.setdefault(user, []).append(numbers[item])
    return [item["title"] or item["item_id"] for item in items], list(histories.values())


def simulate_titles(rng: np.random.Generator) -> tuple[list[str], list[list[int]]]:
    """Make titles and histories of like lengths where there is no real log."""
    words = [f"word{number}" for number in range(2000)]
    titles = [" ".join(rng.choice(words, rng.integers(3, 18))) for _ in range(3000)]
    lengths = 5 + rng.geometric(0.25, 4000)
    return titles, [rng.integers(3000, size=min(n, 50)).tolist() for n in lengths]


def make_texts(count: int, rng: np.random.Generator) -> tuple[str, list[str], list[str]]:
    """Make prompts and completions: a user's titles, and the one that comes next."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RECINJECT_DATA", beside)) / "amazon-2014-beauty"
    real = folder.is_dir()
    titles, histories = read_titles(folder) if real else simulate_titles(rng)
    chosen = [histories[n] for n in rng.permutation(len(histories))[:count]]
    prompts = [
        "A customer bought, oldest first: "
        + "; ".join(titles[item] for item in items[-21:-1])
        + ". What comes next?"
        for items in chosen
    ]
    return "Beauty" if real else "simulated", prompts, [titles[items[-1]] for items in chosen]


class TokenisingCollator:
    """Encodes texts as they come, as many a training script does."""

    def __init__(self, tokenizer: Tokenizer, collate: Any) -> None:
        self._tokenizer, self._collate = tokenizer, collate

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Mapping[str, torch.Tensor]:
        """Encode and pad."""
        rows = [
            {"input_ids": self._tokenizer.encode(feature["prompt"]).ids[:512],
             "labels": self._tokenizer.encode(feature["completion"]).ids[:64]}
            for feature in features
        ]  # fmt: skip
        collated: Mapping[str, torch.Tensor] = self._collate(rows)
        return collated


class Counter(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Counts the tokens of the batches, and the time between first and last."""

    def __init__(self, collate: Any) -> None:
        self._collate = collate
        self.started = self.seconds = 0.0
        self.prompt, self.label = np.zeros(2, np.int64), np.zeros(2, np.int64)

    def collate(self, features: Any) -> Any:
        """Collate a batch and count its tokens: those of use, and all."""
        batch = self._collate(features)
        self.prompt += int(batch["attention_mask"].sum()), batch["input_ids"].numel()
        self.label += int((batch["labels"] != -100).sum()), batch["labels"].numel()
        return batch

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self.started = time.process_time()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the clock."""
        self.seconds = time.process_time() - self.started


def measure(kind: type[Trainer], model: Any, data: Dataset, collate: Any) -> Counter:
    """Train on rows as they come."""
    counter = Counter(collate)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "num_train_epochs": 1,
            "per_device_train_batch_size": BATCH,
            "save_strategy": "no",
            "logging_strategy": "no",
            "train_sampling_strategy": "sequential",
        }
        trainer = kind(
            model=model,
            args=training_arguments(settings, Path(folder), 1),
            train_dataset=data,
            data_collator=counter.collate,
            callbacks=[counter],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return counter


def spread(order: Sequence[int], lengths: np.ndarray[Any, Any], steps: int) -> list[int]:
    """Choose some of an epoch's batches, evenly among those that were ranked by their sizes."""
    batches = np.array(order)[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
    ranked = batches[np.argsort(lengths[batches].max(1).sum(1), kind="stable")]
    chosen = (np.arange(steps) + 0.5) * len(ranked) / steps
    return ranked[chosen.astype(int)].ravel().tolist()


def main() -> None:
    """Measure both, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller model and fewer steps")
    parser.add_argument("--steps", type=int, help="of each side; 60, or 6 with --quick")
    told = parser.parse_args()
    quick, steps = told.quick, told.steps or (6 if told.quick else 60)
    rng = np.random.default_rng(0)
    source, prompts, completions = make_texts(1600 if quick else 10**9, rng)
    tokenizer = train_tokenizer(prompts[:2000], 8000 if quick else 32_000)
    wrapped = wrap_tokenizer(tokenizer)
    tokens = [encoding.ids[:512] for encoding in tokenizer.encode_batch(prompts)]
    labels = [encoding.ids[:64] for encoding in tokenizer.encode_batch(completions)]
    lengths = np.array([list(map(len, rows)) for rows in (tokens, labels)]).T
    ours = spread(list(LengthBuckets(lengths[:, 0].tolist(), BATCH, 1, lambda: 0)), lengths, steps)
    theirs = spread(rng.permutation(len(prompts)).tolist(), lengths, steps)
    size = {**(TINY if quick else SMALL), **SHAPE}
    fast, slow = (build_model(size, tokenizer, 0) for _ in range(2))
    collate = make_collator(fast, wrapped)
    found: list[list[Counter]] = [[], []]
    # A part of each after the other, so that both meet the same machine.
    for start in range(0, steps * BATCH, turn := -(-steps // TURNS) * BATCH):
        part = slice(start, start + turn)
        rows = {"input_ids": [tokens[n] for n in ours[part]]}
        rows["labels"] = [labels[n] for n in ours[part]]
        found[0].append(measure(TokenTrainer, fast, Dataset.from_dict(rows), collate))
        rows = {"prompt": [prompts[n] for n in theirs[part]]}
        rows["completion"] = [completions[n] for n in theirs[part]]
        on_the_fly = TokenisingCollator(tokenizer, collate)
        found[1].append(measure(Trainer, slow, Dataset.from_dict(rows), on_the_fly))
    print(f"{source} prompts, {torch.get_num_threads()} thread(s), {steps} steps of {BATCH}")
    print(f"{'':>10} {'useful tokens':>14} {'a second':>10} {'padded prompts':>15} {'labels':>7}")
    paces = []
    for name, counted in zip(("ours", "reference"), found, strict=True):
        prompt, label = (sum(getattr(each, side) for each in counted) for side in SIDES)
        padding = [1 - part[0] / part[1] for part in (prompt, label)]
        useful = int(prompt[0] + label[0])
        paces.append(useful / sum(each.seconds for each in counted))
        shown = f"{padding[0]:>15.1%} {padding[1]:>7.1%}"
        print(f"{name:>10} {useful:>14,} {paces[-1]:>10,.0f} {shown}")
    result = {"benchmark": "training_throughput", "value": round(paces[0], 1), "unit": "tokens/s"}
    result |= {"reference": round(paces[1], 1), "ratio": round(paces[0] / paces[1], 2)}
    print(json.dumps({**result, "prompts": source}))


if __name__ == "__main__":
    main()
