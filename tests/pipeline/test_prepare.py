import pandas as pd
import pytest

from recinject.data.splitting import load_split
from recinject.foundation.storage import RunManifest

ROWS = 300
NAMES = {
    "user_id": "who",
    "item_id": "what",
    "rating": "how",
    "timestamp": "when",
}


@pytest.fixture
def odd_log(tmp_path):
    """A log whose columns nobody would guess."""
    numbers = range(ROWS)
    frame = pd.DataFrame(
        {
            "when": [1000 + 7 * n for n in numbers],
            "how": [n * 3 % 5 + 1 for n in numbers],
            "what": [f"thing {(7 * n + n // 30) % 37}" for n in numbers],
            "who": [f"person {n % 30}" for n in numbers],
        }
    )
    path = tmp_path / "odd.csv"
    frame.to_csv(path, index=False)
    return path


def test_a_log_with_odd_column_names_is_read_by_overrides(start, odd_log, tmp_path):
    columns = [f"data.columns.{ours}={theirs}" for ours, theirs in NAMES.items()]
    ended = start("prepare", f"data.path={odd_log}", *columns)
    assert ended.code == 0, ended.output
    split, catalog = load_split(tmp_path / "tiny" / "data")
    frame = pd.read_csv(odd_log)
    assert set(split.interactions.user_ids) == set(frame["who"])
    assert set(catalog.item_ids) == set(frame["what"])
    assert len(split.interactions) == len(frame) == ROWS
    assert split.interactions.ratings.sum() == frame["how"].sum()
    facts = RunManifest.read(tmp_path / "tiny" / "data").facts
    assert facts["train"] + facts["validation"] + facts["test"] == ROWS
    assert "user_id from 'who'" in facts["source"]


def test_a_changed_log_is_read_again(start, odd_log):
    settings = [f"data.path={odd_log}", "data.columns={user_id: who, item_id: what}"]
    start("prepare", *settings)
    assert "data: nothing to do" in start("prepare", *settings).output
    odd_log.write_text(odd_log.read_text("utf-8") + "5000,5,thing 1,person 1\n", "utf-8")
    assert f"data: again, since input {odd_log} changed" in start("prepare", *settings).output


def test_a_log_without_ratings_says_how_to_leave_the_rating_task_out(start, odd_log, tmp_path):
    settings = [f"data.path={odd_log}", "data.columns={user_id: who, item_id: what}"]
    ended = start("run", *settings)
    assert ended.code == 2
    assert "the task rating needs ratings, and the log has none" in ended.output
    assert "samples.tasks.rating=null" in ended.output
    assert not (tmp_path / "tiny" / "samples").exists()
    metrics = tmp_path / "tiny" / "evaluation" / "metrics.json"
    ended = start("evaluate", *settings, "samples.tasks.rating=null", "evaluation.limit=5")
    assert ended.code == 0, ended.output
    assert set(pd.read_json(metrics)["task"]) == {"retrieval", "ranking"}
    assert not {"global_mean", "item_mean"} & set(pd.read_json(metrics)["recommender"])


def test_a_changed_item_table_that_was_found_beside_the_log_is_read_again(start, tmp_path):
    rows = [f"u{n % 20},i{(n * 7 + n // 20) % 23}" for n in range(200)]
    events, items = tmp_path / "interactions.csv", tmp_path / "items.csv"
    events.write_text("\n".join(["user_id,item_id", *rows]))
    items.write_text("\n".join(["item_id,title", *(f"i{n},Thing {n}" for n in range(23))]))
    settings = [f"data.path={events}", "data.k_core=0", "samples.tasks.rating=null"]
    assert "data: done" in start("prepare", *settings).output
    assert "data: nothing to do" in start("prepare", *settings).output
    items.write_text(items.read_text().replace("Thing 3", "Other 3"))
    assert "data: done" in start("prepare", *settings).output


@pytest.mark.parametrize("order", ["position", "timestamp"])
def test_the_order_of_the_rows_changes_no_byte_where_a_column_gives_it(start, tmp_path, order):
    rows = range(600)
    frame = pd.DataFrame(
        {
            "user_id": [f"u{n % 30}" for n in rows],
            "item_id": [f"i{(n * 7 + n // 30) % 41}" for n in rows],
            "rating": [n * 3 % 5 + 1 for n in rows],
            order: [n // (1 if order == "position" else 90) for n in rows],  # times have ties
        }
    )
    settings = ["data.ties=hash", "samples.limit=200", "samples.jsonl=true"]
    found = []
    for seed in (None, 1, 2):
        shuffled = frame if seed is None else frame.sample(frac=1, random_state=seed)
        path = tmp_path / str(seed) / "log.csv"
        path.parent.mkdir()
        shuffled.to_csv(path, index=False)
        ended = start("build", f"data.path={path}", f"name=run{seed}", *settings)
        assert ended.code == 0, ended.output
        folder = tmp_path / f"run{seed}" / "samples"
        kinds = (".parquet", ".arrow", ".jsonl")
        files = {file for file in folder.rglob("*") if file.suffix in kinds}
        files.add(folder / "tokenizer.json")
        found.append({file.relative_to(folder): file.read_bytes() for file in files})
    assert len(found[0]) > 20 and found[0] == found[1] == found[2]
