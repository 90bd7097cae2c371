"""A loss that leaves the ground ends a training, and no sound one does."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recinject.foundation.errors import RecinjectError
from recinject.training.fitting import fit
from recinject.training.trainer import _PATIENCE, count_diverged, newest_complete


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.05, 0.6),
    st.lists(st.floats(0.2, 11.0), min_size=1, max_size=4),
)
def test_noise_phases_and_spikes_are_no_alarm(seed, noise, levels):
    rng = np.random.default_rng(seed)
    # Phases of other tasks begin anew, below what guessing costs; some steps jump threefold.
    curve = np.concatenate([level * np.exp(-np.linspace(0, 2, 50)) for level in levels])
    curve *= rng.lognormal(0, noise, len(curve))
    curve[rng.random(len(curve)) < 0.02] *= 3
    losses = curve.tolist()
    guessing = math.log(8000)
    worst = max(count_diverged(losses[: n + 1], guessing) for n in range(len(losses)))
    assert worst < _PATIENCE


@given(st.integers(0, 2**32 - 1), st.floats(1.3, 10), st.integers(1, 40))
def test_what_grows_without_end_is_found(seed, growth, sound):
    rng = np.random.default_rng(seed)
    before = (8 * rng.lognormal(0, 0.1, sound)).tolist()
    after = [8 * growth ** (n + 1) for n in range(40)]
    found = [count_diverged([*before, *after[:n]], math.log(8000)) for n in range(41)]
    assert max(found) >= _PATIENCE


@pytest.mark.parametrize("rate", [1e-4, 0.1])
def test_a_sound_training_comes_to_its_end(
    tokenizer, dataset, make_model, settings, tmp_path, rate
):
    asked = settings | {"learning_rate": rate, "max_steps": 24}
    fit(make_model(), tokenizer, dataset, None, asked, tmp_path / "c", tmp_path / "l", seed=5)


def test_a_loss_far_above_the_first_ends_it(tokenizer, dataset, make_model, settings, tmp_path):
    folder, log = tmp_path / "checkpoints", tmp_path / "log.jsonl"

    def train(model, **more):
        fit(model, tokenizer, dataset, None, settings | more, folder, log, seed=5)

    train(make_model(), max_steps=2)
    broken = make_model()
    broken.lm_head.register_forward_hook(lambda *_: _[2] * 1e4)
    with pytest.raises(RecinjectError, match=r"loss began at \S+ and is(.|\n)*learning_rate"):
        train(broken, max_steps=24)
    losses = [json.loads(line)["loss"] for line in log.read_text("utf-8").splitlines()]
    assert all(map(math.isfinite, losses)) and len(losses) == 2 + _PATIENCE
    # Nothing was saved while the loss was far up, and the good checkpoint is there.
    assert newest_complete(folder).name == "checkpoint-2"
