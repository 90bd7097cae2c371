"""Run every benchmark of this folder and write what they measured to ``latest.json`` and a table.

    python benchmarks --quick [--only trie low_rank]

Each is a process of its own, one after another, with one thread. ``--quick`` takes sizes that need
a few minutes in all and no data; their figures show that a benchmark works, and ratios of small
cases. Without it each runs at full size, where those that need a log are left out: call them by
themselves, as their first lines say. A benchmark's reference and unit are in its JSON object.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
COLUMNS = ("benchmark", "what it measures", "value", "unit", "reference", "ratio", "s")


def measure(script: Path, quick: bool) -> tuple[list[dict[str, Any]], str]:
    """Run one benchmark; return its JSON objects, or the last line of what it said instead."""
    command = [sys.executable, str(script), *(["--quick"] if quick else [])]
    started = time.perf_counter()
    one = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=one)
    seconds = round(time.perf_counter() - started, 1)
    if ended.returncode:
        return [], (ended.stderr.strip().splitlines() or ["it failed"])[-1]
    found = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    return [{**result, "seconds": seconds} for result in found], ""


def main() -> None:
    """Run them, and print a table for a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, a few minutes in all")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of them")
    asked = parser.parse_args()
    results, failed = [], []
    print("|".join(["", *COLUMNS, ""]) + "\n" + "|---" * len(COLUMNS) + "|", flush=True)
    for script in sorted(FOLDER.glob("[a-z]*.py")):
        if asked.only and script.stem not in asked.only:
            continue
        what = (ast.get_docstring(ast.parse(script.read_text("utf-8"))) or "").splitlines()[0]
        found, problem = measure(script, asked.quick)
        results += found
        failed += [f"{script.stem}: {problem}"] if problem else []
        for result in found:
            shown = (result.get(name) for name in ("value", "unit", "reference", "ratio"))
            row = [script.stem, what, *("" if each is None else each for each in shown)]
            print("|".join(["", *map(str, row), str(result["seconds"]), ""]), flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    whole = {"quick": asked.quick, "machine": machine, "results": results, "failed": failed}
    (FOLDER / "latest.json").write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    if failed:
        raise SystemExit("not measured: " + "; ".join(failed))


if __name__ == "__main__":
    main()
