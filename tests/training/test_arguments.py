import pytest

from recinject.foundation.errors import RecinjectError
from recinject.training.arguments import (
    check_training_settings,
    count_in_steps,
    training_arguments,
)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lerning_rate": 1e-4}, "did you mean 'learning_rate'"),
        ({"output_dir": "x"}, "set by the run itself"),
        ({"seed": 1}, "set by the run itself"),
        ({"fp16": True}, "overflow"),
        ({"fp16_full_eval": True}, "overflow"),
        ({"save_total_limit": 1}, "keep 2 or more"),
        ({"lr_scheduler_type": "wavy"}, "transformers refuses"),
        ({"optim": "no_such"}, "transformers refuses"),
    ],
)
def test_what_could_not_train_is_refused(settings, said):
    with pytest.raises(RecinjectError, match=said):
        check_training_settings(settings)


def test_settings_are_passed_on_and_win_over_defaults(tmp_path):
    given = {"learning_rate": 3e-4, "logging_steps": 7, "use_cpu": True}
    arguments = training_arguments(given, tmp_path / "new", seed=9)
    assert (arguments.learning_rate, arguments.logging_steps) == (3e-4, 7)
    assert (arguments.seed, arguments.output_dir) == (9, str(tmp_path / "new"))
    assert (arguments.report_to, arguments.save_total_limit) == ([], 2)
    assert not arguments.bf16 and not arguments.fp16
    assert arguments.eval_strategy == "no"
    assert not (tmp_path / "new").exists()


def test_validation_samples_are_measured_unless_told_otherwise(tmp_path):
    for given, measures in (
        ({}, "steps"),
        ({"eval_strategy": "no"}, "no"),
        ({"save_strategy": "no"}, "steps"),
        ({"save_strategy": "epoch"}, "epoch"),
    ):
        arguments = training_arguments(given, tmp_path, 0, validates=True)
        assert arguments.eval_strategy == measures


@pytest.mark.parametrize(
    ("given", "keeps"),
    [
        ({}, True),
        ({"save_steps": 7}, True),
        ({"eval_steps": 0.02}, True),
        ({"save_strategy": "epoch"}, True),
        ({"save_steps": 20, "eval_steps": 10}, False),
        ({"save_strategy": "no"}, False),
        ({"eval_strategy": "no"}, False),
        ({"load_best_model_at_end": False}, False),
    ],
)
def test_the_best_checkpoint_is_kept_where_each_is_measured(tmp_path, given, keeps):
    arguments = training_arguments(given, tmp_path, 0, validates=True)
    assert arguments.load_best_model_at_end is keeps
    assert not training_arguments(given, tmp_path, 0).load_best_model_at_end


def test_intervals_given_as_shares_become_steps(tmp_path):
    given = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "save_steps": 7}
    arguments = training_arguments({**given, "num_train_epochs": 2, "use_cpu": True}, tmp_path, 0)
    count_in_steps(arguments, 800)
    assert (arguments.logging_steps, arguments.eval_steps, arguments.save_steps) == (2, 7, 7)
