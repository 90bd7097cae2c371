import json
import time

import numpy as np
import pandas as pd
import pytest

import recinject as ri
from recinject.recommenders.asking import rank, rate
from recinject.serving.service import Limits, Service


def names(rows):
    return [row["item_id"] for row in rows]


def test_http_python_command_line_and_stored_predictions_agree(
    open_client, served_run, recinject, tmp_path
):
    client, data, folder = open_client(), served_run.data, served_run.recipe.folder
    stored = folder / "evaluation" / "predictions" / "retrieval.language_model.parquet"
    rows = pd.read_parquet(stored).head(12)
    log, parts = data.split.interactions, data.split.parts
    ids, users = data.catalog.item_ids, log.user_ids
    asked = []
    for user in rows["user"]:
        past = np.flatnonzero((log.users == user) & (parts < 2))
        asked.append({"liked": [ids[log.items[event]] for event in past]})
    (tmp_path / "people.jsonl").write_text("\n".join(map(json.dumps, asked)), "utf-8")
    out = tmp_path / "lists.jsonl"
    recinject("recommend", folder, "--input", tmp_path / "people.jsonl", "-k", 10, "-o", out)
    lines = [json.loads(line)["recommended"] for line in out.read_text("utf-8").splitlines()]
    model = ri.load(folder).model
    for person, line, row in zip(asked, lines, rows.itertuples(), strict=True):
        answer = client.post("/v1/recommend", json={**person, "k": 10})
        assert answer.status_code == 200
        found = answer.json()["items"]
        own = model.recommend([person["liked"]], k=10)
        lists = [names(found), names(line), own["item_id"].tolist(), list(row.item_ids)]
        assert lists[0] == lists[1] == lists[2] == lists[3][:10] and len(found) == 10
        for scores in ([r["score"] for r in line], own["score"], row.scores[:10]):
            assert [r["score"] for r in found] == pytest.approx(list(scores), abs=1e-4)
    assert len(users)


def test_a_baseline_a_user_and_filters_are_asked_as_from_python(open_client, served_run):
    client, data = open_client(), served_run.data
    ease = ri.fit("ease", data, served_run.recipe.seed)
    user = str(data.split.interactions.user_ids[4])
    only, column = data.catalog.item_ids[:12], data.catalog.frame.columns[2]
    asked = {"recommender": "ease", "user": user, "k": 5, "only": only, "explain": True}
    found = client.post("/v1/recommend", json={**asked, "max_per": {column: 2}}).json()["items"]
    own = ease.recommend(users=[user], k=5, only=only, max_per={column: 2}, explain=True)
    assert names(found) == own["item_id"].tolist()
    why = [[(w["text"], w["value"]) for w in row["why"]] for row in found]
    assert why == own["why"].tolist()


def test_slates_and_ratings_are_answered_as_from_python(open_client, served_run):
    client, titles, model = open_client(), served_run.data.catalog.titles, served_run.model
    liked, slate = titles[:3], titles[5:15]
    answer = client.post("/v1/rank", json={"liked": liked, "items": slate}).json()["items"]
    assert names(answer) == rank(model, [liked], [slate])["item_id"].tolist()
    asked = {"liked": liked, "ratings": [5, 4, 3], "item": titles[9]}
    rating = client.post("/v1/rate", json=asked).json()["rating"]
    own = rate(model, [liked], titles[9:10], [[5.0, 4.0, 3.0]])
    assert rating == pytest.approx(own[0], abs=1e-4)
    asked = {"liked": liked, "item": titles[9], "recommender": "item_mean"}
    assert 1 <= client.post("/v1/rate", json=asked).json()["rating"] <= 5


def test_the_model_shows_its_prompt_and_its_other_wording(open_client, served_run):
    client = open_client()
    asked = {"liked": served_run.data.catalog.titles[:2], "k": 3, "explain": True}
    usual = client.post("/v1/recommend", json=asked).json()
    other = client.post("/v1/recommend", json={**asked, "wording": "reworded"}).json()
    assert usual["prompt"]["text"] != other["prompt"]["text"]
    assert usual["prompt"]["tokens"][-1] == "</s>" and usual["items"][0]["why"]
    refused = client.post(
        "/v1/recommend", json={**asked, "wording": "reworded", "recommender": "ease"}
    )
    assert refused.status_code == 400 and "no other one" in refused.json()["error"]


def test_items_people_runs_health_and_pages_are_there(open_client, served_run):
    client, data = open_client(), served_run.data
    title = data.catalog.titles[7]
    found = client.get("/v1/items", params={"query": title[:6].upper()}).json()["items"]
    assert title in [item["title"] for item in found]
    by_id = client.get("/v1/items", params={"query": data.catalog.item_ids[3]}).json()["items"]
    assert by_id[0]["item_id"] == data.catalog.item_ids[3]
    person = client.get("/v1/person", params={"number": 10**6}).json()
    assert person["liked"] and person["target"]["title"] and person["user"]
    run = client.get("/v1/runs").json()["runs"][0]
    assert run["recommenders"] == ["language_model", "ease", "item_mean"]
    assert client.get("/health").json()["status"] == "ok"
    for path, kind in (("/", "html"), ("/page.js", "javascript"), ("/page.css", "css")):
        assert kind in client.get(path).headers["content-type"]
    reference = client.get("/docs").text
    assert "/v1/recommend" in reference and "<script" not in reference
    assert "/v1/rank" in client.get("/openapi.json").json()["paths"]


