import json
import re
import shutil
from itertools import product

import numpy as np
import pytest
from recinject.pipeline.ablation import Variant, variants

from recinject.foundation.errors import RecinjectError
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run
from recinject.pipeline.train import curriculum, task_sizes
from recinject.samples.mixture import mix_tasks
from recinject.training.batches import order_by_phase

SETTINGS = [
    "samples.tasks={bpr: {max_per_user: 2}, masked_item_modelling: {}, retrieval: {}, rating: {}}",
    "samples.tasks.rating.max_per_user=2",
    "training.mixture={bpr: 1, masked_item_modelling: 0.5, retrieval: 3, rating: 1}",
    "evaluation.baselines=[popularity, item_mean]",
    "evaluation.reworded=false",
    "evaluation.shuffled=false",
    "ablation={add: [masked_item_modelling, bpr], seeds: [1, 2]}",
]
ADDED = ("add_masked_item_modelling", "add_bpr")
VARIANTS = ("base", "base_longer", *ADDED)
SUB_RUNS = [f"{name}-{seed}" for seed in (1, 2) for name in VARIANTS]


@pytest.fixture(scope="module")
def ablated(recinject, tiny_recipe, tmp_path_factory):
    """One whole ablation; nobody may change it."""
    runs = tmp_path_factory.mktemp("runs")
    ended = recinject("run", tiny_recipe, f"runs={runs}", *SETTINGS)
    assert ended.code == 0, ended.output
    return runs / "tiny", ended.output


def read(folder, stage, name):
    return json.loads((folder / stage / f"{name}.json").read_text("utf-8"))


def sub_run(folder, name):
    return Run(load_recipe(str(folder / name / "recipe.yaml")))


def own_metrics(folder, name):
    rows = read(folder / name, "evaluation", "metrics")
    return {
        (r["task"], r["metric"]): r["value"] for r in rows if r["recommender"] == "language_model"
    }


def plan(tiny_recipe, *overrides):
    return variants(load_recipe(str(tiny_recipe), [*SETTINGS, *overrides]))


def test_an_added_task_comes_on_top_of_the_others(tiny_recipe):
    others = {"masked_item_modelling": 1, "retrieval": 2, "rating": 1}
    found = plan(
        tiny_recipe,
        "training.max_steps=100",
        "training.mixture={bpr: 2, masked_item_modelling: 1, retrieval: 2, rating: 1}",
        "ablation.add=[bpr]",
    )
    assert found == [
        Variant("base", others, 100),
        Variant("base_longer", others, 150),
        Variant("add_bpr", {**others, "bpr": 2}, 150),
    ]
    assert [each.name for each in plan(tiny_recipe, "ablation.longer=false")] == ["base", *ADDED]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training=null", "ablation: it needs training"),
        ("ablation.add=[brp]", "training.mixture has no rate for 'brp'"),
        (
            "ablation.add=[bpr, masked_item_modelling, retrieval, rating]",
            "no task of training.mixture is left",
        ),
        ("training.max_steps=null", "of a length counted in steps"),
        ("training.curriculum=[{share: 1}]", "one phase"),
    ],
)
def test_what_cannot_be_compared_is_refused(tiny_recipe, override, said):
    with pytest.raises(RecinjectError) as caught:
        plan(tiny_recipe, override)
    assert said in str(caught.value) and "\n  fix: " in str(caught.value)


def test_every_variant_is_a_run_of_its_own(ablated):
    folder, output = ablated
    assert re.findall(r"^ablation: (\w+), seed (\d)", output, re.MULTILINE) == [
        tuple(name.split("-")) for name in SUB_RUNS
    ]
    assert {path.name for path in folder.iterdir()} == {*SUB_RUNS, "report"}
    baselines = {
        name: {row["recommender"] for row in read(folder / name, "evaluation", "metrics")}
        for name in SUB_RUNS
    }
    assert baselines.pop("base-1") == {"language_model", "popularity", "item_mean"}
    assert set(map(frozenset, baselines.values())) == {frozenset({"language_model"})}


def test_variants_of_a_seed_share_their_samples_and_seeds_do_not(ablated):
    folder, _ = ablated
    runs = {name: sub_run(folder, name) for name in SUB_RUNS}
    found = {name: runs[name].fingerprints("data", "identifiers", "samples") for name in SUB_RUNS}
    for seed in (1, 2):
        assert all(found[f"{name}-{seed}"] == found[f"base-{seed}"] for name in VARIANTS)
    built = re.findall(r"^samples: (?:starting|again)", ablated[1], re.MULTILINE)
    assert len(built) == 2
    assert not set(found["base-1"].values()) & set(found["base-2"].values())


