from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import recinject as ri
from recinject.data.schema import Catalog, Interactions, Log
from recinject.data.simulator import simulate_shop
from recinject.foundation.errors import RecinjectError
from recinject.models.building import build_model
from recinject.models.starts import pair_vectors, token_start
from recinject.models.storing import load_trained, save_trained
from recinject.samples.tokenizer import encode

T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
SETTINGS = {"max_steps": 1, "use_cpu": True, "per_device_train_batch_size": 4}
STARTS = ["words", "content", "collaborative", "content+collaborative"]


@pytest.fixture(scope="module")
def data():
    log = simulate_shop(users=40, items=30, events_per_user=8, seed=1)
    return ri.prepare(log, k_core=2, identifiers="token")


@pytest.fixture(scope="module")
def samples(data):
    return ri.build_samples(data, ["retrieval"], phrases={"history": "{{ identifier }}"})


def item_ids(samples):
    known = samples.tokenizer.get_vocab()
    return [known[text] for text in samples.data.identifiers.texts]


def begun(samples, start, data=None):
    model = build_model(T5, samples.tokenizer, 0)
    before = model.shared.weight.detach().clone()
    token_start(start).read(data or samples.data, samples.tokenizer).start(model, [], 3)
    return before, model.shared.weight.detach(), item_ids(samples)


@pytest.mark.parametrize("start", STARTS)
def test_a_start_fills_the_rows_of_items_and_no_others(samples, start):
    before, after, ids = begun(samples, start)
    others = np.setdiff1d(np.arange(len(before)), ids)
    assert torch.equal(before[others], after[others])
    assert not (before[ids] == after[ids]).all(1).any()
    if start != "words":
        usual = before[others].norm(dim=1).mean()
        torch.testing.assert_close(after[ids].norm(dim=1), usual.expand(len(ids)))
    again = begun(samples, start)[1]
    assert torch.equal(after, again)


def test_random_changes_nothing(samples):
    before, after, _ = begun(samples, "random")
    assert torch.equal(before, after)


def test_words_are_the_mean_of_the_titles_own_tokens(samples):
    before, after, ids = begun(samples, "words")
    title = encode(samples.tokenizer, samples.data.catalog.titles[:1]).values
    torch.testing.assert_close(after[ids[0]], before[torch.from_numpy(title).long()].mean(0))


def alike(rows, pairs):
    unit = rows / rows.norm(dim=1, keepdim=True)
    return unit @ unit.T if pairs is None else (unit @ unit.T)[pairs]


def test_items_of_one_content_start_side_by_side_and_those_without_text_stay_random(samples, data):
    words = ["red wool hat", "blue steel pan", "green tea"]
    frame = data.catalog.frame.assign(title=[words[n % 3] for n in range(len(data.catalog))])
    frame.loc[5, "title"] = ""
    told = replace(data, catalog=Catalog(frame[["item_id", "title"]]))
    before, after, ids = begun(samples, "content", told)
    found = alike(after[ids], None)
    assert found[0, 3] > 0.99 and found[1, 4] > 0.99 and found[0, 1] < 0.5
    assert torch.equal(after[ids[5]], before[ids[5]])


def log_of_groups():
    """Users who each take items of one of two groups."""
    chance, rows = np.random.default_rng(0), []
    for user in range(60):
        taken = 10 * (user % 2) + chance.permutation(10)[:5]
        rows += [(user, item) for item in taken]
    users, items = np.array(rows, np.int32).T
    return Interactions(users, items, None, None, [f"u{n}" for n in range(60)], 20)


def test_items_of_the_same_users_are_alike():
    found = alike(torch.from_numpy(pair_vectors(log_of_groups(), 2, 1.0, 0)), None)
    assert found[:10, :10].min() > 0.5 > found[:10, 10:].max()


def test_an_item_without_training_events_starts_where_its_content_is():
    log = log_of_groups()
    titles = [f"{'left wool' if item < 10 else 'right steel'} {item}" for item in range(20)]
    catalog = Catalog(pd.DataFrame({"item_id": [f"i{n:02}" for n in range(20)], "title": titles}))
    data = ri.prepare(
        Log.from_frame(
            pd.DataFrame(
                {
                    "user_id": np.array(log.user_ids)[log.users],
                    "item_id": np.array(catalog.item_ids)[log.items],
                    "timestamp": np.arange(len(log)),
                }
            ),
            catalog.frame,
        ),
        split={"rule": "cold_items", "test_share": 0.1, "validation": False},
        identifiers="token",
        k_core=0,
    )
    samples = ri.build_samples(data, ["retrieval"])
    cold = np.bincount(data.split.train.items, minlength=20) == 0
    assert cold.any()
    for start in ("content", "collaborative", "content+collaborative"):
        _, after, ids = begun(samples, start)
        found = alike(after[ids], None)
        for item in np.flatnonzero(cold):
            own = (np.arange(20) < 10) == (item < 10)
            assert found[item][own & ~cold].mean() > found[item][~own & ~cold].mean() + 0.2, start


