"""A sweep: one recipe with other settings and seeds, each a run of its own, in one table."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import accumulate, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from recinject.data.schema import Log
from recinject.evaluation.metrics import MetricResult, evaluate_prediction
from recinject.evaluation.statistics import Comparison, compare, is_paired, load_answers
from recinject.foundation.errors import RecinjectError, pick
from recinject.foundation.progress import say
from recinject.foundation.storage import (
    RunManifest,
    atomic_folder,
    hash_value,
    link_file,
    read_json,
)
from recinject.pipeline.evaluate import evaluate
from recinject.pipeline.facts import result_of
from recinject.pipeline.lock import only_writer
from recinject.pipeline.recipe import Recipe, lay_over, load_recipe
from recinject.pipeline.run import Facts, Run, is_first_process
from recinject.pipeline.sections import SweepSection
from recinject.recommenders.protocol import Prediction, Queries
from recinject.reporting.headline import leader
from recinject.reporting.sweep import Sweep
from recinject.reporting.wording import LANGUAGE_MODEL

_SET_BY_SWEEP = ("name", "runs", "seed", "sweep")
Settings = dict[str, Any]
Answered = tuple[Prediction, Queries]


class Member(NamedTuple):
    """The run of one arm with one seed."""

    arm: str
    seed: int
    run: Run

    @property
    def answers(self) -> dict[str, Path]:
        """The files of all answers, by name, such as ``rating.ease.parquet``."""
        folder = self.run.folder("evaluation") / "predictions"
        return {file.name: file for file in sorted(folder.glob("*.parquet"))}


def sweep(
    recipe: Recipe | str | Path,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    arms: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: Sequence[int] | None = None,
    reference: str | Sequence[str] | None = None,
    log: Log | None = None,
) -> Sweep:
    """Train and evaluate a recipe with other settings and seeds, and compare them.

    What is not given is as in the recipe's section ``sweep``. Runs that are done already, in the
    recipe's folder, are not made again.

    Args:
        recipe: its path, a shipped one's name, or the recipe itself.
        vary: the values of each dotted key, such as ``{"training.learning_rate": [1e-3, 3e-3]}``;
            every combination of them is an arm.
        arms: settings by dotted key, by the arm's name; each arm is crossed with ``vary``.
        seeds: each arm is run once with each of them.
        reference: the arms that all others are compared with; the first arm if not given.
        log: the log, in place of the one that the recipe names.

    Raises:
        RecinjectError: a setting of an arm is wrong.
    """
    base = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    own = base.sweep.model_dump() if base.sweep else {}
    given = {"vary": vary, "arms": arms, "seeds": seeds, "reference": reference}
    own |= {key: value for key, value in given.items() if value is not None}
    swept = base.model_copy(update={"sweep": SweepSection(**own)})
    run = Run(swept, log)
    with only_writer(run):
        return Sweep.load(make_sweep(run))


def make_sweep(run: Run) -> Path:
    """Make the runs of a recipe's sweep and their report, and print what was found.

    Each run lies in the sweep's folder, with its recipe beside its stages. What is done is skipped.
    The report's folder is returned: :meth:`~recinject.reporting.sweep.Sweep.load` reads it.
    """
    members, folder, section = plan(run.recipe, run.log), run.folder("report"), run.recipe.sweep
    run.save_recipe()
    for number, member in enumerate(members):
        say(f"\nsweep: {member.arm}, seed {member.seed} ({number + 1} of {len(members)})")
        with only_writer(member.run):  # somebody may open it as a run of its own
            if is_first_process():
                _prepare(member.run, [earlier.run for earlier in members[:number]])
            evaluate(member.run)
    if is_first_process():
        made = {str(m.run.recipe.name): m.run.manifest("evaluation").fingerprint for m in members}
        settings = {"command": run.command, "sweep": section and section.model_dump(mode="json")}
        run.stage("report", settings, made).run_here(lambda target: _report(run, members, target))
        say("\n" + "\n".join(Sweep.load(folder).summary()) + "\n")
        say(f"Report: {folder / 'report.html'}")
    return folder


def plan(recipe: Recipe, log: Log | None = None) -> list[Member]:
    """Return the runs of a sweep, seed by seed, the arms in their order.

    Where there is a model, baselines are evaluated once for all arms of a seed that have the same
    data, identifiers, samples and evaluation.
    """
    section, members, evaluated = recipe.sweep or SweepSection(), list[Member](), set[str]()
    arms = arms_of(section)
    for name in section.reference:
        pick(name, arms, "sweep.reference: unknown arm")
    for seed, arm in product(dict.fromkeys(section.seeds), arms):
        content = _content(recipe, arm, seed, arms[arm])
        same = ("seed", "data", "identifiers", "samples", "evaluation")
        asked = hash_value([content[key] for key in same])
        own = Recipe.of(content, f"sweep, arm {arm}: ")
        if own.has_model and asked in evaluated:
            content["evaluation"] |= {"baselines": []}
            own = Recipe.model_validate(content)
        evaluated.add(asked)
        members.append(Member(arm, seed, Run(own.resolved(), log)))
    return members


def _content(recipe: Recipe, arm: str, seed: int, settings: Settings) -> dict[str, Any]:
    content = recipe.model_dump(mode="json")
    for key in settings:
        if key.partition(".")[0] in _SET_BY_SWEEP:
            raise RecinjectError(f"sweep: {key} cannot vary", hint="set sweep.seeds for seeds")
    lay_over(content, settings)
    own = {"name": f"{arm}-{seed}", "runs": str(recipe.folder), "seed": seed, "sweep": None}
    return content | own


def arms_of(section: SweepSection) -> dict[str, Settings]:
    """Return the settings of every named arm with every combination of the varied values.

    >>> section = SweepSection(arms={"flat": {}, "deep": {"a.n": 2}}, vary={"b.x": [1, 0.5]})
    >>> arms_of(section)["deep-x_0.5"]
    {'a.n': 2, 'b.x': 0.5}
    """
    found = {name: dict(own) for name, own in section.arms.items()} or {"": {}}
    for key, values in section.vary.items():
        last, words = key.rpartition(".")[2], _words(values)
        found = {
            f"{name}-{last}_{word}".lstrip("-"): own | {key: value}
            for name, own in found.items()
            for word, value in zip(words, values, strict=True)
        }
    return {name or "unchanged": own for name, own in found.items()}


def _words(values: Sequence[Any]) -> list[str]:
    """Return the values' texts to name arms by, or their numbers where a text would not do."""
    texts = [re.sub(r"[^A-Za-z0-9_.-]", "_", _text(value)) for value in values]
    if len(set(texts)) == len(texts) and not any(isinstance(v, dict | list) for v in values):
        return texts
    return [str(number) for number in range(1, len(values) + 1)]


