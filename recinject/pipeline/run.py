"""A run: one recipe, the folder that its stages fill, and the rule by which they are skipped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

import recinject
from recinject.data.schema import Catalog
from recinject.data.splitting import Split, load_split
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.foundation.storage import (
    RunManifest,
    atomic_folder,
    hash_files,
    hash_value,
    read_json,
)
from recinject.identifiers.table import Identifiers
from recinject.pipeline.recipe import Recipe
from recinject.samples.build import SampleFactory, make_factory
from recinject.samples.tokenizer import load_tokenizer, local_copy

Facts = dict[str, Any]
_CONFIG, _GGUF = "config.json", ".gguf"
_WEIGHTS, _CARD = (".safetensors", ".bin", _GGUF), ".md"


@dataclass(frozen=True)
class Stage:
    """What a stage's output depends on, and where it goes.

    Attributes:
        name: the stage's name.
        folder: what it makes, whole or not at all.
        settings: its plain arguments.
        inputs: hashes of what it reads.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def wanted(self) -> RunManifest:
        """The manifest that the stage will have, but for its facts."""
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in self.settings.items()}
        return RunManifest(self.name, recinject.__version__, settings, dict(self.inputs))

    @property
    def is_done(self) -> bool:
        """Whether the folder holds what these settings and inputs give."""
        found = RunManifest.read(self.folder)
        return found is not None and found.fingerprint == self.wanted.fingerprint

    def run(self, make: Callable[[Path], Facts], *, resume: bool = False) -> None:
        """Make the folder unless it is done; its manifest is written last.

        Of several processes launched together the first one works, the others wait for it.

        Args:
            make: fills a folder and says what it did.
            resume: whether ``make`` goes on in a folder that it was interrupted in.
        """
        if not is_first_process():
            while not self.is_done:
                time.sleep(0.2)
            return
        found = RunManifest.read(self.folder)
        if self.is_done:
            say(f"{self.name}: nothing to do, settings and inputs are those of {self.folder}")
            return
        why = f"again, since {self.wanted.difference(found)}" if found else "starting"
        say(f"{self.name}: {why}")
        started = time.time()
        with atomic_folder(self.folder, self.wanted.fingerprint if resume else None) as temporary:
            facts = make(temporary)
            seconds = round(time.time() - started, 1)
            facts |= {"seconds": seconds, "finished": round(time.time())}
            replace(self.wanted, facts=facts).write(temporary)
        say(f"{self.name}: done in {seconds:.1f} s, see {self.folder}")


