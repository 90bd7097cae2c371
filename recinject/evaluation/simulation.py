"""What lists do over time: recommend, let people choose, learn from it, and recommend again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.sparse import csr_array

from recinject.data.schema import Floats, Integers, Interactions
from recinject.data.splitting import Part, Split
from recinject.evaluation.evaluate import fit_recommenders
from recinject.foundation.progress import say
from recinject.foundation.randomness import derive_rng
from recinject.foundation.settings import MOST, Positive, Seed
from recinject.foundation.storage import write_json
from recinject.identifiers.data import Data
from recinject.recommenders.protocol import Recommender, make_recommender

REFERENCES = ("random", "popularity")
_DRAWS = 200


@dataclass(frozen=True)
class SimulationSettings:
    """How people are simulated.

    Attributes:
        rounds: how often everybody gets a list and chooses from it.
        length: the items of a list.
        users: how many users of the log get lists, drawn by the seed.
        popularity: the power of an item's events in the chance that it is chosen; 0 for none.
        seed: of the users, the choices and the fits.
    """

    rounds: Annotated[int, Field(ge=2, le=MOST)] = 5
    length: Positive = 10
    users: Positive = 500
    popularity: Annotated[float, Field(ge=0)] = 0.5
    seed: Seed = 1


@dataclass(frozen=True)
class Round:
    """One measure of one round's lists."""

    recommender: str
    round: int  # from 1
    measure: str
    value: float


@dataclass(frozen=True)
class Slope:
    """How a measure changes a round, with its 95 % interval over users."""

    recommender: str
    measure: str
    reference: str  # whose slope is taken off; empty for the slope itself
    value: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, eq=False)
class Simulation:
    """What came of it: :attr:`rounds` and :attr:`slopes`, as frames."""

    of_rounds: Sequence[Round]
    of_slopes: Sequence[Slope]

    @property
    def rounds(self) -> pd.DataFrame:
        """One row a recommender, round and measure."""
        columns = [each.name for each in fields(Round)]
        return pd.DataFrame([asdict(row) for row in self.of_rounds], columns=columns)

    @property
    def slopes(self) -> pd.DataFrame:
        """One row a recommender, measure and reference."""
        columns = [each.name for each in fields(Slope)]
        return pd.DataFrame([asdict(row) for row in self.of_slopes], columns=columns)

    def save(self, folder: str | Path) -> None:
        """Write ``rounds.json`` and ``slopes.json``."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, rows in (("rounds", self.of_rounds), ("slopes", self.of_slopes)):
            write_json(Path(folder) / f"{name}.json", [asdict(row) for row in rows])


Asked = str | Mapping[str, Mapping[str, Any] | Sequence[Any] | None] | Recommender


def simulate_rounds(
    recommenders: Sequence[Asked], data: Data, settings: SimulationSettings
) -> Simulation:
    """Let each recommender's lists become its own next log, and compare how lists change.

    In each round every chosen user gets a list and takes one item of it, with a chance in
    proportion to 1 / log2(rank + 1) times a power of the item's events: the recommender's own order
    stands for relevance, which no log tells. What was taken joins the log, and the recommender is
    fitted anew; one that reads prompts stays as it is and reads the longer history.
    ``random`` and ``popularity`` are simulated, too, for comparison.
    """
    log = data.split.interactions
    rng = derive_rng(settings.seed, "simulation", "users")
    known = np.flatnonzero(np.diff(log.offsets) > 0)
    users = np.sort(rng.permutation(known)[: settings.users]).astype(np.int32)
    named = [*recommenders, *REFERENCES]
    lists = dict[str, list[Integers]]()
    for asked in named:
        if (name := make_recommender(asked).name) not in lists:
            say(f"  {settings.rounds} rounds of {name}")
            lists[name] = list(_rounds(asked, data, users, settings))
    rows = [
        Round(name, number, measure, float(value[0]))
        for name, own in lists.items()
        for number, items in enumerate(own, 1)
        for measure, value in _measured(items, len(data.catalog), np.ones((1, len(users)))).items()
    ]
    return Simulation(rows, list(_slopes(lists, len(data.catalog), len(users), settings.seed)))


def _rounds(
    asked: Asked, data: Data, users: Integers, settings: SimulationSettings
) -> Iterator[Integers]:
    """Yield each round's lists, (users, length), while the log grows by what is taken."""
    log, name = replace(data.split.interactions, parts=None), make_recommender(asked).name
    for number in range(settings.rounds):
        grown = replace(data, split=Split(log, np.full(len(log), Part.TRAIN, np.int8)))
        recommender = copy(make_recommender(asked))  # one's own stays as it was fitted
        if not recommender.reads_prompts:
            [recommender] = fit_recommenders([recommender], grown, settings.seed)
        past = [log.items_of(int(user)) for user in users]
        items = np.asarray(recommender.predict(recommender.ask(past, users), settings.length).items)
        yield items
        rng = derive_rng(settings.seed, "simulation", name, number)
        counts = np.bincount(log.items, minlength=log.n_items)
        log = _with_events(log, users, choose(items, counts, settings.popularity, rng))