def _text(value: Any) -> str:
    """Write a setting as a recipe has it, on one line."""
    written = yaml.safe_dump(value, default_flow_style=True, width=9999)
    return value if isinstance(value, str) else written.partition("\n")[0]


def _prepare(run: Run, earlier: Iterable[Run]) -> None:
    """Link what an earlier run prepared from the same settings, so that arms share it."""
    made = {key: source for source in earlier for key in _prepared(source.recipe).items()}
    for stage, settings in _prepared(run.recipe).items():
        if source := made.get((stage, settings)):
            _share(stage, source, run)


def _prepared(recipe: Recipe) -> dict[str, str]:
    # By stage before the training, a hash of the settings that it depends on.
    own = recipe.model
    reader = [own.name, own.tokenizer, own.vocab_size, (own.config or {}).get("model_type")]
    settings = {
        "data": [recipe.seed, recipe.data.model_dump()],
        "identifiers": [recipe.identifiers.model_dump()],
        "samples": [recipe.samples.model_dump(), reader],
    }
    return dict(zip(settings, map(hash_value, accumulate(settings.values())), strict=True))


def _share(stage: str, source: Run, target: Run) -> None:
    made, found = source.manifest(stage), RunManifest.read(target.folder(stage))
    if found is None or found.fingerprint != made.fingerprint:
        with atomic_folder(target.folder(stage)) as folder:
            shutil.copytree(
                source.folder(stage), folder, copy_function=link_file, dirs_exist_ok=True
            )


def _report(run: Run, members: Sequence[Member], folder: Path) -> Facts:
    arms = arms_of(run.recipe.sweep or SweepSection())
    keys = list(dict.fromkeys(key for settings in arms.values() for key in settings))
    recipes = {member.arm: member.run.recipe.model_dump(mode="json") for member in members}
    settings: dict[str, Settings] = {
        arm: {"arm": arm} | {key: _value(content, key) for key in keys}
        for arm, content in recipes.items()
    }
    for key in keys:
        if not all(isinstance(row[key], int | float) for row in settings.values()):
            settings = {arm: row | {key: _text(row[key])} for arm, row in settings.items()}
    metrics = [row for member in members for row in _metrics(member)]
    pooled, comparisons = _pool(run.recipe, members, metrics)
    standings = _stand(run.recipe, members, pooled)
    by_run, over_seeds = (
        pd.DataFrame([settings[row["arm"]] | row for row in rows]) for rows in (metrics, pooled)
    )
    known = result_of(members[0].run).facts
    facts = {
        "name": run.recipe.name,
        "command": run.command,
        "keys": keys,
        "data": f"{known.data.source}, split by {known.data.split}" if known.data else "",
        "model": f"{known.model.name}, {known.model.adaptation}" if known.model else "none",
        "sampled_candidates": known.sampled_candidates,
    }
    compared, stands = map(pd.DataFrame, (comparisons, standings))
    found = Sweep(by_run, over_seeds, compared, stands, facts)
    found.save(folder)
    found.report(folder)
    return {}


