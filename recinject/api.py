"""The public functions: from a log to a model, a result and recommendations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer

from recinject.data.schema import Log
from recinject.data.splitting import Part, time_facts
from recinject.engines import Engine, EngineName
from recinject.evaluation.audit import refuse_strangers
from recinject.evaluation.evaluate import (
    Evaluation,
    EvaluationSettings,
    fit_recommenders,
)
from recinject.evaluation.fitting import fit_baselines
from recinject.evaluation.fusion import Fusion
from recinject.evaluation.simulation import Simulation, SimulationSettings, simulate_rounds
from recinject.foundation.errors import RecinjectError
from recinject.foundation.settings import bind, expect, listed, unknown_key
from recinject.identifiers.data import Data, split_log, users_of
from recinject.identifiers.table import name_items
from recinject.models.building import embed_all_tokens, load_model
from recinject.pipeline import parts
from recinject.pipeline.evaluate import model_of
from recinject.pipeline.facts import result_of, sample_rows
from recinject.pipeline.lock import only_writer
from recinject.pipeline.prepare import dialect_of, given_tokenizer
from recinject.pipeline.recipe import Recipe, load_recipe
from recinject.pipeline.report import report
from recinject.pipeline.run import Run
from recinject.pipeline.sections import ModelSection, own_or_shipped
from recinject.pipeline.sweep import make_sweep
from recinject.pipeline.train import fine_tune as train_model
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Recommender, make_recommender
from recinject.registry import trust
from recinject.reporting.result import DataFacts, Result
from recinject.reporting.sweep import Sweep
from recinject.samples.samples import Samples, SampleSettings, has_scale, make_factory
from recinject.samples.samples import build_samples as write_all
from recinject.samples.store import Forms, read_samples
from recinject.samples.tokenizer import unpadded
from recinject.tasks.task import TASKS, bind_tasks

Asked = str | Mapping[str, Mapping[str, Any] | Sequence[Any] | None] | Recommender
"""A recommender by name, by name with its settings, or as it is."""


def prepare(
    log: Log,
    *,
    split: str | Mapping[str, Any] = "leave_one_out",
    k_core: int = 5,
    ties: str = "auto",
    identifiers: str | Mapping[str, Any] = "number",
    seed: int = 1,
) -> Data:
    """Clean a log, split it, and name its items.

    Args:
        log: see :func:`recinject.read_log` and :meth:`recinject.Log.from_frame`.
        split: a rule of the registry; or a mapping with ``rule`` and any of ``test_share``,
            ``validation`` and ``train_share``, see
            :func:`~recinject.identifiers.data.split_log`.
        k_core: users and items with fewer events than this are dropped, again and again.
        ties: ``hash`` orders events of one user and one time by a seeded hash of user and item;
            ``log_order`` leaves them in the order of the log's rows; ``auto`` takes the hash where
            these are sorted by item id.
        identifiers: a kind of the registry; or a mapping with ``kind`` and its settings.
        seed: of whatever is random.

    Raises:
        RecinjectError: a name or a setting is unknown, or nothing is left to train or test on.

    Examples:
        >>> from recinject.data.simulator import simulate_shop
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> data.to_pandas()["part"].value_counts().to_dict()
        {'train': 36, 'validation': 11, 'test': 11}
    """
    expect(log, Log, "prepare", "make one by read_log(path) or Log.from_frame(events)")
    name, rule = _named(split, "rule", "split", "leave_one_out")
    kind, naming = _named(identifiers, "kind", "identifiers", "number")
    given = {"split": name, "k_core": k_core, "ties": ties, "seed": seed}
    for key in rule.keys() & given.keys():
        raise unknown_key(f"split.{key}", ("rule", "test_share", "train_share", "validation"))
    for key in naming.keys() & {"catalog", "seed", "split", "earlier"}:
        raise unknown_key(f"identifiers.{key}", ["kind"])
    parts, catalog, steps = bind(split_log, rule | given, "prepare", log=log)
    named = name_items(kind, catalog, seed, parts, **naming)
    known = users_of(log, parts)
    return Data(parts, catalog, named, log.source, steps, name, log.findings, known)


def build_samples(
    data: Data,
    tasks: Iterable[str] | Mapping[str, Mapping[str, Any] | None] | None = None,
    *,
    tokenizer: str | Path | Tokenizer | None = None,
    causal: bool = False,
    folder: str | Path | None = None,
    workers: int = 1,
    engine: EngineName = "local",
    seed: int = 1,
    **settings: Any,
) -> Samples:
    """Turn the events into natural-language samples of some tasks, on disk.

    Args:
        data: see :func:`prepare`.
        tasks: names of the registry, or a mapping from these to their settings; the six that ship
            if not given, without rating where the log has no scale of ratings.
        tokenizer: a model's name or folder, whose tokenizer and way of writing samples follow; or
            a tokenizer; None learns one of ``vocab_size`` from the texts at hand.
        causal: whether they are for a causal model that is built from a config, such as
            ``{"model_type": "gpt2"}``; of a model by name that is known.
        folder: where they go, new or empty; None keeps them in a temporary folder for as long as
            the returned value lives.
        workers: how many processes write them; the files are the same for any number.
        engine: whether these are ``local`` or those of a cluster of ``ray``.
        seed: of the samplers.
        settings: see :class:`~recinject.samples.samples.SampleSettings`; ``prompts`` may name a
            folder that ships, such as ``zero_shot``. ``tokens=False`` leaves out the token
            columns that training reads, ``jsonl=True`` writes JSON lines, too.

    Raises:
        RecinjectError: a task or a setting is unknown, or a sample cannot be made to fit.

    Examples:
        >>> from recinject.data.simulator import simulate_shop
        >>> log = simulate_shop(users=12, items=30, events_per_user=6, seed=1)
        >>> samples = build_samples(prepare(log, k_core=2), ["retrieval"])
        >>> samples["retrieval"]["train"].column_names[:4]
        ['sample_id', 'task', 'template', 'split']
    """
    expect(data, Data, "build_samples", _PREPARED)
    written = {key: settings.pop(key) for key in {"tokens", "jsonl"} & settings.keys()}
    forms = bind(Forms, written, "build_samples")
    if settings.get("prompts") is not None:
        settings["prompts"] = own_or_shipped(Path(settings["prompts"]))
        trust(settings["prompts"])
    made = bind(SampleSettings, settings | {"seed": seed}, "build_samples")
    if tasks is None:
        rated = has_scale(data.split)
        tasks = [name for name, task in TASKS.items() if rated or not task.needs_ratings]
    named = tasks if isinstance(tasks, Mapping) else dict.fromkeys(listed(tasks, "tasks"))
    bound = bind_tasks(named, made.prompts, "tasks")
    source = None if isinstance(tokenizer, Tokenizer) or tokenizer is None else str(tokenizer)
    reader = given_tokenizer(source)
    if isinstance(tokenizer, Tokenizer):  # tokens are added to a copy of it
        reader = unpadded(Tokenizer.from_str(tokenizer.to_str()))
    dialect = {"causal": True, "ends": None} if causal else _dialect(source)
    factory = make_factory(data, bound, made, reader, **dialect)
    kept = TemporaryDirectory(prefix="recinject-") if folder is None else None
    place = Path(folder or (kept.name if kept else ""))
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise RecinjectError(f"{place}: not empty", hint="choose a new folder for the samples")
    place.mkdir(parents=True, exist_ok=True)
    return replace(write_all(factory, place, forms, engine=Engine(engine, workers)), _kept=kept)


def load_samples(folder: str | Path, data: Data | None = None) -> Samples:
    """Open stored samples; see :meth:`recinject.Samples.load`.

    Examples:
        >>> from recinject.data.simulator import simulate_shop
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> samples = build_samples(data, ["retrieval"])
        >>> load_samples(samples.folder, data).sizes == samples.sizes
        True
    """
    samples = Samples.load(folder, data)
    if data is not None and (rows := [row for row in samples.rows if row["samples"]]):
        least = min(rows, key=lambda row: int(row["samples"]))
        refuse_strangers(read_samples(samples.folder, least["task"], least["split"]), data)
    return samples


def fine_tune(
    model: str | Path | Mapping[str, Any],
    samples: Samples,
    *,
    lora: Mapping[str, Any] | None = None,
    experts: Mapping[str, Any] | None = None,
    start: str | Path | Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    seed: int = 1,
    **training: Any,
) -> LanguageModel:
    """Fine-tune a language model on samples.

    Args:
        model: a name on a hub, a folder or a GGUF file; or the config of a small model to build,
            such as ``{"d_model": 64, "num_layers": 2}``; or a recipe's section ``model``, which
            has ``name`` or ``config`` among its keys.
        samples: built for this model's tokenizer.
        lora: parameters of ``peft.LoraConfig``, such as ``{"r": 16}``; None trains the model.
        experts: settings of experts in place of LoRA.
        start: what new item tokens start from, for data with ``identifiers="token"``: ``words``,
            ``content``, ``collaborative``, ``content+collaborative``, a file of vectors or
            ``random``; or a mapping from one to its settings. None takes ``words`` for a
            pretrained model and ``random`` for one from a config.
        folder: where checkpoints and losses go, and where an interrupted training goes on; None
            keeps neither.
        seed: of new weights, dropout and the order of the batches.
        training: a recipe's section ``training``: ``mixture``, ``optimizer`` and any argument of
            ``Seq2SeqTrainingArguments``, such as ``max_steps``.

    Returns:
        The trained model as a recommender; its ``save(folder)`` writes what transformers loads.

    Raises:
        RecinjectError: a setting is unknown, or the model is not to be had.

    Examples:
        >>> from recinject.data.simulator import simulate_shop
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> tiny_t5 = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
        >>> samples = build_samples(data, ["retrieval"])
        >>> model = fine_tune(tiny_t5, samples, max_steps=1, use_cpu=True)
        >>> len(model.recommend([data.catalog.titles[:2]], k=5))
        5
    """
    expect(samples, Samples, "fine_tune", "give what build_samples or load_samples returned")
    known = ("prompts", "max_prompt_tokens", "max_completion_tokens")
    content = {
        "name": "fine_tune",
        "seed": seed,
        "samples": {"tasks": samples.tasks, **{k: getattr(samples.settings, k) for k in known}},
        "model": _model_section(model),
        "lora": lora,
        "experts": experts,
        "training": training,
        "identifiers": {} if start is None else {"kind": "token", "start": _plain_start(start)},
    }
    recipe = Recipe.of(content, "fine_tune: ")
    _refuse_other_samples(recipe.model, samples)
    with TemporaryDirectory(prefix="recinject-") as temporary:
        place = Path(folder or temporary)
        trained, _ = train_model(recipe, samples, place / "checkpoints", place / "log.jsonl")
    return LanguageModel.of_samples(trained.eval(), samples)


def fit(recommender: Asked, data: Data, seed: int = 1) -> Recommender:
    """Fit a recommender on the training events.

    Args:
        recommender: a name of the registry, a mapping from it to its settings, or one's own.
        data: see :func:`prepare`.
        seed: of whatever is random.

    Raises:
        RecinjectError: it is unknown, a setting is, or it needs ratings and the log has none.

    Examples:
        >>> from recinject.data.simulator import simulate_shop
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> model = fit({"ease": {"regularization": 10.0}}, data)
        >>> list(model.recommend([data.catalog.titles[:2]], k=3).columns)
        ['query', 'rank', 'item_id', 'title', 'score']
    """
    expect(data, Data, "fit", _PREPARED)
    made = make_recommender(recommender)
    fitted = fit_recommenders([made], data, seed)
    if not fitted:
        raise RecinjectError(
            f"{made.name}: it learns from ratings, and the log has none",
            hint="name their column: Log.from_frame(events, columns={'rating': COLUMN})",
        )
    return fitted[0]


def evaluate(
    recommenders: Sequence[Asked],
    data: Data,
    samples: Samples | None = None,
    *,
    tasks: Sequence[str] | None = None,
    workers: int = 1,
    engine: EngineName = "local",
    seed: int = 1,
    **settings: Any,
) -> Result:
    """Let recommenders answer the same stored test samples, and compare them.

    Args:
        recommenders: language models, names of the registry, mappings from these to settings, or
            recommenders of one's own; whatever is not fitted yet is fitted on the training events.
        data: see :func:`prepare`.
        samples: their test samples are the queries; retrieval, and rating where the log has
            ratings, are built if not given.
        tasks: which of the samples' tasks to ask; all that can be answered if not given.
        workers: how many processes read the test's prompts.
        engine: whether these are ``local`` or those of a cluster of ``ray``.
        seed: of the fits, the resamples and the draws.
        settings: see :class:`~recinject.evaluation.evaluate.EvaluationSettings`.

    Returns:
        Tidy frames of metrics, comparisons, lists, impact and harm, audit and predictions; figures;
        a report.

    Raises:
        RecinjectError: a name or a setting is unknown, or two recommenders have one name.

    Examples:
        >>> from recinject.data.simulator import simulate_shop
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> result = evaluate(["popularity", "markov_chain"], data, resamples=100)
        >>> sorted(set(result.metrics["recommender"]))
        ['markov_chain', 'popularity']
    """
    expect(data, Data, "evaluate", _PREPARED)
    made = _distinct([make_recommender(each) for each in listed(recommenders, "evaluate")])
    asked = bind(EvaluationSettings, settings | {"seed": seed}, "evaluate")
    if samples is not None:
        expect(samples, Samples, "evaluate: samples", "give what build_samples returned")
    for each in made:
        data.refuse_other(each.data, each.name)
    if samples is not None and any(each.reads_prompts for each in made):
        data.refuse_other(samples.data, "the samples")
    if samples is None:
        known = ["retrieval", "rating"] if has_scale(data.split) else ["retrieval"]
        samples = build_samples(data, known, tokens=False, seed=seed)
    new, ready = ([e for e in made if (e.data is None) is is_new] for is_new in (True, False))
    fitted, chosen = fit_baselines(new, data, samples, asked, ready)
    own = {each.name: each for each in [*fitted, *(e for e in made if e.data is not None)]}
    ready = [own[each.name] for each in made if each.name in own]
    evaluation = Evaluation(ready, data, samples, asked, engine=Engine(engine, workers))
    evaluation.rows["audit"] += chosen
    evaluation.run(None if tasks is None else listed(tasks, "evaluate: tasks"))
    if not evaluation.predictions:
        raise RecinjectError(
            f"evaluate: no task of {', '.join(samples) or 'none'} can be asked of "
            f"{', '.join(each.name for each in made) or 'nobody'}",
            hint="name recommenders that answer a task of the samples, as ease does retrieval",
        )
    facts = _facts(data, samples, seed)
    models = [e.name for e in ready if e.reads_prompts and not isinstance(e, Fusion)]
    facts["language_models"] = models
    return Result.from_rows(evaluation.rows, evaluation.predictions, facts)


def simulate(recommenders: Sequence[Asked], data: Data, **settings: Any) -> Simulation:
    """Let recommenders' lists become their next log, round after round, and see what changes.

    Args:
        recommenders: language models, names of the registry, mappings from these to settings, or
            recommenders of one's own that can be fitted again.
        data: see :func:`prepare`; all its events are the past.
        settings: see :class:`~recinject.evaluation.simulation.SimulationSettings`.

    Returns:
        Frames of ``rounds`` and of ``slopes``, those of random and of popularity beside them.

    Raises:
        RecinjectError: a name or a setting is unknown.

    Examples:
        >>> from recinject.data.simulator import simulate_shop
        >>> data = prepare(simulate_shop(users=12, items=30, events_per_user=6, seed=1), k_core=2)
        >>> simulate(["item_knn"], data, rounds=2).slopes["recommender"].unique().tolist()
        ['item_knn', 'random', 'popularity']
    """
    expect(data, Data, "simulate", _PREPARED)
    asked = bind(SimulationSettings, settings, "simulate")
    return simulate_rounds(listed(recommenders, "simulate"), data, asked)


def benchmark_ratings(
    models: Sequence[str | Path],
    data: Data,
    *,
    shots: Sequence[int] = (0,),
    limit: int | None = 2000,
    baselines: Sequence[Asked] = ("global_mean", "item_mean", "user_mean", "history_mean"),
    seed: int = 1,
    **settings: Any,
) -> Result:
    """Ask models that nobody fine-tuned for ratings, and compare them with means.

    Args:
        models: names on a hub, folders or GGUF files.
        data: of a log with ratings; titles are what such models know items by, so prepare it with
            ``identifiers="title"``.
        shots: how many worked examples of other users come before each question, one study each.
        limit: how many test ratings are asked for, the same for everybody; None asks all.
        baselines: what the models are compared with.
        seed: of the samples, the limit and the resamples.
        settings: see :func:`evaluate`; and ``prompts``, ``phrases``, ``max_prompt_tokens`` (of one
            question; worked examples have as much each) and ``history_length`` of the samples;
            and ``rows_at_once``, which bounds the memory: labels that are scored together.

    Returns:
        The recommenders of its frames are called ``MODEL`` or, with examples, ``MODEL_3_shots``.

    Raises:
        RecinjectError: the log has no ratings, or a model is not to be had.

    Examples:
        >>> models = ["google/flan-t5-base", "gemma.gguf"]
        >>> benchmark_ratings(models, data, shots=[0, 3]).metrics  # doctest: +SKIP
    """
    own: dict[str, Any] = {"prompts": "zero_shot", "phrases": {}, "max_prompt_tokens": 512}
    own |= {name: settings.pop(name) for name in own.keys() & settings.keys()}
    most, batch = own.pop("max_prompt_tokens"), settings.pop("rows_at_once", 80)
    tasks = {"rating": {"history_length": settings.pop("history_length", 10)}}
    usual = {"reworded": False, "shuffled": False, "blend": False, "limit": limit}
    settings = usual | settings
    for each in map(make_recommender, listed(baselines, "benchmark_ratings: baselines")):
        if "rating" not in each.tasks:
            raise RecinjectError(
                f"benchmark_ratings: {each.name} predicts no ratings",
                hint="name baselines that do, such as item_mean, biases or matrix_factorisation",
            )
    rows, predictions, named = (
        dict[str, dict[str, Any]](),
        dict[tuple[str, str], Any](),
        list[str](),
    )
    for model in map(str, listed(models, "benchmark_ratings: models")):
        for count in listed(shots, "benchmark_ratings: shots"):
            bind(SampleSettings, {"shots": count}, "benchmark_ratings")  # before it multiplies
            own |= {"max_prompt_tokens": most * (count + 1), "shots": count, "seed": seed}
            samples = build_samples(data, tasks, tokenizer=model, tokens=False, **own)
            name = Path(model).stem + (f"_{count}_shots" if count else "")
            named.append(name)
            loaded = embed_all_tokens(load_model(model), samples.tokenizer, seed)
            asked = LanguageModel.of_samples(loaded, samples, name=name, rows_at_once=batch)
            everybody = [asked, *listed(baselines, "benchmark_ratings: baselines")]
            result = evaluate(everybody, data, samples, seed=seed, **settings)
            # The baselines answer the same queries each time: their rows are kept once.
            for kind, found in result.rows.items():
                rows.setdefault(kind, {}).update({repr(row): row for row in found})
            predictions |= dict(result.predictions)
    kept = {kind: list(found.values()) for kind, found in rows.items()}
    facts = {"name": "Ratings without training", "seed": seed, "language_models": named}
    return Result.from_rows(kept, predictions, facts)


class OpenRun(Run):
    """A run's recipe with what its stages left, each read when it is asked for."""

    @cached_property
    def model(self) -> LanguageModel | None:
        """The trained model, or the one that was asked as it is; None where there is none."""
        return model_of(self)

    @cached_property
    def result(self) -> Result:
        """The result of the evaluation, with the facts of all stages."""
        return result_of(self)

    @cached_property
    def pooled(self) -> Sweep:
        """What the runs of several seeds or arms found, taken together."""
        return Sweep.load(self.sealed("report"))


