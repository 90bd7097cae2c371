import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from recinject.foundation.errors import RecinjectError
from recinject.methods.clippy.clippy import ClippyAdagrad
from recinject.methods.low_rank.layers import choose_ranks, shape_low_rank
from recinject.models.adapters import add_lora
from recinject.training.networks import fit_module
from recinject.training.optimizers import (
    OPTIMIZERS,
    check_optimizer,
    choose_optimizer,
    clips_itself,
)
from recinject.training.trainer import MARKER, newest_complete

SETTINGS = {"per_device_train_batch_size": 4, "learning_rate": 0.3, "max_steps": 12}
OURS = ["agc_adagrad", "agc_adam", "clippy_adagrad", "clippy_adam"]


class Tagger(nn.Module):
    """Tells the parity of a number by its embedding."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.table, self.map = nn.Embedding(6, 4), nn.Linear(4, 2)

    def forward(self, numbers):
        scores = self.map(self.table(numbers))
        return {"loss": nn.functional.cross_entropy(scores, numbers % 2)}


def collate(numbers):
    return {"numbers": torch.tensor(numbers)}


def fit(name, folder=None, **more):
    module, settings = Tagger(), {**SETTINGS, "save_steps": 4, **more}
    fit_module(module, list(range(6)) * 8, collate, settings, folder, 5, optimizer=name)
    return module


def built(name, model, folder, settings=None, **arguments):
    told = TrainingArguments(str(folder), use_cpu=True, report_to="none", **arguments)
    choice = choose_optimizer(name, told.learning_rate, settings, told.weight_decay)
    return Trainer(model, told, optimizer_cls_and_kwargs=choice).create_optimizer()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_each_trains_through_the_trainer(name):
    numbers = torch.arange(6)
    module = fit(name)
    assert module(numbers)["loss"] < 0.9 * Tagger()(numbers)["loss"]


@pytest.mark.parametrize("name", OURS)
def test_cut_off_and_resumed_it_ends_at_the_same_bits(tmp_path, name):
    whole = fit(name, tmp_path)
    (tmp_path / "checkpoint-12" / MARKER).unlink()
    assert newest_complete(tmp_path).name == "checkpoint-8"
    resumed = fit(name, tmp_path)
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


@pytest.mark.parametrize("name", OURS)
def test_settings_and_groups_reach_the_optimizer(tmp_path, name):
    settings = {"lam_rel": 0.25} if "clippy" in name else {"clip_factor": 0.25}
    model = Tagger()
    optimizer = built(name, model, tmp_path, settings, learning_rate=0.2, weight_decay=0.1)
    groups = {name: g for g in optimizer.param_groups for name in g["param_names"]}
    assert set(groups) == {"table.weight", "map.weight", "map.bias"}
    assert {name: group["clip"] for name, group in groups.items()} == {
        "table.weight": False, "map.weight": True, "map.bias": True}  # fmt: skip
    assert groups["map.weight"]["weight_decay"] == 0.1 and not groups["map.bias"]["weight_decay"]
    for group in optimizer.param_groups:
        assert group["lr"] == 0.2 and settings.items() <= group.items()


def test_the_schedule_is_followed():
    rates = []
    optimizer = ClippyAdagrad(Tagger().parameters(), 0.3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for _ in range(3):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [0.3, 0.15, 0.075]


def test_adafactor_is_a_class_with_settings():
    kind, given = choose_optimizer("adafactor", 0.1, {"clip_threshold": 2.0})
    assert issubclass(kind, torch.optim.Optimizer)
    assert given == {
        "scale_parameter": True, "relative_step": False, "clip_threshold": 2.0, "lr": 0.1
    }  # fmt: skip


def test_which_clip_by_themselves():
    assert [name for name in sorted(OPTIMIZERS) if clips_itself(name)] == OURS
    assert not clips_itself(None) and not clips_itself("no such")


def test_no_name_leaves_the_choice_to_transformers():
    assert choose_optimizer(None, 0.1) is None
    check_optimizer(None, {}, Tagger())


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("clipy_adam", {}, "did you mean 'clippy_adam'"),
        (None, {"lam_rel": 0.1}, "there is no training.optimizer"),
        ("clippy_adam", {"lam_rl": 0.1}, "did you mean 'lam_rel'"),
        ("clippy_adam", {"lr": 0.1}, "takes no 'lr'"),
        ("clippy_adam", {"weight_decay": 0.1}, "takes no 'weight_decay'"),
        ("clippy_adam", {"lam_rel": "much"}, "clippy_adam refuses"),
        ("clippy_adagrad", {"lam_abs": "little"}, "clippy_adagrad refuses"),
        ("adafactor", {"clip_threshold": "much"}, "adafactor refuses"),
        ("clippy_adam", {"lam_rel": -1.0}, "lam_rel: -1.0 is below 0"),
        ("clippy_adagrad", {"update_first": False}, "initial_accumulator_value above 0"),
        ("agc_adam", {"clip_factor": 0.0}, "clip_factor 0.0"),
        ("agc_adam", {"betas": 0.9}, "agc_adam refuses"),
        ("agc_adagrad", {"lam_abs": 0.9}, "takes no 'lam_abs'"),
        ("adafactor", {"beta": 0.9}, "takes no 'beta'"),
    ],
)
def test_wrong_names_and_settings_are_refused(name, settings, said):
    with pytest.raises(RecinjectError, match=said):
        choose_optimizer(name, 0.1, settings)


def test_thresholds_that_freeze_lora_are_refused_before_training(make_model):
    model = add_lora(make_model(), {"r": 2})
    check_optimizer("clippy_adam", {"lam_rel": 0.1}, model)
    with pytest.raises(RecinjectError, match="would freeze"):
        check_optimizer("clippy_adam", {"lam_abs": 1e-7}, model)
    check_optimizer("clippy_adam", {"lam_abs": 1e-7}, make_model())


def test_the_form_of_low_rank_layers_is_not_taken_for_zeros(make_model):
    model = make_model()
    shape_low_rank(model, choose_ranks(model, None, 2, None))
    check_optimizer("clippy_adam", {"lam_abs": 1e-7}, model)