def test_metrics_count_requests_and_batches(open_client, served_run):
    client = open_client()
    client.post("/v1/recommend", json={"liked": served_run.data.catalog.titles[:1]})
    client.get("/nothing")
    text = client.get("/metrics").text
    assert 'recinject_requests_total{path="/v1/recommend",status="200"} 1' in text
    assert 'recinject_requests_total{path="(other)",status="404"} 1' in text
    assert 'recinject_batch_size_count{recommender="tiny/language_model"} 1' in text
    assert 'recinject_queue_length{recommender="tiny/ease"} 0' in text


def test_without_its_token_nothing_of_the_data_is_told(open_client, served_run):
    client = open_client(token="secret")
    asked = {"liked": served_run.data.catalog.titles[:1]}
    wrong = [{}, {"Authorization": "Bearer secre"}, {"Authorization": "secret"}]
    for headers in [*wrong, {"Authorization": "Bearer secret2"}, {"Authorization": "é"}]:
        raw = {k: v.encode("latin-1") for k, v in headers.items()}
        assert client.post("/v1/recommend", json=asked, headers=raw).status_code == 401
        for path in ("/v1/items?query=a", "/metrics", "/v1/runs", "/openapi.json", "/v1/person"):
            answer = client.get(path, headers=raw)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/health").status_code == client.get("/").status_code == 200
    right = {"Authorization": "Bearer secret"}
    assert client.post("/v1/recommend", json=asked, headers=right).status_code == 200


def test_limits_are_kept(open_client, served_run, monkeypatch):
    titles = served_run.data.catalog.titles
    client = open_client(Limits(body=2000, history=3, seconds=0.5))
    big = client.post("/v1/recommend", content=b"[" + b"1," * 2000 + b"1]")
    assert big.status_code == 413
    chunks = client.post("/v1/recommend", content=iter([b"x" * 1500, b"x" * 1500]))
    assert chunks.status_code == 413
    long = client.post("/v1/recommend", json={"liked": titles[:4], "k": 1})
    assert long.status_code == 400 and "from 1 to 3" in long.json()["error"]
    assert client.post("/v1/recommend", json={"liked": titles[:1], "k": 4}).status_code == 400
    slate = client.post("/v1/rank", json={"liked": titles[:1], "items": titles[:4]})
    assert slate.status_code == 400
    from recinject.serving import service

    monkeypatch.setattr(service, "lists", lambda *rest: time.sleep(1))
    late = client.post("/v1/recommend", json={"liked": titles[:1], "k": 1})
    assert late.status_code == 504 and "too long" in late.json()["error"]


def test_a_full_queue_is_said(open_client, served_run, monkeypatch):
    from recinject.serving.batching import Batcher, QueueFullError

    def full(self, key, question):
        raise QueueFullError

    monkeypatch.setattr(Batcher, "ask", full)
    client = open_client()
    answer = client.post("/v1/recommend", json={"liked": served_run.data.catalog.titles[:1]})
    assert answer.status_code == 429 and answer.headers["retry-after"] == "1"


def test_a_mistake_inside_is_told_to_the_log_alone(open_client, served_run, monkeypatch, capsys):
    from recinject.serving import service

    def fail(*rest):
        raise ValueError("deep inside")

    monkeypatch.setattr(service, "lists", fail)
    client = open_client()
    answer = client.post("/v1/recommend", json={"liked": served_run.data.catalog.titles[:1]})
    assert answer.status_code == 500 and "deep inside" not in answer.text
    assert "deep inside" in capsys.readouterr().err


@pytest.mark.parametrize("told", [False, True])
def test_the_log_names_histories_only_where_asked_to(open_client, served_run, told):
    lines, title = [], served_run.data.catalog.titles[2]
    client = open_client(log=lines.append, histories=told)
    client.post("/v1/recommend", json={"liked": [title]})
    assert lines[0]["path"] == "/v1/recommend" and lines[0]["status"] == 200
    assert lines[0]["recommender"] == "language_model" and lines[0]["ms"] > 0
    assert (title in json.dumps(lines, ensure_ascii=False)) == told


def test_another_name_for_the_host_is_refused(open_client):
    client = open_client()
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/health", headers={"Host": "[::1]:8000"}).status_code == 200
    assert open_client(hosts=()).get("/health", headers={"Host": "a.b"}).status_code == 200


def test_several_runs_go_by_name(shop, open_client):
    from dataclasses import replace

    service = Service([shop, replace(shop, name="other")])
    assert list(service.shops) == ["tiny", "other"] and service.shop("other").name == "other"
    with pytest.raises(ri.RecinjectError, match=r"none is called 'othr'"):
        service.shop("othr")
    with pytest.raises(ri.RecinjectError, match="two of one name"):
        Service([shop, shop])
    service.close()