def load(run: str | Path, *, trust_code: bool = False) -> OpenRun:
    """Open a run by its folder, its name below ``runs/``, or its recipe.

    Args:
        run: see above.
        trust_code: whether to run the Python files that the run names; without, nothing is run.

    Returns:
        Its ``recipe``, ``data``, ``samples``, ``model`` and ``result``, read when asked for.

    Raises:
        RecinjectError: there is no such run.

    Examples:
        >>> load("runs/quickstart").result.headline  # doctest: +SKIP
    """
    return OpenRun.open(run, trust_code=trust_code)


def run(recipe: str | Path, log: Log | None = None, **overrides: Any) -> OpenRun:
    """Do everything that a recipe says, from the log to the report; skip what is done already.

    Args:
        recipe: a shipped name or the path of a YAML file.
        log: in place of the log that the recipe names; its content's hash is its fingerprint.
        overrides: the recipe's sections, merged key by key, as in
            ``training={"max_steps": 100}``. With ``seeds=[1, 2, 3]``, or a section ``sweep``, a
            run is made for each seed and arm, and ``pooled`` is what they found together.

    Raises:
        RecinjectError: a key is unknown, or a stage cannot be done.

    Examples:
        >>> shop = {"users": 40, "items": 40, "events_per_user": 8}
        >>> shop = {"path": None, "simulator": shop, "k_core": 2}
        >>> asked = {"baselines": ["popularity", "item_mean"], "resamples": 100}
        >>> with TemporaryDirectory() as runs:
        ...     made = run("baselines", runs=runs, data=shop, evaluation=asked)
        ...     sorted(made.result.metrics["recommender"].unique())
        ['item_mean', 'oracle', 'popularity']
    """
    if log is not None:
        expect(log, Log, "run", "make one by read_log(path) or Log.from_frame(events)")
    made = OpenRun(load_recipe(recipe, overrides), log)
    with only_writer(made):
        (report if made.recipe.sweep is None else make_sweep)(made)
    return made


