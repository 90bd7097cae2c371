import pytest

from recinject.foundation.errors import RecinjectError
from recinject.pipeline.check import check_run, check_settings
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run


@pytest.fixture
def load(tiny_recipe, tmp_path):
    def make(*overrides):
        return load_recipe(str(tiny_recipe), [f"runs={tmp_path / 'runs'}", *overrides])

    return make


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.split=leave_two_out", "data.split: unknown 'leave_two_out'\n  fix: did you mean"),
        ("data.ties=hsh", "data.ties: Input should be 'auto', 'log_order' or 'hash'"),
        ("data.test_share=0.5", "data.test_share: Input should be less than 0.5"),
        (
            "identifiers={kind: collaborative, clusters: 1}",
            "identifiers.clusters: Input should be greater than",
        ),
        ("identifiers.clusters=4", "identifiers.clusters: unknown key"),
        (
            "identifiers.semantic={codes: 8}",
            "identifiers.semantic: this key has moved\n  fix: write its keys beside",
        ),
        (
            "identifiers.kind=titel",
            "identifiers.kind: unknown identifiers 'titel'\n  fix: did you mean 'title'",
        ),
        (
            "lora.initialisation=lfai",
            "this key has moved\n  fix: write lora.initialization instead",
        ),
        ("evaluation.baselines=[alz]", "unknown recommender 'alz'\n  fix: did you mean 'als'"),
        ("evaluation.cutoffs=[5, 11]", "11 items, but lists end after 10 (evaluation.beams)"),
        ("training.mixture.retreival=1", "training.mixture: the run has no task 'retreival'"),
        (
            "training.curriculum=[{share: 1, tasks: [retreival]}]",
            "phase 1: the run has no task 'retreival'",
        ),
        ("training.mixtur={}", "did you mean 'mixture'?"),
        (
            "training.optimizer=adafacto",
            "unknown optimizer 'adafacto'\n  fix: did you mean 'adafactor'",
        ),
        ("training.optimzer=adafactor", "did you mean 'optimizer'?"),
        ("training.seed=3", "training: 'seed' is set by the run itself"),
        ("training.learning_rate=fast", "training.learning_rate: Input should be a valid number"),
        ("training.max_steps=0.5", "training.max_steps: Input should be a valid integer"),
        ("training.per_device_train_batch_size=0", "batch_size: Input should be greater than"),
        ("training.save_total_limit=x", "training.save_total_limit: Input should be"),
        ("training.fp16=true", "training.fp16: T5's activations overflow"),
        ("model.config.d_modl=8", "model.config: T5Config takes no 'd_modl' here\n  fix: did you"),
        ("model.config.d_model=x", "model.config: T5 refuses it"),
        ("model.vocab_size=50", "model.vocab_size: 50 tokens leave no room"),
        ("model.tokenizer=/no/such/tokenizer.json", "/no/such/tokenizer.json: no such file"),
        ("lora.lora_alfa=4", "lora: LoraConfig takes no 'lora_alfa'\n  fix: did you mean"),
        ("lora={target_modules: [qq]}", "lora: peft refuses it"),
    ],
)
def test_a_setting_that_cannot_be_met_is_refused(load, override, said):
    with pytest.raises(RecinjectError) as caught:
        check_settings(load(override))
    assert said in str(caught.value)


CLIPPED = ["training.optimizer=clippy_adam", "training.optimizer_settings={lam_abs: 1e-6}"]
LORA = "lora={r: 2, target_modules: [q]%s}"
HEAD = ["samples.tasks={rating: {}}", "model.head=regression"]


@pytest.mark.parametrize("start", [", initialization: spectral", ", initialization: lfai"])
def test_lora_that_starts_from_a_layers_function_is_not_frozen(load, start):
    check_settings(load(*CLIPPED, LORA % start))


@pytest.mark.parametrize("settings", [[LORA % ""], HEAD])
def test_what_starts_at_zero_would_be_frozen(load, settings):
    with pytest.raises(RecinjectError, match="lam_abs: 1e-06 would freeze"):
        check_settings(load(*CLIPPED, *settings))


def test_what_can_be_met_passes(load, tmp_path):
    check_settings(load())
    check_settings(load("training=null", "evaluation.baselines=[]"))
    check_settings(load("lora.r=2", "training.learning_rate='1e-3'"))
    assert not list(tmp_path.iterdir())


def test_a_task_without_samples_is_said(load):
    run = Run(load("samples.tasks.masked_item_modelling={shortest: 90, longest: 99}"))
    lines = list(check_run(run))
    assert "masked_item_modelling (train): no sample" in lines
    assert "retrieval (train): " in " ".join(lines)


def test_the_log_is_explained(load, tmp_path):
    rows = "".join(f"u{n % 6},i{n * 7 % 29},{n % 5},{n}\n" for n in range(60))
    (tmp_path / "log.csv").write_text("user,item,rating,time\n" + rows + "u0,i0,0,0\n")
    lines = list(check_run(Run(load(f"data.path={tmp_path / 'log.csv'}"))))
    read = "log, as read: 6 users, 29 items, 61 events (table log.csv (user_id from 'user'"
    assert any(line.startswith(read) for line in lines)
    assert "log, duplicates: 6 users, 29 items, 60 events (1 repeated events dropped)" in lines


def test_everything_that_is_wrong_with_a_log_is_said_at_once(start, tmp_path):
    (tmp_path / "log.csv").write_text("user,item,rating\nu,i,good\n,i,3\nu,i\nu,i,bad\n")
    ended = start("check", f"data.path={tmp_path / 'log.csv'}")
    assert ended.code == 2 and "settings: every key is bound" in ended.output
    for said in (
        "log.csv, line 2: rating 'good' is not a number (2 such lines: 2, 5)",
        "log.csv, line 3: user_id '' is empty",
        "log.csv, line 4: 2 columns where the header has 3",
        "fix: ",
    ):
        assert said in ended.output
    assert not (tmp_path / "tiny").exists()
