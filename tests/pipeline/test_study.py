import json

import pytest
from recinject.pipeline.study import parts

from recinject.data.splitting import Part, load_split
from recinject.foundation.errors import RecinjectError
from recinject.pipeline.recipe import load_recipe

OTHERS = ("masked_item_modelling", "masked_language_modelling", "bpr", "retrieval", "ranking")
SETTINGS = [f"samples.tasks.{task}=null" for task in OTHERS] + [
    "training.mixture={}",
    "training.max_steps=8",
    "training.warmup_steps=4",
    "model.head=regression",
    "evaluation.baselines=[item_mean]",
    "study={shares: [0.25], heads: [text]}",
]
PARTS = ["regression-0.25", "text-0.25", "text-1"]


@pytest.fixture(scope="module")
def studied(recinject, tiny_recipe, tmp_path_factory):
    """One whole study; nobody may change it."""
    runs = tmp_path_factory.mktemp("runs")
    ended = recinject("run", tiny_recipe, f"runs={runs}", *SETTINGS)
    assert ended.code == 0, ended.output
    return runs / "tiny"


def rows(folder):
    return json.loads((folder / "evaluation" / "metrics.json").read_text("utf-8"))


def test_a_part_learns_from_its_share_and_takes_steps_by_its_square_root(tiny_recipe):
    made = parts(load_recipe(str(tiny_recipe), SETTINGS))
    assert [run.recipe.name for run in made] == PARTS
    found = [
        (run.recipe.data.train_share, run.recipe.model.head, run.recipe.training.arguments)
        for run in made
    ]
    steps = [(a["max_steps"], a["warmup_steps"]) for _, _, a in found]
    assert [(share, head) for share, head, _ in found] == [
        (0.25, "regression"),
        (0.25, "text"),
        (1.0, "text"),
    ]
    assert steps == [(4, 2), (4, 2), (8, 4)]


def test_the_same_queries_are_asked_on_every_share(studied):
    assert {path.name for path in studied.iterdir() if (path / "recipe.yaml").is_file()} == set(
        PARTS
    )
    files = [
        sorted((folder / "samples" / "rating").glob("test-*.parquet"))[0].read_bytes()
        for folder in (studied, *(studied / name for name in PARTS))
    ]
    assert len(set(files)) == 1
    whole, less = (load_split(f / "data")[0] for f in (studied, studied / PARTS[0]))
    assert len(less.train) == round(0.25 * len(whole.train))
    assert (less.parts == Part.HISTORY).sum() == len(whole.train) - len(less.train)


def test_the_report_shows_every_share_and_head(studied):
    text = (studied / "report" / "report.md").read_text("utf-8")
    start = text.index("### RMSE of rating by training data")
    table = [line for line in text[start:].splitlines() if line.startswith("| ")][:5]
    assert table[0] == "| Recommender | 25 % | 100 % |"
    names = {line.split(" | ")[0].strip("| ") for line in table[2:]}
    assert names == {"language model", "model, text head", "item mean"}
    assert "figures/shares_rating.png" in text
    assert (studied / "report" / "figures" / "shares_rating.png").is_file()
    own = next(r for r in rows(studied / "text-0.25") if r["metric"] == "rmse")
    line = next(line for line in table if "text head" in line)
    assert f"{own['value']:.3f}" in line


def test_the_same_command_again_makes_nothing(studied, recinject, tiny_recipe):
    ended = recinject("run", tiny_recipe, f"runs={studied.parent}", *SETTINGS)
    assert ended.code == 0 and "starting" not in ended.output, ended.output


def test_a_study_counts_in_steps(tiny_recipe):
    recipe = load_recipe(str(tiny_recipe), [*SETTINGS, "training.max_steps=null"])
    with pytest.raises(RecinjectError, match=r"training\.max_steps=STEPS"):
        parts(recipe)
