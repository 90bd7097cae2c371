"""Every setting of a recipe changes what a run makes; a new one is not forgotten here."""

import hashlib
import json
import re
import shutil
import typing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

from recinject.data.simulator import simulate_shop
from recinject.foundation.errors import RecinjectError
from recinject.models.building import build_model
from recinject.pipeline.prepare import factory_of, fresh_data
from recinject.pipeline.recipe import Recipe, load_recipe
from recinject.pipeline.run import Run
from recinject.samples.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]
RANDOM = "data.split=random"
CODES = (
    "identifiers.kind=semantic",
    "identifiers.codes=4",
    "identifiers.levels=2",
    "identifiers.last_codes=40",
)
CLUSTERS = ("identifiers.kind=collaborative", "identifiers.leaf_items=5", "identifiers.clusters=3")
VAE = "identifiers.training={steps: %d, batch_size: 40}"
RETRIEVAL = "samples.tasks={retrieval: {}}"
RATING = ("samples.tasks={rating: {max_per_user: 2}}", "training.max_steps=1")
TOKENS = (RETRIEVAL, "identifiers.kind=token")
LOW = "model.low_rank={rank: 2}"
LORA = "lora={r: 2, target_modules: [q], initialization: lfai, initialization_rows: 99}"
EXPERTS = "experts={number: 2, k: 1, target_modules: [q]}"

# What the setting is a part of; what stands beside it; the setting, changed.
CHANGES = {
    "data": [
        ((), "seed=2"),
        ((), "data.path=@log"),
        (("data.path=@log",), "data.items=@items"),
        (("data.path=@log", "data.items=@items"), "data.max_text=3"),
        (("data.path=@both", "data.format=table"), "data.format=recbole"),
        (("data.path=@log",), "data.columns.item_id=sku"),
        ((), "data.simulator.users=50"),
        ((), "data.simulator.items=30"),
        ((), "data.simulator.events_per_user=8"),
        ((), "data.k_core=8"),
        (("data.path=@log",), "data.ties=hash"),
        ((), RANDOM),
        ((RANDOM,), "data.test_share=0.3"),
        ((RANDOM,), "data.validation=false"),
        ((), "data.train_share=0.5"),
    ],
    "identifiers": [
        ((), "identifiers.kind=title"),
        (CLUSTERS, "identifiers.clusters=4"),
        (CLUSTERS, "identifiers.leaf_items=30"),
        (CODES, "identifiers.content=@vectors"),
        (CODES, "identifiers.dimensions=2"),
        (CODES, "identifiers.quantiser=lsh"),
        (CODES, "identifiers.levels=3"),
        (CODES, "identifiers.codes=5"),
        (CODES, "identifiers.last_codes=2"),
        (
            (*CODES, "identifiers.quantiser=rq_vae", VAE % 3),
            VAE % 90,
        ),
    ],
    "samples": [
        ((), RETRIEVAL),
        ((RETRIEVAL,), "samples.prompts=prompts/tiger"),
        ((RETRIEVAL,), "samples.phrases.history={{ identifier }}"),
        ((RETRIEVAL,), "samples.max_prompt_tokens=60"),
        ((RETRIEVAL,), "samples.max_completion_tokens=1"),
        ((RETRIEVAL,), "samples.passes=2"),
        ((RETRIEVAL,), "samples.limit=3"),
        ((RETRIEVAL,), "samples.shots=1"),
        (
            (RETRIEVAL, "samples.prompts=prompts/tiger_users", "samples.user_tokens=4"),
            "samples.user_tokens=5",
        ),
        ((RETRIEVAL,), "model.tokenizer=@model"),
        ((RETRIEVAL,), "model.vocab_size=500"),
        ((RETRIEVAL, "model.config=null", "model.name=@other"), "model.name=@model"),
    ],
    "build": [
        ((RETRIEVAL,), "samples.tokens=false"),
        ((RETRIEVAL,), "samples.jsonl=true"),
    ],
    "train": [
        ((), "model.config.d_ff=16"),
        ((), "model.start=library"),
        (("identifiers.kind=token", RETRIEVAL), "identifiers.start=content"),
        (RATING, "model.head=regression"),
        ((LOW,), "model.low_rank.targets=[wi]"),
        ((LOW,), "model.low_rank.rank=3"),
        (("model.low_rank={energy: 0.9}",), "model.low_rank.energy=0.5"),
        ((LOW,), "model.low_rank.method=spectral"),
        ((LORA,), "lora.initialization=spectral"),
        ((LORA,), "lora.initialization_rows=9"),
        ((EXPERTS,), "experts.number=3"),
        ((), "training.mixture={retrieval: 1}"),
        ((), "training.temperature=9"),
        ((), "training.cap=9"),
        ((), "training.curriculum=[{share: 1, tasks: [bpr]}, {share: 1}]"),
        ((), "training.validation_samples=9"),
        ((), "training.optimizer=clippy_adam"),
        (TOKENS, "training.distil={from: markov_chain}"),
        ((*TOKENS, "training.distil={from: ease}"), "training.distil.from=markov_chain"),
        ((*TOKENS, "training.distil={from: ease}"), "training.distil.top=5"),
        ((*TOKENS, "training.distil={from: ease}"), "training.distil.weight=0.9"),
        ((*TOKENS, "training.distil={from: ease}"), "training.distil.temperature=9"),
        (
            ("training.optimizer=clippy_adam", "training.learning_rate=0.1"),
            "training.optimizer_settings={lam_rel: 0.0001}",
        ),
    ],
    "evaluation": [
        ((), "evaluation.baselines=[popularity]"),
        ((), "evaluation.cutoffs=[3]"),
        ((), "evaluation.beams=12"),
        ((), "evaluation.limit=20"),
        ((), "evaluation.resamples=200"),
        ((), "evaluation.reworded=false"),
        ((), "evaluation.shuffled=false"),
        ((), "evaluation.ranking_by=retrieval"),
        ((), "evaluation.blend=false"),
        ((), "evaluation.tune={ease: {regularization: [5.0]}}"),
        ((), "evaluation.validation_queries=7"),
        ((), "evaluation.positive_rating=5"),
        ((), "evaluation.generate=true"),
        (("evaluation.generate=true",), "generation={max_new_tokens: 2}"),
    ],
    "report": [((), "report.examples=1")],
}
READING = ("bad_rows", "decimal", "drop", "encoding", "item_columns", "keep", "missing")
READING += ("rating_of.as", "rating_of.column", "separator", "time_format", "time_unit")
READING += ("unrated", "users")
HARM = ("groups", "harm", "harm_queries", "provider")
# Where these make whole runs, they are shown to do so; the last two change place and pace alone.
ELSEWHERE = {
    "evaluation.cold_share": "tests/pipeline/test_tiger.py",
    "sweep.arms": "tests/pipeline/test_sweep.py",
    "sweep.vary": "tests/pipeline/test_sweep.py",
    "sweep.seeds": "tests/pipeline/test_sweep.py",
    "sweep.reference": "tests/pipeline/test_sweep.py",
    "name": "tests/pipeline/test_recipe.py",
    "plugins": "tests/pipeline/test_recipe.py",
    "runs": "tests/conftest.py",
    "samples.workers": "tests/samples/test_store.py",
    "samples.placebo": "tests/pipeline/test_sweep.py",
    "evaluation.seen": "tests/evaluation/test_seen.py",
    **{f"evaluation.{name}": "tests/pipeline/test_harm_run.py" for name in HARM},
    **dict.fromkeys(("data.order", "data.repeats"), "tests/data/test_order.py"),
    **{f"data.{name}": "tests/data/test_reading_settings.py" for name in READING},
    **dict.fromkeys(("data.header", "data.query"), "tests/data/test_forms.py"),
    "data.numeric_ids": "tests/data/test_findings.py",
    "data.partial_items": "tests/data/test_mutations.py",
    "evaluation.batch_size": "tests/recommenders/test_language_model.py",
    "evaluation.gpus": "tests/test_engines.py",
    "evaluation.workers": "tests/evaluation/test_shards.py",
    "engine": "tests/test_engines.py",
    "store": "tests/foundation/test_stores.py",
}
QUICK = {"evaluation": 1, "train": 4, "samples": 6}  # the last of a kind that is quickly shown
CASES = [
    pytest.param(kind, *change, marks=[pytest.mark.slow] if n > QUICK.get(kind, n) else [])
    for kind, changes in CHANGES.items()
    for n, change in enumerate(changes)
]


