"""Distillation: what a filter expects next becomes soft labels of the language model."""

from __future__ import annotations

import numpy as np
import torch

from recinject.data.schema import Integers
from recinject.data.splitting import Part, View
from recinject.evaluation.evaluate import fit_recommenders
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.identifiers.data import Data
from recinject.pipeline.sections import DistilSection
from recinject.recommenders.protocol import ItemScorer, Queries, make_recommender
from recinject.samples.samples import Samples
from recinject.samples.store import read_samples
from recinject.training.trainer import SoftLabels

_LEAST = 1e-9


def find_soft_labels(
    section: DistilSection, samples: Samples, seed: int
) -> tuple[SoftLabels, dict[str, Integers]]:
    """Fit the teacher and ask it for what follows every history of the training view.

    Returns:
        The soft labels of every training target, and the place of each training sample's first
        target among these, by task, for tasks whose labels are items alone.

    Raises:
        RecinjectError: the teacher scores no items, or no task asks for tokens of items alone.
    """
    factory = samples.factory
    data, view = factory.data, factory.data.split.view(Part.TRAIN)
    names = samples.open_tasks
    if not names:
        raise RecinjectError(
            "training.distil: no task asks for the next item by a token of its own",
            hint="set identifiers.kind=token, and samples.tasks.retrieval or .sequence",
        )
    targets = view.event_numbers[view.targets.values]
    places = {
        name: np.searchsorted(targets, _events(samples, name)).astype(np.int32) for name in names
    }
    items, scores = _expected(section, data, view, seed)
    ids = np.array(samples.item_tokens, np.int32)
    shares = soft_shares(np.where(items < 0, -np.inf, scores), section.temperature)
    tokens = torch.from_numpy(ids[np.maximum(items, 0)])
    return SoftLabels(tokens, torch.from_numpy(shares), section.weight), places


def _events(samples: Samples, task: str) -> Integers:
    """Return the log's number of the event that each training sample asks for first."""
    table = read_samples(samples.folder, task, Part.TRAIN.label)
    numbers: Integers = table["event"].to_numpy()
    return numbers


def _expected(
    section: DistilSection, data: Data, view: View, seed: int
) -> tuple[Integers, np.ndarray]:
    """Return the teacher's first items after the history of each target, and their scores."""
    made = make_recommender(section.teacher)
    if not isinstance(made, ItemScorer):
        raise RecinjectError(
            f"training.distil.from: {made.name} does not score every item",
            hint="name one that does, such as ease, sasrec, markov_chain or item_knn",
        )
    [teacher] = fit_recommenders([made], data, seed)
    events, log = view.targets.values, view.interactions
    say(f"  {teacher.name} tells what it expects at {len(events):,} training events")
    past = view.histories(events)
    items = log.items[past.values]
    queries = Queries(
        task="retrieval",
        sample_ids=[str(event) for event in events],
        prompts=[""] * len(events),
        users=log.users[events],
        histories=np.split(items, past.offsets[1:-1])[: len(events)],
        targets=log.items[events],
    )
    found = teacher.predict(queries, min(section.top, len(data.catalog)))
    return np.asarray(found.items), np.asarray(found.scores)


def soft_shares(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Turn the scores of lists, -inf where there is no item, into shares that sum to 1.

    >>> soft_shares(np.array([[3.0, 1.0, -np.inf]]), 1.0).astype(float).round(2).tolist()
    [[0.88, 0.12, 0.0]]
    """
    known = np.isfinite(scores)
    counts = np.maximum(known.sum(1, keepdims=True), 1)
    values = np.where(known, scores, 0)
    mean = values.sum(1, keepdims=True) / counts
    spread = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(1, keepdims=True) / counts)
    heights = np.where(known, (values - mean) / np.maximum(spread, _LEAST) / temperature, -np.inf)
    weights = np.exp(heights - heights.max(1, keepdims=True, initial=-1e9))
    return np.asarray(weights / np.maximum(weights.sum(1, keepdims=True), _LEAST), np.float32)
