import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recinject.foundation.errors import RecinjectError
from recinject.foundation.settings import MOVED
from recinject.foundation.storage import dump_yaml, load_yaml
from recinject.pipeline.recipe import load_recipe, shipped_recipes
from recinject.tasks.task import TASKS

SMALLEST = "model: {config: {d_model: 8}}\ntraining: {max_steps: 3}\n"


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "mine.yaml"
    path.write_text(SMALLEST, "utf-8")
    return path


def refusal(*arguments):
    with pytest.raises(RecinjectError) as caught:
        load_recipe(*arguments)
    return str(caught.value)


def test_what_is_not_written_has_a_default(smallest):
    recipe = load_recipe(str(smallest))
    assert (recipe.name, str(recipe.folder), recipe.seed) == ("mine", "runs/mine", 1)
    assert [task.name for task in recipe.tasks()] == list(TASKS)
    assert recipe.lora is None and recipe.evaluation.cutoffs == [5, 10]
    assert recipe.training.arguments == {"max_steps": 3}


def test_a_recipe_written_out_loads_as_itself(smallest, tmp_path):
    recipe = load_recipe(str(smallest), ["data.path=log.csv", "samples.tasks.bpr=null"])
    path = tmp_path / "copy.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), "utf-8")
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("name=other", ("name",), "other"),
        ("data.path=logs/log.csv", ("data", "path"), "logs/log.csv"),
        ("data.simulator.users=50", ("data", "simulator", "users"), 50),
        ("data.columns.item_id=sku", ("data", "columns", "item_id"), "sku"),
        ("data.columns={user_id: who, rating: no}", ("data", "columns", "rating"), "no"),
        ("data.columns.rating=", ("data", "columns", "rating"), ""),
        ("data.columns.rating=''", ("data", "columns", "rating"), ""),
        ("samples.tasks.bpr=null", ("samples", "tasks", "bpr"), None),
        ("samples.jsonl=true", ("samples", "jsonl"), True),
        ("samples.phrases.history={{ title }}", ("samples", "phrases", "history"), "{{ title }}"),
        ("samples.phrases.pair=a: {{ title }}", ("samples", "phrases", "pair"), "a: {{ title }}"),
        ("lora.r=4", ("lora", "r"), 4),
        ("training=null", ("training",), None),
        ("training.learning_rate=1e-4", ("training", "learning_rate"), 1e-4),
        ("training.save_strategy=no", ("training", "save_strategy"), "no"),
        ("training.optim_args=a=1,b=2", ("training", "optim_args"), "a=1,b=2"),
        ("evaluation.cutoffs=[1, 3]", ("evaluation", "cutoffs"), [1, 3]),
        ("evaluation.limit=10", ("evaluation", "limit"), 10),
    ],
)
def test_an_override_wins(smallest, override, place, value):
    found = load_recipe(str(smallest), [override]).model_dump(mode="json")
    for key in place:
        found = found[key]
    assert found == value and type(found) is type(value)


texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]))
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    values, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=5
)


@given(values.filter(lambda value: "Infinity" not in json.dumps(value)))
def test_any_value_can_be_laid_over(smallest, value):
    override = f"training.anything={json.dumps(value, ensure_ascii=False)}"
    assert load_recipe(str(smallest), [override]).training.arguments["anything"] == value


def test_later_overrides_win_and_a_section_can_start_from_nothing(smallest):
    recipe = load_recipe(str(smallest), ["training=null", "training.max_steps=5", "seed=2"])
    assert recipe.training.arguments == {"max_steps": 5}
    assert load_recipe(str(smallest), ["seed=2", "seed=3"]).seed == 3


def test_a_task_left_out_is_not_mixed(smallest):
    rates = "training.mixture={retrieval: 2, rating: 1}"
    left = load_recipe(str(smallest), [rates, "samples.tasks.rating=null"])
    assert left.training.mixture == {"retrieval": 2}
    alone = ["training.mixture={rating: 1}", "samples.tasks.rating=null"]
    assert load_recipe(str(smallest), alone).training.mixture == {"rating": 1}, "check refuses it"


def test_overriding_one_task_leaves_the_others(smallest):
    without = load_recipe(str(smallest), ["samples.tasks.rating=null"]).tasks()
    assert [task.name for task in without] == [name for name in TASKS if name != "rating"]
    changed = load_recipe(str(smallest), ["samples.tasks.retrieval.history_length=3"]).tasks()
    lengths = {
        task.name: task.history_length for task in changed if task.name in ("bpr", "retrieval")
    }
    assert lengths == {"bpr": 20, "retrieval": 3}


