import json
import re
import shutil
from itertools import product

import numpy as np
import pandas as pd
import pytest
import yaml

from recinject.api import run
from recinject.data.splitting import Part, load_split
from recinject.foundation.errors import RecinjectError
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run
from recinject.pipeline.sections import SweepSection
from recinject.pipeline.sweep import arms_of, plan, sweep
from recinject.pipeline.train import curriculum
from recinject.reporting.sweep import Sweep
from recinject.samples.mixture import mix_tasks
from recinject.training.batches import order_by_phase

ADDED = ("add_masked_item_modelling", "add_bpr")
ARMS = ("base", "base_longer", *ADDED)
RUNS = [f"{name}-{seed}" for seed in (1, 2) for name in ARMS]
RATES = {"retrieval": 3, "rating": 1}


def trained_on(steps, **added):
    phase = {"share": 1, "mixture": RATES | added}
    return {"training.max_steps": steps, "training.curriculum": [phase]}


ABLATION = {
    "reference": ["base", "base_longer"],
    "seeds": [1, 2],
    "arms": {
        "base": {},
        "base_longer": {"training.max_steps": 10},
        "add_masked_item_modelling": trained_on(9, masked_item_modelling=0.5),
        "add_bpr": trained_on(10, bpr=1),
    },
}
ABLATED = [
    "samples.tasks={retrieval: {}, rating: {}, bpr: {max_per_user: 2}, masked_item_modelling: {}}",
    "samples.tasks.rating.max_per_user=2",
    f"training.curriculum=[{{share: 1, mixture: {json.dumps(RATES)}}}]",
    "evaluation={baselines: [popularity, item_mean], resamples: 100, beams: 10}",
    "evaluation.reworded=false",
    "evaluation.shuffled=false",
    f"sweep={json.dumps(ABLATION)}",
]
OTHERS = ("masked_item_modelling", "masked_language_modelling", "bpr", "retrieval", "ranking")
STUDIED = [f"samples.tasks.{task}=null" for task in OTHERS] + [
    "training.max_steps=8",
    "model.head=regression",
    "evaluation.baselines=[item_mean]",
    "sweep.seeds=[1]",
    "sweep.arms={whole: {}, quarter: {data.train_share: 0.25, training: {max_steps: 4}}}",
    "sweep.vary={model.head: [regression, text]}",
]
HEADS = [
    f"{share}-head_{head}" for share in ("whole", "quarter") for head in ("regression", "text")
]


@pytest.fixture(scope="module")
def ablated(recinject, tiny_recipe, tmp_path_factory):
    """One whole sweep over mixtures; nobody may change it."""
    runs = tmp_path_factory.mktemp("runs")
    ended = recinject("run", tiny_recipe, f"runs={runs}", *ABLATED)
    assert ended.code == 0, ended.output
    return runs / "tiny", ended.output


@pytest.fixture(scope="module")
def studied(recinject, tiny_recipe, tmp_path_factory):
    """One whole sweep over shares and heads; nobody may change it."""
    runs = tmp_path_factory.mktemp("runs")
    ended = recinject("run", tiny_recipe, f"runs={runs}", *STUDIED)
    assert ended.code == 0, ended.output
    return runs / "tiny", ended.output


def member(folder, name):
    return Run(load_recipe(folder / name / "recipe.yaml"), "recinject run")


def metrics(folder, name):
    rows = json.loads((folder / name / "evaluation" / "metrics.json").read_text("utf-8"))
    return {(r["recommender"], r["task"], r["metric"]): r["value"] for r in rows}


def made(output):
    return re.findall(r"^(\w+): (?:starting|again)", output, re.MULTILINE)


def test_every_arm_is_crossed_with_every_combination():
    section = SweepSection(
        arms={"flat": {}, "deep": {"a.n": 2}},
        vary={"b.rate": [1e-3, 0.1], "c.name": [None, "x/y"], "d.mix": [{"p": 1}, {"p": 2}]},
    )
    arms = arms_of(section)
    assert len(arms) == 2 * 2 * 2 * 2
    assert list(arms)[:2] == [f"flat-rate_0.001-name_null-mix_{number}" for number in (1, 2)]
    assert arms["deep-rate_0.1-name_x_y-mix_2"] == {
        "a.n": 2,
        "b.rate": 0.1,
        "c.name": "x/y",
        "d.mix": {"p": 2},
    }
    assert arms_of(SweepSection()) == {"unchanged": {}}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sweep.vary={training.temperature: [0.0]}", "sweep, arm temperature_0.0: training.temp"),
        ("sweep.vary={data.splt: [random]}", "data.splt: unknown key"),
        ("sweep.vary={seed: [1, 2]}", "seed cannot vary"),
        ("sweep.vary={data.k_core: []}", "sweep.vary.data.k_core: List should have at least 1"),
        ("sweep.reference=bse", "sweep.reference: unknown arm 'bse'"),
        ("sweep.arms={a/b: {}}", "sweep.arms.a/b"),
        ("ablation={add: [bpr]}", "write sweep.arms"),
        ("study={shares: [0.1]}", "write sweep.arms and sweep.vary"),
    ],
)
def test_what_cannot_be_swept_is_refused(tiny_recipe, override, said):
    with pytest.raises(RecinjectError, match=re.escape(said)) as caught:
        plan(load_recipe(tiny_recipe, [override]))
    assert "\n  fix: " in str(caught.value)


