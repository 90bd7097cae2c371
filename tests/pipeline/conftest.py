import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file


class Finished(NamedTuple):
    """A run with what its command wrote."""

    folder: Path
    output: str


@pytest.fixture(scope="session")
def finished(recinject, tiny_recipe, tmp_path_factory):
    """One whole run of the tiny recipe; nobody may change it."""
    runs = tmp_path_factory.mktemp("runs")
    ended = recinject("run", tiny_recipe, f"runs={runs}")
    assert ended.code == 0, ended.output
    return Finished(runs / "tiny", ended.output)


@pytest.fixture(scope="session")
def built(recinject, tiny_recipe, tmp_path_factory):
    """The tiny recipe's samples, and no model yet; nobody may change them."""
    runs = tmp_path_factory.mktemp("built")
    assert recinject("build", tiny_recipe, f"runs={runs}").code == 0
    return runs / "tiny"


@pytest.fixture
def copy_built(built, tmp_path):
    """Copy the samples into a folder of a given name, unless that was done; return the run."""

    def copy(name):
        if not (tmp_path / name).exists():
            shutil.copytree(built, tmp_path / name / "tiny")
        return tmp_path / name / "tiny"

    return copy


def _weights(folder):
    files = sorted((folder / "model").rglob("*.safetensors"))
    return {str(path.relative_to(folder)): load_file(path) for path in files}


@pytest.fixture(scope="session")
def assert_same_weights():
    """Compare the models of two runs to the bit."""

    def compare(one, other):
        first, second = _weights(one), _weights(other)
        assert first and first.keys() == second.keys()
        for file, tensors in first.items():
            assert tensors.keys() == second[file].keys(), file
            for name, value in tensors.items():
                assert np.array_equal(value, second[file][name]), (file, name)

    return compare


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the whole run, to be changed."""
    shutil.copytree(finished.folder, tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def again(recinject, tiny_recipe, copied):
    """Run a verb on the copy with changed settings; return the stages that were made again."""

    def run(verb, *overrides):
        ended = recinject(verb, tiny_recipe, f"runs={copied.parent}", *overrides)
        assert ended.code == 0, ended.output
        made = re.findall(r"^(\w+): (?:starting|again)", ended.output, re.MULTILINE)
        skipped = re.findall(r"^(\w+): nothing to do", ended.output, re.MULTILINE)
        assert not set(made) & set(skipped)
        return made

    return run


@pytest.fixture
def start(recinject, tiny_recipe, tmp_path):
    """Run a verb in a fresh folder; return what it wrote, whether it ended well or not."""

    def run(verb, *overrides):
        return recinject(verb, tiny_recipe, f"runs={tmp_path}", *overrides)

    return run
