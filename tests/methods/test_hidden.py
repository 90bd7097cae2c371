"""The core is whole without the methods that stand beside it."""

import os
import subprocess
import sys

_HIDE = """
import sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("recinject.methods"):
            raise ModuleNotFoundError(f"{name} is hidden", name=name)


sys.meta_path.insert(0, Hidden())
from recinject.cli import main

main()
"""


def test_a_run_goes_to_its_report_without_any_method(tiny_recipe, tmp_path):
    words = ["run", str(tiny_recipe), f"runs={tmp_path}"]
    ended = subprocess.run(
        [sys.executable, "-c", _HIDE, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "tiny" / "report" / "report.html").is_file()


def test_a_method_that_is_hidden_is_missed_by_name(tiny_recipe, tmp_path):
    words = ["check", str(tiny_recipe), f"runs={tmp_path}", "identifiers.kind=semantic"]
    ended = subprocess.run(
        [sys.executable, "-c", _HIDE, *words], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2 and "semantic: recinject.methods" in ended.stdout + ended.stderr