def test_a_mistake_in_an_arm_is_found_before_any_run(recinject, tiny_recipe, tmp_path):
    vary = "training.learning_rat=1e-3,3e-3"
    ended = recinject("sweep", tiny_recipe, f"runs={tmp_path}", "--vary", vary)
    assert ended.code == 2 and "learning_rate" in ended.output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_arm_is_a_run_of_its_own(ablated):
    folder, output = ablated
    said = re.findall(r"^sweep: (\w+), seed (\d)", output, re.MULTILINE)
    assert said == [tuple(name.split("-")) for name in RUNS]
    found = {path.name for path in folder.iterdir() if path.suffix != ".lock"}
    assert found == {*RUNS, "report", "recipe.yaml"}


@pytest.mark.slow
def test_baselines_are_evaluated_once_for_arms_with_the_same_data(ablated, studied):
    by_run = {name: {row[0] for row in metrics(ablated[0], name)} for name in RUNS}
    for seed in (1, 2):
        assert by_run.pop(f"base-{seed}") == {"language_model", "popularity", "item_mean", "oracle"}
    assert set(map(frozenset, by_run.values())) == {frozenset({"language_model"})}
    with_baseline = {
        name
        for name in HEADS
        if any(row[0] == "item_mean" for row in metrics(studied[0], f"{name}-1"))
    }
    assert with_baseline == {"whole-head_regression", "quarter-head_regression"}


@pytest.mark.slow
def test_arms_of_a_seed_share_their_samples_and_seeds_do_not(ablated):
    folder, output = ablated
    found = {
        name: member(folder, name).fingerprints("data", "identifiers", "samples") for name in RUNS
    }
    for seed in (1, 2):
        assert all(found[f"{name}-{seed}"] == found[f"base-{seed}"] for name in ARMS)
    assert made(output).count("samples") == 2
    assert not set(found["base-1"].values()) & set(found["base-2"].values())


def samples_trained_on(run):
    """Return how often each sample of the base's tasks is trained on."""
    sizes = run.samples.sizes
    phases = curriculum(run.recipe.training, sizes)
    names = [task.name for task in run.recipe.tasks() if task.name in phases[0].rates]
    mixed = mix_tasks(run.folder("samples"), names, {}, run.recipe.seed)
    columns = [np.asarray(mixed[name]) for name in ("task", "length")]
    steps = run.recipe.training.arguments["max_steps"]
    lengths = columns[1][:, None]
    rows = order_by_phase(columns[0], names, lengths, phases, steps, 8, run.recipe.seed)
    seen = [(mixed[int(row)]["task"], tuple(mixed[int(row)]["input_ids"])) for row in rows]
    return sorted(each for each in seen if names[each[0]] != "bpr"), len(rows)


@pytest.mark.slow
def test_base_samples_are_the_same_with_a_task_on_top(ablated):
    folder, _ = ablated
    base, rows = samples_trained_on(member(folder, "base-1"))
    added, more = samples_trained_on(member(folder, "add_bpr-1"))
    assert (rows, more) == (8 * 8, 8 * 10) and len(base) == rows
    assert added == base


def test_arms_of_the_shipped_ablation_are_as_long_and_give_main_tasks_the_same():
    recipes = {each.arm: each.run.recipe for each in plan(load_recipe("ablation"))}
    main = {"retrieval": 3, "ranking": 1}
    for name, recipe in recipes.items():
        [phase], steps = recipe.training.curriculum, recipe.training.arguments["max_steps"]
        assert {task: phase.mixture[task] for task in main} == main
        total, alone = sum(phase.mixture.values()), name in ("main", "main_longer")
        assert steps * sum(main.values()) / total == (1600 if name == "main_longer" else 800)
        assert alone == (phase.mixture == main)
    assert {recipe.training.arguments["max_steps"] for recipe in recipes.values()} == {800, 1600}
    placebo, real = recipes["placebo"], recipes["add_all"]
    assert placebo.training == real.training
    assert set(placebo.samples.placebo) == set(real.training.curriculum[0].mixture) - set(main)
    assert placebo.samples.model_copy(update={"placebo": []}) == real.samples
    for recipe in recipes.values():
        assert not recipe.samples.phrases  # titles are shown
        for task in main:
            assert recipe.samples.tasks[task]["max_per_user"] == 1