def samples_trained_on(run):
    """Return how often each sample of the base's tasks is trained on."""
    sizes = task_sizes(run)
    phases = curriculum(run.recipe.training, sizes)
    names = [task.name for task in run.recipe.tasks() if task.name in phases[0].rates]
    mixed = mix_tasks(run.folder("samples"), names, {}, run.recipe.seed)
    columns = [np.asarray(mixed[name]) for name in ("task", "length")]
    steps = run.recipe.training.arguments["max_steps"]
    rows = order_by_phase(columns[0], names, columns[1], phases, steps, 8, run.recipe.seed)
    seen = [(mixed[int(row)]["task"], tuple(mixed[int(row)]["input_ids"])) for row in rows]
    return sorted(each for each in seen if names[each[0]] != "bpr"), len(rows)


def test_base_samples_are_the_same_with_a_task_on_top(ablated):
    folder, _ = ablated
    base, rows = samples_trained_on(sub_run(folder, "base-1"))
    added, more = samples_trained_on(sub_run(folder, "add_bpr-1"))
    assert (rows, more) == (8 * 8, 8 * 10) and len(base) == rows
    assert added == base


def test_figures_are_those_of_the_seeds_together(ablated):
    folder, _ = ablated
    rows = read(folder, "report", "metrics")
    found = {(r["recommender"], r["task"], r["metric"]): r for r in rows}
    kinds = [("retrieval", "hr@10"), ("retrieval", "mrr"), ("rating", "mae")]
    for variant, key in product(VARIANTS, kinds):
        by_seed = [own_metrics(folder, f"{variant}-{seed}")[key] for seed in (1, 2)]
        row = found[(variant, *key)]
        assert row["value"] == pytest.approx(sum(by_seed) / 2) and row["n"] == 60
    assert {r["recommender"] for r in rows} == {*(*VARIANTS, "popularity", "item_mean")}


def test_each_variant_is_compared_with_both_bases_within_each_seed(ablated):
    folder, _ = ablated
    rows = read(folder, "report", "comparisons")
    pairs = {(row["recommender"], row["reference"]) for row in rows}
    assert pairs == {("base_longer", "base"), *product(ADDED, ("base", "base_longer"))}
    assert len(rows) == 5 * 8
    for row in rows:
        key = (row["task"], row["metric"])
        ours, theirs = (
            [own_metrics(folder, f"{row[who]}-{seed}")[key] for seed in (1, 2)]
            for who in ("recommender", "reference")
        )
        assert row["by_seed"] == [a - b for a, b in zip(ours, theirs, strict=True)]
        assert row["ci_low"] <= row["difference"] <= row["ci_high"] and row["n"] == 60


def test_what_was_found_is_said_and_written(ablated):
    folder, output = ablated
    text = (folder / "report" / "report.md").read_text("utf-8")
    page = (folder / "report" / "report.html").read_text("utf-8")
    for said in ("Added on top of the same retrieval and rating samples, on retrieval (HR@10) ",
                 "Against retrieval and rating alone for 8 steps"):  # fmt: skip
        assert said in output and said in text and said in page
    assert re.search(r"^rating +RMSE +BPR .* 60$", output, re.MULTILINE)


def test_what_is_done_is_skipped_and_what_is_missing_is_made(
    recinject, tiny_recipe, ablated, tmp_path
):
    folder, output = ablated
    copied = tmp_path / "tiny"
    shutil.copytree(folder, copied)
    shutil.rmtree(copied / "add_bpr-2" / "model")
    shutil.rmtree(copied / "base_longer-1" / "samples")
    # Nothing that is shared may depend on where the folder lies.
    for name in SUB_RUNS:
        (copied / name / "recipe.yaml").unlink()
    ended = recinject("run", tiny_recipe, f"runs={tmp_path}", *SETTINGS)
    assert ended.code == 0, ended.output
    made = re.findall(r"^(\w+): (?:starting|again)", ended.output, re.MULTILINE)
    assert made == ["training", "report"]
    assert ended.output.split("\n\n")[-3:-1] == output.split("\n\n")[-3:-1]


def test_a_variants_recipe_is_a_run_to_go_on_with(recinject, ablated, tmp_path):
    folder, _ = ablated
    copied = tmp_path / "tiny"
    shutil.copytree(folder, copied)
    ended = recinject("run", copied / "add_bpr-1" / "recipe.yaml", f"runs={copied}")
    assert ended.code == 0, ended.output
    assert re.findall(r"^(\w+): (?:starting|again)", ended.output, re.MULTILINE) == ["report"]
    assert (copied / "add_bpr-1" / "report" / "report.html").is_file()
