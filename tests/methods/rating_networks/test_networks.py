import pytest
import torch
from torch.nn.functional import mse_loss

from recinject.methods.rating_networks.networks import (
    MatrixFactorisationModule,
    MLPModule,
    RatingModule,
    TransformerMLPModule,
    WideDeepModule,
    ZeroPaddedEmbedding,
)
from recinject.training.networks import global_chance

KINDS = torch.tensor([[0, 0], [1, 2], [2, 0], [3, 1]])
USERS, ITEMS = torch.tensor([1, 2, 0, 2]), torch.tensor([3, 1, 2, 0])
SIZES = {"width": 8, "heads": 2, "layers": 2, "dropout": 0.0, "history_length": 3}
NAN = torch.nan


def shaken(module: RatingModule) -> RatingModule:
    """Give everything but the rows of the unknown a value of its own."""
    with torch.no_grad():
        for part in module.modules():
            for parameter in part.parameters(recurse=False):
                parameter.normal_(std=0.3)
                if isinstance(part, ZeroPaddedEmbedding):
                    parameter[0] = 0
    return module.eval()


@pytest.fixture
def transformer() -> RatingModule:
    with global_chance(0):
        return shaken(TransformerMLPModule(3.5, KINDS, **SIZES))


def test_factorisation_is_the_formula_and_so_is_its_gradient() -> None:
    with global_chance(0):
        module = shaken(MatrixFactorisationModule(3.5, 2, 3, 4, 0.1))
    user, item, label = module.users.weight[1], module.items.weight[3], 2.0
    offsets = module.user_offsets.weight[1, 0], module.item_offsets.weight[3, 0]
    rating = 3.5 + sum(offsets) + user @ item
    pair = {"users": USERS[:1], "items": ITEMS[:1]}
    torch.testing.assert_close(module.rate(**pair)[0], rating)
    loss = module(labels=torch.tensor([label]), **pair)["loss"]
    squares = user @ user + item @ item + sum(part**2 for part in offsets)
    torch.testing.assert_close(loss, (rating - label) ** 2 + 0.1 * squares)
    loss.backward()
    expected = 2 * (rating - label) * item + 0.2 * user
    torch.testing.assert_close(module.users.weight.grad[1], expected.detach())


def test_crossed_features_of_a_hand_example() -> None:
    module = WideDeepModule(0.0, 2, KINDS, 4, 0.0)
    found = module.cross(USERS, KINDS[ITEMS])
    # User 1 with attributes 3 and 1; user 2 with 1 and 2; nobody with 2; user 2 with nothing.
    assert found.tolist() == [[3, 1], [4, 5], [0, 0], [0, 0]]
    shared = WideDeepModule(0.0, 2, KINDS, 4, 0.0, buckets=4)
    assert shared.cross(USERS, KINDS[ITEMS]).tolist() == [[3, 1], [4, 1], [0, 0], [0, 0]]
    with torch.no_grad():
        module.deep[-1].weight.zero_(), module.deep[-1].bias.zero_()
        module.crossed.weight[5] = 0.7
        module.kind_offsets.weight[1] = 0.2
        module.user_offsets.weight[2] = -0.1
    pairs = {"users": USERS, "items": ITEMS}
    torch.testing.assert_close(module.rate(**pairs), torch.tensor([0.2, 0.8, 0.0, -0.1]))


@pytest.mark.parametrize(
    "module",
    [
        MatrixFactorisationModule(3.5, 2, 3, 4, 0.1),
        MLPModule(3.5, 2, 3, 4, 0.0),
        WideDeepModule(3.5, 2, KINDS, 4, 0.0),
    ],
)
def test_what_has_no_label_and_what_is_unknown_teach_nothing(module: RatingModule) -> None:
    with global_chance(0):
        shaken(module)
    labels = torch.tensor([2.0, NAN, 4.0, 1.0])
    pairs = {"users": USERS, "items": ITEMS}
    found, known = module(labels=labels, **pairs)["loss"], torch.tensor([0, 2, 3])
    error = mse_loss(module.rate(**pairs)[known], labels[known])
    torch.testing.assert_close(found, error + module.penalty(**pairs))
    found.backward()
    assert torch.all(module.users.weight.grad[0] == 0)
    assert torch.all(module.items.weight.grad[0] == 0)


def test_rows_of_candidates_are_rated_as_each_alone(transformer: RatingModule) -> None:
    items = torch.tensor([[0, 0, 0, 1, 3, 2, 1, 3]])
    ratings = torch.tensor([[NAN, NAN, NAN, 4.0, 1.0, 5.0, 2.0, 3.0]])
    together = transformer.rate(items=items, ratings=ratings, candidates=items[:, 3:])[0]
    for place, found in enumerate(together):
        past = slice(place, place + 3)
        own = torch.tensor([[0]])
        alone = transformer.rate(
            items=torch.cat([items[:, past], own], 1),
            ratings=torch.cat([ratings[:, past], own * NAN], 1),
            candidates=items[:, 3 + place, None],
        )
        torch.testing.assert_close(alone[0, 0], found)


def test_padding_and_what_is_to_come_change_nothing_but_the_past_does(
    transformer: RatingModule,
) -> None:
    items, ratings = torch.tensor([[0, 1, 3, 0]]), torch.tensor([[NAN, 2.0, 5.0, NAN]])
    asked = {"items": items, "ratings": ratings, "candidates": torch.tensor([[2]])}
    before = transformer.rate(**asked)
    padded = transformer.rate(**asked | {"items": torch.tensor([[3, 1, 3, 2]])})
    own = transformer.rate(**asked | {"ratings": torch.tensor([[NAN, 2.0, 5.0, 1.0]])})
    torch.testing.assert_close(padded, before)
    torch.testing.assert_close(own, before)
    for change in ({"ratings": torch.tensor([[NAN, 4.0, 5.0, NAN]])},
                   {"items": torch.tensor([[0, 2, 3, 0]])},
                   {"ratings": ratings * NAN}):  # fmt: skip
        assert (transformer.rate(**asked | change) - before).abs() > 1e-4


def test_the_order_of_the_past_matters(transformer: RatingModule) -> None:
    asked = {"ratings": torch.tensor([[4.0, 4.0, NAN, NAN]]), "candidates": torch.tensor([[2]])}
    one = transformer.rate(items=torch.tensor([[1, 3, 0, 0]]), **asked)
    two = transformer.rate(items=torch.tensor([[3, 1, 0, 0]]), **asked)
    assert (one - two).abs() > 1e-5
