import pytest
from datasets import Dataset

from recinject.models.building import build_model
from recinject.samples.tokenizer import train_tokenizer

WORDS = ["red", "blue", "green", "car", "doll", "brick", "house", "train"]
TEXTS = [" ".join(WORDS[(i * j) % 8] for j in range(1 + i % 7)) for i in range(64)]


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="session")
def dataset(tokenizer):
    prompts = [tokenizer.encode(text).ids for text in TEXTS]
    labels = [tokenizer.encode(" ".join(text.split()[: 1 + i % 3])).ids
              for i, text in enumerate(TEXTS)]  # fmt: skip
    lengths = [len(tokens) for tokens in prompts]
    return Dataset.from_dict({"input_ids": prompts, "labels": labels, "length": lengths})


@pytest.fixture
def make_model(tokenizer):
    def make(dropout=0.0):
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        return build_model({**sizes, "dropout_rate": dropout}, tokenizer, seed=0)

    return make


@pytest.fixture
def settings():
    return {
        "use_cpu": True,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "max_steps": 6,
        "logging_steps": 1,
        "save_steps": 2,
    }