def test_the_shipped_study_takes_steps_by_the_square_root_of_the_share():
    for each in plan(load_recipe("rating_study")):
        share, given = each.run.recipe.data.train_share, each.run.recipe.training.arguments
        steps = (given["max_steps"], given["warmup_steps"])
        assert steps == (round(2000 * share**0.5), round(200 * share**0.5)), each.arm


@pytest.mark.slow
def test_figures_are_those_of_the_seeds_together(ablated):
    folder, _ = ablated
    found = Sweep.load(folder / "report")
    rows = found.pooled.set_index(["arm", "recommender", "task", "metric"])
    kinds = [("retrieval", "hr@10"), ("retrieval", "mrr"), ("rating", "mae")]
    for arm, key in product(ARMS, kinds):
        by_seed = [metrics(folder, f"{arm}-{seed}")["language_model", *key] for seed in (1, 2)]
        row = rows.loc[(arm, "language_model", *key)]
        assert row["value"] == pytest.approx(sum(by_seed) / 2) and row["n"] == 60
    everybody = {"language_model", "popularity", "item_mean", "oracle"}
    assert set(found.pooled["recommender"]) == everybody
    own = found.metrics[found.metrics["arm"] == "add_bpr"]
    assert set(own["seed"]) == {1, 2} and set(own["training.max_steps"]) == {10}
    assert yaml.safe_load(own["training.curriculum"].iloc[0])[0]["mixture"] == RATES | {"bpr": 1}
    assert (own["seconds"] > 0).all()


def test_seeds_in_any_recipe_train_and_are_pooled(tiny_recipe, tmp_path):
    asked = {"baselines": ["popularity", "popularity_recent", "item_mean"], "resamples": 100}
    asked |= {"beams": 10, "reworded": False, "shuffled": False}
    tasks = {"retrieval": {}, "rating": {}, "ranking": None}
    given = {"samples": {"tasks": tasks}, "training": {"max_steps": 3}, "evaluation": asked}
    made = run(tiny_recipe, runs=tmp_path, seeds=[3, 5], **given)
    found, folder = made.pooled, tmp_path / "tiny"
    by_seed = [metrics(folder, f"unchanged-{seed}") for seed in (3, 5)]
    assert all(own["popularity", "retrieval", "hr@10"] > 0 for own in by_seed)
    rows = found.standings.set_index(["task", "metric", "reference"])
    gaps = [own["language_model", "retrieval", "hr@10"] - own["popularity", "retrieval", "hr@10"]
            for own in by_seed]  # fmt: skip
    row = rows.loc[("retrieval", "hr@10", "popularity")]
    assert row["difference"] == pytest.approx(np.mean(gaps)) and row["n"] == 60
    assert gaps[0] != gaps[1] and row["ci_high"] - row["ci_low"] > abs(gaps[0] - gaps[1])
    assert {who for task, _, who in rows.index if task == "retrieval"} == {
        "popularity", "popularity_recent", "blend", "oracle"}  # fmt: skip
    (line,) = found.sentences()
    assert line.startswith("The language model ") and " on retrieval: HR@10 " in line
    assert line in (folder / "report" / "report.md").read_text("utf-8").replace("\\", "")


@pytest.mark.slow
def test_each_arm_is_compared_with_the_references_within_each_seed(ablated):
    folder, _ = ablated
    rows = Sweep.load(folder / "report").comparisons
    pairs = set(zip(rows["arm"], rows["reference"], strict=True))
    assert pairs == {("base_longer", "base"), *product(ADDED, ("base", "base_longer"))}
    assert len(rows) == 5 * 8
    for row in rows.to_dict("records"):
        key = (row["recommender"], row["task"], row["metric"])
        ours, theirs = (
            [metrics(folder, f"{row[who]}-{seed}")[key] for seed in (1, 2)]
            for who in ("arm", "reference")
        )
        assert list(row["by_seed"]) == [a - b for a, b in zip(ours, theirs, strict=True)]
        assert row["ci_low"] <= row["difference"] <= row["ci_high"] and row["n"] == 60


