from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recinject.data.schema import Catalog, Interactions
from recinject.data.splitting import Part, Split, leave_one_out
from recinject.evaluation.metrics import hit_rate, ndcg
from recinject.foundation.errors import RecinjectError
from recinject.recommenders.protocol import Queries, Sources
from recinject.recommenders.sequence import (
    BERT4Rec,
    BinarySASRec,
    ContentSASRec,
    SASRec,
    SelfAttention,
)

KINDS = [SASRec, BinarySASRec, BERT4Rec]
N_ITEMS = 24
QUICK = {"width": 16, "dropout": 0.1, "learning_rate": 0.01, "batch_size": 32, "epochs": 30}


@pytest.fixture(scope="module")
def circle() -> Interactions:
    """Everyone walks around a circle of items, from anywhere; the last item is never met."""
    rng = np.random.default_rng(0)
    walks = [(start + np.arange(rng.integers(2, 7))) % (N_ITEMS - 1)
             for start in rng.integers(N_ITEMS, size=120)]  # fmt: skip
    lengths = [len(walk) for walk in walks]
    return Interactions(
        users=np.repeat(np.arange(120), lengths).astype(np.int32),
        items=np.concatenate(walks).astype(np.int32),
        ratings=None,
        timestamps=None,
        user_ids=[str(user) for user in range(121)],
        n_items=N_ITEMS,
    )


