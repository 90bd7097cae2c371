"""Recommend: what a finished run suggests to somebody who liked a few items."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ValidationError

from recinject.data.schema import Catalog
from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.foundation.ragged import Ragged
from recinject.foundation.storage import RunManifest
from recinject.models.storing import load_trained
from recinject.pipeline.recipe import Recipe, load_recipe
from recinject.pipeline.run import Run
from recinject.pipeline.sections import (
    DataSection,
    EvaluationSection,
    SamplesSection,
)
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Prediction, Queries
from recinject.samples.builder import Wording
from recinject.templating.writers import Contexts

_TASK = "retrieval"
_RUNS = Path("runs")
_NEAREST = 3


class Recommended(NamedTuple):
    """One item of a list.

    Attributes:
        item_id: the log's own id.
        title: its title.
        log_probability: of its identifier after the prompt, over the whole vocabulary.
    """

    item_id: str
    title: str
    log_probability: float


def open_run(name: str) -> Run:
    """Return a finished run, with the settings that its stages were made with.

    Args:
        name: the run's folder, its name below ``runs/``, or the recipe file that it came from.

    Raises:
        RecinjectError: there is no such run, it has no trained model, or it knows no retrieval.
    """
    folder = _find(name)
    found = {stage: RunManifest.read(folder / stage) for stage in _STAGES}
    for stage, what in _STAGES.items():
        if found[stage] is None and what:
            raise RecinjectError(
                f"{folder}: no {what} in it",
                hint="finish the run with recinject run RECIPE, its training not null",
            )
    settings = {stage: manifest.settings for stage, manifest in found.items() if manifest}
    if _TASK not in settings["samples"]["tasks"]:
        raise RecinjectError(
            f"{folder}: its model was never asked what comes next: it lacks the task {_TASK}",
            hint=f"run it again with samples.tasks.{_TASK}={{}}",
        )
    try:
        return Run(_recipe(folder, settings), f"recinject recommend {name}")
    except ValidationError as error:
        raise RecinjectError(
            f"{folder}: cannot be read as a run ({error.errors()[0]['msg'].lower()})",
            hint="its folder must keep a plain name, and be made by this version of recinject",
        ) from error


# The folders that hold a stage's settings, and what the run lacks without them.
_STAGES = {
    "data": "log",
    "identifiers": "identifiers",
    "samples": "samples",
    "model": "trained model",
    "evaluation": "",
}


def _find(name: str) -> Path:
    folders = [Path(name), _RUNS / name]
    if Path(name).suffix in (".yaml", ".yml"):
        folders = [load_recipe(name).folder]
    for folder in folders:
        if RunManifest.read(folder / "data") is not None:
            return folder.resolve()
    there = [path.parents[1].name for path in _RUNS.glob("*/data/manifest.json")]
    others = did_you_mean(name, there) if there else "There is none yet: recinject run quickstart"
    raise RecinjectError(
        f"{name}: no run is in {' or '.join(map(str, folders))}",
        hint=f"give a run's folder, or its name below {_RUNS}/. {others}",
    )


def _recipe(folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> Recipe:
    samples = settings["samples"]
    # One task is enough, and the others would take time to get ready.
    task = {_TASK: samples["tasks"][_TASK]}
    return Recipe.model_validate(
        {
            "name": folder.name,
            "runs": folder.parent,
            "seed": samples["seed"],
            "data": _known(DataSection, settings["data"]),
            "identifiers": {k: v for k, v in settings["identifiers"].items() if k != "seed"},
            "samples": {**_known(SamplesSection, samples), "tasks": task},
            "model": settings["model"]["model"],
            "training": {},
            "evaluation": _known(EvaluationSection, settings.get("evaluation", {})),
        }
    )


def _known(section: type[BaseModel], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a stage's settings hold beside those of its section."""
    return {key: value for key, value in settings.items() if key in section.model_fields}


def read_questions(source: Path) -> list[dict[str, Any]]:
    """Read JSON lines, each with a list of titles or ids under ``liked``; other keys are kept.

    Args:
        source: the file; ``-`` is standard input.

    Raises:
        RecinjectError: no such file, or a line that is not of this form.
    """
    try:
        text = sys.stdin.read() if str(source) == "-" else source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecinjectError(
            f"{source}: cannot be read ({error})", hint="give a text file that you may read, or -"
        ) from error
    return [
        _question(line, f"{source}, line {number}")
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]


def _question(line: str, place: str) -> dict[str, Any]:
    try:
        row: Any = json.loads(line)
        fact = "no list of titles or ids under 'liked'"
    except json.JSONDecodeError as error:
        row, fact = None, f"not JSON: {error}"
    if isinstance(row, dict):
        liked = row.get("liked")
        if isinstance(liked, list) and liked and all(isinstance(text, str) for text in liked):
            return row
    raise RecinjectError(
        f"{place}: {fact}", hint='write one object a line: {"liked": ["Title", "Other title"]}'
    )