@pytest.mark.parametrize(
    ("override", "place", "nearest"),
    [
        ("dta.path=x", "mine.yaml: dta: unknown key", "data"),
        ("data.pth=x", "mine.yaml: data.pth: unknown key", "path"),
        ("data.simulator.usrs=9", "mine.yaml: data.simulator.usrs: unknown key", "users"),
        ("identifiers.knd=title", "identifiers.knd: unknown key", "kind"),
        ("samples.jsnl=true", "mine.yaml: samples.jsnl: unknown key", "jsonl"),
        ("samples.tasks.retreival={}", "samples.tasks: unknown task 'retreival'", "retrieval"),
        ("samples.tasks.retrieval.histry_length=5",
         "samples.tasks.retrieval.histry_length: unknown key", "history_length"),
        ("samples.phrases.bpr.histroy=x", "samples.phrases.bpr: the task has no slot", "history"),
        ("samples.phrases.bqr.history=x", "samples.phrases: no task is called 'bqr'", "bpr"),
        ("samples.phrases.histroy=x", "samples.phrases: no task has a slot 'histroy'", "history"),
        ("model.confg={}", "mine.yaml: model.confg: unknown key", "config"),
        ("evaluation.cutofs=[3]", "mine.yaml: evaluation.cutofs: unknown key", "cutoffs"),
        ("report.exmples=3", "mine.yaml: report.exmples: unknown key", "examples"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_the_nearest_one(smallest, override, place, nearest):
    said = refusal(str(smallest), [override])
    assert said.startswith(place) and f"did you mean '{nearest}'? Legal: " in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=x", "seed: Input should be a valid integer"),
        ("data=5", "data: Input should be a valid dictionary\n  fix: it is 5 now"),
        ("data.k_core=-1", "data.k_core: Input should be greater than or equal to 0"),
        ("data.simulator.users=5", "data.simulator.users: Input should be greater than"),
        ("data.columns=[a]", "data.columns: Input should be a valid dictionary"),
        ("samples.tasks=null", "samples.tasks: Input should be a valid dictionary"),
        ("samples.tasks={}", "samples.tasks: every task is left out"),
        ("samples.tasks.bpr=4", "samples.tasks.bpr: Input should be a valid dictionary"),
        ("samples.tasks.retrieval.history_length=abc", "retrieval.history_length: Input should be"),
        ("samples.tasks.retrieval.history_length=0", "retrieval.history_length: Input should be"),
        ("samples.workers=0", "samples.workers: Input should be greater than"),
        ("samples.prompts=nowhere", "samples.prompts: nowhere is no folder"),
        ("training.mixture.retrieval=0", "training.mixture.retrieval: Input should be greater"),
        ("evaluation.cutoffs=[]", "evaluation.cutoffs: List should have at least 1 item"),
        ("evaluation.cutoffs=[5, x]", "evaluation.cutoffs.1: Input should be a valid integer"),
        ("evaluation.resamples=10", "evaluation.resamples: Input should be greater than"),
        ("report.examples=1000", "report.examples: Input should be less than or equal to 50"),
        ("name=a/b", "name: String should match"),
        ("model.name=some/model", "both of name and config given\n  fix: name a model and set"),
        ("model.config=null", "training: given, but the model has neither name nor config"),
        ("model=null", "name a model or give it a config, or set training=null"),
        ("model=5", "model: Input should be a valid dictionary"),
        ("data.path=[", "'data.path=[': the value is not YAML\n  fix: close its brackets"),
        ("noequals", "'noequals' is no override\n  fix: write key=value"),
        ("=3", "'=3' is no override"),
        ("name.deeper=3", "name.deeper: 'name' has no keys below it\n  fix: shorten the key"),
        ("training.max_steps.more.x=1", "'max_steps' has no keys below it"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(smallest, override, said):
    refused = refusal(str(smallest), [override])
    assert said in refused and "\n  fix: " in refused


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [", "mine.yaml: not YAML: "),
        (b"- a\n- b\n", "mine.yaml: not a recipe"),
        (b"\xff\xfe\x00", "mine.yaml: cannot be read ("),
        (b"", "mine.yaml: model: missing\n  fix: add model to the recipe"),
        (b"model: {config: {}}\n", "mine.yaml: training: missing"),
        (b"model: {config: {}}\ntraining: null\nsamples: 3\n", "mine.yaml: samples: Input should"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, said):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert said in refusal(str(path))


def test_a_recipe_that_is_not_there_is_refused_with_the_shipped_ones():
    assert refusal("nowhere/mine.yaml").startswith("nowhere/mine.yaml: no such recipe file")
    assert "quickstart" in refusal("nowhere/mine.yaml")
    assert "did you mean 'quickstart'?" in refusal("quikstart")


def test_a_shipped_recipe_is_named_as_its_file():
    for name in shipped_recipes():
        assert load_recipe(name).name == name


def test_a_folder_of_prompts_may_hold_files_of_tasks_only(smallest, tmp_path):
    (tmp_path / "retrieval.yaml").touch()
    assert load_recipe(str(smallest), [f"samples.prompts={tmp_path}"]).samples.prompts == tmp_path
    (tmp_path / "retreival.yaml").touch()
    said = refusal(str(smallest), [f"samples.prompts={tmp_path}"])
    assert "no task is called 'retreival'" in said and "did you mean 'retrieval'?" in said


def test_without_a_model_the_baselines_are_left(smallest, tmp_path):
    recipe = load_recipe(str(smallest), ["model=null", "training=null"])
    assert not recipe.has_model and load_recipe(str(smallest)).has_model
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), "utf-8")
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.max_steps=3", "training: given, but the model has neither name nor config"),
        ("lora.r=4", "lora: given, but the model has neither name nor config"),
        ("evaluation.baselines=[]", "without a model nobody is left to evaluate"),
    ],
)
def test_what_needs_a_model_is_refused_without_one(smallest, override, said):
    assert said in refusal(str(smallest), ["model=null", "training=null", override])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "regression answers the task rating alone, and there is masked_item_modelling"),
        (["samples.tasks={rating: null, bpr: {}}"], "alone, and there is bpr"),
        (["samples.tasks={rating: {}}", "training=null"], "a regression head that is not trained"),
    ],
)
def test_a_head_has_its_one_task_and_is_trained(tiny_recipe, overrides, said):
    with pytest.raises(RecinjectError, match=said):
        load_recipe(str(tiny_recipe), ["model.head=regression", *overrides])


