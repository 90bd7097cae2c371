import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy as torch_cross_entropy

from recinject.recommenders import sequence
from recinject.recommenders.sequence import (
    BERT4RecModule,
    BinarySASRecModule,
    SASRecModule,
    cross_entropy,
    pack,
)

N_ITEMS, LONGEST = 20, 6
KINDS = [SASRecModule, BinarySASRecModule, BERT4RecModule]
sequences = st.lists(
    st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=LONGEST), min_size=1, max_size=12
)


def make(kind, dropout=0.0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kind(N_ITEMS, width=8, dropout=dropout, longest=LONGEST, **settings)
        # Far from the small start, where every item scores much the same.
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return module.double().eval()


def arrays(rows):
    return [np.array(row, np.int32) for row in rows]


@given(sequences)
def test_packing_keeps_every_sequence_whole(rows):
    batch = pack(arrays(rows), LONGEST)
    assert all(grid.shape == batch["items"].shape for grid in batch.values())
    found = {}
    for items, positions, numbers in zip(*(batch[name].tolist() for name in batch), strict=True):
        for column, number in enumerate(numbers):
            if number >= 0:
                assert positions[column] == len(found.setdefault(number, []))
                found[number].append(items[column])
    assert [found[number] for number in range(len(rows))] == rows


@given(sequences)
def test_packing_leaves_at_most_one_row_less_than_half_full(rows):
    used = (pack(arrays(rows), LONGEST)["sequences"] >= 0).sum(1)
    assert (2 * used < LONGEST).sum() <= 1


@pytest.mark.parametrize("kind", KINDS)
@given(rows=sequences)
def test_a_history_is_scored_alike_alone_and_in_a_batch(kind, rows):
    module = make(kind)
    with torch.no_grad():
        together = module.score(arrays(rows))
        alone = torch.cat([module.score(arrays([row])) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_depend_on_order_and_on_the_latest_items_only(kind):
    module = make(kind)
    reach = LONGEST - (kind is BERT4RecModule)
    history = list(range(reach))
    first, longer, swapped = module.score(arrays([history, [9, 9, *history], [1, 0, *history[2:]]]))
    torch.testing.assert_close(first, longer)
    assert not torch.allclose(first, swapped)


def by_hand(module, items):
    """Post-norm blocks of plain attention, written out for one sequence."""
    states = module.norm(module.items.weight[items] + module.positions.weight[: len(items)])
    every = torch.ones(len(items), len(items), dtype=torch.bool)
    allowed = every if module.sees_ahead else every.tril()
    for block in module.blocks.layers:
        projected = states @ block.self_attn.in_proj_weight.T + block.self_attn.in_proj_bias
        query, key, value = projected.split(8, dim=1)
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            logits = query[:, part] @ key[:, part].T / 2
            weights = torch.where(allowed, logits, -torch.inf).softmax(1)
            heads.append(weights @ value[:, part])
        mixed = torch.cat(heads, 1) @ block.self_attn.out_proj.weight.T
        states = block.norm1(states + mixed + block.self_attn.out_proj.bias)
        inner = torch.nn.functional.gelu(block.linear1(states))
        states = block.norm2(states + block.linear2(inner))
    return states


@pytest.mark.parametrize("kind", [SASRecModule, BERT4RecModule])
@pytest.mark.parametrize("training", [False, True])
def test_encoding_equals_attention_by_hand(kind, training):
    module = make(kind).train(training)
    history = arrays([[3, 1, 4, 1]])
    read = module.query(history[0])
    states = by_hand(module, torch.tensor(read.astype(np.int64)))
    expected = states[-1] @ module.items.weight[:N_ITEMS].T
    torch.testing.assert_close(module.score(history)[0], expected)


def test_sasrec_loss_is_the_mean_over_every_next_item():
    module, users = make(SASRecModule), arrays([[1, 2, 3], [4, 5], list(range(12))])
    windows = [window for user in users for window in module.windows(user)]
    loss = module(**module.collate(windows))["loss"]
    logits, targets = [], []
    for window in windows:
        for end in range(1, len(window)):
            logits.append(module.score([window[:end]])[0])
            targets.append(int(window[end]))
    expected = torch_cross_entropy(torch.stack(logits), torch.tensor(targets))
    torch.testing.assert_close(loss, expected)


def test_every_event_but_the_first_is_predicted_once():
    module = make(SASRecModule)
    for length in range(20):
        windows = module.windows(np.arange(length, dtype=np.int32))
        assert all(2 <= len(window) <= LONGEST + 1 for window in windows)
        assert sorted(np.concatenate([[], *(window[1:] for window in windows)])) == list(
            range(1, length)
        )


def test_binary_loss_pits_each_next_item_against_one_outside_the_sequence(monkeypatch):
    module, window = make(BinarySASRecModule), np.array([1, 2, 3, 4], np.int32)
    drawn = torch.tensor([[9, 2, 7, 0, 0, 0]])  # item 2 stands in the sequence
    monkeypatch.setattr(torch, "randint_like", lambda *_: drawn)
    loss = module(**module.collate([window]))["loss"]
    scores = [module.score([window[:end]])[0] for end in (1, 2, 3)]
    likes = sum(torch.nn.functional.logsigmoid(scores[i][i + 2]) for i in range(3))
    dislikes = sum(torch.nn.functional.logsigmoid(-scores[i][drawn[0, i]]) for i in (0, 2))
    torch.testing.assert_close(loss, -(likes + dislikes) / 3)


@pytest.mark.parametrize(("last_only", "masks"), [(1.0, [3, 5]), (0.0, None)])
def test_bert4rec_loss_is_that_of_the_masked_items(last_only, masks):
    module = make(BERT4RecModule, last_only=last_only, masked=0.5)
    batch = module.collate(arrays([[1, 2, 3], [4, 5]]))
    torch.manual_seed(1)
    mask = module._draw(batch["sequences"])
    if masks:
        assert batch["items"][mask].tolist() == masks
    torch.manual_seed(1)
    loss = module(**batch)["loss"]
    states = module.encode(**{**batch, "items": batch["items"].masked_fill(mask, N_ITEMS)})
    expected = torch_cross_entropy(
        (states @ module.items.weight[:N_ITEMS].T)[mask], batch["items"][mask]
    )
    torch.testing.assert_close(loss, expected)


def test_bert4rec_masks_the_fraction_it_is_told_to():
    module = make(BERT4RecModule, last_only=0.0, masked=0.2)
    batch = module.collate([np.arange(LONGEST, dtype=np.int32)] * 2000)
    torch.manual_seed(0)
    assert abs(module._draw(batch["sequences"]).double().mean() - 0.2) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind):
    module = make(kind, dropout=0.1).train()
    torch.manual_seed(0)
    module(**module.collate(arrays([[1, 2, 3, 4, 5], [6, 7, 8]])))["loss"].backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("block", [1, 2**19])
def test_cross_entropy_and_its_gradients_equal_torchs(monkeypatch, block):
    monkeypatch.setattr(sequence, "_LOGITS", block)
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(70, 5, generator=rng, dtype=torch.float64) * 30
    weights = torch.randn(11, 5, generator=rng, dtype=torch.float64)
    targets = torch.randint(11, (70,), generator=rng)
    found = []
    for loss_of in (cross_entropy, lambda s, w, t: torch_cross_entropy(s @ w.T, t)):
        leaves = [tensor.clone().requires_grad_() for tensor in (states, weights)]
        loss = loss_of(*leaves, targets)
        (3 * loss).backward()
        found.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