@pytest.mark.slow
def test_what_was_found_is_printed_and_written(ablated):
    folder, output = ablated
    text = (folder / "report" / "report.md").read_text("utf-8")
    page = (folder / "report" / "report.html").read_text("utf-8")
    for said in ("Against base on retrieval (HR@10)", "Against base_longer on rating (RMSE)"):
        assert said in output and said in text and said in page.replace("\u00a0", " ")
    assert re.search(r"^rating +RMSE +add_bpr .* 60$", output, re.MULTILINE)
    assert (folder / "report" / "figures" / "sweep_rating.png").is_file()


@pytest.mark.slow
def test_what_is_done_is_skipped_and_what_is_missing_is_made(
    recinject, tiny_recipe, ablated, tmp_path
):
    folder, output = ablated
    copied = tmp_path / "tiny"
    shutil.copytree(folder, copied)
    shutil.rmtree(copied / "add_bpr-2" / "model")
    shutil.rmtree(copied / "base_longer-1" / "samples")
    # Nothing that is shared may depend on where the folder lies.
    for name in RUNS:
        (copied / name / "recipe.yaml").unlink()
    ended = recinject("run", tiny_recipe, f"runs={tmp_path}", *ABLATED)
    assert ended.code == 0, ended.output
    assert made(ended.output) == ["model", "report"]
    assert ended.output.split("\n\n")[-3:-1] == output.split("\n\n")[-3:-1]


@pytest.mark.slow
def test_an_arms_recipe_is_a_run_to_go_on_with(recinject, ablated, tmp_path):
    folder, _ = ablated
    copied = tmp_path / "tiny"
    shutil.copytree(folder, copied)
    ended = recinject("run", copied / "add_bpr-1" / "recipe.yaml", f"runs={copied}")
    assert ended.code == 0, ended.output
    assert made(ended.output) == ["report"]
    assert (copied / "add_bpr-1" / "report" / "report.html").is_file()


@pytest.mark.slow
def test_the_same_queries_are_asked_on_every_share(studied):
    folder, _ = studied
    files = [
        sorted((folder / f"{name}-1" / "samples" / "rating").glob("test-*.parquet"))[0].read_bytes()
        for name in HEADS
    ]
    assert len(set(files)) == 1
    whole, less = (
        load_split(folder / f"{name}-head_text-1" / "data")[0] for name in ("whole", "quarter")
    )
    assert len(less.train) == round(0.25 * len(whole.train))
    assert (less.parts == Part.HISTORY).sum() == len(whole.train) - len(less.train)


@pytest.mark.slow
def test_a_curve_is_drawn_for_every_head_and_baseline(studied):
    folder, _ = studied
    text = (folder / "report" / "report.md").read_text("utf-8")
    start = text.index("### RMSE of rating by data.train_share")
    table = [line for line in text[start:].splitlines() if line.startswith("| ")][:5]
    assert table[0] == "| Recommender | 0.25 | 1 |"
    names = {line.split(" | ")[0].strip("| ") for line in table[2:]}
    assert names == {"language model, regression", "language model, text", "item mean"}
    own = metrics(folder, "quarter-head_text-1")["language_model", "rating", "rmse"]
    assert f"{own:.3f}" in next(line for line in table if "text" in line)


@pytest.mark.slow
def test_the_same_command_again_makes_nothing(studied, recinject, tiny_recipe):
    ended = recinject("run", tiny_recipe, f"runs={studied[0].parent}", *STUDIED)
    assert ended.code == 0 and not made(ended.output), ended.output


@pytest.mark.slow
def test_command_line_and_library_sweep_alike_with_and_without_a_model(
    recinject, tiny_recipe, tmp_path
):
    alone = {
        "model.config": None,
        "training": None,
        "evaluation.baselines": ["popularity"],
        "samples.tasks": {"retrieval": {}},
    }
    given = [f"{key}={json.dumps(value)}" for key, value in alone.items()]
    vary = ["--vary", "data.k_core=2,4", "--seeds", "3"]
    ended = recinject("sweep", tiny_recipe, f"runs={tmp_path / 'a'}", *given, *vary)
    assert ended.code == 0, ended.output
    recipe = load_recipe(tiny_recipe, alone | {"runs": tmp_path / "b"})
    found = sweep(recipe, vary={"data.k_core": [2, 4]}, seeds=[3])
    stored = Sweep.load(tmp_path / "a" / "tiny" / "report")
    pd.testing.assert_frame_equal(found.metrics, stored.metrics)
    assert set(found.metrics["recommender"]) == {"popularity", "oracle"}
    assert list(found.metrics["data.k_core"].unique()) == [2, 4]
