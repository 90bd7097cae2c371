"""Prepare and build: the log read, cleaned and split, its items named, its samples on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

import recinject
from recinject.data.cleaning import CleaningStep
from recinject.data.files import require_path
from recinject.data.readers import Places, hash_log, read_log
from recinject.data.schema import Catalog, Log, save_users
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part, Split, load_split, save_split, time_facts
from recinject.data.tables import ReadSettings
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.foundation.storage import RunManifest, hash_files, hash_value, shipped_folder
from recinject.identifiers.data import ACTIVITY, Data, split_log, users_of
from recinject.identifiers.table import Identifiers, identifiers_class, name_items
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import Facts, Run, Stage, hash_local
from recinject.pipeline.sections import DataSection, IdentifiersSection
from recinject.samples.samples import SampleFactory, SampleSettings, build_samples, make_factory
from recinject.samples.store import Forms
from recinject.samples.tokenizer import load_tokenizer, unpadded
from recinject.templating.language import load_templates

_GGUF = ".gguf"


def prepare(run: Run) -> None:
    """Make the folders ``data`` and ``identifiers``."""
    data, identifiers = run.recipe.data, run.recipe.identifiers
    inputs = _hash_log(data) if run.log is None else {"log": run.log.fingerprint}
    before = _stored(run)
    if before is not None and "log" in before.inputs and "log" not in inputs:
        raise RecinjectError(
            f"{run.recipe.folder}: its log was given from Python, and is not stored",
            hint="give it again, recinject.run(recipe, log), or choose another name=",
        )
    run.stage("data", run.resolved.data.model_dump(), inputs).run(partial(_data, run))
    run.save_recipe()
    inputs = {**run.fingerprints("data"), **_hash_content(identifiers)}
    own = run.resolved.identifiers.model_dump(exclude={"start"})
    run.stage("identifiers", own, inputs).run(partial(_identifiers, run))
    asked = run.recipe.evaluation
    # A name that the log has not should not wait for a model to be trained.
    if asked.provider is not None or asked.groups != [ACTIVITY]:
        run.data.refuse_unknown(asked.groups, asked.provider)


def _stored(run: Run) -> RunManifest | None:
    try:
        return RunManifest.read(run.folder("data"))
    except RecinjectError as damage:
        if run.log is not None or run.recipe.data.path is not None:
            return None
        # A log from Python must not be replaced by a simulated one.
        hint = f"remove {run.folder('data')}; a log that came from Python must be given again"
        raise RecinjectError(damage.message, hint=hint) from damage


def build(run: Run) -> None:
    """Make the folder ``samples``, and before it what it needs."""
    section = run.recipe.samples
    # Loaded only to be checked: a mistake in a template should not wait for the log to be read.
    for task in run.recipe.tasks():
        load_templates(task.name, task.slots, section.prompts, section.phrases)
    prepare(run)
    samples_stage(run).run(partial(write_stage_samples, run), resume=True)


def samples_stage(run: Run) -> Stage:
    """Return the stage ``samples`` of a run that was prepared."""
    recipe = run.recipe
    source = run.resolved.model.tokenizer or run.resolved.model.name
    settings = run.resolved.samples.model_dump(mode="json", exclude={"workers", "tasks"})
    settings |= {
        "tasks": {task.name: asdict(task) for task in recipe.tasks()},
        "tokenizer": source or recipe.model.vocab_size,
        "dialect": dialect_of(recipe.model.name, recipe.model.config),
    }
    inputs = {**run.fingerprints("data", "identifiers"), "prompts": _hash_prompts(recipe)}
    inputs |= hash_local(source, weights=False)
    return run.stage("samples", settings, inputs)


def read_data(run: Run) -> Log:
    """Read the log that a recipe names, or simulate one; one that was given is taken as it is."""
    data = run.recipe.data
    if run.log is not None:
        return run.log
    if data.path is None:
        return simulate_shop(**data.simulator.model_dump(), seed=run.recipe.seed)
    return read_log(cast(Places, data.path), **reading_settings(data))


def reading_settings(data: DataSection) -> dict[str, Any]:
    """Return what of a recipe's section says how :func:`read_log` reads, as it takes it."""
    own = {name: getattr(data, name) for name in ("items", "format", "split")}
    return own | {name: getattr(data, name) for name in ReadSettings.model_fields}


def split_data(run: Run) -> tuple[Split, Catalog, Log, list[CleaningStep]]:
    """Read, clean and split the log; return also the log as read and what cleaning did."""
    log = read_data(run)
    left_out = {"path", "items", "format", "simulator", *ReadSettings.model_fields}
    settings = run.recipe.data.model_dump(exclude=left_out)
    split, catalog, steps = split_log(log, **settings, seed=run.recipe.seed)
    return split, catalog, log, steps


def fresh_data(run: Run) -> Data:
    """Read, clean and split the log and name its items, whatever is stored."""
    split, catalog, log, steps = split_data(run)
    named = _name_items(run.recipe, split, catalog)
    known = users_of(log, split)
    return Data(split, catalog, named, log.source, steps, findings=log.findings, users=known)


