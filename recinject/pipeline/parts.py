"""Parts: a run's samples, built by machines that know nothing of each other, and gathered."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from recinject.foundation.errors import RecinjectError
from recinject.foundation.storage import RunManifest, link_file
from recinject.pipeline.lock import only_writer
from recinject.pipeline.prepare import factory_of, prepare, samples_stage, write_stage_samples
from recinject.pipeline.run import Facts, Run, Stage
from recinject.samples.samples import build_part as write_part
from recinject.samples.store import Forms

_FOLDER = "parts"
_PART = re.compile(r"([1-9]\d*)/([1-9]\d*)")
_NAME = re.compile(r"(\d+)-of-(\d+)")


def build_part(run: Run, part: str) -> Path:
    """Build one part of a run's samples, such as ``1/3``, and before it what the parts share.

    The parts of several machines are built at once, or one after another, into folders of their
    own below ``parts`` in the run's folder; :func:`gather` puts them together. The part is skipped,
    or resumed, as any stage.

    Returns:
        The part's folder, which may be moved to the machine that gathers.

    Raises:
        RecinjectError: ``part`` is none, or another process builds this part.
    """
    read = _PART.fullmatch(part)
    number, count = map(int, read.groups()) if read else (1, 0)
    if number > count:
        hint = "give a number and how many there are, as in 2/3"
        raise RecinjectError(f"--part: {part!r} is no part", hint=hint)
    with only_writer(run):
        prepare(run)
    stage = _part_of(run, samples_stage(run), number, count)
    with only_writer(run, stage.folder, wait=False):
        stage.run_here(partial(_write_part, run, (number, count)), resume=True)
    return stage.folder


def gather(run: Run) -> Path:
    """Put a run's parts together, byte for byte what one machine builds, and remove them.

    Returns:
        The folder ``samples`` of the run.

    Raises:
        RecinjectError: a part is missing, damaged or built with other settings, or another process
            fills the run's folder. Nothing is written then.
    """
    with only_writer(run, wait=False):
        prepare(run)
        stage = samples_stage(run)
        stage.run_here(partial(_join, run, stage))
        shutil.rmtree(run.folder(_FOLDER), ignore_errors=True)
        if run.store is not None:
            run.store.remove(_FOLDER)
    return stage.folder


def _part_of(run: Run, stage: Stage, number: int, count: int) -> Stage:
    name, settings = f"{number:05d}-of-{count:05d}", {**stage.settings, "part": [number, count]}
    store = run.store and run.store / _FOLDER / name
    return replace(stage, folder=run.folder(_FOLDER) / name, settings=settings, store=store)


def _write_part(run: Run, part: tuple[int, int], folder: Path) -> Facts:
    section = run.recipe.samples
    forms = Forms(tokens=section.tokens, jsonl=section.jsonl)
    factory = factory_of(run.recipe, run.data)
    return {"shards": write_part(factory, folder, forms, part, run.engine(section.workers))}


def _whole_parts(run: Run, stage: Stage) -> list[Path]:
    """Return the folders of all parts, each of them whole and made as the stage would make it."""
    there = run.folder(_FOLDER)
    names = {path.name for path in there.glob("*")}
    names |= (run.store / _FOLDER).names() if run.store is not None else set()
    counts = {int(found[2]) for name in names if (found := _NAME.fullmatch(name))}
    if len(counts) != 1:
        fact = f"parts of {' and of '.join(map(str, sorted(counts)))}" if counts else "no parts"
        hint = "keep those of one number" if counts else "recinject build RECIPE --part 1/3"
        raise RecinjectError(f"{there}: {fact}", hint=hint)
    count = counts.pop()
    parts = [_part_of(run, stage, number, count) for number in range(1, count + 1)]
    manifests = [_manifest(part) for part in parts]
    if missing := [n for n, written in enumerate(manifests, 1) if written is None]:
        listed = ", ".join(f"{n}/{count}" for n in missing[:10])
        raise RecinjectError(
            f"{there}: {len(missing)} of {count} parts are missing: {listed}",
            hint=f"recinject build RECIPE --part {missing[0]}/{count}",
        )
    for number, (part, written) in enumerate(zip(parts, manifests, strict=True), 1):
        assert written is not None
        _refuse_other(part, written, f"{number}/{count}")
    return [part.folder for part in parts]


def _refuse_other(part: Stage, written: RunManifest, name: str) -> None:
    """Refuse a part that was made with other settings, or is damaged; fetch it if need be."""
    again = f"recinject build RECIPE --part {name}"
    if written.fingerprint != part.wanted.fingerprint:
        fact = f"part {name} was built otherwise: {part.wanted.difference(written)}"
        raise RecinjectError(fact, hint=f"{again}, or gather with its settings")
    try:
        if part.store is not None and not part.is_done:
            part.store.get(part.folder)
        written.refuse_damage(part.folder, whole=True)
    except RecinjectError as damage:
        raise RecinjectError(damage.message, hint=again) from damage


def _manifest(part: Stage) -> RunManifest | None:
    here = RunManifest.read(part.folder)
    return part.store.manifest() if here is None and part.store is not None else here


def _join(run: Run, stage: Stage, folder: Path) -> Facts:
    for part in _whole_parts(run, stage):
        for file in part.glob("*/*"):
            (folder / file.parent.name).mkdir(exist_ok=True)
            link_file(file, folder / file.parent.name / file.name)
    return write_stage_samples(run, folder)