def recommend(run: Run, liked: Sequence[Sequence[str]], k: int) -> list[list[Recommended]]:
    """Say which items come next after those that somebody liked, as the run's model sees it.

    Args:
        run: a run that :func:`open_run` opened.
        liked: titles or item ids, oldest first, one sequence a person.
        k: how many items to recommend; fewer come where fewer are left. Nobody is
            recommended what they liked.

    Raises:
        RecinjectError: a title is unknown or names several items, or ``k`` is too large.
    """
    catalog = run.split[1]
    if k > len(catalog):
        raise RecinjectError(
            f"-k {k}: the catalogue has {len(catalog)} items",
            hint=f"ask for {len(catalog)} or less",
        )
    finder = _Finder(catalog)
    histories = [[finder.find(text) for text in texts] for texts in liked]
    model, wording = load_trained(run.folder("training"))[0], run.factory.wordings[_TASK]
    settings = run.recipe.evaluation
    recommender = LanguageModel(
        model,
        run.factory.tokenizer,
        wording.phrases["target"],
        max_prompt_tokens=run.recipe.samples.max_prompt_tokens,
        beams=settings.beams,
        rows_at_once=settings.batch_size * settings.beams,
    )
    prediction = recommender.predict(_queries(run, wording, histories), k)
    return [list(_listed(catalog, prediction, row)) for row in range(len(liked))]


def _queries(run: Run, wording: Wording, histories: Sequence[Sequence[int]]) -> Queries:
    longest = (run.recipe.samples.tasks[_TASK] or {}).get("history_length")
    shown = [history[-longest:] if longest else history for history in histories]
    return Queries(
        task=_TASK,
        sample_ids=[str(number) for number in range(len(histories))],
        prompts=_prompts(
            wording,
            shown,
            run.recipe.samples.max_prompt_tokens,
            stranger=run.split[0].interactions.n_users,
        ),
        users=np.arange(len(histories), dtype=np.int32),
        histories=[np.unique(np.array(history, np.int32)) for history in histories],
        targets=np.full(len(histories), -1, np.int32),
    )


def _prompts(
    wording: Wording, histories: Sequence[Sequence[int]], most: int, stranger: int
) -> list[str]:
    """Word histories as test samples are worded, their oldest items left out to fit."""
    template = wording.bound[wording.numbers(Part.TEST.label)[0]]
    # The target stands in the completion, which nobody reads here.
    last = np.array([history[-1] for history in histories], np.int32)
    slots = {"history": Ragged.from_rows(histories), "target": Ragged.from_columns(last)}
    contexts = Contexts(np.full(len(histories), stranger, np.int32), slots)
    while True:
        prompts, _ = template.write(contexts)
        over = wording.encoder.lengths(prompts) > most
        over &= contexts.slots["history"].lengths > 1
        if not over.any():
            texts: list[str] = wording.encoder.pieces.write(prompts).to_pylist()
            return texts
        contexts = contexts.without_oldest(over.astype(np.int64))


def _listed(catalog: Catalog, prediction: Prediction, row: int) -> Iterator[Recommended]:
    if prediction.items is None or prediction.scores is None:
        return
    for item, score in zip(prediction.items[row], prediction.scores[row], strict=True):
        if item >= 0:
            yield Recommended(catalog.item_ids[item], catalog.titles[item], float(score))


@dataclass(frozen=True, eq=False)
class _Finder:
    """Finds items by title, by the log's own id, or by title whatever its capitals."""

    catalog: Catalog

    @cached_property
    def _tables(self) -> list[dict[str, list[int]]]:
        titles, ids = self.catalog.titles, self.catalog.item_ids
        return [_by(titles), _by(ids), _by([title.casefold() for title in titles])]

    def find(self, text: str) -> int:
        """Return the number of the item.

        Raises:
            RecinjectError: there is none, or several have this title.
        """
        for table, key in zip(self._tables, (text, text, text.casefold()), strict=True):
            if key in table:
                return self._only(text, table[key])
        near = [repr(self.catalog.titles[item]) for item in self._near(text.casefold())]
        raise RecinjectError(
            f"no item has the title or the id {text!r}",
            hint=f"did you mean {' or '.join(near)}?"
            if near
            else "titles and ids are in data/items.parquet",
        )

    def _only(self, text: str, found: list[int]) -> int:
        if len(found) > 1:
            ids = [self.catalog.item_ids[item] for item in found]
            raise RecinjectError(
                f"{len(found)} items have the title {text!r}",
                hint=f"give the id of one of them: {', '.join(ids)}",
            )
        return found[0]

    def _near(self, text: str) -> list[int]:
        folded = self._tables[2]
        names = [title for title in folded if len(text) > 2 and text in title][:_NEAREST]
        names = names or difflib.get_close_matches(text, folded, _NEAREST, cutoff=0.5)
        return [folded[name][0] for name in names]


def _by(texts: Sequence[str]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        table.setdefault(text, []).append(number)
    return table
