import numpy as np
import pytest
import torch

from recinject.foundation.errors import RecinjectError
from recinject.methods.semantic_ids.quantising import residual_codes
from recinject.methods.semantic_ids.rq_vae import RQVAE, straight_through
from recinject.training.networks import FitSettings, TensorRows, fit_network, global_chance

RNG = np.random.default_rng(0)
KINDS = RNG.normal(size=(30, 24))
ROWS = torch.tensor(
    KINDS[np.arange(600) % 30] + 0.3 * RNG.normal(size=(600, 24)), dtype=torch.float32
)
SIZES = {"levels": 3, "codes": 8, "latent": 6, "hidden": (32, 16)}
SETTINGS = FitSettings(learning_rate=3e-3, batch_size=200, steps=150)


def fresh(seed=1, **more):
    with global_chance(seed):
        return RQVAE(24, **{**SIZES, **more})


def started(seed=1, **more):
    module = fresh(seed, **more)
    with global_chance(2):
        module(ROWS)
    return module


@pytest.fixture(scope="module")
def trained():
    module = fresh()
    fit_network(module, TensorRows({"embeddings": ROWS}), dict, SETTINGS, 1)
    return module.eval()


def test_straight_through_is_the_choice_ahead_and_the_identity_behind():
    latents = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    chosen = torch.ones(5, 4, requires_grad=True)
    out = straight_through(latents, chosen)
    torch.testing.assert_close(out, chosen)
    weights = torch.arange(20.0).reshape(5, 4)
    (out * weights).sum().backward()
    assert torch.equal(latents.grad, weights) and chosen.grad is None


def test_the_loss_is_the_paper_s_written_out():
    module = started().eval()
    with torch.no_grad():
        latents = module.encoder(ROWS)
        left, chosen, commitment = latents, 0, 0.0
        for book in module.codebooks:
            code = book[torch.cdist(left, book).argmin(1)]
            commitment += 1.25 * ((left - code) ** 2).sum(1).mean()
            left, chosen = left - code, chosen + code
        reconstruction = ((ROWS - module.decoder(chosen)) ** 2).sum(1).mean()
        found = module(ROWS)
    torch.testing.assert_close(found["reconstruction"], reconstruction)
    torch.testing.assert_close(found["loss"], reconstruction + commitment)


def test_each_part_of_the_loss_teaches_whom_it_should():
    module = started().eval()
    latents = module.encoder(ROWS).detach().requires_grad_()
    module.codebooks.grad = None
    chosen, commitment = module.quantise(latents)
    commitment.backward()
    left, expected = latents.detach(), torch.zeros_like(module.codebooks)
    residuals = torch.zeros_like(left)
    for level, book in enumerate(module.codebooks.detach()):
        numbers = torch.cdist(left, book).argmin(1)
        gap = left - book[numbers]
        expected[level].index_add_(0, numbers, -2 * gap / len(left))
        residuals += 0.25 * 2 * gap / len(left)
        left = gap
    torch.testing.assert_close(module.codebooks.grad, expected)
    torch.testing.assert_close(latents.grad, residuals)


def test_codes_that_nobody_chose_get_no_gradient():
    module = started().eval()
    module(ROWS[:5])["loss"].backward()
    with torch.no_grad():
        latents = module.encoder(ROWS[:5]).numpy()
    codes, _ = residual_codes(latents, module.codebooks.detach().numpy())
    for level in range(3):
        used = module.codebooks.grad[level].abs().sum(1) > 0
        assert used.nonzero()[:, 0].tolist() == sorted(set(codes[:, level]))


def test_the_first_batch_starts_the_codebooks_and_the_later_ones_do_not():
    module = started()
    assert module.started and all(len(book.unique(dim=0)) == 8 for book in module.codebooks)
    assert not module.idle.any()
    before = module.codebooks.detach().clone()
    module(ROWS[:100])
    assert torch.equal(module.codebooks, before)


def test_a_first_batch_smaller_than_the_codes_is_refused():
    with pytest.raises(RecinjectError, match="first batch has 7 items to start 8 codes"):
        fresh()(ROWS[:7])


def test_dead_codes_come_back_where_items_are():
    module = started(revive_after=3)
    with torch.no_grad():
        module.codebooks[1, 2:5] = 1e3
    for _ in range(3):
        module(ROWS)
    assert (module.codebooks[1, 2:5] == 1e3).all()
    with global_chance(3):
        module(ROWS)
    assert (module.codebooks[1].abs() < 100).all()
    assert module.idle[1, 2:5].tolist() == [0, 0, 0]
    module.eval()
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    module(ROWS)
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in kept.items())


def test_trained_it_uses_its_codes_and_rebuilds_what_it_read(trained):
    frozen = trained.frozen()
    codes = frozen.encode(ROWS.numpy())
    used = [len(np.unique(codes[:, level])) / 8 for level in range(3)]
    assert min(used) >= 0.8
    spread = float(((ROWS - ROWS.mean(0)) ** 2).sum())
    errors = [((ROWS.numpy() - frozen.decode(codes[:, :n])) ** 2).sum() / spread for n in (1, 2, 3)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.7


def test_frozen_it_is_the_same_without_torch(trained):
    frozen = trained.frozen()
    with torch.no_grad():
        latents = trained.encoder(ROWS)
        chosen, _ = trained.quantise(latents)
        decoded = trained.decoder(chosen).numpy()
    codes = frozen.encode(ROWS.numpy())
    assert np.array_equal(codes, residual_codes(latents.numpy(), frozen.codebooks)[0])
    np.testing.assert_allclose(frozen.decode(codes), decoded, atol=1e-4)


def test_the_same_training_gives_the_same_codebooks(trained):
    again = fresh()
    fit_network(again, TensorRows({"embeddings": ROWS}), dict, SETTINGS, 1)
    assert torch.equal(again.codebooks, trained.codebooks)
