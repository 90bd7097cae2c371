import json
import math
import re
import shutil
import sys
import unicodedata
from io import StringIO

import pandas as pd
import pytest

import recinject as ri


@pytest.fixture(scope="module")
def answered(finished):
    """What each test user had liked, and what the evaluation's model answered to it."""
    events = pd.read_parquet(finished.folder / "data" / "interactions.parquet")
    users = pd.read_parquet(finished.folder / "data" / "users.parquet")["user_id"]
    items = pd.read_parquet(finished.folder / "data" / "items.parquet")["item_id"]
    past = events[events["part"] < 2]
    histories = past.groupby("user")["item"]
    liked = {users[user]: [items[item] for item in rows] for user, rows in histories}
    path = finished.folder / "evaluation" / "predictions" / "retrieval.language_model.parquet"
    answers = pd.read_parquet(path)
    return [
        (liked[row.sample_id.split("/")[2]], list(row.item_ids), list(row.scores))
        for row in answers.itertuples()
    ]


@pytest.fixture
def ask(recinject, finished):
    """Ask the finished run, or another one, for recommendations as JSON."""

    def ask(*words, run=finished.folder, code=0):
        ended = recinject("recommend", run, *words)
        assert ended.code == code, ended.output
        return [json.loads(line) for line in ended.output.split("\n") if line[:1] == "{"]

    return ask


@pytest.fixture
def refused(recinject, finished):
    """Ask for what cannot be; return the error's one line and its fix."""

    def refused(*words, run=finished.folder):
        ended = recinject("recommend", run, *words)
        assert ended.code == 2, ended.output
        lines = ended.output.strip().split("\n")
        assert len(lines) == 2 and lines[0].startswith("error: ")
        assert lines[1].startswith("  fix: ")
        return lines

    return refused


def catalog(folder):
    return pd.read_parquet(folder / "data" / "items.parquet")


