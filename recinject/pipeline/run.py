"""A run: one recipe, the folder that its stages fill, and the rule by which they are skipped."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import recinject
from recinject.data.schema import Log
from recinject.engines import Engine
from recinject.foundation.errors import RecinjectError, StoppedError, did_you_mean
from recinject.foundation.progress import say
from recinject.foundation.seals import seal_folder
from recinject.foundation.storage import (
    MANIFEST_NAME,
    RunManifest,
    atomic_folder,
    hash_files,
    hash_value,
)
from recinject.foundation.stores import Store
from recinject.identifiers.data import Data
from recinject.pipeline.recipe import RECIPE, Recipe, load_recipe
from recinject.samples.samples import Samples

Facts = dict[str, Any]
_RUNS = Path("runs")
_WEIGHTS, _CARD = (".safetensors", ".bin", ".gguf"), ".md"
# A stage of the first process may take days; the others wait for it as long.
_LONGEST_WAIT = timedelta(days=30)
_LONGEST_MEETING = timedelta(minutes=10)  # until all of them are there


@dataclass(frozen=True)
class Stage:
    """What a stage's output depends on, and where it goes."""

    name: str
    folder: Path  # what it makes, whole or not at all
    settings: Mapping[str, Any]  # its plain arguments
    inputs: Mapping[str, str]  # hashes of what it reads
    store: Store | None = None  # where the folder is copied to, and fetched from

    @property
    def wanted(self) -> RunManifest:
        """The manifest that the stage will have, but for its facts."""
        settings = json.loads(json.dumps(dict(self.settings), default=str))  # as they are stored
        return RunManifest(self.name, recinject.__version__, settings, dict(self.inputs))

    @property
    def is_done(self) -> bool:
        """Whether the folder holds what these settings and inputs give, as it was written."""
        return not self._reason()

    def _reason(self) -> str:
        """Say why the stage must be made, or return ``""``."""
        try:
            found = RunManifest.read(self.folder)
            if found is None:
                return "starting"
            if found.fingerprint != self.wanted.fingerprint:
                return f"again, since {self.wanted.difference(found)}"
            found.refuse_damage(self.folder)
        except RecinjectError as damage:
            return f"again, since {damage.message}"
        return ""

    def run(self, make: Callable[[Path], Facts], *, resume: bool = False) -> None:
        """Make the folder unless it is done; its manifest is written last.

        Of several processes launched together the first one works and the others wait for it.
        ``make`` fills a folder and says what it did; with ``resume`` it goes on in one that it was
        interrupted in.
        """
        with first_process_first() as is_first:
            if is_first:
                self.run_here(make, resume)

    def run_here(self, make: Callable[[Path], Facts], resume: bool = False) -> None:
        """Do what :meth:`run` does, in this process and whatever the others do."""
        if self.store is None:
            self._make(make, resume)
            return
        is_stored = self.is_stored
        if is_stored and not self.is_done:
            is_stored = self.fetch()
        self._make(make, resume)
        if not is_stored:
            self.store.put(self.folder)
            say(f"{self.name}: copied to {self.store.url}")

    @property
    def is_stored(self) -> bool:
        """Whether the store holds what these settings and inputs give."""
        found = None if self.store is None else self.store.manifest()
        return found is not None and found.fingerprint == self.wanted.fingerprint

    def fetch(self) -> bool:
        """Download the folder; say so and return False where it is not as it was uploaded."""
        assert self.store is not None
        try:
            with atomic_folder(self.folder) as temporary:
                self.store.get(temporary)
        except RecinjectError as damage:
            say(f"{self.name}: {damage.message}")
            return False
        say(f"{self.name}: fetched from {self.store.url}")
        return True

    def _make(self, make: Callable[[Path], Facts], resume: bool) -> None:
        if not (why := self._reason()):
            say(f"{self.name}: nothing to do, settings and inputs are those of {self.folder}")
            return
        say(f"{self.name}: {why}")
        started = time.time()
        with atomic_folder(self.folder, self.wanted.fingerprint if resume else None) as temporary:
            facts = make(temporary)
            seconds = round(time.time() - started, 1)
            facts |= {"seconds": seconds, "finished": round(time.time())}
            files = seal_folder(temporary, MANIFEST_NAME)
            replace(self.wanted, facts=facts, files=files).write(temporary)
        say(f"{self.name}: done in {seconds:.1f} s, see {self.folder}")


