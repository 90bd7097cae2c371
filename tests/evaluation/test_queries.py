from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recinject.data.schema import Catalog
from recinject.data.splitting import Part, Split
from recinject.evaluation.evaluate import make_queries
from recinject.foundation.ragged import Ragged
from recinject.foundation.randomness import Chance
from recinject.registry import find, names
from recinject.samples.builder import SCHEMA
from recinject.tasks.task import Keys, Retrieval

# Files that are parts already have a split of their own.
RULES = sorted({*names("split")} - {"given"})

HISTORIES = [[4, 7, 1, 9, 2], [3, 8], [5, 0, 6, 7], [2, 4, 6, 8, 9, 1]]
CATALOG = Catalog(pd.DataFrame({"item_id": [f"item-{9 - n}" for n in range(10)], "title": ""}))


@pytest.fixture
def split(split_of):
    return split_of(HISTORIES, 10)


def stored(of, task="retrieval", **columns):
    view = of.view(Part.TEST)
    events = np.flatnonzero(view.is_target)
    users = [of.interactions.user_ids[user] for user in view.interactions.users[events]]
    rows = {
        "sample_id": [f"{task}/test/{user}/0" for user in users],
        "task": task,
        "template": "one@1",
        "split": "test",
        "user_id": users,
        "prompt": [f"prompt of {user}" for user in users],
        "completion": "",
        "target_item_id": [CATALOG.item_ids[item] for item in view.interactions.items[events]],
        "candidate_item_ids": None,
        "label": None,
        "user": view.interactions.users[events].tolist(),
        "event": events.tolist(),
        "target": view.interactions.items[events].tolist(),
        "candidates": None,
    }
    filled = {
        name: value if isinstance(value, list) else [value] * len(users)
        for name, value in {**rows, **columns}.items()
    }
    return pa.table(filled, schema=SCHEMA)


def test_a_query_knows_everything_before_the_test_and_nothing_after(split):
    queries = make_queries(stored(split), split, None, seed=1)
    tested = [user for user, history in enumerate(HISTORIES) if len(history) >= 3]
    assert queries.task == "retrieval" and list(queries.users) == tested
    assert [list(history) for history in queries.histories] == [HISTORIES[u][:-1] for u in tested]
    assert list(queries.targets) == [HISTORIES[user][-1] for user in tested]
    assert queries.prompts == [f"prompt of customer-{user}" for user in tested]
    assert queries.candidates is None and queries.labels is None


def test_slates_and_labels_keep_their_order(split):
    slates = [[(3 * n + place) % 10 for place in range(4)] for n in range(3)]
    samples = stored(split, "ranking", candidates=slates)
    assert make_queries(samples, split, None, seed=1).candidates.tolist() == slates
    samples = stored(split, "rating", label=[4.5, 1.0, 3.0])
    assert make_queries(samples, split, None, seed=1).labels.tolist() == [4.5, 1.0, 3.0]


@pytest.mark.parametrize("limit", [1, 2, 3, 99])
def test_two_wordings_keep_the_same_queries(split, limit):
    first = make_queries(stored(split), split, limit, seed=1)
    other = stored(split, prompt="reworded", split="reworded")
    second = make_queries(other, split, limit, seed=1)
    assert len(first) == min(limit, 3) and list(first.users) == list(second.users)
    assert list(first.users) == sorted(first.users)


def test_another_seed_keeps_other_queries(split):
    kept = {tuple(make_queries(stored(split), split, 1, seed=seed).users) for seed in range(20)}
    assert len(kept) == 3


def sampled(of: Split):
    """Every test sample of a retrieval task, as the sampler showed it and as stored rows."""
    view, task = of.view(Part.TEST), Retrieval(history_length=1000)
    counts = task.count(view)
    users = np.repeat(np.arange(len(counts)), counts)
    indices = Ragged.from_lengths(users, counts).places
    keys = Keys(users, indices, Chance(np.arange(len(users), dtype=np.uint64)))
    contexts = task.sample(view, keys, np.empty(0, np.int32))
    rows = [
        {
            "sample_id": f"retrieval/test/{of.interactions.user_ids[user]}/{index}",
            "task": "retrieval",
            "user": user,
            "event": event,
            "target": target,
        }
        for user, index, event, target in zip(
            users, indices, contexts.events, contexts.targets, strict=True
        )
    ]
    return contexts, pa.Table.from_pylist(rows, SCHEMA)


@pytest.mark.parametrize("rule", RULES)
def test_a_query_has_the_history_that_the_sampler_used(split_of, rule):
    rng = np.random.default_rng(3)
    log = split_of([rng.integers(0, 10, 14).tolist() for _ in range(6)], 10).interactions
    # Names with a stroke must not be taken for a part of the sample's key.
    log = replace(
        log, timestamps=np.tile(np.arange(14.0), 6), user_ids=[f"a/{n}" for n in "012345"]
    )
    split = find("split", rule)(log, 0.2, 1)
    contexts, rows = sampled(split)
    queries = make_queries(rows, split, None, seed=1)
    histories = contexts.slots["history"].to_list()
    assert [items.tolist() for items in queries.histories] == histories
    assert queries.targets.tolist() == contexts.targets.tolist()
    assert queries.users.tolist() == contexts.users.tolist()
    several = np.bincount(queries.users).max() > 1
    assert several == (rule != "leave_one_out")
