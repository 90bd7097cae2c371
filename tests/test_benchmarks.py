"""Every benchmark runs with --quick, in the longest way in which the docs call it.

Those that take more than a few seconds are ``slow``.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOLD = [
    shlex.split(command, comments=True)
    for page in PAGES
    for command in re.findall(r"^    .*?python (benchmarks/.*)$", page.read_text("utf-8"), re.M)
]
ALONE = [[f"benchmarks/{path.name}"] for path in (ROOT / "benchmarks").glob("[a-z]*.py")]
LONGEST = {words[0]: words[1:] for words in sorted([*ALONE, *TOLD], key=len)}


SHORT = ("render_samples",)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(script, marks=[] if Path(script).stem in SHORT else pytest.mark.slow)
        for script in sorted(LONGEST)
    ],
)
def test_a_benchmark_ends_with_one_json_object(script):
    ended = subprocess.run(
        [sys.executable, str(ROOT / script), *LONGEST[script], "--quick"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert {"benchmark", "value", "unit", "reference", "ratio"} <= result.keys()
    assert result["benchmark"] == Path(script).stem and result["value"] > 0
    assert result.get("same_items", 1.0) == 1.0, "what is compared must be the same"
