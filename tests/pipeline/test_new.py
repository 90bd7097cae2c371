"""A recipe that was written for a log can be checked and run, and says why it is as it is."""

import numpy as np
import pandas as pd
import pytest
import yaml

import recinject as ri
from recinject.data.simulator import simulate_shop
from recinject.foundation.errors import RecinjectError
from recinject.pipeline.recipe import load_recipe


@pytest.fixture(scope="module")
def events():
    shop = simulate_shop(users=90, items=40, events_per_user=10, seed=2)
    return shop.to_pandas().merge(shop.catalog.to_pandas()[["item_id", "title"]])


def shop_of(events):
    """A shop's export: odd names, German dates, decimal commas, no rating."""
    times = pd.to_datetime(events["timestamp"], unit="s").dt.strftime("%d.%m.%Y %H:%M")
    own = {"Kundennr": events["user_id"], "Artikelnr": events["item_id"]}
    return pd.DataFrame({**own, "Titel": events["title"], "Datum": times, "Preis": "3,50"})


def news_of(events):
    """Clicks: times in milliseconds, an address for each story, neither titles nor ratings."""
    own = {"visitor": events["user_id"], "story_url": "/news/" + events["item_id"]}
    return pd.DataFrame({**own, "clicked": (events["timestamp"] * 1000).astype("int64")})


def rated_of(events):
    """Ratings with the ages of their users in every row, and films that go by their titles."""
    ages = events["user_id"].str[1:].astype(int) % 30 + 18
    own = {"userID": events["user_id"], "film": events["title"], "stars": events["rating"]}
    return pd.DataFrame({**own, "age": ages, "when": events["timestamp"].astype("int64")})


LOGS = {
    "shop": (shop_of, {"sep": ";", "encoding": "latin-1"}),
    "news": (news_of, {"sep": "\t"}),
    "rated": (rated_of, {}),
}


@pytest.fixture(params=LOGS)
def written(request, events, tmp_path, monkeypatch):
    """A recipe that was written for one of the logs, from the folder that both lie in."""
    make, form = LOGS[request.param]
    monkeypatch.chdir(tmp_path)
    make(events).to_csv("my log.csv", index=False, **form)
    return request.param, ri.new_recipe("my log.csv")


def test_the_recipe_passes_the_check(written, recinject):
    name, made = written
    assert made.file.name == "my_log.yaml"
    ended = recinject("check", made.file)
    assert ended.code == 0, ended.output
    recipe = load_recipe(made.file)
    assert recipe.data.columns["timestamp"] in ("Datum", "clicked", "when")
    assert ("rating" in recipe.samples.tasks) == (name == "rated")
    assert recipe.evaluation.groups == (["activity", "age"] if name == "rated" else ["activity"])


def test_it_says_what_it_saw_what_it_answers_and_how_long_it_takes(written):
    said = str(written[1])
    assert "users and" in said and "It answers whether" in said
    assert said.splitlines()[-1].startswith("On this machine it takes ")
    comments = [line for line in written[1].file.read_text("utf-8").splitlines() if "#" in line]
    assert len(comments) > 15


@pytest.mark.slow
def test_it_runs(written, recinject):
    few = ["training.max_steps=4", "training.warmup_steps=0", "evaluation.limit=10"]
    ended = recinject("run", written[1].file, *few, "evaluation.resamples=100")
    assert ended.code == 0, ended.output
    assert "plan of runs/my_log" in ended.output and "Next: " in ended.output


def test_settings_that_are_known_stay(events, tmp_path):
    shop_of(events).to_csv(tmp_path / "log.csv", index=False)
    known = {"columns": {"title": "", "item_id": "Titel"}, "k_core": 3, "split": "global_time"}
    made = ri.new_recipe(tmp_path / "log.csv", name="mine", folder=tmp_path, **known)
    assert made.file == tmp_path / "mine.yaml"
    data = load_recipe(made.file).data
    assert (data.columns["item_id"], data.k_core, data.split) == ("Titel", 3, "global_time")


def test_a_finding_is_mended_where_no_event_is_lost_and_else_told(events, tmp_path):
    actions = np.where(np.arange(len(events)) % 4, "view", "buy")
    same = events.assign(rating=1.0, action=actions)
    same.to_csv(tmp_path / "log.csv", index=False)
    text = ri.new_recipe(tmp_path / "log.csv", folder=tmp_path).file.read_text("utf-8")
    content = yaml.safe_load(text)
    assert content["data"]["columns"]["rating"] in ("", None) and "keep" not in content["data"]
    assert "data.keep" in text and "rating" not in content["samples"]["tasks"]


def test_names_from_a_log_cannot_write_into_the_recipe(events, tmp_path):
    evil = "customer\nplugins: [evil.py]\n#"
    events.rename(columns={"user_id": evil}).to_csv(tmp_path / "log.csv", index=False)
    recipe = load_recipe(ri.new_recipe(tmp_path / "log.csv", folder=tmp_path).file)
    assert recipe.plugins == [] and recipe.data.columns["user_id"] == evil


def test_who_used_everything_leaves_no_slates(events, tmp_path):
    everything = events.drop_duplicates("item_id").assign(user_id="greedy")
    pd.concat([events, everything]).to_csv(tmp_path / "log.csv", index=False)
    recipe = load_recipe(ri.new_recipe(tmp_path / "log.csv", folder=tmp_path).file)
    assert recipe.samples.tasks.keys() == {"masked_item_modelling", "retrieval", "rating"}


def test_a_recipe_is_not_replaced(events, tmp_path):
    events.to_csv(tmp_path / "log.csv", index=False)
    (tmp_path / "log.yaml").write_text("mine")
    with pytest.raises(RecinjectError, match="exists already"):
        ri.new_recipe(tmp_path / "log.csv", folder=tmp_path)
    assert (tmp_path / "log.yaml").read_text() == "mine"


def test_a_log_of_which_nothing_can_be_learnt_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n" + "\n".join(f"u{n},i1" for n in range(9)))
    with pytest.raises(RecinjectError, match="no user has three events"):
        ri.new_recipe(tmp_path / "log.csv", folder=tmp_path)


def test_other_sections_are_refused(recinject, events, tmp_path):
    events.to_csv(tmp_path / "log.csv", index=False)
    ended = recinject("new", tmp_path / "log.csv", "training.max_steps=3")
    assert ended.code == 2 and "training is not of the section data" in ended.output