def build_part(recipe: str | Path, part: str, **overrides: Any) -> Path:
    """Build one part of a recipe's samples; see :func:`recinject.pipeline.parts.build_part`.

    Args:
        recipe: a shipped name or the path of a YAML file.
        part: its number and how many there are, such as ``2/3``.
        overrides: as in :func:`run`.

    Examples:
        >>> shop = {"path": None, "simulator": {"users": 40, "items": 60}, "k_core": 2}
        >>> with TemporaryDirectory() as runs:
        ...     made = [build_part("baselines", f"{n}/2", runs=runs, data=shop) for n in (1, 2)]
        ...     sorted(gather("baselines", runs=runs, data=shop).tasks)
        ['rating', 'retrieval']
    """
    return parts.build_part(Run(load_recipe(recipe, overrides)), part)


def gather(recipe: str | Path, **overrides: Any) -> Samples:
    """Put together the parts of a recipe's samples; see :func:`recinject.pipeline.parts.gather`."""
    made = Run(load_recipe(recipe, overrides))
    parts.gather(made)
    return made.samples


_PREPARED = "give what recinject.prepare(log) returned"


def _distinct(made: list[Recommender]) -> list[Recommender]:
    names = [each.name for each in made]
    if twice := {name for name in names if names.count(name) > 1}:
        fact = f"evaluate: several recommenders are called {', '.join(sorted(twice))}"
        hint = "give each a name: {'ease': {'name': 'ease_10'}}, LanguageModel(name=...)"
        raise RecinjectError(fact, hint=hint)
    return made


