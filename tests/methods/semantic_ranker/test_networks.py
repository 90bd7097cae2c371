import numpy as np
import pytest
import torch
from torch import nn

from recinject.foundation.ragged import Ragged
from recinject.methods.semantic_ranker.networks import TASKS, Ranker, Trunk
from recinject.training.networks import FitSettings, TensorRows, fit_network

ITEMS, ROWS, COLD = 12, 9, 11
ITEM_ROWS = Ragged.from_rows([[item % 8] for item in range(COLD)] + [[8]], np.int64)
SHAPE = {"width": 4, "hidden": 8, "dropout": 0.0}


def make(seed=0, item_rows=ITEM_ROWS, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Ranker(item_rows, ROWS, np.arange(COLD), 3.5, 1.2, **{**SHAPE, **settings})


def batch(n=6, ratings=True):
    rng = np.random.default_rng(3)
    given = torch.from_numpy(rng.integers(1, 6, n)).float()
    history = torch.from_numpy(rng.integers(0, COLD, (n, 5)))
    history[0], history[1, 2:] = ITEMS, ITEMS
    return {
        "candidates": torch.from_numpy(rng.integers(0, COLD, n)),
        "history": history,
        "history_ratings": torch.from_numpy(rng.integers(1, 6, (n, 5))).float(),
        "ratings": given if ratings else given * torch.nan,
    }


def asked(told):
    return {"candidates": told["candidates"][:, None], **{k: told[k] for k in HISTORY}}


HISTORY = ("history", "history_ratings")


def test_the_loss_is_the_weighted_sum_of_the_tasks():
    torch.manual_seed(1)
    found = make(weights=(2.0, 0.5))(**batch())
    expected = 2 * found["rating_loss"] + 0.5 * found["click_loss"]
    torch.testing.assert_close(found["loss"], expected)
    told = batch()
    errors = make().rate(**asked(told))[:, 0] - told["ratings"]
    torch.testing.assert_close(found["rating_loss"], (errors / 1.2).square().mean())


def test_a_log_without_ratings_has_a_click_loss_alone():
    found = make()(**batch(ratings=False))
    assert found["rating_loss"] == 0 and found["click_loss"] > 0
    found["loss"].backward()


def test_padding_and_the_rest_of_the_batch_change_nothing():
    module, told = make().double(), batch()
    whole = module.score(**asked(told))
    longer = {**asked(told)}
    longer["history"] = torch.nn.functional.pad(told["history"], (0, 3), value=ITEMS)
    longer["history_ratings"] = torch.nn.functional.pad(told["history_ratings"], (0, 3), value=5)
    for task in TASKS:
        torch.testing.assert_close(module.score(**longer)[task], whole[task])
        for row in range(6):
            alone = {name: column[row : row + 1] for name, column in asked(told).items()}
            torch.testing.assert_close(module.score(**alone)[task], whole[task][row : row + 1])
        assert whole[task].isfinite().all(), "an empty history is read too"


def test_an_item_is_the_sum_of_its_rows():
    item_rows = Ragged.from_rows([[0, 3, 5], [2], [2, 2]], np.int64)
    module = Ranker(item_rows, ROWS, np.arange(3), **SHAPE)
    table = module.table.weight
    expected = torch.stack([table[0] + table[3] + table[5], table[2], 2 * table[2], 0 * table[2]])
    torch.testing.assert_close(module._vectors(torch.arange(4)), expected)


@pytest.mark.parametrize("shared", [False, True])
def test_a_cold_items_row_is_trained_only_where_it_collides(shared):
    rows = [*ITEM_ROWS.to_list()[:COLD], [3 if shared else 8]]
    module = make(item_rows=Ragged.from_rows(rows, np.int64))
    own = rows[COLD][0]
    before = module.table.weight[own].detach().clone()
    told = batch(64)
    settings = FitSettings(learning_rate=0.01, batch_size=16, steps=20)
    fit_network(module, TensorRows(told), dict, settings, 0)
    assert torch.equal(module.table.weight[own], before) != shared


def test_another_trunk_may_give_each_task_features_of_its_own():
    class Apart(Trunk):
        def __init__(self, tasks, inputs, width, dropout):
            super().__init__()
            self.parts = nn.ModuleDict({task: nn.Linear(inputs, width) for task in tasks})

        def forward(self, features):
            return {task: part(features) for task, part in self.parts.items()}

        def penalty(self):
            return torch.tensor(7.0)

    module = make(trunk=Apart)
    found = module(**batch())
    found["rating_loss"].backward()
    assert module.trunk.parts["rating"].weight.grad.abs().sum() > 0
    assert module.trunk.parts["click"].weight.grad is None
    parts = found["rating_loss"] + found["click_loss"]
    torch.testing.assert_close(found["loss"], parts + 7)
    torch.manual_seed(5)
    apart = module.eval()(**batch())
    torch.testing.assert_close(apart["loss"], apart["rating_loss"] + apart["click_loss"])
