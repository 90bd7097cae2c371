"""Ablation: what each auxiliary task adds, by runs that differ in their mixture alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from recinject.evaluation.evaluate import Protocol, measure
from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import SeedComparison, compare, load_answers
from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.progress import say
from recinject.foundation.storage import read_json, write_json
from recinject.pipeline.evaluate import evaluate
from recinject.pipeline.facts import gather
from recinject.pipeline.parts import part_of, prepare_part
from recinject.pipeline.recipe import Recipe
from recinject.pipeline.run import Facts, Run, is_first_process
from recinject.pipeline.sections import AblationSection
from recinject.recommenders.protocol import Prediction
from recinject.reporting.ablation import (
    ADDED,
    BASE,
    LONGER,
    AblationInputs,
    VariantRow,
    summary,
    write_ablation_report,
)
from recinject.reporting.inputs import LANGUAGE_MODEL


@dataclass(frozen=True)
class Variant:
    """A mixture to train on, and for how many steps.

    Attributes:
        name: ``base``, ``base_longer``, or ``add_`` and the task that it adds.
        rates: the tasks' relative rates.
        steps: optimizer steps, so many that the base's tasks give as many samples as in ``base``.
    """

    name: str
    rates: Mapping[str, float]
    steps: int


def variants(recipe: Recipe) -> list[Variant]:
    """Return the mixtures that an ablation compares, the base first.

    Each added task comes on top: the samples of the others, and their number, stay the same.

    Raises:
        RecinjectError: the recipe does not say at what rates, or for how many steps.
    """
    section, rates, steps = _settings(recipe)
    others = {task: rate for task, rate in rates.items() if task not in section.add}
    found = [Variant(BASE, others, steps)]
    for task in dict.fromkeys(section.add):
        more = math.ceil(steps * (1 + rates[task] / sum(others.values())))
        found.append(Variant(f"{ADDED}{task}", {**others, task: rates[task]}, more))
    if section.longer:
        found.insert(1, Variant(LONGER, others, max(each.steps for each in found)))
    return found


def _settings(recipe: Recipe) -> tuple[AblationSection, Mapping[str, float], int]:
    section, training = recipe.ablation, recipe.training
    if section is None or training is None:
        raise RecinjectError(
            "ablation: it needs training",
            hint="give the recipe both sections, or set ablation=null",
        )
    rates, steps = training.mixture, training.arguments.get("max_steps")
    for task in section.add:
        if task not in rates:
            raise RecinjectError(
                f"ablation.add: training.mixture has no rate for {task!r}",
                hint=f"set training.mixture.{task}=RATE. {did_you_mean(task, rates)}",
            )
    if not rates.keys() - set(section.add):
        raise RecinjectError(
            "ablation.add: no task of training.mixture is left for the base",
            hint="give rates to tasks that are not added, such as training.mixture.retrieval=1",
        )
    if not isinstance(steps, int) or steps < 1 or training.curriculum:
        raise RecinjectError(
            "ablation: each of its trainings has one phase, of a length counted in steps",
            hint="set training.max_steps=STEPS, those of the base, and training.curriculum=[]",
        )
    return section, rates, steps


def ablate(run: Run) -> None:
    """Train and evaluate every variant with every seed, then write and say what came of it.

    Each is a run of its own in the ablation's folder, whose recipe lies beside its stages; those
    that are done are skipped, and one that was cut off goes on.
    """
    runs = _train_all(run)
    if not is_first_process():
        return
    inputs = {
        str(each.recipe.name): each.manifest("evaluation").fingerprint
        for trained in runs.values()
        for each in trained
    }
    settings = {"command": run.command, "resamples": run.recipe.evaluation.resamples}
    report = run.stage("report", settings, inputs)
    report.run(lambda folder: _report(run, runs, folder))
    say("\n" + "\n".join(summary(_gather(run, runs, report.folder))) + "\n")
    say(f"Report: {report.folder / 'report.html'}")


def _train_all(run: Run) -> dict[str, list[Run]]:
    """Return the finished runs of each variant, in the seeds' order."""
    section, chosen = _settings(run.recipe)[0], variants(run.recipe)
    runs: dict[str, list[Run]] = {variant.name: [] for variant in chosen}
    seeds = list(dict.fromkeys(section.seeds))
    for number, (seed, variant) in enumerate(((s, v) for s in seeds for v in chosen), 1):
        say(f"\nablation: {variant.name}, seed {seed} ({number} of {len(seeds) * len(chosen)})")
        each = _run_of(run.recipe, section, variant, seed)
        prepare_part(each, None if variant.name == BASE else runs[BASE][-1])
        evaluate(each)
        runs[variant.name].append(each)
    return runs