def factory_of(recipe: Recipe, data: Data) -> SampleFactory:
    """Get every task of a recipe ready to give samples."""
    section, model = recipe.samples, recipe.model
    own = section.model_dump(exclude={"tasks", "workers", "tokens", "jsonl"})
    settings = SampleSettings(**own, vocab_size=model.vocab_size, seed=recipe.seed)
    tokenizer = given_tokenizer(model.tokenizer or model.name)
    dialect = dialect_of(model.name, model.config)
    return make_factory(data, recipe.tasks(), settings, tokenizer, **dialect)


def given_tokenizer(source: str | None) -> Tokenizer | None:
    """Load the tokenizer of a folder, a file, a hub's name or a GGUF file; None without any."""
    if source is not None and source.endswith(_GGUF):
        from recinject.models.building import read_gguf  # with it comes torch

        return unpadded(Tokenizer.from_str(read_gguf(source)[1].to_str()))
    return None if source is None else load_tokenizer(source)


def dialect_of(name: str | None, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return ``causal`` and ``ends`` of :meth:`~recinject.samples.encoding.Dialect.of_model`.

    Args:
        name: a folder, a hub's name or a GGUF file; None if the model is built from ``config``.

    Raises:
        RecinjectError: the model is neither here nor to be had, or has no config.
    """
    if name is None and "model_type" not in (config or {}):
        return {"causal": False, "ends": None}
    from recinject.models.building import is_causal, stated_config  # with it comes torch

    if name is None:
        return {"causal": is_causal(config or {}), "ends": None}
    stated = stated_config(name)
    causal = not stated.get("is_encoder_decoder", False)
    return {"causal": causal, "ends": stated.get("eos_token_id") if causal else None}


def _hash_log(data: DataSection) -> dict[str, str]:
    """Hash the very files that the log will be read from, an item table found beside it too."""
    if data.path is None:
        return {}
    return hash_log(cast(Places, data.path), data.items, data.users, data.format, data.split)


def _hash_content(section: IdentifiersSection) -> dict[str, str]:
    """Hash the user's files that the identifiers are made of."""
    files = identifiers_class(section.kind).input_files(section.arguments)
    for file in files:
        require_path(file, "identifiers")
    return {str(file.absolute()): hash_files(file) for file in files}


def _hash_prompts(recipe: Recipe) -> str:
    own = recipe.samples.prompts
    folders = [shipped_folder("prompts"), *([own] if own else [])]
    names = [f"{task.name}{kind}" for task in recipe.tasks() for kind in (".yaml", ".py")]
    files = [folder / name for folder in folders for name in sorted(names)]
    return hash_value([hash_files(file) for file in files if file.is_file()])


def _name_items(
    recipe: Recipe, split: Split, catalog: Catalog, earlier: Path | None = None
) -> Identifiers:
    kind, settings = recipe.identifiers.kind, recipe.identifiers.arguments
    return name_items(kind, catalog, recipe.seed, split, earlier=earlier, **settings)


def _data(run: Run, folder: Path) -> Facts:
    split, catalog, log, steps = split_data(run)
    save_split(folder, split, catalog)
    save_users(folder, users_of(log, split))
    counts = {part.label: int((split.parts == part).sum()) for part in Part}
    cleaning = [asdict(step) for step in steps]
    first, last = steps[0], steps[-1]
    for finding in log.findings:
        if finding.level != "note":
            say(f"  {finding.level}: {finding}")
    say(f"  {log.source}: {first.events:,} events")
    say(f"  cleaned: {last.users:,} users, {last.items:,} items, {last.events:,} events")
    findings = [asdict(finding) for finding in log.findings]
    about = {"source": log.source, "cleaning": cleaning, "findings": findings}
    return {**about, "order": split.order, **counts, **time_facts(split)}


def _identifiers(run: Run, folder: Path) -> Facts:
    split, catalog = load_split(run.folder("data"))
    named = _name_items(run.recipe, split, catalog, run.folder("identifiers"))
    named.save(folder, catalog)
    facts: Facts = {"items": len(catalog), "duplicates_resolved": named.duplicates_resolved}
    return facts | ({"quality": quality} if (quality := named.describe()) else {})


def write_stage_samples(run: Run, folder: Path) -> Facts:
    """Write whatever shards are not there yet, and what stands beside them."""
    from recinject.pipeline.facts import data_facts, sample_rows
    from recinject.reporting.report import dataset_card

    recipe, section = run.recipe, run.recipe.samples
    factory = factory_of(recipe, run.data)
    forms = Forms(tokens=section.tokens, jsonl=section.jsonl)
    samples = build_samples(factory, folder, forms, engine=run.engine(section.workers))
    trained = samples.sizes
    say(f"  {sum(trained.values()):,} training samples of {len(trained)} tasks")
    versions = {task: wording.templates.version for task, wording in factory.wordings.items()}
    card = dataset_card(
        recipe.name,
        data=data_facts(run),
        samples=sample_rows(samples.rows),
        prompt_versions=versions,
        command=run.command,
        version=recinject.__version__,
        seed=recipe.seed,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return {"rows": list(samples.rows), "prompt_versions": versions}
