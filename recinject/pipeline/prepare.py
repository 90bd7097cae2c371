"""Prepare: the log read, cleaned and split, and its items named."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from recinject.data.cleaning import CleaningStep, clean
from recinject.data.formats import find_files
from recinject.data.readers import read_log
from recinject.data.schema import Catalog, Log
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import (
    Part,
    Split,
    learn_from,
    order_ties,
    save_split,
    split_by,
    time_facts,
    without_validation,
)
from recinject.data.table_reader import require_path
from recinject.foundation.progress import say
from recinject.foundation.storage import hash_files
from recinject.identifiers.table import Identifiers, identifiers_class, name_items
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import Facts, Run
from recinject.pipeline.sections import DataSection, IdentifiersSection


def prepare(run: Run) -> None:
    """Make the folders ``data`` and ``identifiers``."""
    data, identifiers = run.recipe.data, run.recipe.identifiers
    inputs = _hash_log(data)
    run.stage("data", data.model_dump(), inputs).run(lambda folder: _data(run, folder))
    inputs = {**run.fingerprints("data"), **_hash_content(identifiers)}
    run.stage("identifiers", identifiers.model_dump(), inputs).run(
        lambda folder: _identifiers(run, folder)
    )


def _hash_log(data: DataSection) -> dict[str, str]:
    """Hash the very files that the log will be read from, an item table found beside it too."""
    if data.path is None:
        return {}
    require_path(data.path, "data.path")
    _, *files = find_files(data.path, data.format, data.items)
    return {str(file): hash_files(file) for file in files if file is not None}


def _hash_content(section: IdentifiersSection) -> dict[str, str]:
    """Hash the user's files that the identifiers are made of."""
    files = identifiers_class(section.kind).input_files(section.arguments)
    for file in files:
        require_path(file, "identifiers")
    return {str(file): hash_files(file) for file in files}


def read_data(recipe: Recipe) -> Log:
    """Read the log that a recipe names, or simulate one."""
    data = recipe.data
    if data.path is None:
        return simulate_shop(**data.simulator.model_dump(), seed=recipe.seed)
    return read_log(data.path, columns=data.columns, items=data.items, format=data.format)


def split_data(recipe: Recipe) -> tuple[Split, Catalog, str, list[CleaningStep]]:
    """Read, clean and split the log; return also where it came from and what cleaning did."""
    data, log = recipe.data, read_data(recipe)
    if data.ties == "hash":
        log = order_ties(log, recipe.seed)
    log, steps = clean(log, k_core=data.k_core)
    split = split_by(data.split, log.interactions, data.test_share, recipe.seed)
    if not data.validation:
        split = without_validation(split)
    if data.train_share < 1:
        split = learn_from(split, data.train_share, recipe.seed)
    return split, log.catalog, log.source, steps


def name_all(
    recipe: Recipe, split: Split, catalog: Catalog, earlier: Path | None = None
) -> Identifiers:
    """Name every item of a catalogue as a recipe asks; see :func:`name_items` for ``earlier``."""
    section = recipe.identifiers
    return name_items(
        section.kind, catalog, recipe.seed, split, earlier=earlier, **section.arguments
    )


def _data(run: Run, folder: Path) -> Facts:
    split, catalog, source, steps = split_data(run.recipe)
    save_split(folder, split, catalog)
    counts = {part.label: int((split.parts == part).sum()) for part in Part}
    cleaning = [asdict(step) for step in steps]
    first, last = steps[0], steps[-1]
    say(f"  {source}: {first.events:,} events")
    say(f"  cleaned: {last.users:,} users, {last.items:,} items, {last.events:,} events")
    return {"source": source, "cleaning": cleaning, **counts, **time_facts(split)}


def _identifiers(run: Run, folder: Path) -> Facts:
    split, catalog = run.split
    named = name_all(run.recipe, split, catalog, run.folder("identifiers"))
    named.save(folder, catalog)
    facts: Facts = {"items": len(catalog), "duplicates_resolved": named.duplicates_resolved}
    return facts | ({"quality": quality} if (quality := named.describe()) else {})