def _metrics(member: Member) -> list[Settings]:
    """Return what a run measured, each row with its arm, its seed and the training's seconds."""
    run = member.run
    seconds = run.manifest("model").facts["seconds"] if run.recipe.training else np.nan
    rows = read_json(run.folder("evaluation") / "metrics.json")
    return [{"arm": member.arm, "seed": member.seed, **row, "seconds": seconds} for row in rows]


def _value(content: Any, key: str) -> float | str:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    is_number = isinstance(content, int | float) and not isinstance(content, bool)
    return content if is_number else _text(content)


def _pool(
    recipe: Recipe, members: Sequence[Member], metrics: Iterable[Settings]
) -> tuple[list[Settings], list[Settings]]:
    """Measure what each arm answered with all seeds together, and compare it with the references.

    A recommender is compared with itself under a reference's settings, where both arms asked it
    the same queries. Two references are compared once.
    """
    names = ("task", "metric", "recommender", "arm", "seed")
    values = {tuple(row[name] for name in names): row["value"] for row in metrics}
    arms = list(dict.fromkeys(member.arm for member in members))
    references = (recipe.sweep and recipe.sweep.reference) or arms[:1]
    drawn = recipe.evaluation.resamples, recipe.seed
    pooled, comparisons = list[Settings](), list[Settings]()
    answers = _answers(members)
    for (task, who, arm), answered in answers.items():
        own = next(m for m in members if m.arm == arm).run.recipe.evaluation
        measured = evaluate_prediction(*answered, own.cutoffs, *drawn)
        pooled += [{"arm": arm} | asdict(row) for row in measured]
        asked = [row.metric for row in measured]
        others = references[: references.index(arm)] if arm in references else references
        known = [(other, answers.get((task, who, other))) for other in others]
        for row in _compared(answered, known, asked, drawn):
            by_seed = [
                values[(row.task, row.metric, who, arm, seed)]
                - values[(row.task, row.metric, who, row.reference, seed)]
                for seed in dict.fromkeys(np.asarray(answered[1].seeds).tolist())
            ]
            named = {"arm": arm, "recommender": who, "by_seed": by_seed}
            comparisons.append(asdict(row) | named)
    return pooled, comparisons


def _stand(recipe: Recipe, members: Sequence[Member], pooled: Sequence[Settings]) -> list[Settings]:
    """Compare the language model, or else the best of each task, with the others of its arm.

    Who was not asked in an arm answers as in the first one that asked them the same queries.
    """
    answers, standings = _answers(members), list[Settings]()
    drawn = recipe.evaluation.resamples, recipe.seed
    for task, arm in dict.fromkeys((task, arm) for task, _, arm in answers):
        measured = [
            MetricResult(**{key: value for key, value in row.items() if key != "arm"})
            for row in pooled
            if (row["task"], row["arm"]) == (task, arm)
        ]
        first = LANGUAGE_MODEL if recipe.has_model else leader(task, measured)
        own = answers.get((task, first or "", arm))
        if own is None:
            continue
        asked = [row.metric for row in measured if row.recommender == first]
        others = dict[str, Answered]()
        for key, other in sorted(answers.items(), key=lambda each: each[0][2] != arm):
            is_other = key[0] == task and key[1] != first and not key[1].startswith(LANGUAGE_MODEL)
            if is_other and is_paired(own, other):
                others.setdefault(key[1], other)
        found = _compared(own, others.items(), asked, drawn)
        standings += [{"arm": arm} | asdict(row) for row in found]
    return standings


def _answers(members: Sequence[Member]) -> dict[tuple[str, str, str], Answered]:
    """Return what each recommender answered to each task in each arm, all seeds together."""
    files = dict[tuple[str, str, str], dict[int, Path]]()
    for name in dict.fromkeys(name for member in members for name in member.answers):
        task, _, who = name.removesuffix(".parquet").partition(".")
        for member in members:
            if name in member.answers:
                own = files.setdefault((task, who, member.arm), {})
                own[member.seed] = member.answers[name]
    return {key: load_answers(list(own.values()), key[1], list(own)) for key, own in files.items()}


def _compared(
    answered: Answered,
    others: Iterable[tuple[str, Answered | None]],
    asked: Sequence[str],
    drawn: tuple[int, int],
) -> list[Comparison]:
    """Compare answers with others of these names, as far as they are to the same queries."""
    prediction, queries = answered
    paired = [
        replace(other[0], recommender=name)
        for name, other in others
        if other is not None and is_paired(answered, other)
    ]
    return compare(prediction, paired, queries, asked, *drawn) if paired else []