def test_an_unknown_head_is_refused(tiny_recipe):
    with pytest.raises(RecinjectError, match="model.head: Input should be 'text', 'regression'"):
        load_recipe(str(tiny_recipe), ["model.head=ranking"])


def test_a_head_writes_nothing(smallest):
    others = [f"samples.tasks.{task}=null" for task in TASKS if task != "rating"]
    settings = ["model.head=regression", "evaluation.generate=true", *others]
    assert "evaluation.generate=false" in refusal(str(smallest), settings)


def test_a_shipped_folder_of_prompts_is_found_from_anywhere(smallest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(str(smallest), ["samples.prompts=prompts/zero_shot"])
    assert (recipe.samples.prompts / "rating.yaml").is_file()


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_saved_whole_and_read_again(name, tmp_path, monkeypatch):
    recipe = load_recipe(name)
    recipe.save(tmp_path / "other.yaml")
    saved, folder = recipe.resolved(), Path.cwd()
    assert saved.runs.is_absolute() and saved.name == name
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_recipe(tmp_path / "other.yaml") == saved == saved.resolved()
    assert saved.text().replace(f"{folder}/", "") == recipe.text()


@given(values)
def test_any_value_is_written_as_yaml_and_read_again(value):
    assert load_yaml(dump_yaml({"value": value})) == {"value": value}


def test_files_and_folders_are_saved_with_their_place(smallest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("words", "model"):
        (tmp_path / folder).mkdir()
    given = {"data.path": Path("log.csv"), "samples.prompts": "words", "model.tokenizer": "model"}
    saved = load_recipe(smallest, given).resolved()
    assert saved.data.path == tmp_path / "log.csv" and saved.samples.prompts == tmp_path / "words"
    assert saved.model.tokenizer == str(tmp_path / "model")
    assert load_recipe(smallest, {"model.tokenizer": "a/hub"}).resolved().model.tokenizer == "a/hub"


@pytest.mark.parametrize(
    ("mapping", "texts"),
    [
        ({"training": {"learning_rate": 0.1}}, ["training.learning_rate=0.1"]),
        ({"training.learning_rate": 0.1, "seed": 3}, ["training.learning_rate=0.1", "seed=3"]),
        ({"samples": {"tasks": {"bpr": None}}}, ["samples.tasks.bpr=null"]),
        ({"samples": {"tasks": {"bpr": {"max_per_user": 2}}}},
         ["samples.tasks.bpr.max_per_user=2"]),
        ({"lora": {"rank_pattern": {"a.b": 8}}}, ["lora.rank_pattern={a.b: 8}"]),
        ({"lora": {"r": 4}}, ["lora.r=4"]),
        ({"data": {"path": Path("log.csv")}}, ["data.path=log.csv"]),
        ({"evaluation": {"cutoffs": (1, 3)}}, ["evaluation.cutoffs=[1, 3]"]),
        ({"model": {"config": {"d_ff": 9}}}, ["model.config.d_ff=9"]),
        ({"model.config": {"d_ff": 9}}, ["model.config={d_ff: 9}"]),
        ({"training": None}, ["training=null"]),
    ],
)  # fmt: skip
def test_overrides_from_python_are_those_of_the_command_line(smallest, mapping, texts):
    assert load_recipe(smallest, mapping) == load_recipe(smallest, texts)


def test_a_mapping_merges_and_a_dotted_key_replaces(smallest):
    rates = {"training.mixture": {"retrieval": 1, "rating": 1}}
    assert load_recipe(smallest, {**rates, "training": {"mixture": {"rating": 5}}}).training == (
        load_recipe(smallest, {"training.mixture": {"retrieval": 1, "rating": 5}}).training
    )
    said = refusal(smallest, {"data": {"pth": "x"}})
    assert said.startswith("mine.yaml: data.pth: unknown key")


PLUGIN = """
import recinject.recommenders.baselines as shipped
from recinject.registry import register

@register("recommender")
class Mine(shipped.Popularity):
    name = "{name}"
"""


def test_a_plugin_beside_the_recipe_is_loaded_with_it(tmp_path, monkeypatch):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"plugins: [mine.py]\nevaluation: {{baselines: [my_own]}}\n{SMALLEST}", "utf-8"
    )
    assert "plugins: " in refusal(recipe) and "mine.py is no file" in refusal(recipe)
    (tmp_path / "mine.py").write_text("1 / 0", "utf-8")
    assert "mine.py: cannot be loaded (ZeroDivisionError" in refusal(recipe)
    (tmp_path / "mine.py").write_text(PLUGIN.format(name="my_own"), "utf-8")
    assert load_recipe(recipe).plugins == [tmp_path / "mine.py"]
    (tmp_path / "here.py").write_text(PLUGIN.format(name="my_second"), "utf-8")
    monkeypatch.chdir(tmp_path)
    found = load_recipe(recipe, ["plugins=[here.py]", "evaluation.baselines=[my_second]"])
    assert found.resolved().plugins == [tmp_path / "here.py"]


def test_baselines_are_names_or_mappings_to_settings(smallest):
    given = ["popularity", {"ease": {"regularization": 500, "name": "ease_500"}}, {"ease": None}]
    assert load_recipe(smallest, {"evaluation": {"baselines": given}}).evaluation.baselines == given


@pytest.mark.parametrize(
    ("baselines", "said"),
    [
        ("[populrity]", "unknown recommender 'populrity'\n  fix: did you mean 'popularity'"),
        ("[{eas: {}}]", "unknown recommender 'eas'\n  fix: did you mean 'ease'"),
        ("[3]", "evaluation.baselines: 3 is no baseline\n  fix: write its name, or its settings"),
        ("[{ease: {}, als: {}}]", "is no baseline"),
        ("[{ease: 3}]", "is no baseline"),
        ("[{}]", "is no baseline"),
        ("[ease, {ease: {regularization: 5}}]", "two are called 'ease'\n  fix: give one another"),
        ("[{ease: {name: als}}, als]", "two are called 'als'"),
        ("ease", "mine.yaml: evaluation.baselines: Input should be a valid list"),
    ],
)
def test_a_baseline_that_is_none_is_refused(smallest, baselines, said):
    assert said in refusal(smallest, [f"evaluation.baselines={baselines}"])


def test_a_key_that_has_moved_is_refused_with_its_new_name(smallest, monkeypatch):
    monkeypatch.setitem(MOVED, "data.source", "data.path")
    said = refusal(smallest, ["data.source=log.csv"])
    assert said == "mine.yaml: data.source: this key has moved\n  fix: write data.path instead"
