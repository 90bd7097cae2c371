"""Causal models: the prompt is read and not learnt, and nothing of it depends on the batch."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from recinject.models.adapters import add_lora
from recinject.models.building import build_model, wrap_tokenizer
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Queries
from recinject.samples.encoding import Dialect
from recinject.training.batches import make_collator
from recinject.training.fitting import fit
from recinject.training.trainer import BatchLoss, token_losses

KINDS = {
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "embd_pdrop": 0.0,
             "attn_pdrop": 0.0, "resid_pdrop": 0.0},
    "llama": {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
              "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def make(kind, tokenizer):
    return lambda: build_model(KINDS[kind], tokenizer, seed=0)


@pytest.fixture(scope="module")
def samples(tokenizer):
    words = ["red car", "blue doll", "green brick house", "train"]
    dialect = Dialect(tokenizer, True, 1)
    texts = [f"{' '.join(words[: 1 + i % 4])} next?" for i in range(64)]
    prompts = dialect.prompts(texts).to_list()
    answers = dialect.completions([words[i * 3 % 4] for i in range(64)]).to_list()
    lengths = [len(p) + len(c) for p, c in zip(prompts, answers, strict=True)]
    tasks = [i % 2 for i in range(64)]
    return Dataset.from_dict(
        {"input_ids": prompts, "labels": answers, "length": lengths, "task": tasks}
    )


def loss_by_hand(model, samples):
    """The mean over all completion tokens, one sample at a time and token by token."""
    total = count = 0
    for sample in samples:
        ids = torch.tensor([[*sample["input_ids"], *sample["labels"]]])
        with torch.no_grad():
            logits = model.eval()(input_ids=ids).logits[0].log_softmax(-1)
        for place in range(len(sample["input_ids"]), ids.shape[1]):
            total -= float(logits[place - 1, ids[0, place]])
            count += 1
    return total / count


def loss_of(model, batch):
    batch = dict(batch)
    labels, _ = batch.pop("labels"), batch.pop("task", None)
    with torch.no_grad():
        return float(BatchLoss(token_losses)(model.eval()(**batch), labels))


def test_the_loss_of_a_batch_is_that_of_its_completions_one_by_one(make, samples, tokenizer):
    model, collate = make(), make_collator(make(), wrap_tokenizer(tokenizer))
    for rows in ([0], [0, 1, 2, 3], range(64)):
        chosen = [samples[row] for row in rows]
        batch = collate(chosen)
        assert loss_of(model, batch) == pytest.approx(loss_by_hand(model, chosen), abs=1e-5)
        # Only what predicts a completion's token is turned into logits.
        assert batch["labels"].shape[1] == len(batch["logits_to_keep"])
        assert batch["labels"].shape[1] < batch["input_ids"].shape[1]


def test_padding_has_no_effect(make, samples, tokenizer):
    model, collate = make(), make_collator(make(), wrap_tokenizer(tokenizer))
    batch = collate([samples[row] for row in (0, 3, 6)])
    hidden = batch["attention_mask"] == 0
    assert hidden.any()
    other = {**batch, "input_ids": batch["input_ids"].masked_fill(hidden, 77)}
    assert loss_of(model, other) == pytest.approx(loss_of(model, batch), abs=1e-6)
    wider = {
        **batch,
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 5), value=9),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 5)),
    }
    assert loss_of(model, wider) == pytest.approx(loss_of(model, batch), abs=1e-6)


def train(model, tokenizer, samples, settings, folder):
    log = folder / "train.jsonl"
    names = ["first", "second"]
    fit(model, tokenizer, samples, None, settings, folder, log, seed=5, task_names=names)
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_how_a_batch_is_cut_up_changes_nothing(make, samples, tokenizer, settings, tmp_path, lora):
    logs = []
    for batch, parts in ((8, 1), (4, 2), (2, 4)):
        own = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": parts}
        model = make() if lora is None else add_lora(make(), lora, seed=1)
        folder = tmp_path / f"{batch}x{parts}"
        own |= {"save_strategy": "no", "max_steps": 4}
        logs.append(train(model, tokenizer, samples, settings | own, folder))
    for log in logs[1:]:
        for entry, same in zip(logs[0], log, strict=True):
            for name in ("loss", "grad_norm", "loss/first", "loss/second"):
                assert entry[name] == pytest.approx(same[name], abs=1e-4)


def test_the_first_loss_is_that_of_the_untrained_model(
    make, samples, tokenizer, settings, tmp_path
):
    own = {"per_device_train_batch_size": 64, "max_steps": 1}
    (log, *_) = train(make(), tokenizer, samples, settings | own, tmp_path)
    assert log["loss"] == pytest.approx(loss_by_hand(make(), samples), abs=1e-4)


@pytest.fixture
def padless(kind):
    """A model and a tokenizer as GPT-2's and Llama's come: an end token, and none for padding."""
    words = ["<|end|>", "[U]", "red", "car", "blue", "doll", "next?", "a", "."]
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="[U]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(["<|end|>"])
    model = build_model(KINDS[kind], tokenizer, seed=0)
    model.config.eos_token_id, model.config.pad_token_id = 0, None
    return model, tokenizer, wrap_tokenizer(tokenizer, model.config)


def test_the_end_token_is_learnt_though_it_pads_and_answers_end(padless, tmp_path):
    model, tokenizer, wrapped = padless
    assert wrapped.pad_token_id == wrapped.eos_token_id == 0
    dialect = Dialect.of_model(tokenizer, True, 0)
    texts = {"a red next?": "car", "a a a blue next?": "doll doll"}
    prompts = dialect.prompts(list(texts)).to_list()
    answers = dialect.completions(list(texts.values())).to_list()
    assert [answer[-1] for answer in answers] == [0, 0]
    rows = [{"input_ids": p, "labels": a} for p, a in zip(prompts, answers, strict=True)]
    labels = make_collator(model, wrapped)(rows)["labels"]
    for row, answer in zip(labels.tolist(), answers, strict=True):
        assert [token for token in row if token != -100] == answer  # with the end, and once
    lengths = [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]
    columns = {"input_ids": prompts, "labels": answers, "length": lengths, "task": [0, 0]}
    data = Dataset.from_dict({name: own * 8 for name, own in columns.items()})
    how = {"use_cpu": True, "max_steps": 60, "learning_rate": 0.02, "save_strategy": "no"}
    how |= {"per_device_train_batch_size": 8}
    fit(model, tokenizer, data, None, how, tmp_path, tmp_path / "log", 1, task_names=["asked"])
    asker = LanguageModel(model, tokenizer, ["car", "doll"])
    queries = Queries(
        task="retrieval",
        sample_ids=["a", "b"],
        prompts=list(texts),
        users=np.arange(2, dtype=np.int32),
        histories=[np.empty(0, np.int32)] * 2,
        targets=np.zeros(2, np.int32),
    )
    written = asker.write(queries, {"max_new_tokens": 8})
    assert [text.split() for text in written] == [["car"], ["doll", "doll"]]
