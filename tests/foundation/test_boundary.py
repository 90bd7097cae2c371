"""What libraries and the system raise becomes one error with place, fact and fix."""

import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from recinject.data.schema import load_users
from recinject.foundation.boundary import explain
from recinject.foundation.storage import load_yaml
from recinject.samples.mixture import token_columns
from recinject.samples.store import read_samples


def caught(work, *given):
    with pytest.raises(Exception) as found:  # noqa: PT011  # whatever it is
        work(*given)
    return found.value


def test_what_the_system_refuses_names_the_place(tmp_path):
    (loop := tmp_path / "loop").symlink_to(loop)
    (folder := tmp_path / "folder").mkdir()
    refused = {
        "Too many levels": (loop.read_bytes,),
        "File name too long": ((tmp_path / ("x" * 300)).mkdir,),
        "Is a directory": (folder.read_bytes,),
        "File exists": (folder.mkdir,),
    }
    for fact, (work, *given) in refused.items():
        known = explain(caught(work, *given))
        assert fact in known.message and str(tmp_path) in known.message and known.hint
    assert "loop" in explain(caught(loop.resolve, True)).message
    assert "NUL" in explain(caught(Path("a\0b").open)).hint


def test_what_the_system_refuses_a_library_in_rust_is_no_fault_of_ours(tmp_path):
    tokenizer = Tokenizer(WordLevel({"[U]": 0}, unk_token="[U]"))
    error = caught(tokenizer.save, str(tmp_path / "nowhere" / "tokenizer.json"))
    assert type(error) is Exception  # and no OSError
    assert "No such file or directory (os error 2)" in explain(error).message


def test_a_full_memory_is_said():
    assert "memory is full" in explain(caught(np.empty, 2**50)).message


def test_a_damaged_file_is_named(tmp_path):
    pq.write_table(pa.table({"user_id": ["u"]}), tmp_path / "user_attributes.parquet")
    content = (tmp_path / "user_attributes.parquet").read_bytes()
    for damage in (content[:-9], b"", content[:4] + b"x" * len(content)):
        (tmp_path / "user_attributes.parquet").write_bytes(damage)
        known = explain(caught(load_users, tmp_path))
        assert "user_attributes.parquet: is cut off or damaged" in known.message
        assert "recinject verify" in known.hint
    (tmp_path / "t").mkdir()
    name = "train-00000-of-00001"
    for suffix, read in ((".arrow", token_columns), (".parquet", read_samples)):
        (tmp_path / "t" / (name + suffix)).write_bytes(b"\xff" * 99)
        known = explain(caught(read, tmp_path, "t", "train"))
        assert name + suffix in known.message


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), ValueError("no"), zipfile.BadZipFile("of nobody"), RuntimeError("no")],
)
def test_what_is_nobodys_fault_but_ours_is_not_explained(error):
    assert explain(error) is None


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200 + "]" * 200,
        "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in pairwise("abcdef")),
        "&a [*a]",
        "[" * 5000,
        "9" * 6000,
    ],
)
def test_yaml_that_is_deep_or_huge_is_refused(text):
    assert "YAMLError" in str(type(caught(load_yaml, text)).__mro__)
