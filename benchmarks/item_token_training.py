"""Steps a second of a language model with one token an item, against this project's SASRec.

    python benchmarks/item_token_training.py [--quick]

A GPT-2 of 2 layers and width 64, as in the recipe ``amazon_sequence``, learns every item of 128
sequences a step, of Beauty's lengths and number of items, through the Trainer. SASRec is of the
same size, and reads the same sequences. Both are timed by the processor, in turns, in one process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback

from recinject.models.building import build_model, wrap_tokenizer
from recinject.recommenders.sequence import SASRecModule
from recinject.samples.tokenizer import add_tokens, train_tokenizer
from recinject.training.arguments import training_arguments
from recinject.training.batches import make_collator
from recinject.training.networks import FitSettings, fit_network
from recinject.training.trainer import TokenTrainer

ITEMS, BATCH, LONGEST = 12_000, 128, 50
DROPOUT = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.5)
SHAPE = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 100}


def make_sequences(count: int) -> list[np.ndarray[Any, Any]]:
    """Draw sequences of items by popularity."""
    rng = np.random.default_rng(0)
    popularity = np.arange(1, ITEMS + 1) ** -0.7
    lengths = np.minimum(LONGEST, 3 + rng.geometric(0.17, count))
    return [rng.choice(ITEMS, size, p=popularity / popularity.sum()) for size in lengths]


def language_model(sequences: Sequence[Any]) -> Callable[[], Any]:
    """Make a model's Trainer, and return what goes through the sequences once."""
    tokenizer = train_tokenizer(["What comes next?"], 300)
    add_tokens(tokenizer, [f"<item_{number}>" for number in range(ITEMS)])
    first = tokenizer.token_to_id("<item_0>")
    rows = [(sequence + first).tolist() for sequence in sequences]
    columns = {"input_ids": [row[:1] for row in rows], "labels": [row[1:] for row in rows]}
    data = Dataset.from_dict({**columns, "length": list(map(len, rows)), "task": [0] * len(rows)})
    model = build_model({**SHAPE, **DROPOUT}, tokenizer, 0)
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": BATCH}
    settings |= {"save_strategy": "no", "learning_rate": 2e-3}
    trainer = TokenTrainer(
        model=model,
        args=training_arguments(settings, Path(tempfile.mkdtemp()), 1),
        train_dataset=data,
        data_collator=make_collator(model, wrap_tokenizer(tokenizer)),
        task_names=["sequence"],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer.train


def sasrec(sequences: Sequence[Any]) -> Callable[[], Any]:
    """Make a SASRec, and return what goes through the sequences once."""
    network = SASRecModule(ITEMS, longest=LONGEST)
    settings = FitSettings(learning_rate=1e-3, batch_size=BATCH)
    return lambda: fit_network(network, sequences, network.collate, settings, 1)


def main() -> None:
    """Measure both in turns, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    steps = 4 if parser.parse_args().quick else 60
    sequences = make_sequences(steps * BATCH)
    seconds: dict[str, float] = {}
    torch.manual_seed(0)
    for _ in range(2):
        ways = {
            "language model": language_model(sequences),
            "SASRec": sasrec(sequences),
        }
        for name, train in ways.items():
            started = time.process_time()
            train()
            took = time.process_time() - started
            seconds[name] = min(took, seconds.get(name, took))
    for name, took in seconds.items():
        print(f"{name:>14} {1000 * took / steps:>7.1f} ms a step")
    pace, reference = steps / seconds["language model"], steps / seconds["SASRec"]
    result = {"benchmark": "item_token_training", "value": round(pace, 2), "unit": "steps/s"}
    result |= {"reference": round(reference, 2), "ratio": round(pace / reference, 2)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
