"""A few users, thirty items, and every task ready to give samples of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tokenizers import Tokenizer

from recinject.data.schema import Catalog
from recinject.data.splitting import Split
from recinject.identifiers.data import Data
from recinject.identifiers.table import name_items
from recinject.samples.samples import SampleFactory, SampleSettings, build_samples, make_factory
from recinject.samples.store import Forms
from recinject.samples.tokenizer import load_tokenizer
from recinject.tasks.task import TASKS, Ranking, Task


@pytest.fixture(scope="session")
def tasks() -> list[Task]:
    """Every task, with slates that thirty items allow."""
    return [
        Ranking(negatives=9, train_negatives=4) if n == "ranking" else TASKS[n]() for n in TASKS
    ]


@pytest.fixture(scope="session")
def make(tasks: list[Task]) -> Callable[..., SampleFactory]:
    """Make a factory over a split; whatever is not given is small."""

    def factory(
        split: Split, kind: str = "number", titles: Sequence[str] | None = None, **changes: Any
    ) -> SampleFactory:
        frame = pd.DataFrame(
            {"item_id": [f"i{n}" for n in range(30)], "title": titles or _titles()}
        )
        catalog = Catalog(frame.assign(brand=["Acme", None, "Owl & Co"] * 10))
        data = Data(split, catalog, name_items(kind, catalog, 1))
        prompt, completion = changes.pop("limits", (512, 128))
        limits = {"max_prompt_tokens": prompt, "max_completion_tokens": completion}
        names = {each.name for each in fields(SampleSettings)} & changes.keys()
        own = {"vocab_size": 500} | {name: changes.pop(name) for name in names}
        settings = SampleSettings(**limits, **own)
        return make_factory(data, changes.pop("tasks", tasks), settings, **changes)

    return factory


def _titles() -> list[str]:
    kinds = ["Bear", "Rag Doll", "", "Castle; 900 pieces", "Rag Doll"]
    return [f"{kinds[n % 5]} {'of oak ' * (n % 7)}".strip() for n in range(30)]


@pytest.fixture(scope="session")
def small_split(split_of: Callable[..., Split]) -> Split:
    """Six users; the fourth has too few events for a window, the fifth for a test."""
    starts = [(0, 12), (5, 20), (10, 9), (3, 5), (20, 2), (8, 15)]
    return split_of([[(start + 7 * n) % 30 for n in range(length)] for start, length in starts])


@pytest.fixture(scope="session")
def built(
    make: Callable[..., SampleFactory],
    small_split: Split,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[SampleFactory, Path, list[dict[str, Any]]]:
    """A folder with every sample of every task, what made it, and its rows."""
    folder = tmp_path_factory.mktemp("samples")
    factory = make(small_split, kind="number_title")
    samples = build_samples(factory, folder, Forms(jsonl=True))
    return factory, folder, list(samples.rows)


@pytest.fixture
def t5(shared_data: Path) -> Tokenizer:
    """T5's own tokenizer; tests that need it are skipped where it is absent."""
    file = shared_data / "t5-tokenizer" / "tokenizer.json"
    if not file.is_file():
        pytest.skip(f"no tokenizer at {file}")
    return load_tokenizer(file)