def section(annotation):
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    return next(filter(None, map(section, typing.get_args(annotation))), None)


def settings(model, before=""):
    for name, field in model.model_fields.items():
        inner = None if typing.get_origin(field.annotation) is list else section(field.annotation)
        name = field.alias or name
        yield from settings(inner, f"{before}{name}.") if inner else [before + name]


def test_each_setting_is_shown_to_have_an_effect():
    changed = [case.values[2].partition("=")[0] for case in CASES]
    named = {
        setting for setting in settings(Recipe)
        if any(f"{text}.".startswith(f"{setting}.") for text in changed)
    }  # fmt: skip
    assert named.isdisjoint(ELSEWHERE)
    assert named | ELSEWHERE.keys() == set(settings(Recipe))
    for setting, file in ELSEWHERE.items():
        word = {"evaluation.batch_size": "rows_at_once"}.get(setting, setting.rpartition(".")[2])
        assert word in (ROOT / file).read_text("utf-8"), setting


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A log with ties and two columns of items, tables of items, vectors, and two models."""
    folder = tmp_path_factory.mktemp("files")
    log = simulate_shop(users=60, items=40, events_per_user=10, seed=5)
    events = log.interactions
    frame = pd.DataFrame(
        {
            "user_id": np.array(events.user_ids)[events.users],
            "item_id": [f"i{item}" for item in events.items],
            "sku": [f"s{item // 2}" for item in events.items],
            "rating": events.ratings,
            "timestamp": np.arange(len(events)) // 4,
        }
    )
    frame.to_csv(folder / "log.csv", index=False)
    (folder / "both").mkdir()
    frame.to_csv(folder / "both" / "interactions.csv", index=False)
    typed = frame[["user_id", "item_id"]].add_suffix(":token")
    typed.assign(**{"rating:float": 3.0}).to_csv(folder / "both" / "a.inter", sep="\t", index=False)
    items = {"item_id": [f"i{item}" for item in range(40)], "title": log.catalog.titles}
    pd.DataFrame(items).to_csv(folder / "named.csv", index=False)
    ids = [f"P{item:05}" for item in range(40)]
    vectors = list(np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
    pd.DataFrame({"item_id": ids, "vector": vectors}).to_parquet(folder / "vectors.parquet")
    for name, words in (("model", "what comes next"), ("other", "buy this")):
        tokenizer = train_tokenizer([words], 300)
        shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        build_model(shape, tokenizer, seed=0).save_pretrained(folder / name)
        tokenizer.save(str(folder / name / "tokenizer.json"))
    return {
        "log": folder / "log.csv",
        "both": folder / "both",
        "items": folder / "named.csv",
        "vectors": folder / "vectors.parquet",
        "model": folder / "model",
        "other": folder / "other",
    }


def written(folder, *patterns):
    """Hash the files of a folder, its manifests and times left out."""
    found = sorted(path for pattern in patterns for path in folder.rglob(pattern))
    return [(str(p.relative_to(folder)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in found]


class Outcome:
    """What each kind of setting is looked at by, as far as it must go and no further."""

    def __init__(self, recipe, recinject, finished_copy, copy_built, tmp_path):
        self.path, self.recinject, self.tmp_path = recipe, recinject, tmp_path
        self.copies = {"train": copy_built, "evaluation": finished_copy, "report": finished_copy}

    def __call__(self, kind, name, given):
        try:
            return getattr(self, kind)(name, given)
        except RecinjectError as refused:
            return str(refused)

    def load(self, given):
        recipe = load_recipe(str(self.path), [f"runs={self.tmp_path}", *given])
        return recipe, fresh_data(Run(recipe))

    def data(self, name, given):
        _, data = self.load(given)
        log, catalog = data.split.interactions, data.catalog
        columns = log.users, log.items, log.ratings, data.split.parts
        return [column.tolist() for column in columns], list(catalog.titles), catalog.item_ids

    def identifiers(self, name, given):
        return self.load(given)[1].identifiers.texts

    def samples(self, name, given):
        factory = factory_of(*self.load(given))
        found = [
            (builder.task.name, builder.split, len(builder), builder.sample(0))
            for builder in factory.builders()
            if len(builder)
        ]
        last = [str(sample) for *_, sample in found]
        return found and last, [row[:3] for row in found], factory.tokenizer.get_vocab()

    def made(self, verb, folder, given):
        ended = self.recinject(verb, self.path, f"runs={folder.parent}", *given)
        assert ended.code == 0, ended.output
        return folder

    def build(self, name, given):
        folder = self.made("build", self.tmp_path / name / "tiny", given)
        return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))]

    def train(self, name, given):
        given = ("training.max_steps=2", "training.logging_steps=1", *given)
        folder = self.made("train", self.copies["train"](name), given)
        model = written(folder / "model", "*.safetensors", "config.json", "experts.json")
        lines = (folder / "training" / "log.jsonl").read_text("utf-8").splitlines()
        timed = ("runtime", "per_second")
        return model, [
            {name: value for name, value in json.loads(line).items() if not name.endswith(timed)}
            for line in lines
        ]

    def evaluation(self, name, given):
        folder = self.made("evaluate", self.copies["evaluation"](name), given)
        return written(folder / "evaluation", "metrics.json", "*.parquet")

    def report(self, name, given):
        folder = self.made("report", self.copies["report"](name), given)
        return (folder / "report" / "report.md").read_text("utf-8").count("Target:")


@pytest.fixture
def outcome(tiny_recipe, recinject, finished, copy_built, tmp_path):
    def finished_copy(name):
        shutil.copytree(finished.folder, tmp_path / name / "tiny")
        return tmp_path / name / "tiny"

    return Outcome(tiny_recipe, recinject, finished_copy, copy_built, tmp_path)


BEFORE = {}  # the outcome of what several cases change, made once


@pytest.mark.parametrize(("kind", "beside", "changed"), CASES, ids=lambda value: str(value)[:50])
def test_a_setting_changes_what_is_made(outcome, files, kind, beside, changed):
    *beside, changed = (
        re.sub(r"@(\w+)", lambda m: str(files[m[1]]), s) for s in (*beside, changed)
    )
    if (kind, *beside) not in BEFORE:
        BEFORE[kind, *beside] = outcome(kind, "before", beside)
    before = BEFORE[kind, *beside]
    after = outcome(kind, "after", [*beside, changed])
    assert before != after and not (isinstance(before, str) and isinstance(after, str))


@pytest.mark.parametrize("kind", CHANGES)
def test_nothing_else_changes_what_is_made(outcome, kind):
    given = [text for text in CHANGES[kind][0][0] if "@" not in text]
    assert outcome(kind, "one", given) == outcome(kind, "two", given)
