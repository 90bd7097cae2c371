from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import Seq2SeqLMOutput

from recinject.training.trainer import BatchLoss, ItemRanks, token_losses

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(5, 4, 7, generator=GENERATOR)
LABELS = torch.randint(0, 7, (5, 4), generator=GENERATOR)
LABELS[1, 2:] = LABELS[3, 1:] = -100


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_torch_over_all_tokens(smoothing):
    loss = BatchLoss(partial(token_losses, smoothing=smoothing))
    expected = cross_entropy(LOGITS.flatten(0, 1), LABELS.flatten(), label_smoothing=smoothing)
    torch.testing.assert_close(loss(Seq2SeqLMOutput(logits=LOGITS), LABELS), expected)
    counted = (LABELS != -100).sum()
    parts = [
        loss(Seq2SeqLMOutput(logits=LOGITS[part]), LABELS[part], counted)
        for part in (slice(0, 2), slice(2, 5))
    ]
    torch.testing.assert_close(sum(parts), expected)


def test_each_task_has_the_mean_of_its_own_tokens_since_it_was_last_asked():
    loss = BatchLoss(token_losses, ["first", "second", "absent"])
    tasks = torch.tensor([0, 1, 0, 1, 1])
    for part in (slice(0, 2), slice(2, 5)):
        loss.tasks = tasks[part]
        loss(Seq2SeqLMOutput(logits=LOGITS[part]), LABELS[part])
    found = loss.read_out(lambda sums: sums)
    assert found.keys() == {"loss/first", "loss/second"}
    for number, name in enumerate(("first", "second")):
        rows = tasks == number
        expected = cross_entropy(LOGITS[rows].flatten(0, 1), LABELS[rows].flatten())
        assert found[f"loss/{name}"] == pytest.approx(float(expected), rel=1e-5)
    assert loss.read_out(lambda sums: sums) == {}


def test_an_item_is_ranked_among_those_outside_its_prompt():
    chance = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 3, 9, generator=chance)
    labels = torch.tensor([[2, 1, -100], [-100, 5, -100], [-100, -100, 7], [0, -100, -100]])
    prompts = torch.tensor([[3, 8], [0, 4], [6, 6], [1, 2]])
    tokens = [2, 3, 4, 5, 6, 7]  # 0, 1 and 8 are of no item
    ranks = ItemRanks(tokens, [1])
    tasks = torch.tensor([1, 1, 1, 0])  # the last sample asks for no item
    ranks.add(logits, labels, {"input_ids": prompts, "task": tasks})
    gains = []
    for row, (place, wanted) in enumerate([(0, 2), (1, 5), (2, 7)]):
        rivals = set(tokens) - set(prompts[row].tolist())
        scores = logits[row, place]
        ahead = sum(bool(scores[token] > scores[wanted]) for token in rivals)
        gains.append(1 / np.log2(ahead + 2))
    assert ranks.read_out(lambda sums: sums) == {"ndcg@10": pytest.approx(np.mean(gains))}
    assert ranks.read_out(lambda sums: sums) == {}
