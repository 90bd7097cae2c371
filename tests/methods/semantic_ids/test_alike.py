"""Items that nothing tells apart get codes that do, and codes that tell none apart are chance."""

import numpy as np
import pandas as pd
import pytest

import recinject as ri
from recinject.foundation.errors import RecinjectError
from recinject.models.building import build_model
from recinject.recommenders.language_model import LanguageModel
from recinject.samples.tokenizer import load_tokenizer


def data_of(titles, users=40, **identifiers):
    n_items, rng = len(titles), np.random.default_rng(0)
    rows = [
        (f"u{u}", f"i{item:02d}", n)
        for u in range(users)
        for n, item in enumerate(rng.permutation(n_items)[:6])
    ]
    events = pd.DataFrame(rows, columns=["user", "item", "time"])
    items = pd.DataFrame({"item": [f"i{n:02d}" for n in range(n_items)], "title": titles})
    items["brand"] = "Acme"
    log = ri.Log.from_frame(events, items)
    return ri.prepare(log, k_core=0, identifiers={"kind": "semantic", **identifiers})


@pytest.mark.parametrize("quantiser", ["rq_kmeans", "lsh", "random"])
def test_items_with_the_same_title_and_brand_get_different_codes(quantiser):
    titles = ["Red bear"] * 4 + ["Blue doll"] * 3 + [f"Thing {n}" for n in range(13)]
    data = data_of(titles, codes=4, levels=2, quantiser=quantiser)
    texts = data.identifiers.texts
    assert len(set(texts)) == 20
    if quantiser != "random":  # what is alike shares all codes but the last
        assert len({text.rpartition("<")[0] for text in texts[:4]}) == 1


def test_a_tokenizer_that_reads_all_codes_as_one_is_refused_where_it_is_given(tmp_path):
    data = data_of([f"Thing {n}" for n in range(20)], codes=4, levels=2)
    samples = ri.build_samples(data, ["retrieval"], folder=tmp_path / "samples")
    tokenizer = load_tokenizer(samples.folder)
    names = samples.factory.wordings["retrieval"].phrases["target"]
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = build_model(sizes, tokenizer, seed=0)
    with pytest.raises(RecinjectError, match="have the same tokens"):
        LanguageModel(model, tokenizer, [names[0]] * len(names))


def test_a_model_that_never_learnt_the_codes_is_as_good_as_chance():
    data = data_of([f"Thing {n}" for n in range(20)], users=400, codes=4, levels=2)
    samples = ri.build_samples(data, ["retrieval"])
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = build_model(sizes, samples.tokenizer, seed=0)
    for weight in model.parameters():
        weight.data.zero_()  # all codes, and so all items of a length, are equally likely
    asked = LanguageModel.of_samples(model.eval(), samples, beams=20)
    result = ri.evaluate(
        [asked, "random"], data, samples, cutoffs=[5], resamples=100, reworded=False, shuffled=False
    )
    rows = result.metrics[result.metrics["metric"] == "hr@5"].set_index("recommender")
    # Five of the fifteen items that are left.
    assert rows["value"]["language_model"] == pytest.approx(5 / 15, abs=0.08)
