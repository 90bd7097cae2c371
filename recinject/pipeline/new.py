"""A recipe for a log: what the log is like decides its columns, its tasks and its sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil, sqrt
from pathlib import Path
from typing import Any, cast

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray

from recinject.data.cleaning import k_core_events
from recinject.data.findings import Finding
from recinject.data.guessing import Columns, first_override, guess_columns
from recinject.data.readers import Places, read_log
from recinject.data.schema import Log
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import plain
from recinject.foundation.storage import dump_yaml, load_yaml
from recinject.pipeline.cost import Machine, Sizes, costs, duration, step_seconds
from recinject.pipeline.prepare import reading_settings
from recinject.pipeline.recipe import Recipe, lay_over
from recinject.pipeline.sections import DataSection
from recinject.samples.samples import MOST_RATINGS

# Findings whose first fix loses no event, and the fix where it is another one.
_MENDED = {
    "unread-times": None,
    "sentinel-ratings": None,
    "constant-rating": "data.columns.rating=",
    "counts-as-ratings": "data.columns.rating=",
    "continuous-ratings": "data.columns.rating=",
}
_BATCH, _EPOCHS, _FEWEST_STEPS, _MOST_STEPS, _MINUTES = 64, 14, 2000, 20_000, 20
_LONGEST, _SHORTEST = 20, 5  # items of a history that a prompt shows
_MOST_QUERIES, _MOST_DENSE_ITEMS = 2000, 20_000
_WIDTHS, _WIDEST = {1000: 64, 20_000: 96}, 128  # of the model, by the most items of each
_MANY = 200_000  # events, above which samples are written by several processes
_NEGATIVES, _FEWEST_NEGATIVES = 99, 9  # of a slate
_STANDARD_ERRORS = 1.96  # that a difference must exceed


@dataclass(frozen=True)
class Proposal:
    """A recipe that was written for a log.

    Attributes:
        file: the recipe, commented.
        said: what was seen, what the run will answer and how long it will take, in lines.
    """

    file: Path
    said: Sequence[str]

    def __str__(self) -> str:
        """Write what was said in lines."""
        return "\n".join(self.said)


@dataclass(frozen=True)
class _Seen:
    """A log and the settings that it is read with."""

    log: Log
    data: dict[str, Any]  # of the recipe's section
    why: Mapping[str, str]  # what a setting was taken from, by its dotted key
    attributes: Sequence[str]  # columns that tell something of users
    open: Sequence[Finding]  # what is left to a person
    k_core: int
    sizes: tuple[int, int, int]  # users, items and events of the core
    lengths: NDArray[np.int64]  # events of each user of the core
    untouched: int  # items that the user of most items has not used

    @property
    def is_rated(self) -> bool:
        """Whether the ratings are a scale of labels."""
        ratings = self.log.interactions.ratings
        if ratings is None:
            return False
        return 1 < len(np.unique(ratings[~np.isnan(ratings)])) <= MOST_RATINGS


def new_recipe(
    log: str | Path,
    *,
    name: str | None = None,
    folder: str | Path = ".",
    **settings: Any,
) -> Proposal:
    """Look at a log and write a recipe for it, with sizes that fit it and this machine.

    Args:
        log: a file or folder, as :func:`recinject.read_log` takes it.
        name: of the run and of the recipe's file; that of the log if not given.
        folder: where the recipe goes.
        settings: keys of a recipe's section ``data`` that are known already, such as
            ``columns={"item_id": "sku"}``; what they leave open is looked for in the log.

    Raises:
        RecinjectError: the log cannot be read, no user has two events, or the file is there.

    Examples:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> rows = [f"u{n % 40},a{n * 7 % 30},{n}" for n in range(400)]
        >>> _ = (place / "log.csv").write_text("\\n".join(["who,article,day", *rows]))
        >>> made = new_recipe(place / "log.csv", folder=place, columns={"user_id": "who"})
        >>> made.file.name
        'log.yaml'
    """
    chosen = name or re.sub(r"[^A-Za-z0-9_]+", "_", _stem(log)).strip("_") or "mine"
    file = Path(folder) / f"{chosen}.yaml"
    if file.exists():
        hint = "choose another name, or remove it"
        raise RecinjectError(f"{file}: exists already", hint=hint)
    seen, machine = _look(log, settings), Machine.here()
    said = [*_said(seen, machine), *_answers(seen)]
    draft = Recipe.of(
        load_yaml(_text(chosen, seen, machine, _FEWEST_STEPS, said)), f"{file.name}: "
    )
    step = step_seconds(draft)
    steps = _steps(draft, seen, step)
    recipe = Recipe.of(load_yaml(_text(chosen, seen, machine, steps, said)), f"{file.name}: ")
    users, _, events = seen.sizes
    known = [cost.seconds for cost in costs(recipe, Sizes(events, users), step)]
    said.append(f"On this machine it takes {duration(sum(filter(None, known)))}.")
    file.write_text(_text(chosen, seen, machine, steps, said), "utf-8")
    return Proposal(file, said)


def _stem(log: str | Path) -> str:
    name = Path(str(log)).name
    return name.partition(".")[0] or name


def _look(log: str | Path, settings: Mapping[str, Any]) -> _Seen:
    """Read a log as it seems to be meant."""
    data: dict[str, Any] = {"path": str(log), **settings}
    section = _section(data)
    remote = "://" in str(log)
    guessed = Columns() if remote else guess_columns(log, section, section.format)
    why = {f"columns.{ours}": "by its name and values" for ours in guessed.columns}
    data["columns"] = {**guessed.columns, **data.get("columns", {})}
    if guessed.attributes:
        data["users"] = str(guessed.file)
        why["users"] = f"of {', '.join(guessed.attributes)} each user has one value"
    found = _read(data)
    if mended := dict(_mended(found.findings)):
        for override, fact in mended.items():
            lay_over(whole := {"data": data}, [override])
            data = whole["data"]
            why[override.partition("=")[0].removeprefix("data.")] = fact.rstrip(".")
        found = _read(data)
    left = [each for each in found.findings if each.level != "note" and each.name not in _MENDED]
    k_core, keep = _core(found, [data["k_core"]] if "k_core" in data else range(5, 0, -1))
    kept = found.interactions.users[keep], found.interactions.items[keep]
    lengths, items = (np.bincount(own) for own in kept)
    own = np.bincount(np.unique(np.stack(kept), axis=1)[0])
    sizes = int(np.count_nonzero(lengths)), int(np.count_nonzero(items)), int(keep.sum())
    about = *(found, data, why, guessed.attributes, left), k_core, sizes
    return _Seen(*about, lengths[lengths > 0], untouched=sizes[1] - int(own.max()))


def _mended(findings: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """Yield the overrides that mend findings without losing an event, each with the fact."""
    for finding in findings:
        if finding.level == "note" or finding.name not in _MENDED:
            continue
        if override := _MENDED[finding.name] or first_override(finding.fix):
            yield override, finding.fact


def _section(data: Mapping[str, Any]) -> DataSection:
    content = {"name": "new", "data": data, "model": None, "training": None}
    return Recipe.of(content, "new: ").data


def _read(data: Mapping[str, Any]) -> Log:
    section = _section(data)
    return read_log(cast(Places, section.path), **reading_settings(section))


def _core(log: Log, tried: Sequence[int]) -> tuple[int, Any]:
    """Return the first k whose k-core has half of the events, else the last, and that core."""
    events = log.interactions
    for k in tried:
        keep, _ = k_core_events(events, k)
        users = np.bincount(events.users[keep]) if keep.any() else np.zeros(1, int)
        if users.max() >= 3 and (2 * keep.sum() >= len(events) or k in (2, tried[-1])):
            return k, keep
    raise RecinjectError(
        f"{log.source}: no user has three events, so nothing can be learnt and tested",
        hint="take a longer log, or name another column as data.columns.user_id",
    )


def _text(name: str, seen: _Seen, machine: Machine, steps: int, said: Sequence[str]) -> str:
    """Write the recipe, each choice with its reason."""
    users, items, events = seen.sizes
    width = next((w for most, w in _WIDTHS.items() if items <= most), _WIDEST)
    set_below = ("path", "k_core", "split")
    data = {key: value for key, value in seen.data.items() if key not in set_below and value}
    lines = dump_yaml({"path": seen.data["path"], **data}).splitlines()
    environment = Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
    template = Path(__file__).with_name("new_recipe.yaml.jinja").read_text("utf-8")
    return environment.from_string(template).render(
        name=name,
        said=map(_line, said),
        data=[f"{line}{_reason(line, seen.why)}" for line in lines],
        open=[(each.level, _line(each.fact), _line(each.fix)) for each in seen.open],
        k_core=seen.k_core,
        split=seen.data.get("split", "leave_one_out"),
        history=int(np.clip(np.quantile(seen.lengths, 0.8) - 1, _SHORTEST, _LONGEST)),
        negatives=min(_NEGATIVES, seen.untouched),
        rated=seen.is_rated,
        timed=seen.log.interactions.timestamps is not None,
        items=f"{items:,}",
        workers=machine.cores if events > _MANY else 1,
        width=width,
        ranked=seen.untouched >= _FEWEST_NEGATIVES,
        batch=_BATCH,
        steps=steps,
        warmup=steps // 20,
        dense=items <= _MOST_DENSE_ITEMS and 3 * 8 * items**2 < machine.memory / 4,
        implicit=find_spec("implicit") is not None,
        limit=min(users, _MOST_QUERIES),
        users=f"{users:,}",
        groups=["activity", *seen.attributes],
    )


def _reason(line: str, why: Mapping[str, str]) -> str:
    if {"'", '"'} & set(line):  # a text that may go on in the next line
        return ""
    key = line.strip().partition(":")[0]
    found = [text for name, text in why.items() if name.rpartition(".")[2] == key]
    return f"  # {_line(found[0])}" if found else ""


def _line(text: str) -> str:
    """Write a text in one line: what a log holds must not end a comment."""
    return plain(" ".join(text.split()))


def _steps(recipe: Recipe, seen: _Seen, step: float | None) -> int:
    """Return how many steps show each target about fourteen times, within the minutes there are."""
    _, _, events = seen.sizes
    mixture = recipe.training.mixture if recipe.training else {}
    share = mixture["retrieval"] / sum(mixture.values())
    wanted = ceil(_EPOCHS * events / share / _BATCH)
    fits = _MOST_STEPS if step is None else int(60 * _MINUTES / step)
    return int(round(max(_FEWEST_STEPS, min(wanted, fits, _MOST_STEPS)), -2))


def _said(seen: _Seen, machine: Machine) -> Iterator[str]:
    log, (users, items, events) = seen.log, seen.sizes
    kinds = "ratings" if seen.is_rated else "no ratings"
    times = "times" if log.interactions.timestamps is not None else "no times"
    yield f"{log.source}: {len(log.interactions):,} events with {times} and {kinds}."
    yield (
        f"{events:,} events of {users:,} users and {items:,} items stay where each has "
        f"{seen.k_core} or more."
    )
    for key, reason in seen.why.items():
        value = seen.data.get("columns", {}).get(key.rpartition(".")[2], seen.data.get(key, ""))
        yield f"data.{key}={value!s}: {reason}."
    for found in seen.open:
        yield f"{found.level}, left to you: {found}"
    yield f"Sizes are for {machine}."


def _answers(seen: _Seen) -> Iterator[str]:
    """Say what the run will answer, and how small a difference it can tell."""
    users, items, _ = seen.sizes
    asked = min(users, _MOST_QUERIES)
    # Two shares near 0.1 of the same users, as if they were independent: paired tests see more.
    least = _STANDARD_ERRORS * sqrt(2 * 0.1 * 0.9 / asked)
    yield (
        f"It answers whether a small language model, trained on this log alone, names a user's "
        f"next item out of {items:,} better than counting and collaborative filtering do; with "
        f"{asked:,} users, differences in HR@10 of {least:.3f} or more can be told from chance."
    )
    if seen.is_rated:
        yield "It also answers how well each predicts a rating."
    if seen.attributes:
        yield f"It compares groups of users by {', '.join(seen.attributes)}."
