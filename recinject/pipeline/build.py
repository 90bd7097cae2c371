"""Build: every sample of every task, on disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import recinject
from recinject.foundation.progress import say
from recinject.foundation.storage import hash_files, hash_value, shipped_folder
from recinject.pipeline.facts import data_facts, sample_rows
from recinject.pipeline.prepare import prepare
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import (
    Facts,
    Run,
    dialect_of,
    factory_of,
    given_tokenizer,
    hash_local,
)
from recinject.reporting.cards import dataset_card
from recinject.samples.build import build_samples
from recinject.samples.store import Forms
from recinject.templating.library import load_templates


def build(run: Run) -> None:
    """Make the folder ``samples``, and before it what it needs."""
    recipe, own = run.recipe, run.recipe.samples
    # Loaded only to be checked: a mistake in a template should not wait for the log to be read.
    for task in recipe.tasks():
        load_templates(task.name, task.slots, own.prompts, own.phrases)
    prepare(run)
    settings = recipe.samples.model_dump(mode="json", exclude={"workers", "tasks"})
    settings |= {
        "tasks": {task.name: asdict(task) for task in recipe.tasks()},
        "tokenizer": recipe.model.tokenizer or recipe.model.name or recipe.model.vocab_size,
        "dialect": dialect_of(recipe),
    }
    inputs = {**run.fingerprints("data", "identifiers"), "prompts": _hash_prompts(recipe)}
    inputs |= hash_local(recipe.model.tokenizer or recipe.model.name, weights=False)
    run.stage("samples", settings, inputs).run(lambda folder: _samples(run, folder), resume=True)


def _hash_prompts(recipe: Recipe) -> str:
    own = recipe.samples.prompts
    folders = [shipped_folder("prompts"), *([own] if own else [])]
    names = [f"{task.name}{kind}" for task in recipe.tasks() for kind in (".yaml", ".py")]
    files = [folder / name for folder in folders for name in sorted(names)]
    return hash_value([hash_files(file) for file in files if file.is_file()])


def _samples(run: Run, folder: Path) -> Facts:
    recipe, samples = run.recipe, run.recipe.samples
    factory = factory_of(recipe, *run.split, run.identifiers, given_tokenizer(recipe))
    forms = Forms(tokens=samples.tokens, jsonl=samples.jsonl)
    rows = build_samples(factory, folder, forms, workers=samples.workers)
    trained = [row["samples"] for row in rows if row["split"] == "train"]
    say(f"  {sum(trained):,} training samples of {len(trained)} tasks")
    versions = {task: wording.templates.version for task, wording in factory.wordings.items()}
    card = dataset_card(
        recipe.name,
        data=data_facts(run),
        samples=sample_rows(rows),
        prompt_versions=versions,
        command=run.command,
        version=recinject.__version__,
        seed=recipe.seed,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return {"rows": rows, "prompt_versions": versions}
