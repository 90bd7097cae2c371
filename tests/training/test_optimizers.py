import pytest
import torch
from torch import nn
from transformers import Adafactor, Trainer, TrainingArguments

from recinject.foundation.errors import RecinjectError
from recinject.methods.clippy.clippy import ClippyAdagrad
from recinject.methods.low_rank.starts import LowRank
from recinject.models.adapters import add_lora
from recinject.registry import names, register
from recinject.training.optimizers import (
    BoundedOptimizer,
    bounding_class,
    build_optimizer,
    check_optimizer,
    choose_optimizer,
    log_entries,
)

SETTINGS = {"use_cpu": True, "report_to": "none", "per_device_train_batch_size": 4}
SETTINGS |= {"max_steps": 12, "save_steps": 4, "logging_steps": 4, "max_grad_norm": 0}
SETTINGS |= {"learning_rate": 0.3, "lr_scheduler_type": "constant"}
OURS = ["agc_adagrad", "agc_adam", "clippy_adagrad", "clippy_adam"]


register("optimizer", "plain_sgd")(torch.optim.SGD)  # as a stranger would


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


def trainer(name, model, folder, settings=None, **arguments):
    told = TrainingArguments(str(folder), **{**SETTINGS, **arguments})
    choice = choose_optimizer(name, told.learning_rate, settings, told.weight_decay)
    rows = [{"numbers": number % 6} for number in range(48)]
    return Trainer(model, told, train_dataset=rows, optimizer_cls_and_kwargs=choice)


@pytest.mark.parametrize("name", ["adafactor", *OURS, "plain_sgd"])
def test_each_trains_through_the_trainer(name, tmp_path):
    numbers, model = torch.arange(6), Tagger()
    trainer(name, model, tmp_path).train()
    assert model(numbers)["loss"] < 0.9 * Tagger()(numbers)["loss"]


@pytest.mark.parametrize("name", OURS)
def test_cut_off_and_resumed_it_ends_at_the_same_bits(tmp_path, name):
    whole, resumed = Tagger(), Tagger()
    trainer(name, whole, tmp_path).train()
    trainer(name, resumed, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


@pytest.mark.parametrize("name", ["adafactor", *OURS, "plain_sgd"])
def test_a_loop_without_the_trainer_has_the_same_optimizers(name):
    model, numbers = Tagger(), torch.arange(6)
    optimizer = build_optimizer(model, name, 0.1, weight_decay=0.01)
    for _ in range(12):
        optimizer.zero_grad()
        model(numbers)["loss"].backward()
        optimizer.step()
    assert model(numbers)["loss"] < 0.95 * Tagger()(numbers)["loss"]
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}


@pytest.mark.parametrize("name", OURS)
def test_settings_and_groups_reach_the_optimizer(tmp_path, name):
    settings = {"lam_rel": 0.25} if "clippy" in name else {"clip_factor": 0.25}
    model = Tagger()
    made = trainer(name, model, tmp_path, settings, learning_rate=0.2, weight_decay=0.1)
    optimizer = made.create_optimizer()
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
    ours, theirs = Tagger(), Tagger()
    told = {"scale_parameter": True, "relative_step": False, "clip_threshold": 2.0, "lr": 0.1}
    optimizers = kind(ours.parameters(), **given), Adafactor(theirs.parameters(), **told)
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        for _ in range(3):
            model(torch.arange(6))["loss"].backward()
            optimizer.step()
    assert optimizers[0].defaults == optimizers[1].defaults
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_which_clip_by_themselves():
    assert [name for name in sorted(names("optimizer")) if bounding_class(name)] == OURS
    assert bounding_class(None) is None
    with pytest.raises(RecinjectError, match=r"training.optimizer: unknown optimizer 'no such'"):
        bounding_class("no such")


def test_only_what_says_so_is_asked_for_the_log():
    assert log_entries(None) == log_entries(torch.optim.SGD(Tagger().parameters(), 0.1)) == {}
    assert log_entries(BoundedOptimizer(Tagger().parameters(), {})) == {}


def test_no_name_leaves_the_choice_to_transformers():
    assert choose_optimizer(None, 0.1) is None
    check_optimizer(None, {}, Tagger())


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("clipy_adam", {}, "did you mean 'clippy_adam'"),
        ("plain_sgd", {"momentun": 0.9}, "did you mean 'momentum'"),
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
    LowRank(rank=2).check(model)
    check_optimizer("clippy_adam", {"lam_abs": 1e-7}, model)
