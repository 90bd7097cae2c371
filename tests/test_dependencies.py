"""Whatever is imported is declared in pyproject.toml, and what is declared is imported."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Needed without being imported: transformers reads some tokenizers with it.
UNNAMED = {"sentencepiece"}


def names(requirements):
    return {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in requirements}


NEEDED = names(PROJECT["dependencies"])
FOR_USERS = names(text for name, extra in EXTRAS.items() if name != "dev" for text in extra)


def imported(folder):
    """The distributions that the files of a folder import, at the top or in a function."""
    # What is handed over is copied out, where its files lie beside each other.
    files = [path for path in (ROOT / folder).rglob("*.py") if path.parent.name != "handover"]
    trees = [ast.parse(path.read_text("utf-8")) for path in files]
    modules = {
        name.split(".")[0]
        for tree in trees
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        )
    }  # fmt: skip
    beside = {path.stem for path in (ROOT / folder).glob("*.py")}  # as benchmarks import each other
    owners = packages_distributions()
    return {
        owners.get(module, [module])[0].lower().replace("_", "-")
        for module in modules - sys.stdlib_module_names - beside - {"recinject"}
    }


def test_what_the_package_imports_is_declared():
    assert imported("recinject") <= NEEDED | FOR_USERS


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_what_tests_and_benchmarks_import_is_declared(folder):
    assert imported(folder) <= NEEDED | FOR_USERS | names(EXTRAS["dev"])


def test_what_is_needed_is_imported():
    assert imported("recinject") | UNNAMED >= NEEDED