def test_vectors_of_ones_own_are_reduced_or_spread_to_the_width(samples, data, tmp_path):
    chance = np.random.default_rng(0)
    for width in (4, 40):
        vectors = chance.normal(size=(len(data.catalog), width)).astype(np.float32)
        vectors[1::2] = vectors[::2]
        np.save(tmp_path / "own.npy", vectors)
        _, after, ids = begun(samples, str(tmp_path / "own.npy"))
        assert alike(after[ids], None)[0, 1] > 0.999


def test_outputs_with_rows_of_their_own_start_too(samples):
    config = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = build_model(config | {"tie_word_embeddings": False}, samples.tokenizer, 0)
    before = model.lm_head.weight.detach().clone()
    token_start("content").read(samples.data, samples.tokenizer).start(model, [], 0)
    ids = item_ids(samples)
    assert not (model.lm_head.weight[ids] == before[ids]).all(1).any()


def test_only_the_rows_of_items_train_under_lora(samples, tmp_path):
    kept = {"lora": {"r": 2}, "start": "content", "max_steps": 3, "learning_rate": 0.1}
    model = ri.fine_tune(T5, samples, **SETTINGS | kept)
    model.save(tmp_path / "model")
    after = load_trained(tmp_path / "model")[0].shared.weight
    before = build_model(T5, samples.tokenizer, 1)
    token_start("content").read(samples.data, samples.tokenizer).start(before, [], 1)
    moved = (after != before.shared.weight).any(1)
    assert sorted(item_ids(samples)) == torch.nonzero(moved)[:, 0].tolist()


def test_a_start_is_found_once_and_read_again(samples, tmp_path):
    model = build_model(T5, samples.tokenizer, 0)
    start = token_start("content").read(samples.data, samples.tokenizer)
    start.start(model, [], 0)
    start.save(model, tmp_path)
    other = build_model(T5, samples.tokenizer, 0)
    start.load(other, tmp_path)
    assert torch.equal(model.shared.weight, other.shared.weight)


def test_what_a_model_was_trained_on_does_not_start_anew(samples, data, tmp_path):
    first = ri.fine_tune(T5, samples, start="content", **SETTINGS)
    first.save(tmp_path / "model")
    more = ri.build_samples(data, ["retrieval"], tokenizer=tmp_path / "model")
    second = ri.fine_tune(tmp_path / "model", more, learning_rate=0.0, **SETTINGS)
    one, two = (m._model.get_input_embeddings().weight for m in (first, second))
    assert torch.equal(one, two)


def numbered(data):
    texts = tuple(f"#{number}" for number in range(len(data.catalog)))
    return ri.build_samples(
        replace(data, identifiers=ri.Identifiers("number", texts)), ["retrieval"]
    )


def test_new_rows_of_a_trained_model_start_from_words(data, tmp_path):
    tokenizer = numbered(data).tokenizer
    save_trained(build_model(T5, tokenizer, 0), tokenizer, tmp_path / "model")
    own = ri.build_samples(data, ["retrieval"], tokenizer=tmp_path / "model")
    made = {
        start: ri.fine_tune(tmp_path / "model", own, start=start, learning_rate=0.0, **SETTINGS)
        for start in (None, "words", "random")
    }
    tables = {start: model._model.get_input_embeddings().weight for start, model in made.items()}
    assert torch.equal(tables[None], tables["words"])
    assert not torch.equal(tables[None], tables["random"])


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("contend", "did you mean 'content'"),
        ("spectral", "starts no rows"),
        ({"content": {"colums": []}}, "did you mean 'columns'"),
        ({"content": {}, "words": {}}, "no start of item tokens"),
    ],
)
def test_a_wrong_start_is_refused(start, said):
    with pytest.raises(RecinjectError, match=said):
        token_start(start)


def test_a_start_needs_tokens_of_the_items(data):
    with pytest.raises(RecinjectError, match="by a token of its own"):
        ri.fine_tune(T5, numbered(data), start="content", **SETTINGS)
