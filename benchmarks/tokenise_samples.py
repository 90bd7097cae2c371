"""Token arrays a second of the builder, against the fast tokenizer's own batch call.

    python benchmarks/tokenise_samples.py [--quick]

The samples are those of ``render_samples.py``, on one core. The reference gives their texts to the
tokenizer in batches; ours gathers the tokens of pieces. Both give the same tokens.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pyarrow as pa
from render_samples import make_builder

AT_ONCE = 4_000


def main() -> None:
    """Measure both in turns, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    batches = 1 if parser.parse_args().quick else 5
    pa.set_cpu_count(1)
    builder = make_builder(AT_ONCE * batches)
    encoder = builder.wording.encoder
    fast = slow = 0.0
    tokens, same = 0, True
    for start in range(0, len(builder), AT_ONCE):
        batch = builder.batch(np.arange(start, start + AT_ONCE))
        texts = encoder.pieces.write(batch.prompts).to_pylist()
        started = time.perf_counter()
        ours = encoder.encode(batch.prompts)
        fast += time.perf_counter() - started
        started = time.perf_counter()
        theirs = encoder.dialect.tokenizer.encode_batch_fast(texts)
        slow += time.perf_counter() - started
        same &= ours.to_list() == [encoding.ids for encoding in theirs]
        tokens += len(ours.values)
    ours_rate, their_rate = len(builder) / fast, len(builder) / slow
    print(f"{'tokens':>7} {'samples/s':>10} {'reference/s':>12} {'ratio':>6}")
    print(
        f"{tokens / len(builder):>7.0f} {ours_rate:>10,.0f} {their_rate:>12,.0f} "
        f"{ours_rate / their_rate:>6.1f}"
    )
    result = {"benchmark": "tokenise_samples", "value": round(ours_rate), "unit": "samples/s"}
    result |= {"reference": round(their_rate), "ratio": round(ours_rate / their_rate, 1)}
    print(json.dumps({**result, "same_items": float(same)}))


if __name__ == "__main__":
    main()
