import json

import pandas as pd
import pytest

from recinject.foundation.storage import RunManifest

KEYS = {"task", "recommender", "metric", "value", "ci_low", "ci_high", "n"}
MODEL = {"language_model", "language_model_blend"}
VARIANTS = {"language_model_reworded", "language_model_shuffled"}
LISTS = {
    *(*MODEL, *VARIANTS, "blend", "oracle"),
    *("random", "popularity", "popularity_recent", "item_knn", "ease", "als", "bpr"),
    "markov_chain",
}
RATERS = {
    *(*MODEL, *VARIANTS, "blend"),
    *("global_mean", "item_mean", "user_mean", "history_mean", "recent_biases"),
}


@pytest.fixture(scope="module")
def recommenders(finished):
    """Who answers each task: slates are ranked by two prompts, and validation chose the first."""
    audit = {row["check"]: row["value"] for row in read(finished.folder, "audit")}
    ways = {"ranking", "retrieval"} - {audit["ranking_by:language_model"]}
    other = {f"language_model_by_{way}" for way in ways}
    return {"retrieval": LISTS, "ranking": LISTS | other, "rating": RATERS}


def read(folder, name):
    return json.loads((folder / "evaluation" / f"{name}.json").read_text("utf-8"))


LISTED = ["hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr", "ece_first"]
RATED = ["rmse", "mae", "auc", "ece"]
METRICS = {"retrieval": LISTED, "ranking": LISTED, "rating": RATED}


def tells_chances(name, task):
    asked = name.startswith("language_model") and not name.endswith("_blend")
    return asked or (name == "oracle" and task == "retrieval")


def test_metrics_json_has_every_recommender_with_every_metric_of_every_task(finished, recommenders):
    rows = read(finished.folder, "metrics")
    assert all(row.keys() == KEYS for row in rows)
    found = {(row["task"], row["recommender"], row["metric"]) for row in rows}
    wanted = {
        (task, name, metric)
        for task, names in recommenders.items()
        for name in names
        for metric in METRICS[task]
        if not metric.startswith("ece") or tells_chances(name, task)
    }
    assert found == wanted and len(rows) == len(wanted)
    for row in rows:
        has_none = row["ci_low"] is row["ci_high"] is None
        assert has_none == row["metric"].startswith("ece") and row["n"] == 60
        assert has_none or row["ci_low"] <= row["value"] <= row["ci_high"]


def test_slices_of_every_task_add_up_to_the_whole(finished):
    rows = read(finished.folder, "slices")
    whole = {
        (r["task"], r["recommender"], r["metric"]): r["value"]
        for r in read(finished.folder, "metrics")
    }
    found = {}
    for row in rows:
        key = (row["task"], row["recommender"], row["metric"])
        found.setdefault((key, row["by"]), []).append((row["value"], row["queries"]))
    assert {key for key, _ in found} == {
        key for key in whole if key[2] == ("rmse" if key[0] == "rating" else "hr@10")
    }
    for (key, _), parts in found.items():
        power = 2 if key[2] == "rmse" else 1
        mean = sum(value**power * n for value, n in parts) / sum(n for _, n in parts)
        assert mean ** (1 / power) == pytest.approx(whole[key])


def test_the_model_and_its_blend_are_compared_with_every_baseline(finished, recommenders):
    rows = read(finished.folder, "comparisons")
    assert {row["recommender"] for row in rows} == MODEL
    for task, names in recommenders.items():
        for model in MODEL:
            own = [row for row in rows if (row["task"], row["recommender"]) == (task, model)]
            assert {row["reference"] for row in own} == names - MODEL - VARIANTS


def test_every_answer_is_stored_with_the_logs_own_ids(finished, recommenders):
    predictions = finished.folder / "evaluation" / "predictions"
    assert {path.stem for path in predictions.iterdir()} == {
        f"{task}.{name}" for task, names in recommenders.items() for name in names
    }
    lists = pd.read_parquet(predictions / "ranking.popularity.parquet")
    samples = pd.read_parquet(next((finished.folder / "samples" / "ranking").glob("test-*")))
    assert list(lists["sample_id"]) == list(samples["sample_id"])
    assert list(lists["target_item_id"]) == list(samples["target_item_id"])
    for answered, slate in zip(lists["item_ids"], samples["candidate_item_ids"], strict=True):
        assert set(answered) == set(slate)


def test_nobody_recommends_in_retrieval_what_the_user_had(finished):
    events = pd.read_parquet(finished.folder / "data" / "interactions.parquet")
    users = pd.read_parquet(finished.folder / "data" / "users.parquet")["user_id"]
    items = pd.read_parquet(finished.folder / "data" / "items.parquet")["item_id"]
    past = events[events["part"] < 2]
    had = {
        (users[user], items[item]) for user, item in zip(past["user"], past["item"], strict=True)
    }
    for path in (finished.folder / "evaluation" / "predictions").glob("retrieval.*"):
        for row in pd.read_parquet(path).itertuples():
            user = row.sample_id.split("/")[2]
            assert not had & {(user, item) for item in row.item_ids}


