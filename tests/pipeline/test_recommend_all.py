import json

import numpy as np
import pandas as pd
import pytest

import recinject as ri
from recinject.data.simulator import simulate_shop
from recinject.pipeline import recommend as room


@pytest.fixture
def write(recinject, finished, tmp_path):
    """Write the lists of many people; return the file."""

    def write(*words, name="lists.parquet", run=finished.folder):
        ended = recinject("recommend", run, "-o", tmp_path / name, *words)
        assert ended.code == 0, ended.output
        assert not list(tmp_path.glob(".*.partial"))
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def run(finished):
    return ri.load(finished.folder)


@pytest.fixture(scope="module")
def fitted(run):
    return ri.fit("item_knn", run.data)


def test_the_bytes_are_the_same_for_any_batch_size(write):
    whole = write("--all", name="a.parquet").read_bytes()
    assert write("--all", "--batch-size", 1, name="b.parquet").read_bytes() == whole
    assert write("--all", "--batch-size", 7, name="c.parquet").read_bytes() == whole
    lines = write("--all", "--batch-size", 5, name="a.jsonl").read_bytes()
    assert write("--all", name="b.jsonl").read_bytes() == lines


@pytest.mark.parametrize("words", [[], ["--recommender", "ease"], ["--recommender", "popularity"]])
def test_python_and_the_command_line_list_the_same_items(write, run, words):
    frame = pd.read_parquet(write("--all", "-k", 4, *words))
    asked = ri.fit(words[1], run.data) if words else run.model
    users = list(run.data.split.interactions.user_ids)
    own = asked.recommend(users=users, k=4)
    assert list(frame.columns) == list(own.columns)
    assert frame["user_id"].unique().tolist() == users
    for column in ("user_id", "rank", "item_id", "title"):
        assert frame[column].tolist() == own[column].tolist()
    assert frame["score"].to_numpy() == pytest.approx(own["score"].to_numpy(), abs=1e-4)


def test_users_of_a_file_and_questions_are_asked_about(write, run, tmp_path):
    ids = list(run.data.split.interactions.user_ids)[5:8]
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n", "utf-8")
    frame = pd.read_parquet(write("--users", tmp_path / "ids.txt", "-k", 2))
    assert frame["user_id"].tolist() == [user for user in ids for _ in range(2)]
    rows = [{"liked": [run.data.catalog.item_ids[n]], "who": f"person\u2028{n}"} for n in range(3)]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "people.jsonl").write_text(text, "utf-8")
    file = write("--input", tmp_path / "people.jsonl", "-k", 2, name="out.jsonl")
    found = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
    assert [{"liked": row["liked"], "who": row["who"]} for row in found] == rows
    assert all(len(row["recommended"]) == 2 for row in found)


