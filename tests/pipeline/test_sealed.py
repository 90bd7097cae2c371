"""What is damaged after a stage was finished is noticed."""

import json

import pytest

from recinject.foundation.errors import RecinjectError
from recinject.samples.samples import Samples
from recinject.training.trainer import newest_complete, remove_torn


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_refused_and_made_again(recinject, again, copied):
    flip(copied / "model" / "model.safetensors")
    ended = recinject("recommend", copied, "--liked", "P00001")
    assert ended.code == 2 and "model.safetensors was changed" in ended.output
    ended = recinject("verify", copied)
    assert ended.code == 1 and "model.safetensors was changed" in ended.output
    assert again("run") == ["model", "report"]
    assert recinject("verify", copied).code == 0


def test_an_edited_figure_is_made_again(again, copied):
    path = copied / "evaluation" / "metrics.json"
    rows = json.loads(path.read_text("utf-8"))
    rows[0]["value"] = 0.999
    path.write_text(json.dumps(rows), "utf-8")
    assert again("report") == ["evaluation", "report"]


@pytest.mark.parametrize("name", ["recipe.yaml", "data/manifest.json"])
def test_what_everything_rests_on_is_sealed_too(recinject, copied, name):
    (copied / name).write_text((copied / name).read_text("utf-8") + " ", "utf-8")
    ended = recinject("recommend", copied, "--recommender", "popularity", "--liked", "P00001")
    harmless = name.endswith("manifest.json")  # the same values, written otherwise
    assert ended.code == (0 if harmless else 2), ended.output


def test_a_missing_shard_is_no_smaller_training(copied, finished):
    folder = copied / "samples" / "rating"
    (path,) = folder.glob("train-*.arrow")
    path.rename(path.with_name("train-00001-of-00002.arrow"))
    from recinject.samples.mixture import token_columns

    with pytest.raises(RecinjectError, match="1 of 2 .arrow files"):
        token_columns(copied / "samples", "rating", "train")
    assert Samples.load(finished.folder / "samples").sizes["rating"]


def test_a_damaged_checkpoint_is_set_aside_and_the_next_older_taken(copied):
    (folder,) = (copied / "training" / "checkpoints").iterdir()
    newest = newest_complete(folder)
    flip(newest / "model.safetensors")
    older = newest_complete(folder)
    assert older is not None and int(older.name[11:]) < int(newest.name[11:])
    remove_torn(folder)
    assert not newest.exists() and (folder / f"damaged-{newest.name}").is_dir()
    assert newest_complete(folder) == older