def ask(histories: list[list[int]], targets: list[int]) -> Queries:
    return Queries(
        task="retrieval",
        sample_ids=[str(number) for number in range(len(histories))],
        prompts=[""] * len(histories),
        users=np.arange(len(histories), dtype=np.int32),
        histories=[np.array(history, np.int32) for history in histories],
        targets=np.array(targets, np.int32),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_learns_what_comes_next(kind: type[SelfAttention], circle: Interactions) -> None:
    # Guessing from both sides learns from a fifth of the items only, so it takes longer.
    model = kind(**QUICK | {"epochs": 60 if kind is BERT4Rec else 40}, patience=60)
    model.fit(circle, seed=1)
    steps = list(range(N_ITEMS - 4))
    got = model.predict(ask([[i, i + 1] for i in steps], [i + 2 for i in steps]), 3)
    assert got.ahead is not None and np.mean(got.ahead < 2) > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_a_newcomer_gets_what_is_popular_and_unknown_items_do_no_harm(
    kind: type[SelfAttention], circle: Interactions
) -> None:
    model = kind(**QUICK | {"epochs": 2})
    model.fit(circle, seed=1)
    scores = model.score(ask([[], [N_ITEMS - 1]], [0, 0]), slice(0, 2))
    np.testing.assert_array_equal(scores[0], np.bincount(circle.items, minlength=N_ITEMS))
    assert np.isfinite(scores).all() and np.ptp(scores[1]) > 0


def test_the_seed_decides_everything(circle: Interactions) -> None:
    queries = ask([[1, 2]], [3])

    def scores(seed: int) -> np.ndarray:
        model = SASRec(**QUICK | {"epochs": 3})
        model.fit(circle, seed)
        return model.score(queries, slice(0, 1))

    before = torch.get_rng_state()
    first = scores(1)
    torch.rand(3)
    np.testing.assert_array_equal(first, scores(1))
    assert not np.array_equal(first, scores(2))
    torch.set_rng_state(before)


def test_held_out_events_are_never_learned(circle: Interactions) -> None:
    """Other last events of the users held out change the choice of the epoch and nothing else."""
    lasts = circle.offsets[1:-1][np.diff(circle.offsets)[:-1] >= 3] - 1
    changed = circle.items.copy()
    changed[lasts] = (changed[lasts] + 5) % (N_ITEMS - 1)
    weights = []
    for items in (circle.items, changed):
        model = SASRec(**QUICK | {"epochs": 1}, held_out=1.0)
        model.fit(replace(circle, items=items), seed=1)
        assert model.training_history is not None and model.training_history.epochs == 1
        weights.append(model._module.items.weight)
    assert torch.equal(*weights)


def test_the_epoch_is_chosen_by_ndcg_on_the_held_out(circle: Interactions) -> None:
    model = SASRec(**QUICK, patience=3, held_out=1.0)
    model.fit(circle, seed=1)
    assert model.training_history is not None
    lengths = np.diff(circle.offsets)
    users = np.flatnonzero(lengths >= 3)
    histories = [circle.items_of(user)[:-1] for user in users]
    targets = [circle.items_of(user)[-1] for user in users]
    got = model.predict(ask([list(history) for history in histories], targets), 10)
    assert got.ahead is not None and got.tied is not None
    expected = ndcg(got.ahead, got.tied, 10).mean()
    history = model.training_history
    assert history.values[history.best_epoch - 1] == pytest.approx(expected, abs=1e-4)
    assert max(history.values) == history.values[history.best_epoch - 1]
    assert history.epochs < 30


def test_nothing_to_learn_leaves_popularity() -> None:
    log = Interactions(
        users=np.array([0, 1, 2], np.int32),
        items=np.array([2, 2, 1], np.int32),
        ratings=None,
        timestamps=None,
        user_ids=["a", "b", "c"],
        n_items=4,
    )
    model = SASRec()
    model.fit(log, seed=0)
    assert model.score(ask([[2]], [1]), slice(0, 1)).tolist() == [[0, 1, 2, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SASRec])
def test_reaches_the_published_figures_on_amazon_beauty(
    shared_data: Path, kind: type[SelfAttention]
) -> None:
    table = pd.read_csv(shared_data / "amazon-2014-beauty" / "interactions.tsv.gz", sep="\t")
    table = table.sort_values(["user_id", "position"], kind="stable")
    users, user_ids = pd.factorize(table["user_id"])
    items, item_ids = pd.factorize(table["item_id"])
    split = leave_one_out(
        Interactions(
            users.astype(np.int32), items.astype(np.int32), None, None, list(user_ids),
            len(item_ids),
        )
    )  # fmt: skip
    model = kind()
    model.fit(split.train, seed=1)
    log, tests = split.interactions, np.flatnonzero(split.parts == Part.TEST)
    histories = [log.items_of(user)[:-1].tolist() for user in log.users[tests]]
    queries = ask(histories, log.items[tests].tolist())
    got = model.predict(queries, 10)
    assert got.ahead is not None and got.tied is not None
    assert hit_rate(got.ahead, got.tied, 10).mean() > 0.077
    assert ndcg(got.ahead, got.tied, 10).mean() > 0.045


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_trained_on_windows_as_long_as_what_everybody_reads(
    kind: type[SelfAttention], circle: Interactions
) -> None:
    view = Split(circle, np.zeros(len(circle), np.int8)).view(Part.TRAIN)
    model = kind(**{**QUICK, "epochs": 1})
    model.read(Sources(Catalog(pd.DataFrame()), view, {"retrieval": 3}))
    model.fit(circle, seed=1)
    longest = 3 + int(kind is BERT4Rec)  # for the mask behind the history
    assert model._module is not None and model._module.positions.num_embeddings == longest
    long, short = ask([[1, 5, 6, 7]], [8]), ask([[5, 6, 7]], [8])
    found = [model.predict(asked, 5).items for asked in (long, short)]
    assert [item for item in found[1][0] if item != 1][:3] == [i for i in found[0][0] if i >= 0][:3]


def test_content_starts_items_where_their_texts_point(circle: Interactions) -> None:
    titles = [f"colour{item % 4} shape{item % 4}" for item in range(N_ITEMS)]
    ids = [f"{item:02}" for item in range(N_ITEMS)]
    catalog = Catalog(pd.DataFrame({"item_id": ids, "title": titles}))
    view = Split(circle, np.zeros(len(circle), np.int8)).view(Part.TRAIN)
    tables = {}
    for kind in (SASRec, ContentSASRec):
        model = kind(**QUICK | {"epochs": 1, "learning_rate": 1e-9})
        model.read(Sources(catalog, view, {}))
        model.fit(circle, seed=1)
        assert model._module is not None
        tables[kind] = model._module.items.weight[:N_ITEMS].detach().numpy()
    lengths = np.linalg.norm(tables[ContentSASRec], axis=1)
    cosines = tables[ContentSASRec] @ tables[ContentSASRec].T / np.outer(lengths, lengths)
    alike = np.equal.outer(np.arange(N_ITEMS) % 4, np.arange(N_ITEMS) % 4)
    assert cosines[alike].min() > 0.99 and cosines[~alike].max() < 0.5
    # What differs is where rows point, not how long they are.
    usual = np.linalg.norm(tables[SASRec], axis=1).mean()
    assert lengths == pytest.approx(usual, rel=0.1)


def test_a_content_start_without_texts_is_refused(circle: Interactions) -> None:
    with pytest.raises(RecinjectError, match="start=content cannot be had here"):
        ContentSASRec(**QUICK).fit(circle, seed=1)