def test_an_interrupted_call_goes_on_at_its_first_missing_shard(fitted, run, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "PEOPLE_PER_SHARD", 7)
    people = [{"user_id": user} for user in run.data.split.interactions.user_ids]
    whole = room.recommend_all(fitted, people, tmp_path / "whole.parquet").read_bytes()
    written, really = [], room._write_shard

    def fail_at_the_fourth(path, *rest):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path.name)
        really(path, *rest)

    monkeypatch.setattr(room, "_write_shard", fail_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        room.recommend_all(fitted, people, tmp_path / "lists.parquet")
    assert not (tmp_path / "lists.parquet").exists()
    monkeypatch.setattr(room, "_write_shard", lambda *a: (written.append(a[0].name), really(*a)))
    room.recommend_all(fitted, people, tmp_path / "lists.parquet")
    assert written == sorted({*written}) and len(written) == -(-len(people) // 7)
    assert (tmp_path / "lists.parquet").read_bytes() == whole


def test_shards_of_another_question_are_not_taken(fitted, run, tmp_path):
    people = [{"liked": [title]} for title in run.data.catalog.titles[:5]]
    for k in (2, 3):
        frame = pd.read_parquet(room.recommend_all(fitted, people, tmp_path / "a.parquet", k))
        assert frame["query"].tolist() == [n for n in range(5) for _ in range(k)]


def test_questions_keep_their_numbers_over_shards(fitted, run, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "PEOPLE_PER_SHARD", 2)
    people = [{"liked": [title]} for title in run.data.catalog.titles[:5]]
    frame = pd.read_parquet(room.recommend_all(fitted, people, tmp_path / "a.parquet", 1))
    assert frame["query"].tolist() == [0, 1, 2, 3, 4]


def test_users_whose_lists_are_empty_leave_the_others_in_place(fitted, run):
    users = list(run.data.split.interactions.user_ids)[:3]
    own = run.data.catalog.item_ids[int(run.data.split.interactions.items_of(1)[0])]
    rows = room.recommend(fitted, [{"user_id": user} for user in users], 3, only=[own])
    assert rows[1] == [] and any(rows)


@pytest.mark.parametrize("name", ["language_model", "ease", "markov_chain"])
def test_filters_hold_for_everybody(run, name):
    asked = run.model if name == "language_model" else ri.fit(name, run.data)
    catalog, liked = run.data.catalog, [run.data.catalog.item_ids[3]]
    only = catalog.item_ids[:9]
    listed = asked.recommend([liked], k=9, only=only)["item_id"].tolist()
    assert sorted(listed) == sorted({*only} - {*liked})
    assert liked[0] in asked.recommend([liked], k=9, only=only, seen=True)["item_id"].tolist()
    word = catalog.titles[5].split()[0]
    titles = asked.recommend([liked], k=20, where=f"title LIKE '{word}%'")["title"]
    expected = [t for t in catalog.titles if t.startswith(word) and t != catalog.titles[3]]
    assert sorted(titles) == sorted(expected)


def test_at_most_so_many_are_alike(run):
    catalog = run.data.catalog
    column = next(c for c in catalog.frame.columns if c not in ("item_id", "title"))
    values = dict(zip(catalog.item_ids, map(str, catalog.frame[column]), strict=True))
    for asked in (run.model, ri.fit("ease", run.data)):
        listed = asked.recommend([catalog.item_ids[:1]], k=8, max_per={column: 1})["item_id"]
        counts = pd.Series([values[item] for item in listed]).value_counts()
        assert counts.max() == 1
        # It is what stays, in the same order, of a longer list: more beams may find other items.
        kept = []
        for width in range(8, len(values) + 1):
            free = asked.recommend([catalog.item_ids[:1]], k=width)["item_id"]
            first = dict[str, str]()
            for item in free:
                first.setdefault(values[item], item)
            kept.append([*first.values()][:8])
        assert listed.tolist() in kept


def test_filters_that_cannot_be_are_refused(run, fitted):
    liked = [run.data.catalog.item_ids[:1]]
    for given, said in [
        ({"where": "nothing = 3"}, "is no condition"),
        ({"where": "title IN (SELECT * FROM read_csv('/etc/passwd'))"}, "is no condition"),
        ({"where": "title = '?'"}, "leave not one item"),
        ({"only": ["?"]}, "no item has the title"),
        ({"max_per": {"brnad": 1}}, "no column"),
        ({"max_per": {"title": 0}}, "max_per"),
        ({"hwere": "1"}, "unknown key"),
    ]:
        with pytest.raises(ri.RecinjectError, match=said):
            fitted.recommend(liked, k=3, **given)


def test_a_model_says_the_path_and_its_probability(run):
    frame = run.model.recommend([run.data.catalog.item_ids[:4]], k=5, explain=True)
    for score, why in zip(frame["score"], frame["why"], strict=True):
        assert np.log([value for _, value in why]).sum() == pytest.approx(score, abs=1e-4)
        assert why[-1][0] == "</s>"


def test_a_baseline_says_which_items_of_the_history_speak_for_it(run):
    liked = run.data.catalog.titles[:4]
    frame = ri.fit("ease", run.data).recommend([liked], k=5, explain=True)
    assert any(frame["why"].map(bool))
    assert all(text in liked for why in frame["why"] for text, _ in why)
    popular = ri.fit("popularity", run.data).recommend([liked], k=5, explain=True)
    assert not any(popular["why"].map(bool))


def test_why_stands_in_the_file(write):
    frame = pd.read_parquet(write("--all", "-k", 2, "--explain", "--recommender", "ease"))
    assert {tuple(own) for why in frame["why"] for own in why} == {("text", "value")}


def test_another_form_of_file_is_refused(recinject, finished, tmp_path):
    ended = recinject("recommend", finished.folder, "--all", "-o", tmp_path / "lists.csv")
    assert ended.code == 2 and ".parquet or .jsonl" in ended.output


def test_new_items_take_their_fraction_where_content_is_known(run):
    log = simulate_shop(users=60, items=60, events_per_user=10, seed=1)
    data = ri.prepare(log, split={"rule": "cold_items", "test_share": 0.2}, k_core=2)
    ids = np.array(data.catalog.item_ids)
    new = {*ids} - {*ids[np.unique(data.split.train.items)]}
    assert new
    knn, liked = ri.fit("content_knn", data), [data.catalog.titles[:3]]
    for fraction, k in ((0.5, 4), (1.0, 3)):
        listed = knn.recommend(liked, k=k, new=fraction)["item_id"]
        assert sum(item in new for item in listed) <= fraction * k
    assert {*knn.recommend(liked, k=3, new=1.0)["item_id"]} <= new
    only = sorted(new)[:2]
    assert {*knn.recommend(liked, k=2, new=1.0, only=only)["item_id"]} <= {*only}
    for other, asked in ((ri.fit("ease", data), liked), (run.model, [run.data.catalog.titles[:1]])):
        with pytest.raises(ri.RecinjectError, match="does not know items without"):
            other.recommend(asked, k=3, new=0.5)


@pytest.mark.slow
def test_ray_changes_no_byte_whatever_the_number_of_workers(ray, write, monkeypatch):
    monkeypatch.setattr(room, "PEOPLE_PER_SHARD", 17)
    for words in ([], ["--recommender", "ease"]):
        here = write("--all", *words, name="a.parquet").read_bytes()
        for workers in (1, 2):
            asked = [*words, "--engine=ray", f"--workers={workers}"]
            assert write("--all", *asked, name="b.parquet").read_bytes() == here


def test_an_engine_that_there_is_not_is_refused(recinject, finished, tmp_path):
    words = [finished.folder, "--all", "-o", tmp_path / "a.parquet", "--engine=spark"]
    ended = recinject("recommend", *words, "--recommender=ease")
    assert ended.code == 2 and "there is no 'spark'" in ended.output