def test_the_audit_finds_no_leak(finished):
    found = {row["check"]: row["verdict"] for row in read(finished.folder, "audit")}
    assert len(found) >= 5 and "ok" in found.values()
    leaks = [row for row in read(finished.folder, "audit") if "held" in row["check"].lower()]
    assert leaks and all(row["verdict"] == "ok" for row in leaks)


def test_an_untrained_model_is_evaluated_as_it_is(recinject, tiny_recipe, copied):
    settings = [f"runs={copied.parent}", "training=null", "evaluation.limit=6"]
    ended = recinject("report", tiny_recipe, *settings)
    assert ended.code == 0 and "training: null" in ended.output
    assert "untrained (zero-shot) language model" in ended.output
    assert {row["n"] for row in read(copied, "metrics")} == {6}
    for kind in ("md", "html"):
        assert "zero-shot" in (copied / "report" / f"report.{kind}").read_text("utf-8")


def test_a_model_in_a_folder_is_evaluated_with_its_own_tokenizer(finished, again, copied):
    named = [f"model.name={finished.folder / 'model'}", "model.config=null", "training=null"]
    assert again("evaluate", *named) == ["samples", "evaluation"]
    assert read(copied, "metrics") == read(finished.folder, "metrics")


def test_wordings_and_baselines_can_be_left_out(again, copied):
    settings = ["evaluation.reworded=false", "evaluation.shuffled=false"]
    settings += ["evaluation.baselines=[popularity]", "evaluation.ranking_by=retrieval"]
    assert again("evaluate", *settings, "evaluation.limit=6") == ["evaluation"]
    names = {row["recommender"] for row in read(copied, "metrics")}
    assert names == {"language_model", "popularity", "oracle"}
    assert again("evaluate", "evaluation.baselines=[]", "evaluation.limit=6") == ["evaluation"]
    names = {row["recommender"] for row in read(copied, "metrics")}
    assert not names & {"oracle", "blend"} and "language_model" in names


def test_without_a_model_the_best_baseline_of_each_task_is_compared(recinject, tiny_recipe, copied):
    settings = [f"runs={copied.parent}", "model=null", "training=null", "samples.tasks.bpr=null"]
    ended = recinject("report", tiny_recipe, *settings)
    assert ended.code == 0 and "No language model was asked" in ended.output
    rows = read(copied, "metrics")
    asked = {"retrieval": LISTS, "ranking": LISTS, "rating": RATERS}
    names = {task: {r["recommender"] for r in rows if r["task"] == task} for task in asked}
    assert names == {task: known - MODEL - VARIANTS - {"blend"} for task, known in asked.items()}
    for task, metric in {"retrieval": "hr@10", "ranking": "hr@10", "rating": "rmse"}.items():
        figures = {
            row["recommender"]: row["value"] * (-1 if task == "rating" else 1)
            for row in rows
            if (row["task"], row["metric"]) == (task, metric)
        }
        pairs = [
            (row["recommender"], row["reference"])
            for row in read(copied, "comparisons")
            if (row["task"], row["metric"]) == (task, metric)
        ]
        (best,) = {first for first, _ in pairs}
        assert figures[best] == max(v for name, v in figures.items() if name != "oracle")
        assert {other for _, other in pairs} == names[task] - {best}
    assert not list(copied.glob("evaluation/predictions/*language_model*"))
    for kind in ("md", "html"):
        text = (copied / "report" / f"report.{kind}").read_text("utf-8")
        assert "zero-shot" not in text and "There is no language model" in text


def test_a_task_that_no_baseline_answers_is_left_out_without_a_model(again, copied):
    settings = ["model=null", "training=null", "evaluation.baselines=[popularity]"]
    again("report", *settings)
    assert {row["task"] for row in read(copied, "metrics")} == {"retrieval", "ranking"}
    assert {row["reference"] for row in read(copied, "comparisons")} == {"oracle"}


def test_a_run_without_a_task_to_evaluate_still_ends(again, copied):
    tasks = "samples.tasks={bpr: {max_per_user: 1}}"
    assert "report" in again("report", tasks)
    assert read(copied, "metrics") == []
    assert "was not measured" in (copied / "report" / "report.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("token", ["data.split=global_time", "lora={r: 2, target_modules: [q, v]}"]),
        pytest.param(
            *("collaborative", ["data.split=user_ratio", "identifiers.clusters=4"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("order_of_appearance_which_leaks", ["data.split=cold_items", "data.ties=hash"]),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_split_and_identifier_goes_to_the_end(again, copied, kind, settings):
    again("report", f"identifiers.kind={kind}", "data.test_share=0.2", *settings)
    queries = pd.read_parquet(next(copied.glob("evaluation/predictions/retrieval.language*")))
    assert queries["sample_id"].is_unique and len(queries) > 10
    findings = {row["check"]: row for row in read(copied, "audit")}
    assert findings["held_out_in_training"]["value"] == 0
    assert findings["truncated_prompts"]["value"] == 0
    assert ("highest_id_rule_hr@1" in findings) == (kind != "collaborative")
    if kind == "token":
        items = len(pd.read_parquet(copied / "identifiers" / "items.parquet"))
        trained = RunManifest.read(copied / "model").facts["trainable"]
        assert trained == items * 16 + 6 * 2 * 2 * 16
