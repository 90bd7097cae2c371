"""Samples a second of the builder, against a plain loop over Jinja's sandbox.

    python benchmarks/render_samples.py [--quick]

Retrieval prompts with twenty titles each, rendered and written to Parquet on one core. Titles are
those of Amazon Toys where the real data is (``RECINJECT_DATA`` names its folder), else a simulated
shop's; histories are drawn by popularity. The reference renders each sample with a template that
loops over the items, collects a list of rows and writes it: once with the template compiled before
the loop, which is what the ratio is taken against, and once with ``from_string`` for each sample,
as evaluation harnesses do. All write the same rows.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# One core: before the libraries start their threads.
os.environ |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2.sandbox import SandboxedEnvironment
from tokenizers import Tokenizer

from recinject.data.readers import read_log
from recinject.data.schema import Interactions, Log
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part, leave_one_out
from recinject.identifiers.data import Data
from recinject.identifiers.table import name_items
from recinject.samples.builder import SCHEMA, Builder
from recinject.samples.samples import SampleSettings, make_factory
from recinject.samples.store import Forms, write_samples
from recinject.samples.tokenizer import load_tokenizer
from recinject.tasks.task import Retrieval

TITLES, SEED = 20, 1
LOOP = (
    "A customer chose these items, one after another: "
    "{% for item in history %}{{ item.title }}{% if not loop.last %}; {% endif %}{% endfor %}. "
    "Which item comes next?"
)


def real_data() -> Path | None:
    """Return the folder of real data, or None."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RECINJECT_DATA", beside))
    return folder if folder.is_dir() else None


@cache
def read() -> Log:
    """Return the real log, or a simulated one."""
    folder = real_data()
    if folder is None:
        return simulate_shop(users=500, items=2000, events_per_user=20, seed=SEED)
    return read_log(folder / "amazon-2014-toys")


def make_builder(samples: int, tokenizer: Tokenizer | None = None, causal: bool = False) -> Builder:
    """Make a builder of samples with twenty titles each, for T5 if no tokenizer is given."""
    log, folder = read(), real_data()
    if folder is not None and tokenizer is None:
        tokenizer = load_tokenizer(folder / "t5-tokenizer")
    popularity = np.bincount(log.interactions.items, minlength=len(log.catalog)) + 0.1
    split = leave_one_out(histories(popularity, samples))
    data = Data(split, log.catalog, name_items("title", log.catalog, SEED))
    settings = SampleSettings(max_prompt_tokens=4096, max_completion_tokens=512, seed=SEED)
    task = Retrieval(history_length=TITLES)
    factory = make_factory(data, [task], settings, tokenizer, causal=causal)
    return next(b for b in factory.builders() if b.split == Part.TEST.label)


def histories(popularity: np.ndarray[Any, Any], users: int) -> Interactions:
    """Draw the events of users by popularity: one tested, one for validation, and twenty before."""
    length = TITLES + 1
    rng = np.random.default_rng(SEED)
    items = rng.choice(len(popularity), size=users * length, p=popularity / popularity.sum())
    return Interactions(
        users=np.repeat(np.arange(users, dtype=np.int32), length),
        items=items.astype(np.int32),
        ratings=None,
        timestamps=None,
        user_ids=[f"A{user:07d}" for user in range(users)],
        n_items=len(popularity),
    )


def write_plainly(builder: Builder, numbers: range, file: Path, compiles_once: bool) -> None:
    """Render samples one by one, collect them, and write them."""
    sandbox = SandboxedEnvironment(autoescape=False)
    template = sandbox.from_string(LOOP)
    log, texts = builder.view.interactions, builder.wording.phrases["history"]
    items = [{"title": text} for text in texts]
    rows = []
    for user in numbers:
        *history, target = log.items_of(user).tolist()
        template = template if compiles_once else sandbox.from_string(LOOP)
        rows.append(
            {
                "sample_id": f"retrieval/test/{log.user_ids[user]}/0",
                "task": "retrieval",
                "template": builder.wording.templates.templates[0].name,
                "split": "test",
                "user_id": log.user_ids[user],
                "prompt": template.render(history=[items[i] for i in history[-TITLES:]]),
                "completion": builder.wording.phrases["target"][target],
                "target_item_id": builder.item_ids[target],
                "user": user,
                "event": log.offsets[user + 1] - 1,
                "target": target,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd")


def main() -> None:
    """Measure both in turns, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    samples = 4_000 if parser.parse_args().quick else 100_000
    plain = range(samples // 10)
    pa.set_cpu_count(1)
    builder = make_builder(samples)
    fast, slow = [], []
    with TemporaryDirectory() as name:
        folder, file = Path(name), Path(name) / "plain.parquet"
        for _ in range(3):
            for shard in folder.glob("test-*"):
                shard.unlink()
            started = time.perf_counter()
            write_samples(builder, folder, Forms(tokens=False))
            fast.append(time.perf_counter() - started)
            started = time.perf_counter()
            write_plainly(builder, plain, file, compiles_once=True)
            slow.append(time.perf_counter() - started)
        started = time.perf_counter()
        write_plainly(builder, plain[: len(plain) // 10], folder / "each.parquet", False)
        each_rate = len(plain) // 10 / (time.perf_counter() - started)
        ours = pa.concat_tables(pq.read_table(shard) for shard in sorted(folder.glob("test-*")))
        same = ours.slice(0, len(plain)).equals(pq.read_table(file))
    ours_rate, plain_rate = len(builder) / min(fast), len(plain) / min(slow)
    letters = np.mean([len(text) for text in ours["prompt"].slice(0, 1000).to_pylist()])
    print(f"{'letters':>8} {'samples/s':>10} {'compiled once':>14} {'each time':>10} {'ratio':>6}")
    ratio = ours_rate / plain_rate
    print(
        f"{letters:>8.0f} {ours_rate:>10,.0f} {plain_rate:>14,.0f} {each_rate:>10,.0f} "
        f"{ratio:>6.1f}"
    )
    result = {"benchmark": "render_samples", "value": round(ours_rate), "unit": "samples/s"}
    result |= {"reference": round(plain_rate), "ratio": round(ratio, 1)}
    result |= {"ratio_compiled_each_time": round(ours_rate / each_rate, 1)}
    print(json.dumps({**result, "same_items": float(same)}))


if __name__ == "__main__":
    main()
