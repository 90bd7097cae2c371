from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recinject.foundation.errors import RecinjectError
from recinject.methods.semantic_ids.codes import code_tokens, join_cold_items, make_unique
from recinject.models.building import build_model
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Prediction, Queries
from recinject.samples.tokenizer import add_tokens, train_tokenizer

CODES = np.array([[0, 0]] * 3 + [[0, 1]] * 3 + [[1, 0]] * 2)
COLD = np.array([0, 1, 1, 0, 0, 1, 0, 1], bool)


def ask(histories, targets):
    n = len(targets)
    past = [np.array(history, np.int32) for history in histories]
    users = np.arange(n, dtype=np.int32)
    return Queries("retrieval", [""] * n, [""] * n, users, past, np.array(targets, np.int32))


def joined(items, share, k, history=(), target=0):
    listed = Prediction("model", "retrieval", np.array([items], np.int32))
    return join_cold_items(listed, ask([history], [target]), CODES, COLD, share, k)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0, [0, 3, 6, 4]),
        (0.25, [0, 3, 6, 1]),  # the fourth place is the first that a quarter allows
        (0.5, [0, 1, 3, 2]),
        (1, [0, 1, 2, 3]),
    ],
)
def test_cold_items_follow_those_that_share_their_codes(share, expected):
    assert joined([0, 3, 6, 4], share, 4).items.tolist() == [expected]


def test_a_cold_item_that_is_predicted_brings_those_like_it_and_none_of_the_history():
    assert joined([1, 3], 1, 5).items.tolist() == [[1, 2, 3, 5, -1]]
    assert joined([1, 3], 1, 5, history=[2]).items.tolist() == [[1, 3, 5, -1, -1]]
    assert joined([1, 2, -1], 0, 2).items.tolist() == [[-1, -1]]


def test_the_target_s_place_is_that_in_the_list():
    got = joined([0, 3, 6, 4], 0.25, 4, target=1)
    assert (got.recommender, got.ahead.tolist(), got.tied.tolist()) == ("model_cold_0.25", [3], [1])
    assert joined([0, 3, 6, 4], 0, 4, target=1).ahead.tolist() == [np.inf]
    with pytest.raises(RecinjectError, match="no lists"):
        join_cold_items(Prediction("m", "rating"), ask([[]], [0]), CODES, COLD, 1, 2)


@given(st.permutations(range(8)), st.integers(0, 10), st.integers(1, 8), st.data())
def test_no_beginning_of_a_list_has_more_cold_items_than_its_share(order, tenths, k, data):
    items = order[: data.draw(st.integers(0, 8))]
    found = joined(items, tenths / 10, k).items[0]
    named = found[found >= 0]
    assert len(set(named.tolist())) == len(named)
    counts = np.cumsum(COLD[named])
    assert (10 * counts <= tenths * np.arange(1, len(named) + 1)).all()
    known = [item for item in items if not COLD[item]]
    assert [item for item in named if not COLD[item]] == known[: len(named) - COLD[named].sum()]
    listed = {tuple(CODES[item]) for item in items}
    assert all(tuple(CODES[item]) in listed for item in named[COLD[named]])


def test_items_that_came_after_training_are_found_by_frozen_codes():
    cold = np.arange(8) >= 5
    later = make_unique(CODES.astype(np.int32), (2, 2, 4), 1, ~cold)
    tokenizer = train_tokenizer([], 300)
    add_tokens(tokenizer, code_tokens(later.sizes))
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = build_model(sizes, tokenizer, seed=0)  # made before the new items are known
    recommender = LanguageModel(model, tokenizer, later.texts, beams=8)
    queries = replace(ask([[0]], [6]), prompts=[later.texts[0]])
    listed = recommender.predict(queries, 8)
    assert sorted(listed.items[0]) == [-1, *range(1, 8)]
    found = join_cold_items(listed, queries, later.prefixes, cold, 0.5, 4).items[0]
    assert cold[found].sum() == 2 and not cold[found[0]]
