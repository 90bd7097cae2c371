"""Codes of content in the runs that they are for: TIGER's alone, and beside titles under LoRA."""

import pandas as pd
import pytest
import torch

from recinject.foundation.errors import RecinjectError
from recinject.identifiers.table import user_tokens
from recinject.models.building import build_model
from recinject.models.storing import load_trained
from recinject.pipeline.evaluate import evaluate
from recinject.pipeline.model import base_model
from recinject.pipeline.prepare import build
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.recommend import recommend, recommender_of
from recinject.pipeline.run import Run
from recinject.pipeline.train import train
from recinject.samples.store import read_samples
from recinject.samples.tokenizer import load_tokenizer, train_tokenizer

SHOP = "{users: 90, items: 40, events_per_user: 8}"
CODES = "{kind: semantic, codes: 4, levels: 2, last_codes: 40}"
SMALL = "{d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_decoder_layers: 1, num_heads: 2}"
SHARES = [0, 0.1, 0.2]


def test_cold_items_reach_the_lists_of_a_model_that_read_codes_alone(tmp_path):
    recipe = load_recipe(
        "tiger_cpu",
        [
            *(f"runs={tmp_path}", "data.path=null", f"data.simulator={SHOP}"),
            *("data.split=cold_items", "data.test_share=0.1", "data.validation=false"),
            *(f"identifiers={CODES}", f"model.config={SMALL}", "training.max_steps=5"),
            *("evaluation.baselines=[content_knn]", f"evaluation.cold_share={SHARES}"),
            *("evaluation.resamples=100", "training.use_cpu=true"),
        ],
    )
    run = Run(recipe)
    evaluate(run)
    samples = read_samples(run.folder("samples"), "retrieval", "test").to_pandas()
    assert samples["prompt"].str.fullmatch(r"(<a_\d><b_\d><c_\d+> ?)+").all()
    tokenizer = load_tokenizer(run.folder("samples") / "tokenizer.json")
    items = samples["prompt"].str.split().map(len)
    lengths = [len(tokenizer.encode(text).ids) for text in samples["prompt"]]
    assert lengths == (3 * items + 1).tolist() and tokenizer.get_vocab_size() < 300
    folder, split, catalog = run.folder("evaluation"), run.data.split, run.data.catalog
    known = {catalog.item_ids[item] for item in split.train.items}
    for share in SHARES:
        lists = pd.read_parquet(
            folder / "predictions" / f"retrieval.language_model_cold_{share:g}.parquet"
        )
        cold = [sum(i not in known for i in row[:10] if i) for row in lists["item_ids"]]
        assert (max(cold) > 0) == (share > 0) and max(cold) <= 10 * share
    metrics = pd.read_json(folder / "metrics.json").query("metric == 'hr@10'")
    figures = dict(zip(metrics["recommender"], metrics["value"], strict=True))
    assert figures["language_model_cold_0"] == 0 and "content_knn" in figures
    compared = pd.read_json(folder / "comparisons.json")
    pairs = set(zip(compared["recommender"], compared["reference"], strict=True))
    assert ("language_model_cold_0.2", "content_knn") in pairs
    # Under the same quota, and not with one that ranks all items.
    for share in SHARES:
        other = f"content_knn_cold_{share:g}"
        assert (f"language_model_cold_{share:g}", other) in pairs and other in figures
    assert ("language_model_cold_0.2", "content_knn_cold_0.1") not in pairs


USERS = ("samples.prompts=prompts/tiger_users", "samples.user_tokens=7")


