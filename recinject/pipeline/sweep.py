"""A sweep: one recipe with other settings and seeds, each a run of its own, in one table."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import ValidationError

import recinject
from recinject.evaluation.evaluate import Protocol, measure
from recinject.evaluation.statistics import compare, is_paired, load_answers
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.foundation.storage import RunManifest, atomic_folder, hash_value, read_json
from recinject.pipeline.evaluate import evaluate
from recinject.pipeline.recipe import Recipe, explain, lay_over, load_recipe
from recinject.pipeline.run import Facts, Run, is_first_process
from recinject.pipeline.sections import SweepSection
from recinject.registry import pick
from recinject.reporting.sweep import Sweep
from recinject.tasks.shipped import Ranking

_SET_BY_SWEEP = ("name", "runs", "seed", "sweep")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Arm:
    """Settings that are compared with others.

    Attributes:
        name: the arm's name, also in folders.
        settings: values by dotted key, laid over the recipe.
    """

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Member:
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
) -> Sweep:
    """Train and evaluate a recipe with other settings and seeds, and compare them.

    Whatever is not given comes from the recipe's section ``sweep``. Runs that are done already, in
    the recipe's folder, are not made again.

    Args:
        recipe: a recipe, the path of one, or a shipped one's name.
        vary: the values of each dotted key, such as ``{"training.learning_rate": [1e-3, 3e-3]}``;
            every combination of them is an arm.
        arms: settings by dotted key, by the arm's name; each arm is crossed with ``vary``.
        seeds: each arm is run once with each of them.
        reference: the arms that all others are compared with; the first arm if not given.

    Raises:
        RecinjectError: a setting is wrong, or there is nothing to sweep.
    """
    base = recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe))
    own = {} if base.sweep is None else base.sweep.model_dump(exclude_unset=True)
    given = {"vary": vary, "arms": arms, "seeds": seeds, "reference": reference}
    own |= {key: value for key, value in given.items() if value is not None}
    swept = _checked(base.model_dump(mode="json") | {"sweep": own}, "")
    return Sweep.load(make_sweep(Run(swept, f"recinject run {base.name}")))


def make_sweep(run: Run) -> Path:
    """Make the runs of a recipe's sweep and their report, and print what was found.

    Each run lies in the sweep's folder, with its recipe beside its stages. What is done is skipped.

    Returns:
        The report's folder, which :meth:`~recinject.reporting.sweep.Sweep.load` reads.
    """
    members, folder = plan(run.recipe), run.folder("report")
    for number, member in enumerate(members):
        say(f"\nsweep: {member.arm}, seed {member.seed} ({number + 1} of {len(members)})")
        if is_first_process():
            _prepare(member.run, [earlier.run for earlier in members[:number]])
        evaluate(member.run)
    if is_first_process():
        made = {str(m.run.recipe.name): m.run.manifest("evaluation").fingerprint for m in members}
        settings = {"command": run.command, "sweep": _section(run.recipe).model_dump(mode="json")}
        run.stage("report", settings, made).run(lambda target: _report(run, members, target))
        say("\n" + "\n".join(Sweep.load(folder).summary()) + "\n")
        say(f"Report: {folder / 'report.html'}")
    return folder


def arms_of(section: SweepSection) -> list[Arm]:
    """Return every named arm with every combination of the varied values.

    Examples:
        >>> section = SweepSection(arms={"flat": {}, "deep": {"a.n": 2}}, vary={"b.x": [1, 0.5]})
        >>> [arm.name for arm in arms_of(section)]
        ['flat-x_1', 'flat-x_0.5', 'deep-x_1', 'deep-x_0.5']
    """
    words = {(key, n): w for key, vs in section.vary.items() for n, w in enumerate(_words(key, vs))}
    choices = [[(key, n) for n in range(len(values))] for key, values in section.vary.items()]
    found = []
    for (name, own), chosen in product((section.arms or {"": {}}).items(), [*product(*choices)]):
        parts = [name, *(words[each] for each in chosen)]
        varied = {key: section.vary[key][number] for key, number in chosen}
        found.append(Arm("-".join(part for part in parts if part) or "unchanged", own | varied))
    return found


def _words(key: str, values: Sequence[Any]) -> list[str]:
    """Name the values of a key by their text; by their numbers where that is long or ambiguous."""
    texts = [re.sub(r"[^\w.-]", "_", _text(value)) for value in values]
    if len(set(texts)) < len(texts) or any(isinstance(value, dict | list) for value in values):
        texts = [str(number) for number in range(1, len(values) + 1)]
    return [f"{key.rpartition('.')[2]}_{text}" for text in texts]


def plan(recipe: Recipe) -> list[Member]:
    """Return the runs of a sweep, seed by seed, the arms in their order.

    Where there is a model, baselines are evaluated with the first seed alone, and once for all
    arms that have the same data, identifiers, samples and evaluation.

    Raises:
        RecinjectError: an arm or the reference is wrong.
    """
    section, members, evaluated = _section(recipe), list[Member](), set[str]()
    arms = arms_of(section)
    for name in section.reference:
        pick(name, [arm.name for arm in arms], "sweep.reference: unknown arm")
    for seed, arm in product(dict.fromkeys(section.seeds), arms):
        content = recipe.model_dump(mode="json")
        for key, value in arm.settings.items():
            if key.partition(".")[0] in _SET_BY_SWEEP:
                raise RecinjectError(f"sweep: {key} cannot vary", hint="set sweep.seeds for seeds")
            lay_over(content, key, value)
        content |= {"name": f"{arm.name}-{seed}", "runs": str(recipe.folder)}
        content |= {"seed": seed, "sweep": None}
        own = _checked(content, f"sweep, arm {arm.name}: ")
        asked = hash_value([content[s] for s in ("data", "identifiers", "samples", "evaluation")])
        if own.has_model and (asked in evaluated or seed != section.seeds[0]):
            content["evaluation"] |= {"baselines": []}
            own = Recipe.model_validate(content)
        evaluated.add(asked)
        command = shlex.join(["recinject", "run", str(own.folder / "recipe.yaml")])
        members.append(Member(arm.name, seed, Run(own, command)))
    return members


def _section(recipe: Recipe) -> SweepSection:
    if recipe.sweep is None:
        raise RecinjectError(
            "sweep: the recipe has no section sweep, and nothing else says what varies",
            hint="give --vary KEY=VALUE,VALUE or --seeds, or add the section to the recipe",
        )
    return recipe.sweep


def _checked(content: Mapping[str, Any], place: str) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise explain(error, place, Recipe) from error


def _prepare(run: Run, earlier: Iterable[Run]) -> None:
    """Write a run's recipe, and link what an earlier run prepared from the same settings.

    The comparison of two arms rests on the same samples, tokenizer and thus first weights.
    """
    run.recipe.folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(run.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    header = f"# A run of the sweep in {run.recipe.runs}; recinject run on this file reports on it.\n"
    (run.recipe.folder / "recipe.yaml").write_text(header + text, encoding="utf-8")
    made = {key: source for source in earlier for key in _prepared(source.recipe).items()}
    for stage, settings in _prepared(run.recipe).items():
        if source := made.get((stage, settings)):
            _share(stage, source, run)


def _prepared(recipe: Recipe) -> dict[str, str]:
    """Return for each stage before the training a hash of the settings that it depends on."""
    own = recipe.model
    reader = [own.name, own.tokenizer, own.vocab_size, (own.config or {}).get("model_type")]
    sections = {
        "data": [recipe.seed, recipe.data.model_dump()],
        "identifiers": [recipe.identifiers.model_dump()],
        "samples": [recipe.samples.model_dump(), reader],
    }
    return dict(zip(sections, map(hash_value, accumulate(sections.values())), strict=True))


def _share(stage: str, source: Run, target: Run) -> None:
    made, found = source.manifest(stage), RunManifest.read(target.folder(stage))
    if found is None or found.fingerprint != made.fingerprint:
        with atomic_folder(target.folder(stage)) as folder:
            shutil.copytree(source.folder(stage), folder, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    with suppress(OSError):  # not every disk has hard links
        os.link(source, target)
        return
    shutil.copy2(source, target)


def _report(run: Run, members: Sequence[Member], folder: Path) -> Facts:
    arms = _arms(run.recipe, members)
    settings = {row["arm"]: row for row in arms.drop(columns="seconds").to_dict("records")}
    metrics = [settings[m.arm] | {"seed": m.seed} | row for m in members for row in _metrics(m)]
    pooled, comparisons = _pool(run.recipe, members, pd.DataFrame(metrics))
    found = Sweep(
        arms=arms,
        metrics=pd.DataFrame(metrics),
        pooled=pd.DataFrame([settings[row["arm"]] | row for row in pooled]),
        comparisons=pd.DataFrame(comparisons),
        facts=_facts(run, members),
    )
    found.save(folder)
    found.report(folder)
    return {}


def _metrics(member: Member) -> Rows:
    rows: Rows = read_json(member.run.folder("evaluation") / "metrics.json")
    return rows


def _facts(run: Run, members: Sequence[Member]) -> Facts:
    first = members[0].run
    recipe, samplers = first.recipe, first.recipe.tasks()
    negatives = [task.negatives for task in samplers if isinstance(task, Ranking)]
    return {
        "name": run.recipe.name,
        "command": run.command,
        "version": recinject.__version__,
        "seeds": list(dict.fromkeys(member.seed for member in members)),
        "data": f"{first.manifest('data').facts['source']}, split by {recipe.data.split}",
        "model": recipe.model.name or ("built here" if recipe.has_model else "none"),
        "sampled_candidates": (negatives or [Ranking().negatives])[0],
    }


def _arms(recipe: Recipe, members: Sequence[Member]) -> pd.DataFrame:
    """Return the arms' table: each with its value of every key, and the mean time of a training."""
    arms, rows = arms_of(_section(recipe)), []
    keys = list(dict.fromkeys(key for arm in arms for key in arm.settings))
    for arm in arms:
        runs = [member.run for member in members if member.arm == arm.name]
        content = runs[0].recipe.model_dump(mode="json")
        trained = [run for run in runs if run.recipe.training is not None]
        seconds = [run.manifest("training").facts["seconds"] for run in trained]
        values = {key: _value(content, key) for key in keys}
        rows.append({"arm": arm.name, **values, "seconds": pd.Series(seconds, dtype=float).mean()})
    frame = pd.DataFrame(rows)
    for key in keys:
        if not all(isinstance(row[key], int | float) for row in rows):
            frame[key] = [_text(row[key]) for row in rows]
    return frame


