"""Prepare: the log read, cleaned and split, and its items named."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from recinject.data.cleaning import CleaningStep, clean
from recinject.data.readers import read_log
from recinject.data.schema import Catalog, Log
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part, Split, split_by, time_facts
from recinject.data.store import save_split
from recinject.foundation.storage import hash_files
from recinject.identifiers.table import name_items
from recinject.pipeline.run import Facts, Run
from recinject.recipe import Recipe


def prepare(run: Run) -> None:
    """Make the folders ``data`` and ``identifiers``."""
    data, identifiers = run.recipe.data, run.recipe.identifiers
    files = [path for path in (data.path, data.items) if path is not None and path.exists()]
    inputs = {str(path): hash_files(path) for path in files}
    run.stage("data", data.model_dump(), inputs).run(lambda folder: _data(run, folder))
    inputs = run.fingerprints("data")
    run.stage("identifiers", identifiers.model_dump(), inputs).run(
        lambda folder: _identifiers(run, folder)
    )


def read_data(recipe: Recipe) -> Log:
    """Read the log that a recipe names, or simulate one."""
    data = recipe.data
    if data.path is None:
        return simulate_shop(**data.simulator.model_dump(), seed=recipe.seed)
    return read_log(data.path, columns=data.columns, items=data.items, format=data.format)


def split_data(recipe: Recipe) -> tuple[Split, Catalog, str, list[CleaningStep]]:
    """Read, clean and split the log; return also where it came from and what cleaning did."""
    log, steps = clean(read_data(recipe), k_core=recipe.data.k_core)
    return split_by(recipe.data.split, log.interactions), log.catalog, log.source, steps


def _data(run: Run, folder: Path) -> Facts:
    split, catalog, source, steps = split_data(run.recipe)
    save_split(folder, split, catalog)
    counts = {part.label: int((split.parts == part).sum()) for part in Part}
    cleaning = [asdict(step) for step in steps]
    return {"source": source, "cleaning": cleaning, **counts, **time_facts(split)}


def _identifiers(run: Run, folder: Path) -> Facts:
    catalog = run.split[1]
    named = name_items(run.recipe.identifiers.kind, catalog, run.recipe.seed)
    named.save(folder, catalog)
    return {"items": len(catalog), "duplicates_resolved": named.duplicates_resolved}