@dataclass(frozen=True)
class Run:
    """One recipe with the folder that its stages fill.

    Attributes:
        recipe: the recipe, checked.
        command: the words that repeat it.
    """

    recipe: Recipe
    command: str

    def folder(self, stage: str) -> Path:
        """Return the folder of a stage; what training makes is a model."""
        return self.recipe.folder / ("model" if stage == "training" else stage)

    def stage(self, name: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> Stage:
        """Return a stage of this run; the seed is one of its settings."""
        return Stage(name, self.folder(name), {"seed": self.recipe.seed, **settings}, inputs)

    def manifest(self, stage: str) -> RunManifest:
        """Return the manifest of a finished stage.

        Raises:
            RecinjectError: the stage has not been finished.
        """
        found = RunManifest.read(self.folder(stage))
        if found is None:
            raise RecinjectError(
                f"{self.folder(stage)}: the stage {stage} has not been finished",
                hint=f"recinject run {self.recipe.name}",
            )
        return found

    def fingerprints(self, *stages: str) -> dict[str, str]:
        """Return the fingerprints of finished stages: the inputs of a later one."""
        return {stage: self.manifest(stage).fingerprint for stage in stages}

    @cached_property
    def split(self) -> tuple[Split, Catalog]:
        """The split and the catalogue that the data stage stored."""
        return load_split(self.folder("data"))

    @cached_property
    def identifiers(self) -> Identifiers:
        """The identifiers that were stored."""
        return Identifiers.load(self.folder("identifiers"))

    @cached_property
    def factory(self) -> SampleFactory:
        """The tasks of the stored samples, with the tokenizer stored beside them."""
        tokenizer = load_tokenizer(self.folder("samples") / "tokenizer.json")
        dialect = self.manifest("samples").settings["dialect"]
        return factory_of(self.recipe, *self.split, self.identifiers, tokenizer, dialect)


def is_first_process() -> bool:
    """Say whether this is the process that writes, of those that were launched together."""
    return os.environ.get("RANK", "0") == "0"


def hash_local(source: str | None, *, weights: bool = True) -> dict[str, str]:
    """Hash a model or tokenizer that lies on this machine; a name on a hub stands for itself."""
    path = Path(source or "")
    if source is None or not path.exists():
        return {}
    if path.is_file():
        return {source: hash_files(path)}
    left_out = (_CARD,) if weights else (_CARD, *_WEIGHTS)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {source: hash_value([hash_files(f) for f in files if f.suffix not in left_out])}


def given_tokenizer(recipe: Recipe) -> Tokenizer | None:
    """Load the tokenizer that a recipe names, or that its named model has; None to learn one."""
    source = recipe.model.tokenizer or recipe.model.name
    if source is not None and source.endswith(_GGUF):
        from recinject.models.building import read_gguf  # with it comes torch

        return Tokenizer.from_str(read_gguf(source)[1].to_str())
    return None if source is None else load_tokenizer(source)


def dialect_of(recipe: Recipe) -> dict[str, Any]:
    """Say what samples depend on of the model that they are for, beside its tokenizer.

    Returns:
        ``causal`` and ``ends``: see :meth:`~recinject.samples.encoding.Dialect.of_model`.

    Raises:
        RecinjectError: the model is neither here nor to be had, or has no config.
    """
    name, config = recipe.model.name, recipe.model.config or {}
    if name is None and "model_type" not in config:
        return {"causal": False, "ends": None}
    if name is None:
        from recinject.models.building import is_causal  # with it comes torch

        return {"causal": is_causal(config), "ends": None}
    if name.endswith(_GGUF):
        from recinject.models.building import read_gguf

        stated = read_gguf(name)[0]
        causal = not stated.is_encoder_decoder
        return {"causal": causal, "ends": stated.eos_token_id if causal else None}
    file = (Path(name) if Path(name).is_dir() else local_copy(name, [_CONFIG])) / _CONFIG
    if not file.is_file():
        raise RecinjectError(f"{name}: no {_CONFIG} in it", hint="name a model of transformers")
    config = read_json(file)
    causal = not config.get("is_encoder_decoder", False)
    return {"causal": causal, "ends": config.get("eos_token_id") if causal else None}


def factory_of(
    recipe: Recipe,
    split: Split,
    catalog: Catalog,
    identifiers: Identifiers,
    tokenizer: Tokenizer | None,
    dialect: Mapping[str, Any] | None = None,
) -> SampleFactory:
    """Get every task of a recipe ready to give samples.

    Args:
        recipe: the recipe.
        split: the one split of the run.
        catalog: the items.
        identifiers: what names them.
        tokenizer: what the model reads with; None to learn one.
        dialect: what :func:`dialect_of` says, where that was kept; None to ask it.
    """
    samples = recipe.samples
    return make_factory(
        tasks=recipe.tasks(),
        split=split,
        catalog=catalog,
        identifiers=identifiers.texts,
        new_tokens=identifiers.tokens,
        prompts=samples.prompts,
        phrases=samples.phrases,
        tokenizer=tokenizer,
        vocab_size=recipe.model.vocab_size,
        limits=(samples.max_prompt_tokens, samples.max_completion_tokens),
        passes=samples.passes,
        limit=samples.limit,
        shots=samples.shots,
        users=samples.user_tokens,
        seed=recipe.seed,
        **(dialect_of(recipe) if dialect is None else dialect),
    )