def test_users_share_tokens_in_prompts_and_a_stranger_has_one_too(tmp_path):
    recipe = load_recipe(
        "tiger_cpu",
        [
            *(f"runs={tmp_path}", "data.path=null", f"data.simulator={SHOP}", *USERS),
            *(f"identifiers={CODES}", f"model.config={SMALL}", "training.max_steps=2"),
            *("evaluation.baselines=[]", "evaluation.resamples=100", "training.use_cpu=true"),
            "lora={r: 2, target_modules: [q, v]}",
        ],
    )
    run = Run(recipe)
    train(run)
    samples = read_samples(run.folder("samples"), "retrieval", "train").to_pandas()
    assert samples["prompt"].str.fullmatch(r"<user_\d> (<a_\d><b_\d><c_\d+> ?)+").all()
    tokens = samples["prompt"].str.split().str[0]
    assert (tokens.groupby(samples["user_id"]).nunique() == 1).all() and tokens.nunique() > 3
    tokenizer = load_tokenizer(run.folder("samples") / "tokenizer.json")
    known = [tokenizer.token_to_id(token) for token in user_tokens(7)]
    assert None not in known and len(tokenizer.encode("<user_3> <a_1>").ids) == 3
    before = base_model(recipe, tokenizer).get_input_embeddings().weight
    after = load_trained(run.folder("model"))[0].get_input_embeddings().weight
    changed = (before != after).any(1)
    assert changed[known].any(), "LoRA trains the rows of the users' tokens too"
    titles = run.data.catalog.titles
    asked = recommender_of(Run.open(run.recipe.folder))
    assert len(recommend(asked, [{"liked": [title]} for title in titles[:2]], 3)[1]) == 3


@pytest.mark.parametrize("alone", USERS)
def test_a_users_slot_needs_tokens_and_these_a_slot(alone, tmp_path):
    recipe = load_recipe("tiger_cpu", [f"runs={tmp_path}", "data.path=null", alone])
    with pytest.raises(RecinjectError, match="user") as refused:
        build(Run(recipe))
    assert "{{ user }}" in str(refused.value) + str(refused.value.hint)


@pytest.mark.parametrize("missing", ["identifiers={kind: number}", "model=null"])
def test_a_share_of_cold_items_needs_codes_and_a_model(missing):
    with pytest.raises(Exception, match="evaluation.cold_share: cold items join by the codes"):
        load_recipe("tiger_cpu", ["evaluation.cold_share=[0.1]", "training=null", missing])


def test_lora_on_a_named_t5_trains_the_new_tokens_of_codes_beside_titles(tiny_recipe, tmp_path):
    tokenizer = train_tokenizer(["what comes next ? Red mug Blue cup"], 400)
    named = tmp_path / "named"
    build_model(
        {
            **{"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
            **{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        },
        tokenizer,
        seed=0,
    ).save_pretrained(named)
    tokenizer.save(str(named / "tokenizer.json"))
    recipe = load_recipe(
        str(tiny_recipe),
        [
            *(f"runs={tmp_path}", f"model.name={named}", "model.config=null"),
            *("identifiers.kind=semantic", f"identifiers={CODES}"),
            "samples.tasks={retrieval: {max_per_user: 3}, rating: {max_per_user: 2}}",
            "samples.phrases={history: '{{ title }} {{ identifier }}'}",
            "lora={r: 2, target_modules: [q, v]}",
            *("training.learning_rate=0.1", "evaluation.baselines=[]"),
            *("evaluation.reworded=false", "evaluation.shuffled=false"),
        ],
    )
    run = Run(recipe)
    evaluate(run)
    sample = read_samples(run.folder("samples"), "retrieval", "train").to_pylist()[0]
    assert any(title in sample["prompt"] for title in run.data.catalog.titles)
    assert sample["completion"] in run.data.identifiers.texts
    rows = [run.samples.tokenizer.token_to_id(token) for token in run.data.identifiers.tokens]
    before = base_model(recipe, run.samples.tokenizer)
    after = load_trained(run.folder("model"))[0]
    first, last = (m.get_input_embeddings().weight.detach().clone() for m in (before, after))
    assert not torch.allclose(first[rows], last[rows], atol=1e-3)
    old = tokenizer.get_vocab_size()
    assert torch.allclose(first[:old], last[:old], atol=1e-6)
    metrics = pd.read_json(run.folder("evaluation") / "metrics.json")
    assert {"retrieval", "rating"} <= set(metrics["task"])