def test_a_history_is_answered_as_the_evaluation_answered_it(ask, answered, tmp_path):
    file = tmp_path / "people.jsonl"
    rows = [{"liked": liked, "number": n} for n, (liked, *_) in enumerate(answered)]
    file.write_text("\n\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    found = ask("--input", file)
    assert len(found) == len(answered) == 60
    for row, given, (_, items, scores) in zip(found, rows, answered, strict=True):
        assert {key: row[key] for key in given} == given
        assert [item["item_id"] for item in row["recommended"]] == items
        own = [item["score"] for item in row["recommended"]]
        assert own == pytest.approx(scores, abs=1e-4)
        assert not set(items) & set(given["liked"])


def test_titles_of_any_case_and_ids_mean_the_same(ask, finished):
    titles, ids = catalog(finished.folder)["title"], catalog(finished.folder)["item_id"]
    named = [[titles[3], titles[8]], [ids[3], ids[8]], [titles[3].upper(), titles[8].lower()]]
    answers = [
        ask("--json", "-k", 4, *(w for text in texts for w in ("--liked", text)))[0]["recommended"]
        for texts in named
    ]
    assert answers[0] == answers[1] == answers[2] and len(answers[0]) == 4
    known = dict(zip(ids, titles, strict=True))
    assert all(known[item["item_id"]] == item["title"] for item in answers[0])


def test_standard_input_is_read_and_a_person_alone_gets_the_same(ask, answered, monkeypatch):
    liked, items, _ = answered[7]
    monkeypatch.setattr(sys, "stdin", StringIO(json.dumps({"liked": liked})))
    listed = [item["item_id"] for item in ask("--input", "-", "-k", 3)[0]["recommended"]]
    assert listed == items[:3]


def test_a_table_has_a_row_an_item(recinject, finished, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    frame = catalog(finished.folder)
    ended = recinject("recommend", finished.folder, "--liked", frame["title"][0], "-k", 5)
    rows = re.findall(r"^│ (\d) +│ (.+?) +│ (\S+) +│ (-\d+\.\d\d) +│$", ended.output, re.MULTILINE)
    assert [row[0] for row in rows] == list("12345")
    known = dict(zip(frame["item_id"], frame["title"], strict=True))
    assert all(known[number] == title for _, title, number, _ in rows)
    scores = [float(row[3]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_the_whole_catalogue_but_the_liked_can_be_listed(ask, finished):
    ids = list(catalog(finished.folder)["item_id"])
    listed = ask("--json", "-k", len(ids), "--liked", ids[0], "--liked", ids[5])[0]["recommended"]
    assert sorted(item["item_id"] for item in listed) == sorted({*ids} - {ids[0], ids[5]})
    assert all(math.isfinite(item["score"]) for item in listed)


def test_fewer_items_than_asked_for_are_said(recinject, finished):
    ids = list(catalog(finished.folder)["item_id"])
    for words in ([], ["--recommender", "popularity"]):
        liked = [word for number in ids[:-4] for word in ("--liked", number)]
        ended = recinject("recommend", finished.folder, "--json", "-k", 10, *liked, *words)
        assert ended.code == 0 and "list 1: 4 items, for no more are left" in ended.output
        (line,) = [line for line in ended.output.split("\n") if line[:1] == "{"]
        found = [item["item_id"] for item in json.loads(line)["recommended"]]
        assert sorted(found) == sorted(ids[-4:])


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_a_separator_of_lines_within_a_title_cuts_no_question(
    ask, copied, tmp_path, inside, reseal
):
    frame = catalog(copied)
    frame.loc[3, "title"] = "A B"  # as cleaning leaves such a title
    frame.to_parquet(copied / "data" / "items.parquet", index=False)
    reseal(copied / "data")
    file = tmp_path / "people.jsonl"
    row = json.dumps({"liked": [f"A{inside}B"]}, ensure_ascii=False)
    if inside < " ":  # raw control characters are not JSON
        row = json.dumps({"liked": [f"A{inside}B"]})
    file.write_bytes(f"{row}\r\n{row}\n".encode())
    assert len(ask("--input", file, "-k", 2, run=copied)) == 2


def test_a_title_in_another_unicode_form_is_the_title(ask, copied, reseal):
    frame = catalog(copied)
    frame.loc[3, "title"] = unicodedata.normalize("NFC", "Café Ångström")
    frame.to_parquet(copied / "data" / "items.parquet", index=False)
    reseal(copied / "data")
    by_id = ask("--json", "--liked", frame["item_id"][3], run=copied)[0]["recommended"]
    for form in ("NFC", "NFD"):
        for title in ("Café Ångström", "café ångström"):
            text = unicodedata.normalize(form, title)
            assert ask("--json", "--liked", text, run=copied)[0]["recommended"] == by_id


def test_an_item_that_came_after_training_is_no_item_yet(refused):
    fact, fix = refused("--liked", "P99999")
    assert "no item has the title or the id 'P99999'" in fact and fix


def test_a_person_without_any_history_is_told_whom_to_ask(finished):
    run = ri.load(finished.folder)
    with pytest.raises(ri.RecinjectError, match="a history is empty.*\n.*'popularity'"):
        run.model.recommend([[]])
    listed = ri.fit("popularity", run.data).recommend([[]], k=5)
    assert len(listed) == 5 and listed["score"].is_monotonic_decreasing


@pytest.mark.parametrize("both", ["title", "id"])
def test_what_is_one_item_s_title_and_another_s_id_is_said_to_be_both(
    refused, copied, both, reseal
):
    frame = catalog(copied)
    frame.loc[2, "title"] = frame["item_id"][5]
    frame.to_parquet(copied / "data" / "items.parquet", index=False)
    reseal(copied / "data")
    fact, fix = refused("--liked", frame["item_id"][5], run=copied)
    assert "is the title of one item and the id of another" in fact
    named = {"title": frame["title"][5], "id": frame["item_id"][2]}[both]
    assert repr(named) in fix


def test_a_long_history_is_cut_to_what_the_model_was_trained_on(ask, finished):
    ids = list(catalog(finished.folder)["item_id"])[:30]
    words = [word for number in ids for word in ("--liked", number)]
    listed = ask("--json", "-k", 5, *words)[0]["recommended"]
    assert len(listed) == 5 and not {item["item_id"] for item in listed} & set(ids)


def test_a_run_goes_by_its_name_below_runs(ask, finished, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(finished.folder)
    monkeypatch.chdir(tmp_path)
    number = catalog(finished.folder)["item_id"][0]
    assert ask("--json", "--liked", number, run="mine") == ask("--json", "--liked", number)


def test_an_unknown_title_is_refused_with_the_nearest(refused, finished):
    title = catalog(finished.folder)["title"][4]
    fact, fix = refused("--liked", title[:-2] + "zz")
    assert "no item has the title or the id" in fact and repr(title) in fix
    assert repr(title) in refused("--liked", title[:-2])[1]
    assert "data/items.parquet" in refused("--liked", "@@@@@@")[1]


def test_a_title_of_several_items_is_refused_with_their_ids(refused, copied, reseal):
    frame = catalog(copied)
    frame.loc[[2, 5], "title"] = "The same"
    frame.to_parquet(copied / "data" / "items.parquet", index=False)
    reseal(copied / "data")
    fact, fix = refused("--liked", "the same", run=copied)
    assert "2 items have the title" in fact
    assert f"{frame['item_id'][2]}, {frame['item_id'][5]}" in fix


def test_nothing_liked_or_too_much_asked_is_refused(refused, tmp_path):
    assert "nobody is named" in refused()[0]
    assert "both --input and --liked" in refused("--liked", "x", "--input", "-")[0]
    assert re.search(r"k=999: the catalogue has \d+ items", refused("-k", 999, "--liked", "x")[0])
    assert "cannot be read" in refused("--input", tmp_path / "none.jsonl")[0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"liked": "P00001"}', "no list of titles or ids"),
        ('{"liked": []}', "no list of titles or ids"),
        ('{"liked": [3]}', "no list of titles or ids"),
        ("[1]", "no list of titles or ids"),
        ("liked", "not JSON"),
    ],
)
def test_a_line_of_another_form_is_named(refused, tmp_path, line, said):
    file = tmp_path / "people.jsonl"
    file.write_text("\n" + line, "utf-8")
    fact, fix = refused("--input", file)
    assert "people.jsonl, line 2" in fact and said in fact and '{"liked": [' in fix


def test_good_lines_are_answered_and_bad_ones_named(recinject, finished, tmp_path):
    good, file = catalog(finished.folder)["item_id"][0], tmp_path / "people.jsonl"
    lines = [f'{{"liked": ["{good}"]}}', "[" * 9999, "9" * 9999, '{"liked": ["Nothing"]}', "{"]
    file.write_text("\n".join([*lines, lines[0]]), "utf-8")
    asked = ("recommend", finished.folder, "--input", file, "--recommender", "popularity")
    ended = recinject(*asked)
    assert ended.code == 1
    answers = [line for line in ended.output.split("\n") if '"recommended"' in line]
    assert len(answers) == 2
    assert re.findall(r"people\.jsonl, line (\d)", ended.output) == list("2345")
    assert recinject(*asked, "-o", tmp_path / "lists.jsonl").code == 1
    assert len((tmp_path / "lists.jsonl").read_text("utf-8").splitlines()) == 2


def test_no_questions_get_no_answers(ask, tmp_path):
    (tmp_path / "none.jsonl").write_text("\n", "utf-8")
    assert ask("--input", tmp_path / "none.jsonl") == []


def test_what_is_no_finished_run_is_refused(refused, copied, tmp_path, monkeypatch, reseal):
    monkeypatch.chdir(tmp_path)
    fact, fix = refused("--liked", "x", run="nothing")
    assert "no run is in nothing or runs/nothing" in fact
    assert fix.endswith("There is none yet: recinject run quickstart")
    facts = copied / "samples" / "samples.json"
    content = json.loads(facts.read_text("utf-8"))
    del content["tasks"]["retrieval"]
    facts.write_text(json.dumps(content), "utf-8")
    reseal(copied / "samples")
    assert "lacks the task retrieval" in refused("--liked", "x", run=copied)[0]
    shutil.rmtree(copied / "model")
    assert "no trained model in it" in refused("--liked", "x", run=copied)[0]
