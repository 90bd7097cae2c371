import json

import numpy as np
import pandas as pd
import pytest

from recinject.data.cleaning import clean
from recinject.data.readers import read_log
from recinject.data.schema import Catalog, Interactions
from recinject.data.splitting import Part, Split, leave_one_out
from recinject.foundation.errors import RecinjectError
from recinject.identifiers.table import Identifiers, name_items
from recinject.methods.semantic_ids import semantic
from recinject.registry import names

RNG = np.random.default_rng(0)
WORDS = [" ".join(RNG.permutation([f"w{n}{k}" for k in range(8)])[:5]) for n in range(12)]
CATALOG = Catalog(
    pd.DataFrame(
        {
            "item_id": [f"i{n:03}" for n in range(120)],
            "title": [f"{WORDS[n % 12]} x{n % 7}" for n in range(120)],
        }
    )
)
KNOWN = np.arange(120) % 10 != 3
SMALL = {"dimensions": 16, "codes": 8}


TRAINING = {"rq_vae": {"training": {"steps": 20}}}


def split_with(known):
    """One user, who has every known item in the training part, and the last event elsewhere."""
    items = np.append(np.flatnonzero(known), 0).astype(np.int32)
    users = np.zeros(len(items), np.int32)
    log = Interactions(users, items, None, None, ["ann"], len(known))
    return Split(log, np.append(np.full(len(items) - 1, Part.TRAIN), Part.TEST))


def make(known=KNOWN, earlier=None, quantiser="rq_kmeans", **settings):
    settings = {**SMALL, **TRAINING.get(quantiser, {}), "quantiser": quantiser, **settings}
    split = split_with(known)
    return name_items("semantic", CATALOG, 1, split, earlier=earlier, **settings)


@pytest.mark.parametrize("quantiser", names("quantiser"))
def test_every_quantiser_names_every_item_and_is_stored(quantiser, tmp_path):
    made = make(quantiser=quantiser)
    assert len(set(made.texts)) == 120 and made.codes.rows.shape == (120, 4)
    assert [row["level"] for row in made.describe()] == [1, 2, 3]
    made.save(tmp_path, CATALOG)
    files = {"items.parquet", "codes.npy", "codebooks.npz", "content.npz", "quality.json"}
    assert {path.name for path in tmp_path.iterdir()} == files
    again = Identifiers.load(tmp_path)
    assert again == made and again.tokens == made.tokens and again.numbers is None
    with np.load(tmp_path / "content.npz") as stored:
        embeddings = stored["embeddings"]
    assert np.array_equal(again.quantiser.encode(embeddings), made.codes.prefixes)
    assert json.loads((tmp_path / "quality.json").read_text()) == made.describe()
    assert again.describe() == made.describe()
    assert np.array_equal(make(quantiser=quantiser).codes.rows, made.codes.rows)


def test_the_same_texts_and_settings_are_embedded_once(tmp_path, monkeypatch):
    first = make()
    first.save(tmp_path, CATALOG)
    made = []
    real = semantic.embed_items
    monkeypatch.setattr(semantic, "embed_items", lambda *a: made.append(a) or real(*a))
    assert make(earlier=tmp_path) == first and not made
    assert make(earlier=tmp_path, quantiser="lsh") != first and not made
    assert make(earlier=tmp_path, dimensions=7).vectors[1].shape[1] == 7
    path = tmp_path / "content.npz"
    path.write_bytes(path.read_bytes()[:100])
    assert make(earlier=tmp_path) == first
    assert make(earlier=tmp_path / "none") == first
    assert len(made) == 3


def test_codes_of_other_items_are_refused(tmp_path):
    make().save(tmp_path, CATALOG)
    codes = np.load(tmp_path / "codes.npy")
    np.save(tmp_path / "codes.npy", codes[::-1])
    with pytest.raises(RecinjectError, match="belong to another catalogue"):
        Identifiers.load(tmp_path)


def test_items_without_training_events_teach_the_codebooks_nothing(tmp_path):
    vectors = RNG.normal(size=(120, 4)).astype(np.float32)
    np.save(tmp_path / "own.npy", vectors)
    first = make(content=str(tmp_path / "own.npy"))
    vectors[~KNOWN] *= 3
    np.save(tmp_path / "own.npy", vectors)
    second = make(content=str(tmp_path / "own.npy"))
    assert np.array_equal(first.quantiser.codebooks, second.quantiser.codebooks)
    assert np.array_equal(first.codes.rows[KNOWN], second.codes.rows[KNOWN])
    assert not np.array_equal(first.codes.rows, second.codes.rows)


def test_an_unknown_quantiser_is_refused_with_the_nearest():
    with pytest.raises(RecinjectError, match="did you mean 'rq_kmeans'"):
        make(quantiser="rq_means")


@pytest.mark.parametrize("quantiser", ["rq_kmeans", "rq_vae"])
def test_fewer_items_than_codes_leave_nothing_behind(quantiser, tmp_path):
    with pytest.raises(RecinjectError, match="only 108 items to learn them from"):
        make(quantiser=quantiser, codes=110)
    with pytest.raises(RecinjectError, match="only 5 items"):
        make(quantiser=quantiser, known=np.arange(120) < 5)


def test_a_wrong_training_setting_is_refused():
    with pytest.raises(RecinjectError, match="unknown key"):
        make(quantiser="rq_vae", training={"max_step": 3})


@pytest.mark.slow
def test_on_beauty_codes_are_used_and_learnt_ones_keep_the_most(shared_data):
    log = clean(read_log(shared_data / "amazon-2014-beauty", columns={}), k_core=5)[0]
    training = {"steps": 400}
    split, training = leave_one_out(log.interactions), {"steps": 400}
    found = {
        name: name_items(
            "semantic",
            log.catalog,
            1,
            split,
            quantiser=name,
            training=training if name == "rq_vae" else {},
        ).describe()
        for name in names("quantiser")
    }
    for quantiser in ("rq_kmeans", "rq_vae"):
        assert all(row["used"] >= 0.8 for row in found[quantiser])
        errors = [row["error"] for row in found[quantiser]]
        assert errors == sorted(errors, reverse=True)
    kept = {quantiser: rows[0]["neighbours"] for quantiser, rows in found.items()}
    assert min(kept["rq_kmeans"], kept["rq_vae"]) > kept["lsh"] > kept["random"]
