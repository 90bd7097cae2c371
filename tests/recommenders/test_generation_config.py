"""What a model's own ``generation_config.json`` says must not reach what is measured."""

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from recinject.models.building import load_model
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Queries
from recinject.samples.tokenizer import train_tokenizer

TITLES = [f"{colour} {thing}" for colour in ("red", "blue", "pink") for thing in ("car", "doll")]
PROMPTS = ["a red car , then", "a pink doll and a red car , then", "blue blue blue car , then"]
TOKENIZER = train_tokenizer([*TITLES, *PROMPTS, "1 2 3"], 300)
SIZES = {
    "vocab_size": TOKENIZER.get_vocab_size(),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
KINDS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
}
LEAKING = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}
LEAKING |= {"repetition_penalty": 1.5, "no_repeat_ngram_size": 1, "suppress_tokens": [5, 9, 40]}


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = KINDS[request.param]()
        for weight in model.parameters():
            if weight.dim() > 1:  # probabilities that differ plainly
                torch.nn.init.normal_(weight, std=0.3)
    place = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(place)
    TOKENIZER.save(str(place / "tokenizer.json"))
    return place


def answers(folder):
    """Every answer that is measured, and the texts that a model writes freely."""
    model = load_model(str(folder)).eval()
    labels = {text: float(text) for text in "123"}
    recommender = LanguageModel(model, TOKENIZER, TITLES, labels, beams=4)
    found = []
    for task, more in (
        ("retrieval", {}),
        ("ranking", {"candidates": np.array([[1, 2, 3], [0, 4, 5], [2, 3, 4]], np.int32)}),
        ("rating", {"labels": np.array([1.0, 2.0, 3.0])}),
    ):
        queries = Queries(
            task=task,
            sample_ids=["a", "b", "c"],
            prompts=PROMPTS,
            users=np.arange(3, dtype=np.int32),
            histories=[np.array([0], np.int32)] * 3,
            targets=np.array([1, 4, 3], np.int32),
            **more,
        )
        given = recommender.predict(queries, 3)
        found += [given.items, given.scores, given.ratings, given.ahead]
    written = recommender.write(queries, {"max_new_tokens": 12})
    return [None if part is None else part.tolist() for part in found], written, model


def test_answers_are_the_same_with_and_without_it(folder):
    plain, written, _ = answers(folder)
    (folder / "generation_config.json").write_text(json.dumps(LEAKING), "utf-8")
    leaked, written_again, model = answers(folder)
    assert model.generation_config.repetition_penalty == 1.5  # it was read, and is left as it was
    assert leaked == plain
    assert written_again == written
