import numpy as np
import pytest

from recinject.data.schema import Interactions
from recinject.recommenders.protocol import Queries

BLOCKS, USERS_A_BLOCK, ITEMS_A_BLOCK = 3, 12, 10


@pytest.fixture(scope="session")
def training() -> Interactions:
    """Each block of users has used 6 of its own 10 items; the last user has used nothing."""
    rng = np.random.default_rng(5)
    n_users = BLOCKS * USERS_A_BLOCK
    blocks = np.arange(n_users) // USERS_A_BLOCK
    items = [rng.permutation(ITEMS_A_BLOCK)[:6] + ITEMS_A_BLOCK * block for block in blocks]
    users = np.repeat(np.arange(n_users), 6)
    return Interactions(
        users=users.astype(np.int32),
        items=np.concatenate(items).astype(np.int32),
        ratings=rng.integers(1, 6, len(users)).astype(np.float64),
        timestamps=None,
        user_ids=[f"u{user}" for user in range(n_users + 1)],
        n_items=BLOCKS * ITEMS_A_BLOCK,
    )


@pytest.fixture(scope="session")
def retrieval(training: Interactions) -> Queries:
    return ask(training, "retrieval")


@pytest.fixture(scope="session")
def ranking(training: Interactions) -> Queries:
    return ask(training, "ranking")


@pytest.fixture(scope="session")
def rating(training: Interactions) -> Queries:
    return ask(training, "rating")


def ask(training: Interactions, task: str) -> Queries:
    rng = np.random.default_rng(6)
    histories = [training.items_of(user) for user in range(training.n_users)]
    unseen = [np.setdiff1d(np.arange(training.n_items), history) for history in histories]
    slates = np.array([rng.permutation(items)[:8] for items in unseen], np.int32)
    n = training.n_users
    return Queries(
        task=task,
        sample_ids=[f"{task}-test-{user}" for user in range(n)],
        prompts=[""] * n,
        users=np.arange(n, dtype=np.int32),
        histories=histories,
        targets=slates[:, 0],
        candidates=rng.permuted(slates, axis=1) if task == "ranking" else None,
        labels=rng.integers(1, 6, n).astype(np.float64) if task == "rating" else None,
        history_ratings=np.split(training.ratings, training.offsets[1:-1]),
    )
