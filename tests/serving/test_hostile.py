"""Whatever comes in, nothing but a clear refusal goes out."""

import json
import random

import pytest

from recinject.serving.service import Limits

PATHS = ("/v1/recommend", "/v1/rank", "/v1/rate")
TEXTS = [
    *("", " ", "\x00", "\x1b[31mred\x1b[0m", "\u202eabc", "\ud800", "x" * 999, "x" * 10**6),
    *("<script>alert(1)</script>", "'; DROP TABLE items; --", "{{ 7 * 7 }}", "../../etc/passwd"),
    *("\u2028", "NaN", "ﷺ" * 50, "%s%n", "a\r\nSet-Cookie: x=1"),
]
VALUES = [
    *(None, True, False, 0, -1, 2**63, 10**400, 1e308, float("nan"), float("inf"), 3.5),
    *([], {}, [[]], [None], [[["x"]]], {"a": {"b": []}}, ["x"] * 5000, [1, "x", None], *TEXTS),
]


def mutations(count, titles):
    """Yield paths with bodies that differ from good ones in one place or in all."""
    chance = random.Random(0)
    good = {
        "/v1/recommend": {"liked": titles[:2], "k": 3, "seen": False, "explain": True},
        "/v1/rank": {"liked": titles[:2], "items": titles[3:6]},
        "/v1/rate": {"liked": titles[:2], "ratings": [5, 4], "item": titles[4]},
    }
    names = ("user", "run", "recommender", "only", "max_per", "wording", "extra", "k", "liked")
    for number in range(count):
        path = PATHS[number % 3]
        body = dict(good[path])
        for _ in range(chance.choice([1, 1, 1, 2, 4])):
            key = chance.choice([*body, *names])
            kind = chance.random()
            if kind < 0.6:
                body[key] = chance.choice(VALUES)
            elif kind < 0.75 and isinstance(body.get(key), list):
                body[key] = [*body[key], chance.choice(VALUES)]
            elif kind < 0.85:
                body.pop(key, None)
            else:
                body[chance.choice(TEXTS)[:50]] = chance.choice(VALUES)
        raw = json.dumps(body, allow_nan=True).encode("utf-8", "surrogatepass")
        how = chance.random()
        if how < 0.1:
            raw = raw[: chance.randrange(len(raw))]
        elif how < 0.15:
            raw = bytes(chance.randrange(256) for _ in range(200))
        elif how < 0.17:
            raw = b"[" * 100_000
        yield path, raw


def attack(client, titles, count):
    known, refused = {}, 0
    for path, raw in mutations(count, titles):
        answer = client.post(path, content=raw, headers={"content-type": "application/json"})
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, (path, raw[:300])
        body = json.loads(answer.content)  # with no NaN that others could not read
        known[answer.status_code] = known.get(answer.status_code, 0) + 1
        if answer.status_code != 200:
            refused += 1
            assert body.keys() == {"error", "fix"} and body["error"]
            assert len(answer.content) < 4000 and "Traceback" not in answer.text
    assert refused > 0.8 * count, known
    good = client.post("/v1/recommend", json={"liked": titles[:2], "k": 3})
    assert good.status_code == 200 and len(good.json()["items"]) == 3
    return known


def test_hostile_bodies_are_refused(open_client, served_run):
    attack(open_client(), served_run.data.catalog.titles, 150)


@pytest.mark.slow
def test_a_thousand_hostile_bodies_are_refused(open_client, served_run):
    attack(open_client(), served_run.data.catalog.titles, 1000)


@pytest.mark.parametrize("query", ["", "x" * 2000, "%00", "%ff%fe", "<b>", "%1b[31m", "'%20OR%201"])
def test_hostile_queries_find_nothing(open_client, query):
    answer = open_client().get(f"/v1/items?query={query}")
    assert answer.status_code in (200, 422) and "Traceback" not in answer.text


def test_hostile_headers_paths_and_methods_are_refused(open_client, served_run):
    client = open_client(Limits(body=1000))
    for length in ("-1", "1e9", "9" * 30, "abc", ""):
        answer = client.post("/v1/rank", content=b"{}", headers={"content-length": length})
        assert 400 <= answer.status_code < 500
    for path in ("/../pyproject.toml", "/page.js/..%2f..%2fapp.py", "/v1/", "/%00", "/evil"):
        assert client.get(path).status_code == 404
    assert client.get("/v1/recommend").status_code == 405
    body = json.dumps({"liked": served_run.data.catalog.titles[:1]})
    plain = client.post("/v1/recommend", content=body, headers={"content-type": "text/plain"})
    assert plain.status_code == 422  # what a page elsewhere could send without being asked
