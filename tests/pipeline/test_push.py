import shutil

import pytest

from recinject.foundation.errors import RecinjectError
from recinject.pipeline.report import push


@pytest.mark.parametrize("inside", ["", "model"])
def test_it_shows_what_it_would_upload_and_uploads_nothing(finished, capsys, inside):
    files = push(finished.folder / inside, "somebody/model")
    said = capsys.readouterr().err
    assert "private" in said and "nothing is uploaded yet: add --yes" in said
    names = {file.as_posix() for file in files}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert "manifest.json" not in names
    sizes = [(finished.folder / "model" / file).stat().st_size for file in files]
    assert f"{sum(sizes):,} bytes in {len(files)} files" in said
    assert all(f"{size:,} bytes  {file}" in said for size, file in zip(sizes, files, strict=True))


def test_public_is_said_when_asked_for(finished, capsys):
    push(finished.folder, "somebody/model", public=True)
    assert "(public if it is made anew)" in capsys.readouterr().err


def test_offline_is_a_clear_error(finished):
    with pytest.raises(RecinjectError, match=r"somebody/model: cannot be uploaded.*\n.*HF_HUB_OFF"):
        push(finished.folder, "somebody/model", yes=True)


def test_half_a_model_is_refused(finished, tmp_path):
    shutil.copytree(finished.folder / "model", tmp_path / "model")
    (tmp_path / "model" / "manifest.json").unlink()
    with pytest.raises(RecinjectError, match="manifest.json is missing"):
        push(tmp_path, "somebody/model")
    whole = tmp_path / "model" / "model.safetensors"
    whole.rename(whole.with_name("model-00001-of-00002.safetensors"))
    with pytest.raises(RecinjectError, match="manifest.json is missing"):
        push(tmp_path, "somebody/model")
