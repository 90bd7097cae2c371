"""Peak memory of what knows every item, for ten million of them, each in a process of its own.

    python benchmarks/large_catalogue.py [--quick] [--only trie candidates vectors names texts]

``trie`` builds the tree of identifiers of four codes of 256 and the end token, which differ by
their third code, so that there are as many nodes as can be; ``candidates`` draws slates of 100
negatives for 4,000 samples; ``vectors`` reads content of width 32 from a file. For a tenth of the
items ``names`` makes their table and numbers, and ``texts`` content of titles of five words. Memory
is the most that the system held for the process, less what it held before; with --quick there are
100,000 items.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1"}

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap

from recinject.data.schema import Catalog, Interactions
from recinject.data.splitting import Part, draw_negatives, leave_one_out
from recinject.decoding.trie import Trie
from recinject.foundation.ragged import Ragged
from recinject.foundation.randomness import Chance
from recinject.identifiers.content import TFIDF, embed_items, read_embeddings
from recinject.identifiers.table import name_items

ITEMS, QUICK_ITEMS, GOAL = 10_000_000, 100_000, 2.0
WIDTH, USERS, LENGTH, SAMPLES, SLATE, AT_ONCE = 32, 1_000, 20, 4_000, 100, 100_000


def spread_codes(count: int) -> Ragged:
    """Spread the items over the numbers of 32 bits, whose bytes are their codes."""
    places = np.random.default_rng(0).permutation(np.arange(count, dtype=np.uint32))
    places *= np.uint32((1 << 32) // count)
    tokens = np.ones((count, 5), np.int32)
    for level in range(4):
        tokens[:, level] = 2 + 256 * level + ((places >> np.uint32(24 - 8 * level)) & 255)
    return Ragged.from_columns(tokens)


def trie(count: int, _: Path) -> Any:
    """Build the trie."""
    return Trie.build(spread_codes(count))


def candidates(count: int, _: Path) -> Any:
    """Draw slates for some users of the catalogue."""
    items = np.random.default_rng(0).integers(count, size=USERS * LENGTH).astype(np.int32)
    users = np.repeat(np.arange(USERS, dtype=np.int32), LENGTH)
    log = Interactions(users, items, None, None, [*map(str, range(USERS))], count)
    view = leave_one_out(log).view(Part.TEST)
    chance = Chance(np.arange(SAMPLES, dtype=np.uint64))
    return draw_negatives(view, np.arange(SAMPLES) % USERS, chance, SLATE)


def vectors(count: int, folder: Path) -> Any:
    """Read the content from a file."""
    return read_embeddings(folder / "content.npy", range(count))


def names(count: int, _: Path) -> Any:
    """Make the table of a tenth of the items, with titles of five words, and number them."""
    words = np.random.default_rng(0).zipf(1.3, (count // 10, 5)) % 30_000
    titles = [" ".join(map("w{}".format, row)) for row in words.tolist()]
    frame = pd.DataFrame({"item_id": [*map(str, range(len(titles)))], "title": titles})
    return name_items("number", Catalog(frame), 0), frame


def texts(count: int, folder: Path) -> Any:
    """Make content of the titles."""
    return embed_items(TFIDF, Catalog(names(count, folder)[1]), WIDTH, 0)


PARTS = {part.__name__: part for part in (trie, candidates, vectors, names, texts)}


def peak() -> float:
    """Return the most memory that the system held for this program, in GB."""
    # Not `ru_maxrss`, which starts with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e9


def write_vectors(path: Path, count: int) -> None:
    """Write the file of vectors, some at a time."""
    made = open_memmap(path, "w+", np.float32, (count, WIDTH))
    for start in range(0, count, AT_ONCE):
        made[start : start + AT_ONCE] = np.random.default_rng(start).random(
            (min(AT_ONCE, count - start), WIDTH), np.float32
        )


def measure(name: str, count: int) -> dict[str, Any]:
    """Do one of the parts in a process of its own."""
    with TemporaryDirectory() as folder:
        if name == "vectors":
            write_vectors(Path(folder) / "content.npy", count)
        words = [sys.executable, __file__, "--one", f"{name},{count},{folder}"]
        ended = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure each part, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer items")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        name, count, folder = asked.one.split(",")
        before, started = peak(), time.process_time()
        PARTS[name](int(count), Path(folder))
        took, most = time.process_time() - started, peak()
        items = int(count) // 10 if name in ("names", "texts") else int(count)
        row = {"part": name, "items": items, "gb": round(most - before, 3)}
        print(json.dumps({**row, "cpu_s": round(took, 1)}))
        return
    rows = []
    for name in asked.only:
        rows.append(measure(name, QUICK_ITEMS if asked.quick else ITEMS))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    most = max(row["gb"] for row in rows)
    result = {"benchmark": "large_catalogue", "value": most, "unit": "GB", "reference": GOAL}
    print(json.dumps({**result, "ratio": round(most / GOAL, 3), "rows": rows}))


if __name__ == "__main__":
    main()
