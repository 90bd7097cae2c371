"""Prepare: the log read, cleaned and split, and its items named."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from recinject.data.cleaning import CleaningStep, clean
from recinject.data.files import require_path
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
from recinject.foundation.progress import say
from recinject.foundation.storage import hash_files
from recinject.identifiers.content import FILES
from recinject.identifiers.table import Identifiers, name_items
from recinject.methods.semantic_ids.semantic import CONTENT, Semantic, make_semantic
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
    """Hash the user's own vectors, where items are named by them."""
    path = Path(section.semantic.content)
    if section.kind != "semantic" or path.suffix not in FILES:
        return {}
    require_path(path, "identifiers.semantic.content")
    return {str(path): hash_files(path)}


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
    recipe: Recipe, split: Split, catalog: Catalog, semantic: Semantic | None = None
) -> Identifiers:
    """Name every item of a catalogue as a recipe asks; codes are made unless they are given."""
    section = recipe.identifiers
    semantic = semantic or semantic_of(recipe, split, catalog)
    return name_items(
        section.kind,
        catalog,
        recipe.seed,
        split,
        clusters=section.clusters,
        leaf_items=section.leaf_items,
        codes=semantic.codes if semantic else None,
    )


def semantic_of(
    recipe: Recipe, split: Split, catalog: Catalog, folder: Path | None = None
) -> Semantic | None:
    """Make the codes of the items' content, learnt from those with training events.

    Args:
        recipe: the recipe; None is returned where its identifiers are no codes of content.
        split: the log's events.
        catalog: the items.
        folder: where embeddings are kept, and taken from where they are there already.
    """
    if recipe.identifiers.kind != "semantic":
        return None
    known = np.bincount(split.train.items, minlength=len(catalog)) > 0
    return make_semantic(recipe.identifiers.semantic, catalog, known, recipe.seed, folder)


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
    kept = run.folder("identifiers") / CONTENT
    if run.recipe.identifiers.kind == "semantic" and kept.is_file():
        shutil.copy(kept, folder)
    semantic = semantic_of(run.recipe, split, catalog, folder)
    named = name_all(run.recipe, split, catalog, semantic)
    named.save(folder, catalog)
    facts: Facts = {"items": len(catalog), "duplicates_resolved": named.duplicates_resolved}
    if semantic is not None:
        semantic.save(folder, catalog)
        facts["quality"] = semantic.quality
    return facts
