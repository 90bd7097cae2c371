import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recinject.data.schema import Catalog
from recinject.evaluation.examples import draw_examples
from recinject.recommenders.protocol import Prediction, Queries

TITLES = ["Bear", "", "Doll", "Car", "Kite", "Drum", "Ball", "Yo-yo"]
CATALOG = Catalog(pd.DataFrame({"item_id": [f"i{n}" for n in range(8)], "title": TITLES}))


def asked(n, task="retrieval", labels=None):
    return Queries(
        task=task,
        sample_ids=[str(row) for row in range(n)],
        prompts=[f"prompt {row}" for row in range(n)],
        users=np.arange(n, dtype=np.int32),
        histories=[np.zeros(0, np.int32)] * n,
        targets=np.arange(n, dtype=np.int32) % 8,
        labels=labels,
    )


def listed(ahead):
    items = np.tile(np.array([3, 1, 0, 2, 4, 5, -1], np.int32), (len(ahead), 1))
    ahead = np.array(ahead, np.float64)
    return Prediction("model", "retrieval", items, None, ahead, np.ones(len(ahead)))


@given(st.lists(st.sampled_from([0.0, 9.0, 10.0, np.inf]), max_size=12), st.integers(0, 9))
def test_half_of_the_examples_are_failures_as_far_as_there_are_both(ahead, count):
    examples = draw_examples(listed(ahead), asked(len(ahead)), CATALOG, count, seed=1)
    hits, misses = sum(place < 10 for place in ahead), sum(place >= 10 for place in ahead)
    assert len(examples) == min(count, len(ahead))
    shown = sum(example.hit for example in examples)
    assert shown == min(hits, max(-(-len(examples) // 2), len(examples) - misses))
    assert len({example.prompt for example in examples}) == len(examples)
    fewer = draw_examples(listed(ahead), asked(len(ahead)), CATALOG, count // 2, seed=1)
    assert fewer == examples[: len(fewer)]


def test_the_seed_decides_which():
    def drawn(seed):
        return draw_examples(listed([0.0] * 50), asked(50), CATALOG, 5, seed)

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_list_is_shown_by_its_first_titles():
    (hit, miss) = draw_examples(listed([2.0, np.inf]), asked(2), CATALOG, 2, seed=1)
    assert hit.answers == ["Car", "i1", "Bear", "Doll", "Kite"] and hit.target == "Bear"
    assert (hit.hit, hit.outcome, hit.prompt) == (True, "at rank 3", "prompt 0")
    assert (miss.hit, miss.outcome, miss.target) == (False, "not in the list", "i1")


@pytest.mark.parametrize(("rating", "hit"), [(4.4, True), (4.5, False), (1.0, False)])
def test_a_rating_is_a_hit_within_half_a_star(rating, hit):
    prediction = Prediction("model", "rating", ratings=np.array([rating]))
    queries = asked(1, "rating", labels=np.array([4.0]))
    (example,) = draw_examples(prediction, queries, CATALOG, 3, seed=1)
    assert (example.hit, list(example.answers)) == (hit, [])
    assert example.outcome == f"predicted {rating:.1f}, true 4"