def _run_of(recipe: Recipe, section: AblationSection, variant: Variant, seed: int) -> Run:
    content = recipe.model_dump(mode="json")
    tasks = content["samples"]["tasks"].items()
    # Added tasks come last, in all variants: the rows that others draw hang on no size of theirs.
    content["samples"]["tasks"] = dict(sorted(tasks, key=lambda task: task[0] in section.add))
    content["training"] |= {
        "mixture": {},
        "curriculum": [{"share": 1, "mixture": dict(variant.rates)}],
        "max_steps": variant.steps,
    }
    if (variant.name, seed) != (BASE, section.seeds[0]):
        content["evaluation"]["baselines"] = []
    return part_of(recipe, f"{variant.name}-{seed}", content | {"seed": seed, "ablation": None})


def _report(run: Run, runs: Mapping[str, Sequence[Run]], folder: Path) -> Facts:
    base = runs[BASE][0].folder("evaluation")
    metrics = [
        MetricResult(**row)
        for row in read_json(base / "metrics.json")
        if not row["recommender"].startswith(LANGUAGE_MODEL)
    ]
    comparisons: list[SeedComparison] = []
    for file in sorted((base / "predictions").glob(f"*.{LANGUAGE_MODEL}.parquet")):
        measured, compared = _compare(run.recipe, runs, file.name)
        metrics += measured
        comparisons += compared
    for name, rows in (("metrics", metrics), ("comparisons", comparisons)):
        write_json(folder / f"{name}.json", [asdict(row) for row in rows])
    write_ablation_report(_gather(run, runs, folder), folder)
    return {}


def _compare(
    recipe: Recipe, runs: Mapping[str, Sequence[Run]], file: str
) -> tuple[list[MetricResult], list[SeedComparison]]:
    """Measure each variant over all seeds on one task, and compare it with the bases."""
    own, metrics, comparisons = recipe.evaluation, [], []
    protocol = Protocol(own.beams, own.cutoffs, own.resamples, recipe.seed)
    values = {name: [_values(each) for each in trained] for name, trained in runs.items()}
    references: list[Prediction] = []
    for name, trained in runs.items():
        files = [each.folder("evaluation") / "predictions" / file for each in trained]
        prediction, queries = load_answers(files, name)
        measured = measure(prediction, queries, protocol)
        names = [row.metric for row in measured]
        for row in compare(prediction, references, queries, names, own.resamples, recipe.seed):
            key = (row.task, row.metric)
            pairs = zip(values[name], values[row.reference], strict=True)
            by_seed = [
                ours.get(key, math.nan) - theirs.get(key, math.nan) for ours, theirs in pairs
            ]
            comparisons.append(SeedComparison(**asdict(row), by_seed=by_seed))
        metrics += measured
        if name in (BASE, LONGER):
            references.append(prediction)
    return metrics, comparisons


def _values(run: Run) -> dict[tuple[str, str], float]:
    """Return what a run's model scored, by task and metric."""
    rows = read_json(run.folder("evaluation") / "metrics.json")
    own = [row for row in rows if row["recommender"] == LANGUAGE_MODEL]
    return {(row["task"], row["metric"]): row["value"] for row in own}


def _gather(run: Run, runs: Mapping[str, Sequence[Run]], folder: Path) -> AblationInputs:
    rows = {name: read_json(folder / f"{name}.json") for name in ("metrics", "comparisons")}
    trained = {
        name: [e.manifest("training").facts["seconds"] for e in r] for name, r in runs.items()
    }
    return AblationInputs(
        name=run.recipe.name,
        command=run.command,
        seeds=[each.recipe.seed for each in runs[BASE]],
        base=gather(runs[BASE][0]),
        variants=[
            VariantRow(v.name, v.rates, v.steps, trained[v.name]) for v in variants(run.recipe)
        ],
        metrics=[MetricResult(**row) for row in rows["metrics"]],
        comparisons=[SeedComparison(**row) for row in rows["comparisons"]],
    )
