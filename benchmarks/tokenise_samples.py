"""Token arrays a second of the builder, against the fast tokenizer's own batch call.

    python benchmarks/tokenise_samples.py [--quick] [--tokenizer FILE...]

The samples are those of ``render_samples.py``, on one core, timed by the processor. The reference
gives their texts to the tokenizer in batches; ours gathers the tokens of pieces. Both give the same
tokens. The tokenizers are T5's, where the data is, or one with its conventions; byte-level ones for
causal models, learnt from the catalogue's titles and split as GPT-2's, SmolLM2's, Llama 3's and
Qwen's are; and any ``tokenizer.json``, read as a causal model's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from render_samples import make_builder, read
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from recinject.samples.builder import Builder
from recinject.samples.tokenizer import load_tokenizer

AT_ONCE = 4_000
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "GPT-2": [BYTES],
    "SmolLM2": [pre_tokenizers.Digits(individual_digits=True), BYTES],
    "Llama 3": [pre_tokenizers.Split(Regex(LLAMA_3), "isolated")],
    "Qwen": [pre_tokenizers.Split(Regex(LLAMA_3.replace("{1,3}", "")), "isolated")],
}


def learn(family: str, texts: list[str]) -> Tokenizer:
    """Learn a byte-level tokenizer that splits texts as a family's do."""
    tokenizer = Tokenizer(models.BPE())
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splits = SPLITS[family] if BYTES in SPLITS[family] else [*SPLITS[family], bare]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    if family == "Qwen":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=32_000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make_builders(samples: int, files: list[str]) -> Iterator[tuple[str, Builder]]:
    """Make a builder for each tokenizer, one after another."""
    yield "T5", make_builder(samples)
    titles = [f" {title}" for title in read().catalog.titles]
    for family in SPLITS:
        yield family, make_builder(samples, learn(family, titles), causal=True)
    for file in files:
        yield file, make_builder(samples, load_tokenizer(file), causal=True)


def measure(builder: Builder) -> tuple[float, float, int, bool]:
    """Return the seconds of ours and the reference, the number of tokens, and if all are equal."""
    encoder = builder.wording.encoder
    fast = slow = 0.0
    tokens, same = 0, True
    for start in range(0, len(builder), AT_ONCE):
        batch = builder.batch(np.arange(start, min(start + AT_ONCE, len(builder))))
        texts = encoder.pieces.write(batch.prompts).to_pylist()
        started = time.process_time()
        ours = encoder.encode(batch.prompts)
        fast += time.process_time() - started
        started = time.process_time()
        theirs = encoder.dialect.tokenizer.encode_batch_fast(texts)
        slow += time.process_time() - started
        same &= ours.to_list() == [encoding.ids for encoding in theirs]
        tokens += len(ours.values)
    return fast, slow, tokens, same


def main() -> None:
    """Measure both in turns, and print a table and one JSON object a tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--tokenizer", nargs="*", default=[], help="more of them, as files")
    asked = parser.parse_args()
    samples = 2_000 if asked.quick else 20_000
    pa.set_cpu_count(1)
    print(f"{'tokenizer':>9} {'tokens':>7} {'samples/s':>10} {'reference/s':>12} {'ratio':>6}")
    results = []
    for name, builder in make_builders(samples, asked.tokenizer):
        fast, slow, tokens, same = measure(builder)
        ours, theirs, ratio = samples / fast, samples / slow, round(slow / fast, 1)
        print(
            f"{name:>9} {tokens / samples:>7.0f} {ours:>10,.0f} {theirs:>12,.0f} {ratio:>6.1f}",
            flush=True,
        )
        result = {"benchmark": "tokenise_samples", "tokenizer": name, "value": round(ours)}
        result |= {"unit": "samples/s", "reference": round(theirs), "ratio": ratio}
        results.append({**result, "same_items": float(same)})
    print("\n".join(map(json.dumps, results)))


if __name__ == "__main__":
    main()
