import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

VOCABULARY = 24


@pytest.fixture(scope="session")
def model():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = T5Config(**sizes, vocab_size=VOCABULARY, decoder_start_token_id=0)
        return T5ForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def prompts():
    """Three prompts of unlike length: token ids, padded, and their mask."""
    rng = np.random.default_rng(0)
    mask = torch.tensor([[1] * length + [0] * (9 - length) for length in (9, 4, 6)])
    return torch.from_numpy(rng.integers(3, VOCABULARY, (3, 9))) * mask, mask


@pytest.fixture(scope="session")
def exhaustive():
    """Score sequences one by one with teacher forcing and no padding: the oracle."""

    def score(model, prompts, sequences):
        scores = np.zeros((len(prompts[0]), len(sequences)))
        for row, (ids, mask) in enumerate(zip(*prompts, strict=True)):
            for column, sequence in enumerate(sequences):
                labels = torch.tensor([list(sequence)])
                with torch.no_grad():
                    logits = model(input_ids=ids[None, mask == 1], labels=labels).logits
                chosen = logits.log_softmax(-1)[0].gather(1, labels.T)
                scores[row, column] = float(chosen.sum())
        return scores

    return score
