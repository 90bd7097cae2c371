import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_ends_with_one_json_object(script):
    ended = subprocess.run(
        [sys.executable, str(script), "--quick"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert {"benchmark", "value", "unit", "reference", "ratio"} <= result.keys()
    assert result["benchmark"] == script.stem and result["value"] > 0
    assert result.get("same_items", 1.0) == 1.0, "what is compared must be the same"
