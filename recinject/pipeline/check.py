"""Check, preview and view identifiers: what a run would do or did, without writing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Column, Table
from rich.tree import Tree

from recinject.foundation.errors import RecinjectError, pick
from recinject.foundation.progress import cell
from recinject.pipeline.prepare import factory_of, fresh_data, given_tokenizer
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import Run
from recinject.pipeline.sections import TrainingSection
from recinject.registry import names
from recinject.samples.builder import Sample
from recinject.samples.tokenizer import encode, train_tokenizer

if TYPE_CHECKING:
    from recinject.reporting.result import CodeGroup


def check_settings(recipe: Recipe) -> None:
    """Bind every setting to what it is for, so that no mistake waits for the last stage.

    Raises:
        RecinjectError: a setting is unknown, of the wrong kind, or cannot be met here.
    """
    # With these comes torch, which a preview can do without.
    from recinject.evaluation.harm import asked_measures
    from recinject.models.building import check_generation
    from recinject.pipeline.model import base_model, check_adapted
    from recinject.pipeline.sweep import plan
    from recinject.recommenders.protocol import make_recommender
    from recinject.training.arguments import check_training_settings
    from recinject.training.optimizers import check_optimizer, choose_optimizer

    if recipe.sweep is not None:
        for member in {each.arm: each for each in plan(recipe)}.values():
            check_settings(member.run.recipe)
    pick(recipe.data.split, names("split"), "data.split: unknown")
    for asked in recipe.evaluation.baselines:
        make_recommender(asked)
    asked_measures(recipe.evaluation.harm)
    _check_writable(recipe)
    check_generation(recipe.generation)
    if recipe.training is not None:
        check_training_settings(recipe.training.arguments)
        choose_optimizer(recipe.training.optimizer, 0.0, recipe.training.optimizer_settings)
        if recipe.training.distil is not None:
            make_recommender(recipe.training.distil.teacher)
        _check_mixture(recipe.training, [task.name for task in recipe.tasks()])
    source = recipe.model.tokenizer or recipe.model.name
    tokenizer = given_tokenizer(source) or train_tokenizer([], recipe.model.vocab_size)
    if not recipe.has_model:
        return
    model = check_adapted(recipe, base_model(recipe, tokenizer))
    if recipe.training is not None:
        check_optimizer(recipe.training.optimizer, recipe.training.optimizer_settings, model)


def _check_mixture(training: TrainingSection, tasks: Sequence[str]) -> None:
    named = {"training.mixture": list(training.mixture)}
    for number, phase in enumerate(training.curriculum, 1):
        named[f"training.curriculum, phase {number}"] = [*phase.tasks, *phase.mixture]
    for place, given in named.items():
        for task in given:
            pick(task, tasks, f"{place}: the run has no task")


def _check_writable(recipe: Recipe) -> None:
    nearest = next(
        folder for folder in (recipe.folder, *recipe.folder.absolute().parents) if folder.exists()
    )
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise RecinjectError(
            f"{recipe.folder}: {nearest} cannot be written to",
            hint="choose another place with runs=FOLDER, or mend the permissions",
        )


def check_run(run: Run) -> Iterator[str]:
    """Check the settings, read the log and render every template; say what was found.

    Raises:
        RecinjectError: see :func:`check_settings`; or the log or a template is at fault. Of a
            log's file everything that is wrong is said at once.
    """
    from recinject.models.building import count_parameters
    from recinject.pipeline.model import base_model

    check_settings(run.recipe)
    yield "settings: every key is bound"
    recipe = run.recipe
    data = fresh_data(run)
    for finding in data.findings:
        if finding.level != "note":
            yield f"log, {finding.level}: {finding}"
    for step in data.cleaning:
        counts = f"{step.users:,} users, {step.items:,} items, {step.events:,} events"
        yield f"log, {step.name}: {counts} ({step.detail})"
    log = data.split.interactions
    yield f"log: {log.n_users:,} users, {log.n_items:,} items, {len(log):,} events"
    factory = factory_of(recipe, data)
    for builder in factory.builders():
        if not len(builder):
            yield f"{builder.task.name} ({builder.split}): no sample"
            continue
        contexts = builder.batch(np.arange(1)).contexts
        for template in builder.wording.bound:
            template.write(contexts)
        yield f"{builder.task.name} ({builder.split}): {len(builder):,} samples"
    if not recipe.has_model:
        yield "model: none, the baselines are evaluated alone"
        return

    model = base_model(recipe, factory.tokenizer)
    size = factory.tokenizer.get_vocab_size()
    yield f"model: {count_parameters(model)[1]:,} parameters, {size:,} tokens"


def preview_samples(
    run: Run, task: str | None, count: int
) -> Iterator[tuple[Sample, tuple[int, int]]]:
    """Yield samples with the number of tokens of their prompts and of their completions.

    There are ``count`` of each split, evenly over its users, of one task, or of all where it is
    None.
    """
    factory = factory_of(run.recipe, fresh_data(run))
    if task is not None:
        pick(task, factory.wordings, "--task: not among the run's tasks")
    for builder in factory.builders():
        if task in (None, builder.task.name):
            step = max(1, len(builder) // count)
            for number in range(0, min(len(builder), step * count), step):
                sample = builder.sample(number)
                texts = [sample.prompt, sample.completion]
                prompt, completion = encode(factory.tokenizer, texts).lengths.tolist()
                yield sample, (prompt, completion)


_TOKEN = re.compile(r"<[a-z]+_\d+>|[^\s<]+")
_CODE = re.compile(r"<[a-z]_\d+>|c\d+")
_BRANCHES = (6, 2)
_GROUPS, _EXAMPLES = 12, 2
_TITLE = 40
_SHARES = ("used", "error", "neighbours")
Item = tuple[tuple[str, ...], str]


def view_identifiers(run: Run) -> Group:
    """Show the tree of a run's identifiers, and how good its codes are where it has codes.

    Raises:
        RecinjectError: the items have not been named.
    """
    run.manifest("identifiers")
    items = run.data.identifiers
    tree, rows = identifier_tree(items.texts, run.data.catalog.titles), items.describe()
    return Group(tree, *([quality_table(rows)] if rows else []))


def identifier_tree(
    texts: Sequence[str], titles: Sequence[str], branches: Sequence[int] = _BRANCHES
) -> Tree:
    """Show items by the words or tokens of their identifiers, those of most items first.

    What an identifier ends with tells items apart and means nothing, so it is no level.

    Args:
        texts: the identifier of each item.
        titles: the title of each item.
        branches: how many are shown below the root and each level after; the last number goes
            for all deeper ones.
    """
    tree = Tree(f"{len(texts):,} items")
    _grow(tree, _sorted(texts, titles), 0, branches)
    return tree


def _sorted(texts: Sequence[str], titles: Sequence[str]) -> list[Item]:
    paths = [tuple(_TOKEN.findall(text)) for text in texts]
    return sorted(zip(paths, titles, strict=True))


def code_groups(
    texts: Sequence[str], titles: Sequence[str], most: int = _GROUPS
) -> list[CodeGroup]:
    """Group items by the first code or word of their identifiers, ``most`` groups at most.

    Returns:
        Those of most items first; none where identifiers have no codes to share, as numbers and
        titles have not.
    """
    from recinject.reporting.result import CodeGroup  # with it comes torch

    items = _sorted(texts, titles)
    if not all(len(path) > 1 and _CODE.fullmatch(path[0]) for path, _ in items):
        return []
    by_code: dict[str, dict[str, list[str]]] = {}
    for path, title in items:
        by_code.setdefault(path[0], {}).setdefault(path[1], []).append(title)
    groups = []
    for code, by_next in by_code.items():
        parts = sorted(by_next.values(), key=len, reverse=True)
        named = [next(filter(None, part), "") for part in parts]
        shown = [_cut(title) for title in named if title][:_EXAMPLES]
        groups.append(CodeGroup(code, [len(part) for part in parts], shown))
    return sorted(groups, key=lambda group: -sum(group.items))[:most]


def _grow(tree: Tree, items: list[Item], level: int, branches: Sequence[int]) -> None:
    by_word = groupby(items, key=lambda item: item[0][level : level + 1])
    groups = sorted(((word, list(group)) for word, group in by_word), key=lambda g: -len(g[1]))
    shown = branches[min(level, len(branches) - 1)]
    for word, group in groups[:shown]:
        if len(group) == 1:
            path, title = group[0]
            tree.add(f"[bold]{cell(''.join(path[level:]))}[/]  {cell(_cut(title))}")
            continue
        # The titles at the group's ends differ the most.
        ends = "; ".join(cell(_cut(group[place][1])) for place in (0, -1))
        branch = tree.add(f"[bold]{cell(''.join(word))}[/]  {len(group):,} items: {ends}")
        if any(len(path) > level + 2 for path, _ in group):
            _grow(branch, group, level + 1, branches)
    if len(groups) > shown:
        hidden = sum(len(group) for _, group in groups[shown:])
        tree.add(f"[dim]{len(groups) - shown:,} more, items in them: {hidden:,}[/]")


def _cut(title: str) -> str:
    return title if len(title) <= _TITLE else f"{title[: _TITLE - 1].rstrip()}…"


def quality_table(rows: Sequence[Mapping[str, float | int | None]]) -> Table:
    """Lay out what :meth:`~recinject.identifiers.table.Identifiers.describe` measured."""
    names = [name for name in rows[0] if name != "entropy"]  # perplexity says the same
    columns = [Column(name, justify="right") for name in names]
    table = Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in names))
    return table


def _cell(name: str, value: float | int | None) -> str:
    if value is None:
        return "-"
    if name in _SHARES:
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
