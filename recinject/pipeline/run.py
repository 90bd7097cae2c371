"""A run: one recipe, the folder that its stages fill, and the rule by which they are skipped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import recinject
from recinject.data.schema import Catalog
from recinject.data.splitting import Split
from recinject.data.store import load_split
from recinject.foundation.errors import RecinjectError
from recinject.foundation.manifest import RunManifest
from recinject.foundation.progress import say
from recinject.foundation.storage import atomic_folder
from recinject.identifiers.table import Identifiers
from recinject.recipe import Recipe
from recinject.samples.build import SampleFactory, make_factory
from recinject.samples.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Facts = dict[str, Any]


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

    def run(self, make: Callable[[Path], Facts]) -> None:
        """Make the folder unless it is done; its manifest is written last.

        Of several processes launched together the first one works, the others wait for it.
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
        with atomic_folder(self.folder) as temporary:
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
        return Identifiers.load(self.folder("identifiers"), self.recipe.identifiers.kind)

    @cached_property
    def factory(self) -> SampleFactory:
        """The tasks of the stored samples, with the tokenizer stored beside them."""
        tokenizer = load_tokenizer(self.folder("samples") / "tokenizer.json")
        return factory_of(self.recipe, *self.split, self.identifiers, tokenizer)


def is_first_process() -> bool:
    """Say whether this is the process that writes, of those that were launched together."""
    return os.environ.get("RANK", "0") == "0"


def given_tokenizer(recipe: Recipe) -> Tokenizer | None:
    """Load the tokenizer that a recipe names, or that its named model has; None to learn one."""
    source = recipe.model.tokenizer or recipe.model.name
    return None if source is None else load_tokenizer(source)


def factory_of(
    recipe: Recipe,
    split: Split,
    catalog: Catalog,
    identifiers: Identifiers,
    tokenizer: Tokenizer | None,
) -> SampleFactory:
    """Get every task of a recipe ready to give samples."""
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
        max_prompt_tokens=samples.max_prompt_tokens,
        seed=recipe.seed,
    )