def is_first_process() -> bool:
    """Say whether this is the process that writes, of those that were launched together."""
    if _one_process():
        return True
    import torch
    from accelerate import PartialState

    # Unless it is told so, accelerate takes processes without a GPU for strangers to each other.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_LONGEST_WAIT, **_meet())
    return bool(state.is_main_process)


def _meet() -> Facts:
    """Wait until all processes are there; return the store that they met in, for torch.

    Raises:
        RecinjectError: one of them is not there after ten minutes.
    """
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    rank, size = os.environ.get("RANK"), os.environ["WORLD_SIZE"]
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    if rank is None or deepspeed or distributed.is_initialized():
        return {}
    place = os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    port = os.environ.setdefault("MASTER_PORT", "29500")
    try:
        store, number, count = next(rendezvous("env://", timeout=_LONGEST_MEETING))
    except (distributed.DistError, ValueError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise RecinjectError(
            f"process {rank} of {size}: the others are not there, at {place}:{port} ({reason})",
            hint="start all of them by accelerate launch, or unset RANK and WORLD_SIZE",
        ) from error
    store.set_timeout(_LONGEST_WAIT)
    return {"store": store, "rank": number, "world_size": count}


@contextmanager
def first_process_first() -> Iterator[bool]:
    """Let the first of several processes work in a block, and the others wait for its end.

    Yields:
        Whether this is the first process.

    Raises:
        RecinjectError: the first process failed; each of the others says why.
    """
    if _one_process():
        yield True
        return
    from accelerate.utils import broadcast_object_list

    is_first, failure = is_first_process(), list[RecinjectError | None]([None])
    try:
        yield is_first
    except BaseException as error:
        fact = f"the first process failed: {error or type(error).__name__}"
        other = RecinjectError(fact, hint="see its own message")
        failure = [error if isinstance(error, RecinjectError) else other]
        raise
    finally:
        if is_first:
            broadcast_object_list(failure)
    if not is_first:
        try:
            broadcast_object_list(failure)
        except RuntimeError as error:
            fact = "the first process is gone, and the others ended"
            hint = "see its own message; the same command goes on from what is done"
            raise StoppedError(fact, hint=hint) from error
        if failure[0] is not None:
            raise failure[0]


def _one_process() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


@dataclass(frozen=True)
class Run:
    """One recipe with the folder that its stages fill."""

    recipe: Recipe
    log: Log | None = None  # in place of the one that the recipe names

    def __post_init__(self) -> None:
        if self.log is not None and self.recipe.data.path is not None:
            fact = "a log is given, and data.path names another one"
            raise RecinjectError(fact, hint="leave one of them out")

    @classmethod
    def open(cls, name: str | Path, *, trust_code: bool = False) -> Self:
        """Open a run by its folder, its name below ``runs/``, or the recipe that it came from.

        Python that the stored recipe names is run where ``trust_code`` says so, or where it was
        named before; otherwise a run that needs it is refused.
        """
        if Path(name).suffix in (".yaml", ".yml"):
            name = load_recipe(name).folder
        place = find_run(name)
        _refuse_changed(place / RECIPE)
        here = {"name": place.name, "runs": place.parent, "trust_code": trust_code}
        return cls(load_recipe(place / RECIPE, here))

    @cached_property
    def resolved(self) -> Recipe:
        """The recipe with whole paths, as it is stored: what stages are compared by."""
        return self.recipe.resolved()

    @property
    def command(self) -> str:
        """The words that repeat the run."""
        return shlex.join(["recinject", "run", str(self.recipe.folder / RECIPE)])

    def folder(self, stage: str) -> Path:
        """Return the folder of a stage."""
        return self.recipe.folder / stage

    def engine(self, workers: int, gpus: float = 0.0) -> Engine:
        """Return where shards are worked on, with so many workers."""
        return Engine(self.recipe.engine, workers, gpus)

    def stage(self, name: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> Stage:
        """Return a stage of this run; the seed is one of its settings."""
        for plugin in self.recipe.plugins:
            inputs = {**inputs, str(plugin): hash_files(plugin)}
        settings = {"seed": self.recipe.seed, **settings}
        return Stage(name, self.folder(name), settings, inputs, self.store and self.store / name)

    @property
    def store(self) -> Store | None:
        """Where finished stages are copied to; None where the recipe names no store."""
        own = self.recipe
        return None if own.store is None else Store(own.store) / own.name

    def save_recipe(self) -> None:
        """Write the recipe, whole and resolved, into the run's folder."""
        text = self.resolved.text()
        file, text = self.recipe.folder / RECIPE, f"{text}{_seal_line(text)}"
        if is_first_process() and not (file.is_file() and file.read_text("utf-8") == text):
            self.recipe.folder.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")

    def manifest(self, stage: str) -> RunManifest:
        """Return the manifest of a finished stage."""
        found = RunManifest.read(self.folder(stage))
        if found is None:
            fact = f"{self.folder(stage)}: the stage {stage} has not been finished"
            raise RecinjectError(fact, hint=f"recinject run {self.recipe.name}")
        return found

    def sealed(self, stage: str) -> Path:
        """Return the folder of a finished stage, its files being those that were written.

        Raises:
            RecinjectError: one of them is missing or was changed, or the stage is not finished.
        """
        if stage not in self._sealed:
            self.manifest(stage).refuse_damage(self.folder(stage))
            self._sealed.add(stage)
        return self.folder(stage)

    @cached_property
    def _sealed(self) -> set[str]:
        return set()

    def fingerprints(self, *stages: str) -> dict[str, str]:
        """Return the fingerprints of finished stages: the inputs of a later one."""
        return {stage: self.manifest(stage).fingerprint for stage in stages}

    @cached_property
    def data(self) -> Data:
        """The data that the stages ``data`` and ``identifiers`` stored."""
        self.sealed("data"), self.sealed("identifiers")
        return Data.load(self.recipe.folder)

    @cached_property
    def samples(self) -> Samples:
        """The samples that the stage ``samples`` stored."""
        return Samples.load(self.sealed("samples"), self.data)


def find_run(name: str | Path) -> Path:
    """Return a run's folder, by itself or by its name below ``runs/``; no code of it is run."""
    folders = [Path(name), _RUNS / name]
    for folder in folders:
        if (folder / RECIPE).is_file():
            return folder.resolve()  # a run may have been moved since
    there = [path.parent.name for path in _RUNS.glob(f"*/{RECIPE}")]
    none = "There is none yet: recinject run quickstart"
    others = did_you_mean(str(name), there) if there else none
    hint = f"give a run's folder, or its name below {_RUNS}/. {others}"
    raise RecinjectError(f"{name}: no run is in {' or '.join(map(str, folders))}", hint=hint)


def find_whole_damage(folder: Path) -> Iterator[str]:
    """Yield what of a run's files is not as it was written, large files read whole."""
    checks: list[Callable[[], None]] = [partial(_refuse_changed, folder / RECIPE)]
    checks += [partial(_refuse_stage, path.parent) for path in folder.glob(f"*/{MANIFEST_NAME}")]
    for check in checks:
        try:
            check()
        except RecinjectError as damage:
            yield damage.message


def seconds_of(folder: Path) -> float:
    """Return how long a run's stages took, damaged ones left out."""
    seconds = 0.001
    for path in folder.glob(f"*/{MANIFEST_NAME}"):
        with suppress(RecinjectError):
            found = RunManifest.read(path.parent)
            seconds += found.facts.get("seconds", 0.0) if found else 0.0
    return seconds


def _refuse_stage(folder: Path) -> None:
    if found := RunManifest.read(folder):
        found.refuse_damage(folder, whole=True)


def _seal_line(text: str) -> str:
    return f"# sha256 of the lines above: {hashlib.sha256(text.encode()).hexdigest()}\n"


def _refuse_changed(file: Path) -> None:
    """Refuse a stored recipe that is not as its run wrote it: it would ask by other settings."""
    text = file.read_text("utf-8", errors="replace")
    above = "".join(text.splitlines(keepends=True)[:-1])
    if text != f"{above}{_seal_line(above)}":
        raise RecinjectError(
            f"{file} was changed after it was written",
            hint=f"'recinject run RECIPE' with the recipe that it came from, or with {file}, makes "
            "the run again where it differs",
        )


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
