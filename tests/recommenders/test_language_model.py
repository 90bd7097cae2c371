import numpy as np
import pytest
import torch

from recinject.decoding.candidates import pad_sequences, score_candidates
from recinject.foundation.errors import RecinjectError
from recinject.models.building import build_t5
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Queries
from recinject.samples.tokenizer import train_tokenizer

TITLES = [f"{color} {thing}" for color in ("red", "blue", "pink") for thing in ("car", "doll")]
PROMPTS = ["what next ?", "she had a red car and a blue doll , what next ?", "pink", "car " * 40]
TOKENIZER = train_tokenizer(TITLES + PROMPTS + ["1 2 3"], 300)
HISTORIES = [np.array(h, np.int32) for h in ([0], [0, 3], [4, 5, 1], [2])]
RATINGS = {"1": 1.0, "2": 2.0, "3": 3.0}


@pytest.fixture(scope="module")
def model():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return build_t5(sizes, TOKENIZER, seed=0)


def queries(task, **columns):
    return Queries(
        task=task,
        sample_ids=[f"{task}/{row}" for row in range(4)],
        prompts=PROMPTS,
        users=np.arange(4, dtype=np.int32),
        histories=HISTORIES,
        targets=np.array([1, 2, 3, 2], np.int32),
        **columns,
    )


def scores_by_hand(model, sequences, limit=512):
    """One prompt at a time, no batches and no sorting."""
    rows = []
    for prompt in PROMPTS:
        ids = TOKENIZER.encode(prompt).ids
        ids = torch.tensor([ids if len(ids) <= limit else [*ids[: limit - 1], 1]])
        rows.append(score_candidates(model.eval(), ids, torch.ones_like(ids), sequences)[0])
    return np.array(rows)


def names():
    return pad_sequences([TOKENIZER.encode(title).ids for title in TITLES])


@pytest.mark.parametrize("rows_at_once", [1, 12, 640])
def test_retrieval_lists_the_likeliest_items_without_the_history(model, rows_at_once):
    recommender = LanguageModel(model, TOKENIZER, TITLES, beams=6, rows_at_once=rows_at_once)
    prediction = recommender.predict(queries("retrieval"), k=3)
    truth = scores_by_hand(model, names())
    for row, history in enumerate(HISTORIES):
        truth[row, history] = -np.inf
    order = np.argsort(-truth, axis=1)
    np.testing.assert_array_equal(prediction.items, order[:, :3])
    np.testing.assert_allclose(prediction.scores, -np.sort(-truth)[:, :3], atol=1e-4)
    place = np.argmax(order == np.array([1, 2, 3, 2])[:, None], axis=1).astype(float)
    place[3] = np.inf  # this target is in the history, so never listed
    np.testing.assert_array_equal(prediction.ahead, place)
    np.testing.assert_array_equal(prediction.tied, 1)


def test_a_target_beyond_the_list_is_infinitely_far(model):
    prediction = LanguageModel(model, TOKENIZER, TITLES, beams=1).predict(queries("retrieval"), 1)
    listed = prediction.items[:, 0] == [1, 2, 3, 2]
    np.testing.assert_array_equal(prediction.ahead, np.where(listed, 0, np.inf))


def test_ranking_orders_the_candidates(model):
    candidates = np.array([[5, 1, 0], [2, 3, 4], [0, 5, 3], [4, 2, 1]], np.int32)
    recommender = LanguageModel(model, TOKENIZER, TITLES, max_prompt_tokens=8)
    prediction = recommender.predict(queries("ranking", candidates=candidates), k=2)
    truth = np.take_along_axis(scores_by_hand(model, names(), limit=8), candidates, 1)
    order = np.argsort(-truth, axis=1)
    np.testing.assert_array_equal(
        prediction.items, np.take_along_axis(candidates, order[:, :2], axis=1)
    )
    own = truth[candidates == np.array([1, 2, 3, 2])[:, None]]
    np.testing.assert_array_equal(prediction.ahead, (truth > own[:, None]).sum(1))


def test_equal_candidates_are_tied(model):
    candidates = np.array([[1, 1, 0], [2, 2, 4], [3, 3, 0], [2, 4, 2]], np.int32)
    prediction = LanguageModel(model, TOKENIZER, TITLES).predict(
        queries("ranking", candidates=candidates), k=3
    )
    np.testing.assert_array_equal(prediction.tied, 2)


@pytest.mark.parametrize(
    "labels", [RATINGS, {"1": 1.0, "2 stars": 2.0}], ids=["one token", "several tokens"]
)
def test_a_rating_is_the_mean_of_the_labels_by_likelihood(model, labels):
    prediction = LanguageModel(model, TOKENIZER, TITLES, labels).predict(queries("rating"), 1)
    ends = labels is not RATINGS
    tokens = [TOKENIZER.encode(text, add_special_tokens=ends).ids for text in labels]
    odds = np.exp(scores_by_hand(model, pad_sequences(tokens)))
    expected = odds @ np.array(list(labels.values())) / odds.sum(1)
    np.testing.assert_allclose(prediction.ratings, expected, atol=1e-4)


def test_the_model_is_left_in_the_mode_it_was_in(model):
    model.train()
    recommender = LanguageModel(model, TOKENIZER, TITLES)
    first = recommender.predict(queries("retrieval"), 2)
    assert model.training
    np.testing.assert_array_equal(recommender.predict(queries("retrieval"), 2).items, first.items)


def test_items_that_share_a_name_are_refused(model):
    with pytest.raises(RecinjectError, match="items 1 and 2 have the same tokens"):
        LanguageModel(model, TOKENIZER, ["red car", "blue doll", "blue  doll"])


def test_ratings_need_labels(model):
    with pytest.raises(RecinjectError, match="no rating labels"):
        LanguageModel(model, TOKENIZER, TITLES).predict(queries("rating"), 1)