def _named(
    asked: str | Mapping[str, Any], key: str, place: str, usual: str
) -> tuple[str, dict[str, Any]]:
    """Return a name and its settings, of the name alone or a mapping that has it under ``key``."""
    settings = {key: asked} if isinstance(asked, str) else asked
    expect(settings, Mapping, place, f"write a name, or {{'{key}': name}} with its settings")
    name = settings.get(key, usual)
    expect(name, str, f"{place}.{key}", "write a name")
    return name, {own: value for own, value in settings.items() if own != key}


def _refuse_other_samples(section: ModelSection | None, samples: Samples) -> None:
    """Refuse samples that were written for the other kind of model, or in other tokens."""
    if section is None:
        return
    causal = dialect_of(section.name, section.config)["causal"]
    if causal != samples.dialect.causal:
        kinds = ("a causal model", "an encoder-decoder model")
        asked, given = kinds if causal else reversed(kinds)
        fix = f"tokenizer={section.name!r}" if section.name else f"causal={causal}"
        raise RecinjectError(
            f"fine_tune: this is {asked}, and these samples are for {given}",
            hint=f"build them for it: build_samples(data, {fix})",
        )
    if section.name is None or section.tokenizer is not None:
        return
    theirs = given_tokenizer(section.name)
    known = samples.tokenizer.get_vocab()
    if theirs and any(known.get(token) != n for token, n in theirs.get_vocab().items()):
        raise RecinjectError(
            f"fine_tune: {section.name} reads other tokens than these samples are made of",
            hint=f"build them for it: build_samples(data, tokenizer={section.name!r})",
        )


def _dialect(source: str | None) -> dict[str, Any]:
    """Say how the model that a tokenizer comes with writes; a tokenizer alone is like T5's."""
    folder = Path(source or "")
    alone = folder.is_file() and folder.suffix == ".json"
    if source is None or alone or (folder.is_dir() and not (folder / "config.json").is_file()):
        return {}
    return dialect_of(source)


def _model_section(model: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(model, Mapping):
        return {"name": str(model)}
    whole = model.keys() & {"name", "config"} and model.keys() <= ModelSection.model_fields.keys()
    return dict(model) if whole else {"config": dict(model)}


def _plain_start(start: str | Path | Mapping[str, Any]) -> str | dict[str, Any]:
    return dict(start) if isinstance(start, Mapping) else str(start)


def _facts(data: Data, samples: Samples, seed: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"cleaning": data.cleaning, "findings": data.findings}
    facts |= {part.label: int((data.split.parts == part).sum()) for part in Part if part >= 0}
    facts |= {"order": data.split.order} | time_facts(data.split)
    about = DataFacts(data.source, data.rule, **facts)
    return {"seed": seed, "samples": sample_rows(samples.rows), "data": about}
