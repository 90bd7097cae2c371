import json

import numpy as np
import pandas as pd
import pytest

from recinject.data.cleaning import clean
from recinject.data.readers import read_log
from recinject.data.schema import Catalog
from recinject.foundation.errors import RecinjectError
from recinject.methods.semantic_ids.codes import load_codes
from recinject.methods.semantic_ids.semantic import QUANTISERS, make_semantic
from recinject.pipeline.sections import SemanticSection

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
SMALL = {"dimensions": 16, "codes": 8, "training": {"steps": 20}}


def make(folder=None, known=KNOWN, **settings):
    return make_semantic(SemanticSection(**{**SMALL, **settings}), CATALOG, known, 1, folder)


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_every_quantiser_names_every_item_and_is_stored(quantiser, tmp_path):
    made = make(tmp_path, quantiser=quantiser)
    assert len(set(made.codes.texts)) == 120 and made.codes.rows.shape == (120, 4)
    assert [row["level"] for row in made.quality] == [1, 2, 3]
    made.save(tmp_path, CATALOG)
    names = {"codes.npy", "codebooks.npz", "content.npz", "quality.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    codes, frozen = load_codes(tmp_path, CATALOG)
    with np.load(tmp_path / "content.npz") as stored:
        embeddings = stored["embeddings"]
    assert np.array_equal(frozen.encode(embeddings), codes.prefixes)
    assert json.loads((tmp_path / "quality.json").read_text()) == made.quality
    assert np.array_equal(make(quantiser=quantiser).codes.rows, codes.rows)


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
    with pytest.raises(RecinjectError, match="unknown key 'max_step'"):
        make(quantiser="rq_vae", training={"max_step": 3})


@pytest.mark.slow
def test_on_beauty_codes_are_used_and_learnt_ones_keep_the_most(shared_data, tmp_path):
    log = clean(read_log(shared_data / "amazon-2014-beauty", columns={}), k_core=5)[0]
    known = np.ones(len(log.catalog), bool)
    training = {"steps": 400}
    settings = [SemanticSection(quantiser=name, training=training) for name in QUANTISERS]
    found = {
        one.quantiser: make_semantic(one, log.catalog, known, 1, tmp_path).quality
        for one in settings
    }
    for quantiser in ("rq_kmeans", "rq_vae"):
        assert all(row["used"] >= 0.8 for row in found[quantiser])
        errors = [row["error"] for row in found[quantiser]]
        assert errors == sorted(errors, reverse=True)
    kept = {quantiser: rows[0]["neighbours"] for quantiser, rows in found.items()}
    assert min(kept["rq_kmeans"], kept["rq_vae"]) > kept["lsh"] > kept["random"]