def choose(
    items: Integers, counts: np.ndarray[Any, Any], power: float, rng: np.random.Generator
) -> Integers:
    """Choose an item of each list, -1 of one without items: shape (n,).

    >>> lists, counts = np.array([[0, 1], [-1, -1]]), np.array([0, 10**6])
    >>> choose(lists, counts, 9.0, np.random.default_rng(1)).tolist()
    [1, -1]
    """
    listed = items >= 0
    pull = np.where(listed, (1.0 + counts[np.maximum(items, 0)]) ** power, 0)
    pull = pull / np.log2(np.arange(items.shape[1]) + 2)
    ends = np.cumsum(pull, axis=1)
    drawn = rng.random(len(items))[:, None] * ends[:, -1:]
    columns = (ends <= drawn).sum(1).clip(max=items.shape[1] - 1)
    taken = np.take_along_axis(items, columns[:, None], axis=1)[:, 0]
    return np.where(listed.any(1), taken, -1).astype(np.int32)


def _with_events(log: Interactions, users: Integers, items: Integers) -> Interactions:
    """Add an event at the end of each user's own, where an item was taken."""
    took = items >= 0
    ends = log.offsets[1:][users[took]]
    columns: dict[str, Any] = {
        "users": np.insert(log.users, ends, users[took]),
        "items": np.insert(log.items, ends, items[took]),
    }
    if log.ratings is not None:
        columns["ratings"] = np.insert(log.ratings, ends, np.nan)
    if log.timestamps is not None:
        latest = np.nanmax(log.timestamps) + 1
        columns["timestamps"] = np.insert(log.timestamps, ends, latest)
    return replace(log, **columns)


def _measured(items: Integers, n_items: int, weights: Floats) -> dict[str, Floats]:
    """Return each measure of lists, with users counted by weights, (draws, users): (draws,)."""
    rows, columns = np.nonzero(items >= 0)
    shape = len(items), n_items
    held = csr_array((np.ones(len(rows)), (rows, items[rows, columns])), shape=shape)
    counts = np.asarray(weights @ held)
    places = np.sort(counts, axis=1)
    ranks = 2 * np.arange(1, n_items + 1) - n_items - 1
    gini = places @ ranks / (n_items * np.maximum(1, places.sum(1)))
    sizes: Floats = np.asarray(held.sum(1)).ravel()
    pairs = (weights.sum(1) ** 2 - (weights**2).sum(1)) * items.shape[1]
    common = (counts**2).sum(1) - weights**2 @ sizes
    overlap = np.divide(common, pairs, out=np.zeros(len(pairs)), where=pairs > 0)
    return {"coverage": (counts > 0).mean(1), "gini": gini, "overlap": overlap}


def _slopes(
    lists: Mapping[str, Sequence[Integers]], n_items: int, n_users: int, seed: int
) -> Iterator[Slope]:
    rng = derive_rng(seed, "simulation", "bootstrap")
    drawn = [np.bincount(rng.integers(n_users, size=n_users), minlength=n_users)
             for _ in range(_DRAWS)]  # fmt: skip
    weights = np.stack([np.ones(n_users), *drawn]).astype(np.float64)
    found: dict[tuple[str, str], Floats] = {}
    for name, own in lists.items():
        by_round = [_measured(items, n_items, weights) for items in own]
        for measure in by_round[0]:
            values = np.stack([each[measure] for each in by_round])
            found[name, measure] = np.polyfit(np.arange(len(values)), values, 1)[0]
    for (name, measure), slopes in found.items():
        for reference in ("", *REFERENCES):
            if reference == name:
                continue
            drift = slopes - found[reference, measure] if reference else slopes
            low, high = np.quantile(drift[1:], [0.025, 0.975])
            yield Slope(name, measure, reference, float(drift[0]), float(low), float(high))