def _value(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _text(value: Any) -> str:
    """Write a setting as a recipe has it, on one line."""
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("...\n").strip()


def _pool(recipe: Recipe, members: Sequence[Member], metrics: pd.DataFrame) -> tuple[Rows, Rows]:
    """Measure what each arm answered with all seeds together, and compare it with the references.

    A recommender is compared with itself under a reference's settings, where both arms asked it
    the same queries with the same seeds. Two references are compared once.
    """
    arms = list(dict.fromkeys(member.arm for member in members))
    references, pooled, comparisons = _section(recipe).reference or arms[:1], Rows(), Rows()
    values = metrics.set_index(["recommender", "task", "metric", "arm", "seed"])["value"]
    for file in dict.fromkeys(name for member in members for name in member.answers):
        runs = {a: [m for m in members if m.arm == a and file in m.answers] for a in arms}
        loaded = {a: load_answers([m.answers[file] for m in runs[a]], a) for a in arms if runs[a]}
        for arm, (prediction, queries) in loaded.items():
            own, protocol = {"arm": arm}, _protocol(recipe, runs[arm][0].run.recipe)
            named = {"recommender": file.partition(".")[2].removesuffix(".parquet")}
            measured = measure(prediction, queries, protocol)
            pooled += [own | asdict(row) | named for row in measured]
            others = references[: references.index(arm)] if arm in references else references
            seeds = [member.seed for member in runs[arm]]
            paired = [
                loaded[other][0]
                for other in others
                if other in loaded
                and seeds == [member.seed for member in runs[other]]
                and is_paired(loaded[arm], loaded[other])
            ]
            names = [row.metric for row in measured]
            for row in compare(
                prediction, paired, queries, names, protocol.resamples, protocol.seed
            ):
                key = (named["recommender"], row.task, row.metric)
                by_seed = values[(*key, arm)][seeds] - values[(*key, row.reference)][seeds]
                comparisons.append(own | asdict(row) | named | {"by_seed": by_seed.tolist()})
    return pooled, comparisons


def _protocol(whole: Recipe, arm: Recipe) -> Protocol:
    own = arm.evaluation
    return Protocol(own.beams, own.cutoffs, whole.evaluation.resamples, whole.seed)
